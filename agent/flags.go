package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
)

const usage = `Usage:
  sluice-agent --kubernetes [flags]                   keep this node's redirect and proxies in step with the API server
  sluice-agent --manifests DIR --cgroup DIR [flags]   the same with a folder of objects
  sluice-agent cleanup [flags]                        take away everything that an agent left on this node
  sluice-agent bypass on|off [flags]                  turn the kill switch: on leaves every connect on the node alone

The bypass also lifts what fails closed.

Flags:
`

// settings are what the command line says.
type settings struct {
	command string // "", "cleanup" or "bypass"
	bypass  bool   // of that command

	manifests, cgroup, cgroups, bpffs, socket, admin, serve, node, zone, proc, netns string

	kubernetes                                           bool
	kubeconfig, namespace, pod, podUID, daemonSet        string
	handover                                             string
	cniBinDir, cniConfDir, cniPlugin, cniSocket, cniAway string

	referenceGrants, cleanupOnExit, labelled bool
	heartbeatLimit                           time.Duration
	logLevel                                 slog.Level
}

// parse reads the command line. What is wrong with it is printed to out; the error is flag.ErrHelp where help was
// asked for.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	if len(args) > 0 && (args[0] == "cleanup" || args[0] == "bypass") {
		s.command, args = args[0], args[1:]
	}
	host, hostErr := os.Hostname()
	flags := flag.NewFlagSet("sluice-agent", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	s.define(flags, host)
	s.defineCluster(flags)
	s.defineCNI(flags)
	enroll := flags.String("enroll", "all", "whose connections are redirected: `all`, or those labelled sluice.dev/mesh: enabled alone (labelled)")
	err := s.arguments(flags, args, hostErr)
	if err == nil {
		s.labelled, err = parseEnroll(*enroll)
	}
	if err != nil && !errors.Is(err, errReported) {
		fmt.Fprintf(out, "sluice-agent: %v (see --help)\n", err)
	}
	return s, err
}

func (s *settings) define(flags *flag.FlagSet, host string) {
	flags.StringVar(&s.manifests, "manifests", "", "`folder` of YAML with the Kubernetes objects")
	flags.StringVar(&s.cgroup, "cgroup", "", "cgroup2 `folder` above the pods, not the root; auto: the one that --pod-uid is in")
	flags.StringVar(&s.cgroups, "cgroup-root", "/sys/fs/cgroup", "`folder` where the host's cgroups are mounted")
	flags.StringVar(&s.bpffs, "bpffs", "/sys/fs/bpf/sluice", "`folder` of ours on a BPF file system")
	flags.StringVar(&s.socket, "socket", "/run/sluice/agent.sock", "unix socket that proxies connect to")
	flags.StringVar(&s.admin, "admin", "127.0.0.1:15021", "admin `address`: loopback IP:PORT or unix:PATH")
	flags.StringVar(&s.serve, "serve", "", "`address` IP:PORT of any interface where health and metrics are served too, such as 0.0.0.0:15022")
	flags.StringVar(&s.node, "node", host, "`name` of this node")
	flags.StringVar(&s.zone, "zone", "", "`name` of this node's zone; with --kubernetes it is read from the Node")
	flags.StringVar(&s.proc, "proc", "/proc", "`folder` where the host's procfs is mounted")
	flags.StringVar(&s.netns, "netns", "/run/netns", "`folder` where the host's network namespaces are named")
	flags.BoolVar(&s.referenceGrants, "reference-grants", true, "a backend in a third namespace needs a ReferenceGrant")
	flags.DurationVar(&s.heartbeatLimit, "heartbeat-limit", 2*time.Second, "a proxy whose last sign of progress is older counts as hung")
	flags.BoolVar(&s.cleanupOnExit, "cleanup-on-exit", false, "take everything away when told to stop; else all serves on without the agent")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
}

func (s *settings) defineCluster(flags *flag.FlagSet) {
	flags.BoolVar(&s.kubernetes, "kubernetes", false, "read the objects from the API server, and write the routes' statuses there")
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "`file` that says how the API server is reached; in a pod its ServiceAccount does")
	flags.StringVar(&s.namespace, "namespace", "", "`namespace` of this agent's pod, where its Leases are")
	flags.StringVar(&s.pod, "pod", "", "`name` of this agent's pod")
	flags.StringVar(&s.podUID, "pod-uid", "", "`UID` of this agent's pod")
	flags.StringVar(&s.daemonSet, "daemonset", "", "`name` of this agent's DaemonSet: when that is deleted, everything is taken away")
	flags.StringVar(&s.handover, "handover", "/run/sluice/handover.sock", "unix socket on which a successor asks for the node")
}

func (s *settings) defineCNI(flags *flag.FlagSet) {
	flags.StringVar(&s.cniPlugin, "cni-plugin", "", "`file` of the CNI plugin, which is then installed on the node")
	flags.StringVar(&s.cniBinDir, "cni-bin-dir", "/opt/cni/bin", "the node's `folder` of CNI plugins")
	flags.StringVar(&s.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "the node's `folder` of CNI configurations")
	flags.StringVar(&s.cniSocket, "cni-socket", "/run/sluice/cni.sock", "unix socket that the plugin asks, by the same path on the node")
	flags.StringVar(&s.cniAway, "cni-when-away", "start", "what becomes of a pod while the agent is away: `start`, wait or refuse")
}

func parseEnroll(s string) (labelled bool, err error) {
	switch s {
	case "all", "labelled":
		return s == "labelled", nil
	}
	return false, fmt.Errorf("--enroll %s: say all or labelled", s)
}

// errReported marks what package flag has printed already.
var errReported = errors.New("reported")

// arguments reads flags and, for bypass, the word before or after them.
func (s *settings) arguments(flags *flag.FlagSet, args []string, hostErr error) error {
	var word string
	if s.command == "bypass" && len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		word, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errReported, err)
	}
	rest := flags.Args()
	if s.command == "bypass" && word == "" && len(rest) > 0 {
		word, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%q is neither a flag nor a command", rest[0])
	}
	if s.node == "" && s.command != "bypass" {
		return errors.Join(errors.New("--node is empty: it is the name that pods of this node have in spec.nodeName"), hostErr)
	}
	return s.check(word)
}

func (s *settings) check(word string) error {
	if s.command == "bypass" {
		if word != "on" && word != "off" {
			return errors.New("say bypass on or bypass off")
		}
		s.bypass = word == "on"
	}
	if s.command == "" {
		if err := s.checkServing(); err != nil {
			return err
		}
	}
	if s.heartbeatLimit < 500*time.Millisecond {
		return fmt.Errorf("--heartbeat-limit %v is too short: a proxy that works beats every 100 ms, so at least 500ms", s.heartbeatLimit)
	}
	if _, _, err := admin.Address(s.admin); err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	if s.serve != "" {
		if _, err := netip.ParseAddrPort(s.serve); err != nil {
			return fmt.Errorf("--serve: %q is not IP:PORT", s.serve)
		}
	}
	return nil
}

// checkServing tells what an agent that is to serve lacks.
func (s *settings) checkServing() error {
	switch {
	case s.kubernetes == (s.manifests != ""):
		return errors.New("say where the objects are: --kubernetes, or --manifests with the folder of them")
	case s.kubernetes && (s.namespace == "" || s.pod == ""):
		return errors.New("--namespace and --pod are needed with --kubernetes: those of this agent's pod, whose Leases are there")
	case s.cgroup == "" && s.kubernetes && s.podUID != "":
		s.cgroup = autoCgroup
	case s.cgroup == "":
		return errors.New("--cgroup is needed: the cgroup2 folder above the pods, such as /sys/fs/cgroup/kubepods.slice, or auto with --pod-uid")
	}
	if s.cgroup == autoCgroup && s.podUID == "" {
		return errors.New("--cgroup auto needs --pod-uid: the UID of this agent's own pod, by which the folder is found")
	}
	if _, err := s.cni(nil).Entry.Complete(); err != nil {
		return fmt.Errorf("--cni-socket, --cni-when-away: %w", err)
	}
	return nil
}

// autoCgroup stands for the folder that the kubelet keeps the node's pods in.
const autoCgroup = "auto"

func (s *settings) datapath(log *slog.Logger) datapath.Config {
	return datapath.Config{BPFFS: s.bpffs, Cgroup: s.cgroup, HeartbeatLimit: s.heartbeatLimit, Log: log}
}

func (s *settings) enroll(log *slog.Logger) enroll.Config {
	return enroll.Config{Proc: s.proc, NetNS: s.netns, Sweep: s.kubernetes, Port: datapath.ListenerPort, PrefixV6: datapath.PrefixV6, Log: log}
}

func (s *settings) selector() enroll.Selector {
	return enroll.Selector{Node: s.node, Folder: !s.kubernetes, Labelled: s.labelled}
}
