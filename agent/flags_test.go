package main

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/agent/datapath"
)

// serving are the flags that the agent cannot do without.
func serving(more ...string) []string {
	return append([]string{"--manifests", "m", "--cgroup", "c"}, more...)
}

func TestDefaults(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s, err := parse(serving(), &out)
	want := settings{
		manifests: "m", cgroup: "c", bpffs: "/sys/fs/bpf/sluice", socket: "/run/sluice/agent.sock", admin: "127.0.0.1:15021", node: host,
		proc: "/proc", netns: "/run/netns", cgroups: "/sys/fs/cgroup", handover: "/run/sluice/handover.sock",
		cniBinDir: "/opt/cni/bin", cniConfDir: "/etc/cni/net.d", cniSocket: "/run/sluice/cni.sock", cniAway: "start", referenceGrants: true, heartbeatLimit: 2 * time.Second, logLevel: slog.LevelInfo,
	}
	if err != nil || s != want || out.Len() != 0 {
		t.Errorf("%+v, %v, %q", s, err, out.String())
	}
}

func TestFlagsReachWhoNeedsThem(t *testing.T) {
	s, err := parse(serving("--bpffs", "/b", "--node", "n7", "--zone", "z", "--proc", "/host/proc", "--heartbeat-limit", "3s", "--reference-grants=false",
		"--cleanup-on-exit", "--log-level", "debug", "--admin", "unix:/a", "--socket", "/s"), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if d := s.datapath(log); d.BPFFS != "/b" || d.Cgroup != "c" || d.HeartbeatLimit != 3*time.Second || d.Log != log {
		t.Errorf("the datapath gets %+v", d)
	}
	if e := s.enroll(log); e.Proc != "/host/proc" || e.Port != datapath.ListenerPort || e.PrefixV6 != datapath.PrefixV6 || e.Log != log {
		t.Errorf("enrolment gets %+v", e)
	}
	if sel := s.selector(); sel.Node != "n7" || !sel.Folder {
		t.Errorf("the selector is %+v", sel)
	}
	if s.zone != "z" || s.referenceGrants || !s.cleanupOnExit || s.logLevel != slog.LevelDebug || s.admin != "unix:/a" || s.socket != "/s" {
		t.Errorf("the settings are %+v", s)
	}
}

func TestFlagsOfACluster(t *testing.T) {
	s, err := parse(strings.Fields("--kubernetes --namespace sluice-system --pod sluice-x --pod-uid u --daemonset sluice --node n1 --enroll labelled "+
		"--cni-plugin /p --cni-bin-dir /b --cni-conf-dir /c --cni-socket /s --cni-when-away wait --netns /n --serve 0.0.0.0:15022"), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if s.cgroup != "auto" {
		t.Errorf("the cgroup is %q: it is found by the pod's UID", s.cgroup)
	}
	if sel := s.selector(); sel.Node != "n1" || sel.Folder || !sel.Labelled {
		t.Errorf("the selector is %+v", sel)
	}
	if e := s.enroll(nil); e.NetNS != "/n" || !e.Sweep {
		t.Errorf("enrolment gets %+v", e)
	}
	c := s.cni(nil)
	if c.BinDir != "/b" || c.ConfDir != "/c" || c.Plugin != "/p" || c.Namespace != "sluice-system" || c.Entry.Socket != "/s" || c.Entry.WhenAway != "wait" {
		t.Errorf("the installer gets %+v", c)
	}
	if s.serve != "0.0.0.0:15022" || s.pod != "sluice-x" || s.daemonSet != "sluice" {
		t.Errorf("the settings are %+v", s)
	}
}

func TestCommands(t *testing.T) {
	for line, want := range map[string]settings{
		"cleanup --cgroup c":                 {command: "cleanup", cgroup: "c"},
		"cleanup --cgroup c --manifests m":   {command: "cleanup", cgroup: "c", manifests: "m"},
		"bypass on":                          {command: "bypass", bypass: true},
		"bypass off":                         {command: "bypass"},
		"bypass on --admin unix:/a":          {command: "bypass", bypass: true, admin: "unix:/a"},
		"bypass --admin unix:/a on":          {command: "bypass", bypass: true, admin: "unix:/a"},
		"bypass --node= on":                  {command: "bypass", bypass: true},
		"--manifests m --cgroup c --zone z1": {manifests: "m", cgroup: "c", zone: "z1"},
	} {
		s, err := parse(strings.Fields(line), &bytes.Buffer{})
		if want.admin == "" {
			want.admin = "127.0.0.1:15021"
		}
		if err != nil || s.command != want.command || s.bypass != want.bypass || s.cgroup != want.cgroup || s.manifests != want.manifests ||
			s.admin != want.admin || s.zone != want.zone {
			t.Errorf("%s: %+v, %v", line, s, err)
		}
	}
}

// What is wrong is said once, with what to do, and the exit status is 2.
func TestMistakesInTheCommandLine(t *testing.T) {
	for line, want := range map[string]string{
		"":                           "say where the objects are: --kubernetes, or --manifests with the folder of them",
		"--cgroup c":                 "say where the objects are",
		"--manifests m":              "--cgroup is needed: the cgroup2 folder above the pods, such as /sys/fs/cgroup/kubepods.slice",
		"serve --cgroup c":           `"serve" is neither a flag nor a command`,
		"cleanup --cgroup c extra":   `"extra" is neither a flag nor a command`,
		"bypass":                     "say bypass on or bypass off",
		"bypass maybe":               "say bypass on or bypass off",
		"bypass on off":              `"off" is neither a flag nor a command`,
		"--manifests m --cgroup c x": `"x" is neither a flag nor a command`,
		"--manifests m --cgroup c --heartbeat-limit 499ms":                    "--heartbeat-limit 499ms is too short: a proxy that works beats every 100 ms, so at least 500ms",
		"--manifests m --cgroup c --heartbeat-limit soon":                     `invalid value "soon" for flag -heartbeat-limit`,
		"--manifests m --cgroup c --admin 0.0.0.0:15021":                      "--admin: 0.0.0.0:15021 is not loopback: use 127.0.0.1, [::1] or unix:PATH",
		"--manifests m --cgroup c --admin localhost:1":                        `--admin: "localhost:1" is neither IP:PORT nor unix:PATH`,
		"bypass on --admin 10.0.0.1:1":                                        "--admin: 10.0.0.1:1 is not loopback",
		"--manifests m --cgroup c --node=":                                    "--node is empty: it is the name that pods of this node have in spec.nodeName",
		"--manifests m --cgroup c --log-level loud":                           `invalid value "loud" for flag -log-level`,
		"--manifests m --cgroup c --serve here":                               `--serve: "here" is not IP:PORT`,
		"--manifests m --cgroup c --enroll some":                              "--enroll some: say all or labelled",
		"--manifests m --cgroup c --kubernetes":                               "say where the objects are",
		"--manifests m --cgroup auto":                                         "--cgroup auto needs --pod-uid",
		"--kubernetes --cgroup c --pod p":                                     "--namespace and --pod are needed with --kubernetes",
		"--kubernetes --namespace n --pod p":                                  "--cgroup is needed",
		"--kubernetes --namespace n --pod p --cgroup c --cni-when-away never": `whenAway "never" is none of start, wait, refuse`,
		"--manifests m --cgroup c --nonsense":                                 "flag provided but not defined: -nonsense",
	} {
		var out bytes.Buffer
		if status := run(strings.Fields(line), &out); status != 2 {
			t.Errorf("%q: exit status %d", line, status)
		}
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("%q: %s\nwant once: %s", line, out.String(), want)
		}
		if ours := strings.Count(out.String(), "sluice-agent: "); ours > 1 || ours == 1 && !strings.HasSuffix(out.String(), "(see --help)\n") {
			t.Errorf("%q: %s", line, out.String())
		}
	}
}

func TestHelp(t *testing.T) {
	for _, line := range []string{"--help", "-h", "cleanup --help", "bypass --help"} {
		var out bytes.Buffer
		if status := run(strings.Fields(line), &out); status != 0 {
			t.Errorf("%q: exit status %d", line, status)
		}
		for _, part := range []string{"sluice-agent cleanup [flags]", "bypass on|off", "-heartbeat-limit", `(default "127.0.0.1:15021")`} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q: the help lacks %q:\n%s", line, part, out.String())
			}
		}
	}
	if _, err := parse([]string{"--help"}, &bytes.Buffer{}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("the error is %v", err)
	}
}
