package enroll

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/tests/need"
)

const testPort = 1004

var testPrefix = netip.MustParsePrefix("fd6d:6573:6800::/96")

func testOpener() opener { return opener{proc: "/proc", port: testPort, prefix: testPrefix} }

// podNS is a namespace that is like a pod's: it has an address of its own beside loopback.
func podNS(t *testing.T) string {
	t.Helper()
	path := need.NetNS(t)
	need.In(t, path, func() error {
		eth := &netlink.Veth{Name: "eth0", PeerName: "peer0"}
		if err := netlink.LinkAdd(eth); err != nil {
			return err
		}
		for _, a := range []string{"10.78.0.10/24", "fd78::10/64"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if strings.Contains(a, ":") {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(eth, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(eth)
	})
	return path
}

func open(t *testing.T, path string) *Pod {
	t.Helper()
	p, err := testOpener().open(want("a", path), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.release() })
	return p
}

// routes returns the local routes of the prefix in a namespace.
func routes(t *testing.T, path string) int {
	t.Helper()
	n := 0
	need.In(t, path, func() error {
		all, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		for _, r := range all {
			if r.Dst != nil && r.Dst.String() == testPrefix.String() && r.Type == unix.RTN_LOCAL {
				n++
			}
		}
		return err
	})
	return n
}

func TestListenersAreInThePodAndOnLoopbackOnly(t *testing.T) {
	path, other := podNS(t), need.NetNS(t)
	p := open(t, path)
	if p.Cookie == 0 || p.IPv4.String() != "10.78.0.10" || p.IPv6.String() != "fd78::10" || p.Port != testPort {
		t.Errorf("the pod is %+v", p)
	}
	if f := p.Families(); len(f) != 2 || f[0] != model.IPv4 || f[1] != model.IPv6 {
		t.Errorf("its families are %v", f)
	}
	if n := routes(t, path); n != 1 {
		t.Errorf("%d local routes for the prefix", n)
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "10.78.0.10": false, "fd78::10": false} {
		at := net.JoinHostPort(address, strconv.Itoa(testPort))
		if got := dials(t, path, at); got != want {
			t.Errorf("%s answers in the pod: %v", at, got)
		}
		if dials(t, other, at) {
			t.Errorf("%s answers in another namespace", at)
		}
	}
	if n := p.Reset(); n != 2 {
		t.Errorf("%d queued connections were reset, not 2", n)
	}
}

func dials(t *testing.T, path, at string) bool {
	t.Helper()
	ok := false
	need.In(t, path, func() error {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err == nil {
			ok = true
			c.Close()
		}
		return nil
	})
	return ok
}

func TestListenerIsPlainTCPAndNonBlocking(t *testing.T) {
	p := open(t, podNS(t))
	err := p.Use(func(_ int, listeners []Listener) error {
		for _, l := range listeners {
			protocol, err := unix.GetsockoptInt(l.FD, unix.SOL_SOCKET, unix.SO_PROTOCOL)
			if err != nil || protocol != unix.IPPROTO_TCP {
				return fmt.Errorf("protocol %d, %w", protocol, err)
			}
			flags, err := unix.FcntlInt(uintptr(l.FD), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK == 0 {
				return fmt.Errorf("flags %#x, %w", flags, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// An agent that was killed and started again listens beside the copies that its predecessor gave to a proxy.
func TestSecondAgentListensBesideTheFirst(t *testing.T) {
	path := podNS(t)
	first := open(t, path)
	second := open(t, path)
	if first.Cookie != second.Cookie {
		t.Error("one namespace has two cookies")
	}
	first.close()
	if routes(t, path) != 1 {
		t.Error("closing without undoing took the route away")
	}
}

func TestPortOfAnApplicationIsNamed(t *testing.T) {
	path := podNS(t)
	var app net.Listener
	need.In(t, path, func() (err error) {
		app, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", testPort))
		return err
	})
	s := newEnroller(nil, machine{open: testOpener().open, identify: statNS, release: (*Pod).release})
	before := descriptors(t)
	if !s.enroll(want("a", path), place{path: path, by: ByName}) {
		t.Fatal("nothing to say")
	}
	s.SetDesired([]Wanted{want("a", path)})
	f := s.View().Failed
	if len(f) != 1 || f[0].String() != "ns/a" || !strings.Contains(f[0].Err.Error(), "an application of the pod has port 1004") {
		t.Fatalf("the failures are %v", f)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
	app.Close()
	s.enroll(want("a", path), place{path: path, by: ByName})
	if v := s.View(); len(v.Failed) != 0 || len(v.Pods) != 1 {
		t.Errorf("after the port was given up: %+v", v)
	}
	s.Release(s.View().Pods[0].Pod)
}

func TestNamespaceWithoutIPv6(t *testing.T) {
	path := podNS(t)
	need.In(t, path, func() error {
		return os.WriteFile("/proc/thread-self/root/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
	})
	p := open(t, path)
	if f := p.Families(); len(f) != 1 || f[0] != model.IPv4 {
		t.Errorf("its families are %v", f)
	}
}

func TestWhatCannotBeEnrolled(t *testing.T) {
	need.Root(t)
	bare := need.NetNS(t)
	down := need.NetNS(t)
	need.In(t, down, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for path, want := range map[string]string{
		bare:                       "no address yet",
		down:                       "loopback interface is down",
		file:                       "enter the network namespace",
		"/proc/thread-self/ns/net": "is the host's network namespace",
		"/nonexistent/net":         "no such file",
	} {
		w := Wanted{}
		if path == down {
			w.IPs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		if _, err := testOpener().open(w, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// run starts an Enroller on this machine.
func running(t *testing.T, proc string) *Enroller {
	t.Helper()
	e := New(Config{Proc: proc, Port: testPort, PrefixV6: testPrefix})
	e.machine.watch = nil // which opens descriptors
	return started(t, e)
}

// runningIn is running with a folder of namespaces that is watched.
func runningIn(t *testing.T, cfg Config) *Enroller {
	t.Helper()
	cfg.Port, cfg.PrefixV6 = testPort, testPrefix
	return started(t, New(cfg))
}

func started(t *testing.T, e *Enroller) *Enroller {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- e.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		e.Close()
	})
	return e
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("within 3 s not: %s", what)
		}
	}
}

func TestPodThatEndsLeavesNothing(t *testing.T) {
	path := podNS(t)
	e := running(t, "/proc")
	before := descriptors(t)
	e.SetDesired([]Wanted{want("a", path)})
	await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
	if descriptors(t) <= before {
		t.Fatal("nothing was opened")
	}
	e.SetDesired(nil)
	await(t, "ending", func() bool { return e.View().Pods[0].Ending != "" })
	p := e.View().Pods[0].Pod
	if err := e.Release(p); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
	if n := routes(t, path); n != 0 {
		t.Errorf("%d routes are left", n)
	}
	if dials(t, path, "127.0.0.1:1004") {
		t.Error("the listener is left")
	}
	if _, err := p.Descriptors(); !errors.Is(err, ErrReleased) {
		t.Errorf("descriptors of a released pod: %v", err)
	}
	if err := e.Release(p); err != nil {
		t.Errorf("released twice: %v", err)
	}
}

func TestReplacedNamespaceIsReleasedAndEnrolledAnew(t *testing.T) {
	old, fresh := podNS(t), podNS(t)
	path := filepath.Join(t.TempDir(), "pod")
	if err := os.Symlink(old, path); err != nil {
		t.Fatal(err)
	}
	e := running(t, "/proc")
	e.SetDesired([]Wanted{want("a", path)})
	await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
	first := e.View().Pods[0].Pod
	start := time.Now()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fresh, path); err != nil {
		t.Fatal(err)
	}
	await(t, "ending", func() bool { return e.View().Pods[0].Ending != "" })
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v to notice", d)
	}
	if err := e.Release(first); err != nil {
		t.Error(err)
	}
	await(t, "enrolled anew", func() bool { return len(e.View().Pods) == 1 && e.View().Pods[0].Ending == "" })
	if second := e.View().Pods[0].Pod; second.Cookie == first.Cookie {
		t.Error("it is the same namespace")
	}
	if err := e.Release(e.View().Pods[0].Pod); err != nil {
		t.Error(err)
	}
}

// A real process in a namespace, and a procfs whose cgroup files say what a kubelet's would.
func TestPodIsFoundByTheCgroupOfAProcess(t *testing.T) {
	path := podNS(t)
	const uid = "8f1c2d3e-0000-4000-8000-0123456789ab"
	child := exec.Command("sleep", "60")
	need.In(t, path, child.Start)
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	hosts := exec.Command("sleep", "60") // of the pod as well, but in the host's namespace: no evidence
	if err := hosts.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hosts.Process.Kill(); hosts.Wait() })
	for name, cgroup := range map[string]string{
		"cgroupfs": "0::/kubepods/burstable/pod" + uid + "/c1",
		"systemd":  "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/cri.scope",
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			fakeProcess(t, proc, 1, "0::/init.scope", fmt.Sprintf("/proc/%d/ns/net", hosts.Process.Pid))
			fakeProcess(t, proc, 50, cgroup, fmt.Sprintf("/proc/%d/ns/net", hosts.Process.Pid))
			fakeProcess(t, proc, 60, cgroup, fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid))
			fakeProcess(t, proc, 70, "0::/kubepods/podother/c1", path)
			if err := os.MkdirAll(filepath.Join(proc, "self"), 0o700); err != nil {
				t.Fatal(err)
			}
			e := running(t, proc)
			e.SetDesired([]Wanted{want(uid, "")})
			await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
			pod := e.View().Pods[0].Pod
			if id, err := statNS(path); err != nil || pod.id != id {
				t.Errorf("it is in namespace %v, not %v (%v)", pod.id, id, err)
			}
			if err := os.RemoveAll(filepath.Join(proc, "60")); err != nil {
				t.Fatal(err)
			}
			await(t, "ending", func() bool { return e.View().Pods[0].Ending != "" })
			if err := e.Release(pod); err != nil {
				t.Error(err)
			}
		})
	}
}

func fakeProcess(t *testing.T, proc string, pid int, cgroup, netns string) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(netns, filepath.Join(dir, "ns", "net")); err != nil {
		t.Fatal(err)
	}
	if real, ok := strings.CutSuffix(netns, "/ns/net"); ok && real != "/proc/thread-self" {
		if err := os.Symlink(filepath.Join(real, "stat"), filepath.Join(dir, "stat")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCleanupTakesTheRouteAway(t *testing.T) {
	path := podNS(t)
	open(t, path).close() // an agent that was killed
	if routes(t, path) != 1 {
		t.Fatal("there is no route to take away")
	}
	cfg := Config{Port: testPort, PrefixV6: testPrefix}
	pods := []Wanted{want("gone", filepath.Join(t.TempDir(), "gone")), want("a", path), want("notfound", "")}
	for range 2 { // what is not there is no error
		if err := Cleanup(cfg, pods); err != nil {
			t.Error(err)
		}
		if n := routes(t, path); n != 0 {
			t.Errorf("%d routes are left", n)
		}
	}
}

// Without the plugin: a namespace appears in the folder, and then the sandbox's first process in /proc.
func TestNewPodIsFoundByTheFolderOfNamespaces(t *testing.T) {
	netns := podNS(t)
	proc := procfs(t)
	folder := filepath.Join(t.TempDir(), "netns") // is made by the first sandbox
	e := runningIn(t, Config{Proc: proc, NetNS: folder})
	e.SetDesired([]Wanted{want(uidA, "")})
	await(t, "looked for", func() bool { return len(e.View().Failed) == 1 })
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.hurry = time.Time{} // as if it was desired long ago
	e.mu.Unlock()
	await(t, "watched", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return !e.hurry.IsZero()
	})
	bind(t, netns, folder, "cni-1")
	pid := sleeper(t, netns, nil)
	start := time.Now()
	fakeProcess(t, proc, 50, cgroupOf(uidA), "/proc/"+pid+"/ns/net")
	await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
	took := time.Since(start)
	t.Logf("a new pod is enrolled %v after its first process came", took)
	if took > 200*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	if p := e.View().Pods[0]; p.By != ByFound || p.Started.Before(e.began.Add(-20*time.Millisecond)) || p.Started.After(start) {
		t.Errorf("enrolled by %s, started %v", p.By, p.Started)
	}
	if err := e.Release(e.View().Pods[0].Pod); err != nil {
		t.Error(err)
	}
}

// The runtime announces a sandbox, whose namespace no process of the pod has yet, and takes it down.
func TestAnnouncedNamespace(t *testing.T) {
	netns, folder := podNS(t), t.TempDir()
	path := bind(t, netns, folder, "cni-1")
	e := runningIn(t, Config{Proc: procfs(t), NetNS: folder})
	box := sandboxOf(uidA, "c1", "/var/run/netns/cni-1")
	announce(t, e, box)
	e.SetDesired([]Wanted{want(uidA, "")})
	await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
	if e.Cookie("c1") == 0 || e.View().Pods[0].IPv4.String() != "10.78.0.10" {
		t.Errorf("the pod is %+v", e.View().Pods[0])
	}
	start := time.Now()
	if err := unix.Unmount(path, 0); err != nil { // nobody says that it is taken down
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await(t, "ending", func() bool { return e.View().Pods[0].Ending != "" && !e.View().Pods[0].Leaving })
	t.Logf("the end of a namespace is noticed after %v", time.Since(start))
	if err := e.Release(e.View().Pods[0].Pod); err != nil {
		t.Error(err)
	}
	if n := routes(t, netns); n != 0 {
		t.Errorf("%d routes are left", n)
	}
}

func TestCleanupAllNeedsNoObjects(t *testing.T) {
	inFolder, ofProcess, held, other := podNS(t), podNS(t), podNS(t), need.NetNS(t)
	proc, folder := procfs(t), t.TempDir()
	bind(t, inFolder, folder, "cni-1")
	bind(t, other, folder, "cni-2")
	fakeProcess(t, proc, 7, "0::/", "/proc/"+sleeper(t, ofProcess, nil)+"/ns/net")
	fakeProcess(t, proc, 8, "0::/", "/proc/"+sleeper(t, held, nil)+"/ns/net")
	if err := os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Proc: proc, NetNS: folder, Port: testPort, PrefixV6: testPrefix}
	for _, path := range []string{inFolder, ofProcess, held} {
		open(t, path).close() // an agent that was killed
	}
	id, err := statNS(held)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.complete().sweep(t.Context(), map[nsID]bool{id: true}); err != nil {
		t.Error(err)
	}
	if routes(t, inFolder) != 0 || routes(t, ofProcess) != 0 || routes(t, held) != 1 {
		t.Errorf("after a sweep: %d, %d, %d routes", routes(t, inFolder), routes(t, ofProcess), routes(t, held))
	}
	for _, want := range []int{1, 0} {
		if n, err := CleanupAll(cfg); n != want || err != nil {
			t.Errorf("%d namespaces were cleaned, want %d (%v)", n, want, err)
		}
	}
	if n := routes(t, held); n != 0 {
		t.Errorf("%d routes are left", n)
	}
	strange := bind(t, "/proc/self/ns/uts", folder, "uts") // a namespace, but of another kind
	if _, err := CleanupAll(cfg); err == nil || !strings.Contains(err.Error(), "remove the route from the network namespace "+strange) {
		t.Errorf("the error is %v", err)
	}
}

// A pod opted out while no agent ran: its route is taken away by the next agent, and a pod's that is enrolled is not.
func TestWhatAPredecessorLeftIsSweptOnce(t *testing.T) {
	out, in := podNS(t), podNS(t)
	folder := t.TempDir()
	bind(t, out, folder, "cni-1")
	path := bind(t, in, folder, "cni-2")
	open(t, out).close()
	open(t, in).close()
	e := runningIn(t, Config{Proc: procfs(t), NetNS: folder, Sweep: true})
	e.SetDesired([]Wanted{want("a", path)})
	await(t, "swept", func() bool { return routes(t, out) == 0 })
	if routes(t, in) != 1 {
		t.Error("an enrolled pod lost its route")
	}
	if err := e.Release(e.View().Pods[0].Pod); err != nil {
		t.Error(err)
	}
}

func TestTwoHundredPodsAtOnce(t *testing.T) {
	const count = 200
	proc := procfs(t)
	var all []Wanted
	for i := range count {
		uid := fmt.Sprintf("8f1c2d3e-0000-4000-8000-%012d", i)
		fakeProcess(t, proc, 100+i, cgroupOf(uid), need.NetNS(t))
		w := want(uid, "")
		w.IPs = []netip.Addr{netip.MustParseAddr("10.78.0.10")}
		all = append(all, w)
	}
	e := runningIn(t, Config{Proc: proc, NetNS: t.TempDir()})
	start := time.Now()
	e.SetDesired(all)
	for end := start.Add(30 * time.Second); len(e.View().Pods) < count && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	t.Logf("%d of %d pods are enrolled after %v", len(e.View().Pods), count, time.Since(start))
	if v := e.View(); len(v.Pods) != count || len(v.Failed) != 0 {
		t.Fatalf("%d are enrolled, %d failed", len(v.Pods), len(v.Failed))
	}
	start = time.Now()
	for _, p := range e.View().Pods {
		if err := e.Release(p.Pod); err != nil {
			t.Error(err)
		}
		e.SetDesired(nil)
	}
	t.Logf("and released after another %v", time.Since(start))
}
