package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/tests/need"
)

// The test binary stands in for the sluice command, and for a run that is killed.
func TestMain(m *testing.M) {
	ctx := context.Background()
	switch {
	case len(os.Args) == 4 && os.Args[1] == Subcommand:
		if err := traffic.Command(ctx, os.Args[2], os.Args[3], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv("SLUICE_LAB_TEST_VICTIM") != "":
		victim(ctx)
	}
	os.Exit(m.Run())
}

// victim opens a lab with something of everything in it, says so, and waits to be killed.
func victim(ctx context.Context) {
	l, err := Open(Options{Bin: os.Getenv("SLUICE_LAB_TEST_VICTIM")})
	if err == nil {
		var p *Pod
		if p, err = l.AddPod(PodSpec{Namespace: "demo", Name: "web"}); err == nil {
			_, err = p.Serve(ctx, 8080)
		}
	}
	fmt.Println(l.Name, err)
	select {}
}

// bin is a folder in which the test binary is the sluice command.
func bin(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "sluice")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T) *Lab {
	t.Helper()
	need.Root(t)
	l, err := Open(Options{Bin: bin(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

func addPod(t *testing.T, l *Lab, spec PodSpec) *Pod {
	t.Helper()
	p, err := l.AddPod(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func serve(t *testing.T, l *Lab, name string) *Pod {
	t.Helper()
	p := addPod(t, l, PodSpec{Namespace: "demo", Name: name})
	if _, err := p.Serve(t.Context(), 8080); err != nil {
		t.Fatal(err)
	}
	return p
}

var vips = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")}

func TestServiceGoesToAllEndpointsAndKeepsTheClientsAddress(t *testing.T) {
	l := open(t)
	v1, v2 := serve(t, l, "web-v1"), serve(t, l, "web-v2")
	client := addPod(t, l, PodSpec{Namespace: "demo", Name: "client"})
	if err := l.SetServices(Service{Name: "web", ClusterIPs: vips, Port: 80, TargetPort: 8080, Endpoints: []*Pod{v1, v2}}); err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		r, err := client.Load(t.Context(), traffic.Load{
			Targets: []netip.AddrPort{netip.AddrPortFrom(vip, 80)}, Workers: 4, Requests: 400, Connections: traffic.New,
		})
		if err != nil {
			t.Fatal(err)
		}
		// 400 fair coins: fewer than 120 heads come once in 10^15 times.
		if r.Failed != 0 || r.Backends["web-v1"] < 120 || r.Backends["web-v2"] < 120 {
			t.Errorf("%s: %+v", vip, r)
		}
	}
	if err := l.SetServices(Service{Name: "web", ClusterIPs: vips, Port: 80, TargetPort: 8080, Endpoints: []*Pod{v2}}); err != nil {
		t.Fatal(err)
	}
	r, err := client.Load(t.Context(), traffic.Load{Targets: []netip.AddrPort{netip.AddrPortFrom(vips[0], 80)}, Requests: 20, Connections: traffic.New})
	if err != nil {
		t.Fatal(err)
	}
	if r.Backends["web-v2"] != 20 {
		t.Errorf("after the Service changed: %v", r.Backends)
	}
	time.Sleep(50 * time.Millisecond) // the servers' logs are written in turns
	for _, p := range []*Pod{v1, v2} {
		clients, err := p.Clients()
		if err != nil {
			t.Fatal(err)
		}
		if len(clients) != 2 || clients[client.IPv4] == 0 || clients[client.IPv6] == 0 {
			t.Errorf("%s saw %v, want %s and %s", p.Name, clients, client.IPv4, client.IPv6)
		}
	}
}

func TestProcessesAreInThePodsNamespaceAndCgroup(t *testing.T) {
	l := open(t)
	for _, spec := range []PodSpec{{Namespace: "demo", Name: "a"}, {Namespace: "demo", Name: "b", ByCgroup: true}} {
		p := addPod(t, l, spec)
		sleep, err := p.Start(Command{Name: p.Name, Path: "/bin/sleep", Args: []string{"60"}})
		if err != nil {
			t.Fatal(err)
		}
		proc := fmt.Sprintf("/proc/%d/", sleep.PID())
		var have, want syscall.Stat_t
		if err := syscall.Stat(proc+"ns/net", &have); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Stat(p.NetNS, &want); err != nil {
			t.Fatal(err)
		}
		if have.Ino != want.Ino {
			t.Errorf("%s: network namespace %d, want %d", p.Name, have.Ino, want.Ino)
		}
		cgroup, err := os.ReadFile(proc + "cgroup")
		if err != nil {
			t.Fatal(err)
		}
		in := "pods/" + p.Name + "\n"
		if spec.ByCgroup {
			in = "pods/pod" + p.UID + "/main\n"
		}
		if !strings.Contains(string(cgroup), "/sluice-"+l.Name+"/"+in) {
			t.Errorf("%s: cgroup %s", p.Name, cgroup)
		}
		if err := p.Delete(); err != nil {
			t.Errorf("delete %s: %v", p.Name, err)
		}
		<-sleep.Done()
	}
}

// traces lists what a run has on the machine.
func traces(t *testing.T, run string) []string {
	t.Helper()
	mount, err := CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, pattern := range []string{cgroupOf(mount, run), netnsPath(run, "*"), filepath.Join(runs, run)} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, run) {
			found = append(found, line)
		}
	}
	return found
}

func TestCloseLeavesNothing(t *testing.T) {
	l := open(t)
	p := serve(t, l, "web")
	if _, err := l.Start("proxy", Command{Name: "child", Path: "/bin/sleep", Args: []string{"60"}}); err != nil {
		t.Fatal(err)
	}
	if have := traces(t, l.Name); len(have) < 5 {
		t.Fatalf("a run that is open should be seen: %q", have)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, l.Name); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := os.Stat(p.NetNS); err == nil {
		t.Errorf("%s is still there", p.NetNS)
	}
}

func TestNextRunRemovesWhatAKilledOneLeft(t *testing.T) {
	living := open(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SLUICE_LAB_TEST_VICTIM="+bin(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	run, problem, _ := strings.Cut(strings.TrimSpace(line), " ")
	if problem != "<nil>" {
		t.Fatal(problem)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if have := traces(t, run); len(have) < 5 {
		t.Fatalf("a killed run should leave things: %q", have)
	}
	open(t)
	if left := traces(t, run); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if have := traces(t, living.Name); len(have) < 4 {
		t.Errorf("a living run was touched: %q", have)
	}
	alive, err := Runs(true)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(alive, living.Name) || slices.Contains(alive, run) {
		t.Errorf("alive: %v", alive)
	}
}

func TestManifestIsAPodAsAClusterShowsIt(t *testing.T) {
	l := open(t)
	p := addPod(t, l, PodSpec{Namespace: "demo", Name: "web-v1", Labels: map[string]string{"app": "web", "version": "1"}})
	b, err := os.ReadFile(filepath.Join(l.Manifests, "pod-demo-web-v1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var pod struct {
		Kind     string
		Metadata struct {
			UID                 string
			Labels, Annotations map[string]string
		}
		Spec struct {
			NodeName string `yaml:"nodeName"`
		}
		Status struct {
			PodIPs []struct{ IP string } `yaml:"podIPs"`
		}
	}
	if err := yaml.Unmarshal(b, &pod); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if pod.Kind != "Pod" || pod.Metadata.UID != p.UID || pod.Metadata.Labels["version"] != "1" || pod.Metadata.Annotations["sluice.dev/netns"] != p.NetNS ||
		pod.Spec.NodeName != "lab" || len(pod.Status.PodIPs) != 2 || pod.Status.PodIPs[1].IP != p.IPv6.String() {
		t.Errorf("%s", b)
	}
}

func TestProcessThatFailsTellsWhatItSaid(t *testing.T) {
	l := open(t)
	p, err := l.Start("agent", Command{Name: "agent", Path: "/bin/sh", Args: []string{"-c", "echo no cgroup2 here >&2; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Ready(t.Context(), p, l.AgentAdmin(), 5*time.Second)
	if err == nil || !strings.Contains(err.Error(), "no cgroup2 here") {
		t.Errorf("%v", err)
	}
}

func TestMetricAddsUpTheSeriesThatHaveTheLabels(t *testing.T) {
	text := []byte("# HELP sluice_requests_total x\n# TYPE sluice_requests_total counter\n" +
		"sluice_requests_total{backend=\"a\",code=\"200\"} 3\nsluice_requests_total{backend=\"b\",code=\"200\"} 4\n" +
		"sluice_requests_total_more 9\nsluice_open 2\n")
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"sluice_requests_total", nil, 7},
		{"sluice_requests_total", []string{`backend="b"`}, 4},
		{"sluice_requests_total", []string{`backend="b"`, `code="500"`}, 0},
		{"sluice_open", nil, 2},
		{"sluice", nil, 0},
	} {
		got, err := sumMetric(text, tt.name, tt.labels)
		if err != nil || got != tt.want {
			t.Errorf("%s %v: %v, %v; want %v", tt.name, tt.labels, got, err, tt.want)
		}
	}
	if _, err := sumMetric([]byte("x{a=\"b\" 1\n"), "x", nil); err == nil {
		t.Error("a broken line is no error")
	}
}

// A server that starts while its port is looked at is not in the way, and is seen as soon as it listens.
func TestProbeLetsAServerStart(t *testing.T) {
	l := open(t)
	p := addPod(t, l, PodSpec{Namespace: "demo", Name: "web"})
	err := p.thread.do(func() error {
		fd, err := probe(8080)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		server, err := net.Listen("tcp", "[::]:8080")
		if err != nil {
			return err
		}
		defer server.Close()
		if again, err := probe(8080); !errors.Is(err, syscall.EADDRINUSE) {
			syscall.Close(again)
			return fmt.Errorf("a port on which a server listens: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
