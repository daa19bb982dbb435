package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/cni/netconf"
	"github.com/sluice-mesh/sluice/cni/wire"
	"github.com/sluice-mesh/sluice/tests/need"
)

// mainPlugin is what this test's binary is called when it plays the plugin before ours.
const mainPlugin = "sluice-test-main"

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case mainPlugin:
		os.Exit(playMainPlugin())
	case netconf.Type:
		main()
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sluice-cni-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }() // the test's own
		if err := buildPlugins(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := os.Setenv("SLUICE_TEST_CNI_BIN", dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// buildPlugins makes the folder of plugins. Ours is the program as it is shipped; an ordinary user who has nowhere to build
// one has it in the test's own binary.
func buildPlugins(dir string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, netconf.Type), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, buildErr := build.CombinedOutput()
	if buildErr != nil && os.Geteuid() == 0 {
		return fmt.Errorf("build the plugin: %w\n%s", buildErr, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if buildErr != nil {
		if err := os.Symlink(self, filepath.Join(dir, netconf.Type)); err != nil {
			return err
		}
	}
	return os.Symlink(self, filepath.Join(dir, mainPlugin))
}

// playMainPlugin prints the result that its configuration holds.
func playMainPlugin() int {
	var conf struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		os.Stdout.Write(conf.Result)
	}
	return 0
}

func binDir() string { return os.Getenv("SLUICE_TEST_CNI_BIN") }

// agent stands for the agent: it keeps what it was asked, and answers as told.
type agent struct {
	socket string

	mu    sync.Mutex
	asked []wire.Request
}

// newAgent serves answers one after the other, and the last one from then on.
func newAgent(t testing.TB, answers ...wire.Answer) *agent {
	t.Helper()
	need.Root(t)
	a := &agent{socket: filepath.Join(t.TempDir(), "cni.sock")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- wire.Serve(ctx, l, func(_ context.Context, r wire.Request) wire.Answer {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.asked = append(a.asked, r)
			return answers[min(len(a.asked), len(answers))-1]
		}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return a
}

// takeAsked returns what was asked since the last time.
func (a *agent) takeAsked() []wire.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

// hangingAgent takes connections and says nothing.
func hangingAgent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return socket
}

func absentAgent(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "cni.sock")
}

// mainResult is the result of the plugin before ours, in each version's own form.
func mainResult(version string) string {
	ip := `{"interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"interface":0,"address":"fd00::3/64"}`
	if strings.HasPrefix(version, "0.") {
		ip = `{"version":"4","interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"version":"6","interface":0,"address":"fd00::3/64"}`
	}
	return `{"cniVersion":"` + version + `","interfaces":[{"name":"eth0","mac":"00:11:22:33:44:55","sandbox":"/run/netns/x"}],` +
		`"ips":[` + ip + `],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.53"]}}`
}

// chain is a list of the main plugin and, after it, the given entries.
func chain(t testing.TB, version string, entries ...string) *libcni.NetworkConfigList {
	t.Helper()
	plugins := append([]string{`{"type":"` + mainPlugin + `","result":` + mainResult(version) + `}`}, entries...)
	list, err := libcni.ConfListFromBytes([]byte(`{"cniVersion":"` + version + `","name":"pods","plugins":[` + strings.Join(plugins, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func entry(t testing.TB, e netconf.Entry) string {
	t.Helper()
	e.Type = netconf.Type
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func cni(t testing.TB) *libcni.CNIConfig {
	t.Helper()
	return libcni.NewCNIConfigWithCacheDir([]string{binDir()}, t.TempDir(), nil)
}

func sandbox(namespace string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: "sandbox-1", NetNS: "/run/netns/no-such", IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", namespace},
			{"K8S_POD_NAME", "web-0"},
			{"K8S_POD_INFRA_CONTAINER_ID", "sandbox-1"},
			{"K8S_POD_UID", "5b3f-uid"},
		},
	}
}

// Every version and command of the specification, by the library that the container runtimes use.
func TestChainInEveryVersion(t *testing.T) {
	for _, version := range netconf.Versions() {
		t.Run(version, func(t *testing.T) {
			ctx, a, c := t.Context(), newAgent(t, wire.Answer{State: wire.Serving}), cni(t)
			list := chain(t, version, entry(t, netconf.Entry{Socket: a.socket}))
			want := wire.Request{
				Version: wire.Version, Network: "pods", ContainerID: "sandbox-1", NetNS: "/run/netns/no-such", IfName: "eth0",
				Namespace: "shop", Name: "web-0", UID: "5b3f-uid",
			}
			ips := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}

			got, err := c.AddNetworkList(ctx, list, sandbox("shop"))
			if err != nil {
				t.Fatal(err)
			}
			alone, err := cni(t).AddNetworkList(ctx, chain(t, version), sandbox("shop"))
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, "the result without us", alone, got)
			asked(t, a, want, wire.Add, ips)

			err = c.CheckNetworkList(ctx, list, sandbox("shop"))
			if early := strings.HasPrefix(version, "0.3."); early != (err != nil) {
				t.Errorf("CHECK: %v", err)
			} else if !early {
				asked(t, a, want, wire.Check, ips)
			}
			if err := c.DelNetworkList(ctx, list, sandbox("shop")); err != nil {
				t.Errorf("DEL: %v", err)
			}
			asked(t, a, want, wire.Del, nil)

			if err := c.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "s-2", IfName: "eth0"}}}); err != nil {
				t.Errorf("GC: %v", err)
			}
			if err := c.GetStatusNetworkList(ctx, list); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			told := a.takeAsked()
			if version != "1.1.0" {
				if len(told) > 0 {
					t.Errorf("GC or STATUS in %s: %+v", version, told)
				}
				return
			}
			wantGC := wire.Request{Version: wire.Version, Command: wire.GC, Network: "pods", Valid: []wire.Attachment{{ContainerID: "s-2", IfName: "eth0"}}}
			if len(told) != 1 { // whenAway is start: STATUS has nothing to ask
				t.Fatalf("GC and STATUS: %+v", told)
			}
			told[0].WaitMillis = 0
			if diff := cmp.Diff(wantGC, told[0]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func sameJSON(t *testing.T, what string, want, got any) {
	t.Helper()
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w, g) {
		t.Errorf("%s:\n%s\nand with us:\n%s", what, w, g)
	}
}

// asked checks that the agent was asked once, for cmd.
func asked(t *testing.T, a *agent, want wire.Request, cmd wire.Command, ips []netip.Addr) {
	t.Helper()
	got := a.takeAsked()
	if len(got) != 1 {
		t.Fatalf("%s: the agent was asked %d times", cmd, len(got))
	}
	if ms := got[0].WaitMillis; ms < 1 || ms > 1000 {
		t.Errorf("%s: the agent was told to answer within %d ms", cmd, ms)
	}
	want.Command, want.IPs, want.WaitMillis = cmd, ips, got[0].WaitMillis
	if diff := cmp.Diff(want, got[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("%s: %s", cmd, diff)
	}
}

// runRaw runs the plugin as a runtime does, but with bytes of our own. Code is that of the error on its output, if any.
func runRaw(t testing.TB, command, stdin string, env ...string) (out string, code uint, log string) {
	t.Helper()
	c := exec.Command(filepath.Join(binDir(), netconf.Type))
	c.Env = append([]string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=sandbox-1", "CNI_NETNS=/run/netns/no-such", "CNI_IFNAME=eth0", "CNI_PATH=" + binDir(),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u",
	}, env...)
	c.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if err == nil {
		return stdout.String(), 0, stderr.String()
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Fatal(err)
	}
	var e types.Error
	if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
		t.Fatalf("it failed without saying why: %q, %v", stdout.String(), err)
	}
	return e.Msg + ": " + e.Details, e.Code, stderr.String()
}

func netConf(version, socket, rest string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"pods","type":"sluice-cni","socket":%q%s}`, version, socket, rest)
}

// The specification: a plugin that makes nothing passes its prevResult through. Ours does, to the byte.
func TestPrevResultPassesThrough(t *testing.T) {
	a := newAgent(t, wire.Answer{State: wire.Serving})
	for name, c := range map[string]struct{ version, prev, want string }{
		"odd spelling and unknown members": {"1.0.0", "{ \"ips\" : [\n{\"address\":\"10.0.0.2/8\", \"x\":1e400}],\t\"cniVersion\":\"1.0.0\", \"y\":12345678901234567890 }", ""},
		"nothing in it":                    {"1.1.0", `{"cniVersion":"1.1.0"}`, ""},
		"no version":                       {"1.0.0", `{"y":12345678901234567890}`, `{"cniVersion":"1.0.0","y":12345678901234567890}`},
		"an older version": {
			"1.0.0", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/8"}]}`,
			`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/8"}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, code, log := runRaw(t, "ADD", netConf(c.version, a.socket, `,"prevResult":`+c.prev))
			want := c.want
			if want == "" {
				want = c.prev
			}
			if code != 0 || out != want {
				t.Errorf("got  %s\nwant %s\n(code %d, %s)", out, want, code, log)
			}
		})
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	prev := `,"prevResult":{"cniVersion":"1.0.0"}`
	for name, c := range map[string]struct {
		command, stdin string
		env            []string
		code           uint
		want           string
	}{
		"no JSON":               {"ADD", `{`, nil, types.ErrDecodingFailure, ""},
		"no name":               {"ADD", `{"cniVersion":"1.0.0","type":"sluice-cni"}`, nil, types.ErrInvalidNetworkConfig, "name"},
		"version of the past":   {"ADD", netConf("0.2.0", "/x", prev), nil, types.ErrIncompatibleCNIVersion, "0.2.0"},
		"version of the future": {"ADD", netConf("9.0.0", "/x", prev), nil, types.ErrIncompatibleCNIVersion, "9.0.0"},
		"relative socket":       {"ADD", netConf("1.0.0", "run/x", prev), nil, types.ErrInvalidNetworkConfig, `socket "run/x" is no absolute path`},
		"whenAway":              {"ADD", netConf("1.0.0", "/x", `,"whenAway":"sleep"`+prev), nil, types.ErrInvalidNetworkConfig, `whenAway "sleep" is none of start, wait, refuse`},
		"waitSeconds":           {"ADD", netConf("1.0.0", "/x", `,"waitSeconds":61`+prev), nil, types.ErrInvalidNetworkConfig, "waitSeconds 61"},
		"negative waitSeconds":  {"ADD", netConf("1.0.0", "/x", `,"waitSeconds":-1`+prev), nil, types.ErrInvalidNetworkConfig, "waitSeconds -1"},
		"type of a member":      {"ADD", netConf("1.0.0", "/x", `,"exemptNamespaces":"a"`+prev), nil, types.ErrDecodingFailure, "exemptNamespaces"},
		"empty namespace":       {"ADD", netConf("1.0.0", "/x", `,"exemptNamespaces":[""]`+prev), nil, types.ErrInvalidNetworkConfig, "exemptNamespaces"},
		"not chained":           {"ADD", netConf("1.0.0", "/x", ""), nil, types.ErrInvalidNetworkConfig, "no prevResult"},
		"CHECK not chained":     {"CHECK", netConf("1.0.0", "/x", ""), nil, types.ErrInvalidNetworkConfig, "no prevResult"},
		"prevResult":            {"ADD", netConf("1.0.0", "/x", `,"prevResult":{"ips":[{"address":"10.0.0"}]}`), nil, types.ErrDecodingFailure, "10.0.0"},
		"prevResult's version":  {"ADD", netConf("1.0.0", "/x", `,"prevResult":{"cniVersion":"7.0.0"}`), nil, types.ErrDecodingFailure, "7.0.0"},
		"arguments":             {"ADD", netConf("1.0.0", "/x", prev), []string{"CNI_ARGS=K8S_POD_NAME"}, types.ErrInvalidEnvironmentVariables, "K8S_POD_NAME"},
		"unknown argument":      {"ADD", netConf("1.0.0", "/x", prev), []string{"CNI_ARGS=MOOD=good"}, types.ErrInvalidEnvironmentVariables, "MOOD"},
		"no container":          {"ADD", netConf("1.0.0", "/x", prev), []string{"CNI_CONTAINERID="}, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		"STATUS":                {"STATUS", netConf("1.1.0", "/x", `,"whenAway":"sleep"`), nil, types.ErrInvalidNetworkConfig, "sleep"},
		"GC":                    {"GC", netConf("1.1.0", "/x", `,"cni.dev/valid-attachments":1`), nil, types.ErrDecodingFailure, "valid-attachments"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code, _ := runRaw(t, c.command, c.stdin, c.env...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("code %d, %s; want code %d and %q", code, out, c.code, c.want)
			}
		})
	}
}

// What becomes of a pod when the agent does not take it. None needs more than a second.
func TestWhenAway(t *testing.T) {
	agents := map[string]func(t *testing.T) string{
		"serving":      func(t *testing.T) string { return newAgent(t, wire.Answer{State: wire.Serving}).socket },
		"not-enrolled": func(t *testing.T) string { return newAgent(t, wire.Answer{State: wire.NotEnrolled}).socket },
		"waiting": func(t *testing.T) string {
			return newAgent(t, wire.Answer{State: wire.Waiting, Reason: "no proxy"}).socket
		},
		"error": func(t *testing.T) string { return newAgent(t, wire.Answer{Error: "broken"}).socket },
		"away":  absentAgent,
		"hangs": hangingAgent,
	}
	codes := map[netconf.WhenAway]uint{netconf.Start: 0, netconf.Wait: types.ErrTryAgainLater, netconf.Refuse: codeRefused}
	for name, start := range agents {
		for whenAway, code := range codes {
			for _, namespace := range []string{"shop", "sluice-system"} {
				for _, command := range []string{"ADD", "CHECK"} {
					if command == "CHECK" && namespace != "shop" {
						continue
					}
					t.Run(fmt.Sprintf("%s/%s/%s/%s", name, whenAway, namespace, command), func(t *testing.T) {
						t.Parallel()
						conf := netConf("1.0.0", start(t), `,"exemptNamespaces":["kube-system","sluice-system"],"whenAway":"`+string(whenAway)+`","prevResult":{"cniVersion":"1.0.0"}`)
						want := code
						if taken := name == "serving" || name == "not-enrolled"; taken || namespace != "shop" {
							want = 0
						}
						var out, log string
						var got uint
						inASecond(t, func() {
							out, got, log = runRaw(t, command, conf, "CNI_ARGS=K8S_POD_NAMESPACE="+namespace)
						})
						if got != want {
							t.Errorf("code %d (%s), want %d", got, out, want)
						}
						if command == "ADD" && want == 0 && out != `{"cniVersion":"1.0.0"}` {
							t.Errorf("result %s", out)
						}
						reasons := map[string]string{"waiting": "no proxy", "error": "broken", "away": "reach the agent", "hangs": "did not answer in time"}
						if reason := reasons[name]; !strings.Contains(out+log, reason) {
							t.Errorf("it is not said that %q: %s %s", reason, out, log)
						}
					})
				}
			}
		}
	}
}

// inASecond runs what may take a second. The machine may be busy: of three times, one has to be.
func inASecond(t *testing.T, do func()) {
	t.Helper()
	var took []time.Duration
	for range 3 {
		start := time.Now()
		do()
		took = append(took, time.Since(start))
		if took[len(took)-1] <= time.Second {
			return
		}
	}
	t.Errorf("it took %v, of which none is within a second", took)
}

// A pod waits for the agent to come back, or to be ready for it.
func TestWaitAsksAgain(t *testing.T) {
	a := newAgent(t, wire.Answer{Error: "starting"}, wire.Answer{State: wire.Waiting}, wire.Answer{State: wire.Serving})
	out, code, log := runRaw(t, "ADD", netConf("1.0.0", a.socket, `,"whenAway":"wait","waitSeconds":30,"prevResult":{"cniVersion":"1.0.0"}`))
	if code != 0 || out != `{"cniVersion":"1.0.0"}` {
		t.Errorf("code %d, %s, %s", code, out, log)
	}
	if n := len(a.takeAsked()); n != 3 {
		t.Errorf("the agent was asked %d times", n)
	}
}

// Only wait asks again.
func TestStartAndRefuseAskOnce(t *testing.T) {
	for _, whenAway := range []netconf.WhenAway{netconf.Start, netconf.Refuse} {
		a := newAgent(t, wire.Answer{State: wire.Waiting})
		runRaw(t, "ADD", netConf("1.0.0", a.socket, `,"whenAway":"`+string(whenAway)+`","prevResult":{"cniVersion":"1.0.0"}`))
		if n := len(a.takeAsked()); n != 1 {
			t.Errorf("%s: the agent was asked %d times", whenAway, n)
		}
	}
}

// An agent that ends while it is asked is asked again, when another is there.
func TestWaitOutlivesAnAgent(t *testing.T) {
	need.Root(t)
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		c.Close()
		ended <- wire.Serve(ctx, l, func(context.Context, wire.Request) wire.Answer { return wire.Answer{State: wire.Serving} }, slog.New(slog.DiscardHandler))
	}()
	if out, code, _ := runRaw(t, "ADD", netConf("1.0.0", socket, `,"whenAway":"wait","waitSeconds":30,"prevResult":{"cniVersion":"1.0.0"}`)); code != 0 {
		t.Errorf("code %d, %s", code, out)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A pod has to be able to go, whatever is wrong.
func TestDelNeverFails(t *testing.T) {
	for name, conf := range map[string]string{
		"away":              netConf("1.0.0", absentAgent(t), `,"whenAway":"refuse"`),
		"hangs":             netConf("1.0.0", hangingAgent(t), `,"whenAway":"wait","waitSeconds":60`),
		"error":             netConf("1.0.0", newAgent(t, wire.Answer{Error: "broken"}).socket, ""),
		"bad configuration": netConf("1.0.0", "x", `,"whenAway":"sleep"`),
	} {
		t.Run(name, func(t *testing.T) {
			inASecond(t, func() {
				out, code, log := runRaw(t, "DEL", conf, "CNI_NETNS=")
				if code != 0 || out != "" || log == "" {
					t.Errorf("code %d, %q, log %q", code, out, log)
				}
			})
		})
	}
	a := newAgent(t, wire.Answer{State: wire.Serving})
	if _, code, log := runRaw(t, "DEL", netConf("1.0.0", a.socket, ""), "CNI_ARGS=garbage", "CNI_NETNS="); code != 0 || log == "" {
		t.Errorf("bad arguments: code %d, %s", code, log)
	}
	if told := a.takeAsked(); len(told) != 1 || told[0].ContainerID != "sandbox-1" || told[0].NetNS != "" {
		t.Errorf("the agent was told %+v", told)
	}
}

// STATUS says 50 only when no pod at all could start: the agent's own is among those of the exempt namespaces.
func TestStatus(t *testing.T) {
	ready, unready := newAgent(t, wire.Answer{State: wire.Serving}).socket, newAgent(t, wire.Answer{State: wire.Waiting}).socket
	for name, c := range map[string]struct {
		socket, rest string
		code         uint
	}{
		"start, away":                       {absentAgent(t), `,"exemptNamespaces":[]`, 0},
		"wait, ready":                       {ready, `,"whenAway":"wait","exemptNamespaces":[]`, 0},
		"wait, away":                        {absentAgent(t), `,"whenAway":"wait","exemptNamespaces":[]`, codeUnavailable},
		"wait, not ready":                   {unready, `,"whenAway":"wait","exemptNamespaces":[]`, codeUnavailable},
		"refuse, away":                      {absentAgent(t), `,"whenAway":"refuse","exemptNamespaces":[]`, codeUnavailable},
		"refuse, hangs":                     {hangingAgent(t), `,"whenAway":"refuse","exemptNamespaces":[]`, codeUnavailable},
		"refuse, away, but some are exempt": {absentAgent(t), `,"whenAway":"refuse","exemptNamespaces":["sluice-system"]`, 0},
		"wait, away, exempt by default":     {absentAgent(t), `,"whenAway":"wait"`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inASecond(t, func() {
				if out, code, _ := runRaw(t, "STATUS", netConf("1.1.0", c.socket, c.rest)); code != c.code {
					t.Errorf("code %d (%s), want %d", code, out, c.code)
				}
			})
		})
	}
}

func TestGCTellsOnlyWhatTheRuntimeSays(t *testing.T) {
	a := newAgent(t, wire.Answer{State: wire.Serving})
	if _, code, log := runRaw(t, "GC", netConf("1.1.0", a.socket, "")); code != 0 || log == "" {
		t.Errorf("without a list: code %d, %s", code, log)
	}
	if told := a.takeAsked(); len(told) > 0 {
		t.Errorf("without a list the agent was told %+v: all would be gone", told)
	}
	if _, code, _ := runRaw(t, "GC", netConf("1.1.0", a.socket, `,"cni.dev/valid-attachments":null`)); code != 0 {
		t.Errorf("with an empty list: code %d", code)
	}
	if told := a.takeAsked(); len(told) != 1 || told[0].Command != wire.GC || len(told[0].Valid) != 0 {
		t.Errorf("with an empty list the agent was told %+v", told)
	}
	if _, code, _ := runRaw(t, "GC", netConf("1.1.0", absentAgent(t), `,"cni.dev/valid-attachments":[]`)); code != 0 {
		t.Errorf("away: code %d", code)
	}
	broken := newAgent(t, wire.Answer{Error: "broken"})
	if out, code, _ := runRaw(t, "GC", netConf("1.1.0", broken.socket, `,"cni.dev/valid-attachments":[]`)); code != types.ErrInternal || !strings.Contains(out, "broken") {
		t.Errorf("an error of the agent: code %d, %s", code, out)
	}
}

// Prints what a pod's start pays for us: one run of the plugin with an agent that answers at once.
func TestOverheadOfADD(t *testing.T) {
	a := newAgent(t, wire.Answer{State: wire.Serving})
	conf := netConf("1.0.0", a.socket, `,"prevResult":`+mainResult("1.0.0"))
	var took []time.Duration
	for range 50 {
		start := time.Now()
		if out, code, _ := runRaw(t, "ADD", conf); code != 0 {
			t.Fatal(out)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	st, err := os.Stat(filepath.Join(binDir(), netconf.Type))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ADD with an agent that answers at once: median %v, 90th percentile %v, longest %v; the plugin has %d KB",
		took[25].Round(10*time.Microsecond), took[45].Round(10*time.Microsecond), took[49].Round(10*time.Microsecond), st.Size()>>10)
}

var errFull = errors.New("no space")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

// A result that cannot be printed is an error: the runtime would go on without one.
func TestResultThatCannotBePrinted(t *testing.T) {
	a := newAgent(t, wire.Answer{State: wire.Serving})
	p := &plugin{started: time.Now(), out: fullDisk{}, log: io.Discard}
	conf := netConf("1.0.0", a.socket, `,"prevResult":{"cniVersion":"1.0.0"}`)
	err := p.add(&skel.CmdArgs{ContainerID: "c", Netns: "/x", IfName: "eth0", StdinData: []byte(conf)})
	if e, ok := errors.AsType[*types.Error](err); !ok || e.Code != types.ErrIOFailure {
		t.Errorf("got %v", err)
	}
}
