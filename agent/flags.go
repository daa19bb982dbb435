package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
)

const usage = `Usage:
  sluice-agent --manifests DIR --cgroup DIR [flags]   keep this node's redirect and proxies in step with the objects
  sluice-agent cleanup --cgroup DIR [flags]           take away everything that an agent left in the kernel
  sluice-agent bypass on|off [flags]                  turn the kill switch: on leaves every connect on the node alone

The bypass also lifts what fails closed.

Flags:
`

// settings are what the command line says.
type settings struct {
	command string // "", "cleanup" or "bypass"
	bypass  bool   // of that command

	manifests, cgroup, bpffs, socket, admin, node, zone, proc string

	referenceGrants, cleanupOnExit bool
	heartbeatLimit                 time.Duration
	logLevel                       slog.Level
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
	flags.StringVar(&s.manifests, "manifests", "", "`folder` of YAML with the Kubernetes objects")
	flags.StringVar(&s.cgroup, "cgroup", "", "cgroup2 `folder` above the pods, not the root")
	flags.StringVar(&s.bpffs, "bpffs", "/sys/fs/bpf/sluice", "`folder` of ours on a BPF file system")
	flags.StringVar(&s.socket, "socket", "/run/sluice/agent.sock", "unix socket that proxies connect to")
	flags.StringVar(&s.admin, "admin", "127.0.0.1:15021", "admin `address`: loopback IP:PORT or unix:PATH")
	flags.StringVar(&s.node, "node", host, "`name` of this node")
	flags.StringVar(&s.zone, "zone", "", "`name` of this node's zone")
	flags.StringVar(&s.proc, "proc", "/proc", "`folder` where the host's procfs is mounted")
	flags.BoolVar(&s.referenceGrants, "reference-grants", true, "a backend in a third namespace needs a ReferenceGrant")
	flags.DurationVar(&s.heartbeatLimit, "heartbeat-limit", 2*time.Second, "a proxy whose last sign of progress is older counts as hung")
	flags.BoolVar(&s.cleanupOnExit, "cleanup-on-exit", false, "take everything away when told to stop; else all serves on without the agent")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	err := s.arguments(flags, args, hostErr)
	if err != nil && !errors.Is(err, errReported) {
		fmt.Fprintf(out, "sluice-agent: %v (see --help)\n", err)
	}
	return s, err
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
	} else if s.cgroup == "" {
		return errors.New("--cgroup is needed: the cgroup2 folder above the pods, such as /sys/fs/cgroup/kubepods.slice")
	}
	if s.command == "" && s.manifests == "" {
		return errors.New("--manifests is needed: the folder with the objects")
	}
	if s.heartbeatLimit < 500*time.Millisecond {
		return fmt.Errorf("--heartbeat-limit %v is too short: a proxy that works beats every 100 ms, so at least 500ms", s.heartbeatLimit)
	}
	if _, _, err := admin.Address(s.admin); err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	return nil
}

func (s *settings) datapath(log *slog.Logger) datapath.Config {
	return datapath.Config{BPFFS: s.bpffs, Cgroup: s.cgroup, HeartbeatLimit: s.heartbeatLimit, Log: log}
}

func (s *settings) enroll(log *slog.Logger) enroll.Config {
	return enroll.Config{Proc: s.proc, Port: datapath.ListenerPort, PrefixV6: datapath.PrefixV6, Log: log}
}

func (s *settings) selector() enroll.Selector { return enroll.Selector{Node: s.node, Folder: true} }
