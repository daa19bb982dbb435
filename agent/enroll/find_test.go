package enroll

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

const (
	uidA = "8f1c2d3e-0000-4000-8000-0123456789ab"
	uidB = "8f1c2d3e-0000-4000-8000-0123456789ac"
)

// sleeper is a process in a network namespace; "" is ours.
func sleeper(t *testing.T, netns string, edit func(*exec.Cmd)) string {
	t.Helper()
	child := exec.Command("sleep", "60")
	if edit != nil {
		edit(child)
	}
	if netns == "" {
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
	} else {
		need.In(t, netns, child.Start)
	}
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	return strconv.Itoa(child.Process.Pid)
}

// procfs is one whose first process is in our namespace.
func procfs(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	fakeProcess(t, proc, 1, "0::/init.scope", "/proc/thread-self/ns/net")
	return proc
}

func cgroupOf(uid string) string { return "0::/kubepods/burstable/pod" + uid + "/c1" }

// Each hierarchy has a line of its own; any of them tells.
func TestPodIsFoundInEachCgroupLayout(t *testing.T) {
	path := need.NetNS(t)
	for name, cgroup := range map[string]string{
		"cgroup2":           cgroupOf(uidA),
		"cgroup1":           "5:cpu,cpuacct:/kubepods/pod" + uidA + "/c1\n1:name=systemd:/kubepods/pod" + uidA + "/c1",
		"hybrid":            "3:memory:/kubepods/pod" + uidA + "/c1\n1:name=systemd:/\n0::/kubepods/pod" + uidA + "/c1",
		"hybrid, only one":  "3:memory:/kubepods/pod" + uidA + "/c1\n0::/",
		"below another":     "0::/kc/n1/kubepods/besteffort/pod" + uidA + "/c1",
		"cgroup namespace":  "0::/../../pod" + uidA + "/c1",
		"colons in a name":  "0::/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice/cri:x:y",
		"no pod":            "0::/system.slice/podman.service",
		"another pod's":     cgroupOf(uidB),
		"nothing":           "",
		"a line of garbage": "pod" + uidA,
	} {
		t.Run(name, func(t *testing.T) {
			proc := procfs(t)
			fakeProcess(t, proc, 7, cgroup, path)
			found, err := newFinder(proc).find(map[string]bool{uidA: true})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{"no pod": true, "another pod's": true, "nothing": true, "a line of garbage": true}[name]
			if got := len(found) == 0; got != want {
				t.Errorf("found: %+v", found)
			}
		})
	}
}

// The first process of a pod is its sandbox's: a later one may have made a namespace of its own.
func TestTheOldestProcessTells(t *testing.T) {
	first, second := need.NetNS(t), need.NetNS(t)
	proc := procfs(t)
	for pid, p := range map[int]struct {
		netns string
		ticks int
	}{30: {second, 900}, 31: {first, 500}, 32: {second, 700}} {
		fakeProcess(t, proc, pid, cgroupOf(uidA), p.netns)
		stat := fmt.Sprintf("%d (a) b (c) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 1 1", pid, p.ticks)
		if err := os.WriteFile(filepath.Join(proc, strconv.Itoa(pid), "stat"), []byte(stat), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := newFinder(proc).find(map[string]bool{uidA: true})
	if want := netnsOf(proc, "31"); err != nil || found[uidA].path != want {
		t.Errorf("found %+v, want %s (%v)", found, want, err)
	}
}

func TestStartOfAProcess(t *testing.T) {
	before := time.Now()
	pid := sleeper(t, "", nil)
	if d := newFinder("/proc").started(pid).Sub(before); d < -50*time.Millisecond || d > time.Second {
		t.Errorf("it was started %v after it was", d)
	}
	if at := newFinder("/proc").started("0"); !at.IsZero() {
		t.Errorf("what does not exist was started %v", at)
	}
}

// What is remembered of a process must not hide what has become of it.
func TestWhatIsRememberedOfProcesses(t *testing.T) {
	path := need.NetNS(t)
	proc := procfs(t)
	f := newFinder(proc)
	find := func(uid string) string {
		t.Helper()
		found, err := f.find(map[string]bool{uid: true})
		if err != nil {
			t.Fatal(err)
		}
		return found[uid].path
	}
	age := func(d time.Duration) {
		for pid, s := range f.seen {
			s.first, s.read = s.first.Add(-d), s.read.Add(-d)
			f.seen[pid] = s
		}
	}
	fakeProcess(t, proc, 7, "0::/system.slice", path)
	if find(uidA) != "" {
		t.Error("it is no pod's yet")
	}
	rewrite := func(cgroup string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(proc, "7", "cgroup"), []byte(cgroup), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(cgroupOf(uidA))
	if find(uidA) == "" {
		t.Error("a process that was moved when it was new is not found")
	}
	age(settleTime)
	rewrite(cgroupOf(uidB))
	if find(uidA) != "" {
		t.Error("a number that was used again is taken for the pod")
	}
	if find(uidB) == "" {
		t.Error("and not for the other one")
	}
	age(settleTime)
	rewrite(cgroupOf(uidA))
	age(forgetTime)
	if find(uidA) == "" {
		t.Error("what became of a process is never seen")
	}
	if err := os.RemoveAll(filepath.Join(proc, "7")); err != nil {
		t.Fatal(err)
	}
	if find(uidA) != "" || f.seen["7"] != (seen{}) {
		t.Error("a process that ended is remembered")
	}
}

// A process of uid 1000, as a pod's that runs as an ordinary user: found by root, and by root without CAP_SYS_PTRACE the
// error says what is missing.
func TestProcessOfAnOrdinaryUser(t *testing.T) {
	path := podNS(t)
	pid := sleeper(t, path, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	})
	proc := procfs(t)
	fakeProcess(t, proc, 50, cgroupOf(uidA), "/proc/"+pid+"/ns/net")
	e := running(t, proc)
	e.SetDesired([]Wanted{want(uidA, "")})
	await(t, "enrolled", func() bool { return len(e.View().Pods) == 1 })
	if err := e.Release(e.View().Pods[0].Pod); err != nil {
		t.Error(err)
	}
	var found map[string]sighting
	err := withoutCapability(t, unix.CAP_SYS_PTRACE, func() (err error) {
		found, err = newFinder(proc).find(map[string]bool{uidA: true})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := found[uidA].err; found[uidA].path != "" || !errors.Is(err, errNotAllowed) || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("without CAP_SYS_PTRACE: %+v", found[uidA])
	}
}

// What may not be looked at is told, and does not keep the rest from being cleaned.
func TestCleanupWithoutTheCapabilityToLook(t *testing.T) {
	netns, folder := podNS(t), t.TempDir()
	bind(t, netns, folder, "cni-1")
	pid := sleeper(t, need.NetNS(t), func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	})
	proc := procfs(t)
	fakeProcess(t, proc, 50, "", "/proc/"+pid+"/ns/net")
	open(t, netns).close()
	err := withoutCapability(t, unix.CAP_SYS_PTRACE, func() error {
		_, err := CleanupAll(Config{Proc: proc, NetNS: folder, Port: testPort, PrefixV6: testPrefix})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "look at process 50") {
		t.Errorf("the error is %v", err)
	}
	if n := routes(t, netns); n != 0 {
		t.Errorf("%d routes are left", n)
	}
}

// The agent's own namespace is no host's when it is in a container, where the host's procfs is mounted elsewhere.
func TestHostsNamespaceIsNotGuessedInAContainer(t *testing.T) {
	pid := sleeper(t, need.NetNS(t), func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	})
	proc := t.TempDir()
	fakeProcess(t, proc, 1, "", "/proc/"+pid+"/ns/net")
	if id, err := hostNS(proc); err != nil || id == (nsID{}) {
		t.Errorf("%v, %v", id, err)
	}
	err := withoutCapability(t, unix.CAP_SYS_PTRACE, func() error {
		_, err := hostNS(proc)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "find the host's network namespace") || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
		t.Errorf("without CAP_SYS_PTRACE: %v", err)
	}
}

// withoutCapability runs f on a thread of its own that lacks a capability.
func withoutCapability(t *testing.T, lacks uint, f func() error) error {
	t.Helper()
	need.Root(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			done <- err
			return
		}
		data[lacks/32].Effective &^= 1 << (lacks % 32)
		data[lacks/32].Permitted &^= 1 << (lacks % 32)
		if err := unix.Capset(&header, &data[0]); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// A node has a thousand processes, which are listed every 20 ms while a pod is awaited.
func TestCostOfLooking(t *testing.T) {
	need.Root(t)
	proc := procfs(t)
	for pid := 2; pid <= 1000; pid++ {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroupOf(uidB)), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	f := newFinder(proc)
	look := func() time.Duration {
		start := time.Now()
		if _, err := f.find(map[string]bool{uidA: true}); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	first := look()
	for pid, s := range f.seen {
		s.first = s.first.Add(-settleTime)
		f.seen[pid] = s
	}
	var later time.Duration
	allocs := testing.AllocsPerRun(20, func() { later += look() / 21 })
	t.Logf("1000 processes: the first look takes %v, later ones %v", first, later)
	if allocs > 2500 {
		t.Errorf("a later look allocates %.0f times: it reads every process again", allocs)
	}
}
