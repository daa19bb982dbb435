package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

const workers = 8 // of a load

func underLoad() traffic.Load {
	return traffic.Load{Targets: targets("web"), Workers: workers, Connections: traffic.Mixed, Backends: "web-", Timeout: 5 * time.Second}
}

// The worker is killed: only what was in flight fails, and its successor serves. None goes direct.
func TestWorkerIsKilledUnderLoad(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	const kills = 3
	c := m.begin(near, underLoad())
	for range kills {
		time.Sleep(500 * time.Millisecond)
		before := m.worker()
		m.signal(before, syscall.SIGKILL)
		m.eventually("a successor", 5*time.Second, func() error {
			if pids, err := m.lab.Workers(m.proxy); err != nil || len(pids) != 1 || pids[0] == before {
				return fmt.Errorf("workers %v, %w", pids, err)
			}
			return nil
		})
	}
	time.Sleep(500 * time.Millisecond)
	r := m.stop(c)
	t.Logf("%d kills: %d of %d requests failed, the longest took %v", kills, r.Failed, r.Requests, r.Longest)
	if r.Failed > kills*workers {
		t.Errorf("%d requests failed, but %d can have been in flight: %+v", r.Failed, kills*workers, r.Failures[len(r.Failures)-1])
	}
	if r.Routed != r.OK() {
		t.Errorf("%d of %d went direct", r.OK()-r.Routed, r.OK())
	}
}

// The worker lives but does nothing: new connections go direct within 2 s. When it goes on, or is replaced, they are routed.
func TestHungWorkerIsBypassed(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	hung := m.worker()
	m.signal(hung, syscall.SIGSTOP)
	began := time.Now()
	m.eventually("direct", 4*time.Second, func() error {
		r := m.load(near, traffic.Load{Targets: targets("web"), Workers: 2, Requests: 2, Connections: traffic.New, Timeout: 300 * time.Millisecond})
		if r.Failed > 0 || r.Routed > 0 {
			return fmt.Errorf("%d failed, %d routed", r.Failed, r.Routed)
		}
		return nil
	})
	t.Logf("direct %v after the worker was stopped", time.Since(began))
	if pids, err := m.lab.Workers(m.proxy); err == nil && len(pids) == 1 && pids[0] == hung {
		m.signal(hung, syscall.SIGCONT)
	}
	m.routed("web", near)
}

// The agent is killed and comes back: nobody notices.
func TestAgentIsKilledUnderLoad(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	c := m.begin(near, underLoad())
	for range 3 {
		time.Sleep(300 * time.Millisecond)
		m.kill(m.agent)
		time.Sleep(700 * time.Millisecond)
		m.startAgent()
		m.ready()
	}
	time.Sleep(300 * time.Millisecond)
	r := m.stop(c)
	if r.Failed > 0 || r.Routed != r.Requests {
		t.Errorf("%d requests: %d failed, %d routed: %+v", r.Requests, r.Failed, r.Routed, r.Failures)
	}
	m.route(producer, "all", "web", "", "web-v2=1")
	m.eventually("the agent still works", 5*time.Second, func() error {
		if r := m.load(near, traffic.Load{Targets: targets("web"), Requests: 10, Backends: "web-v2"}); r.Failed > 0 {
			return fmt.Errorf("%+v", r.Failures[0])
		}
		return nil
	})
}

// kill -9 of the agent at any moment of its start: no request meets a half-made state, and the next start repairs it.
func TestAgentIsKilledWhileItStarts(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	m.kill(m.agent)
	c := m.begin(near, underLoad())
	for delay := 2 * time.Millisecond; delay < 500*time.Millisecond; delay = delay * 3 / 2 {
		m.startAgent()
		time.Sleep(delay)
		m.kill(m.agent)
	}
	m.startAgent()
	m.ready()
	m.routed("web", m.pods["far"])
	r := m.stop(c)
	if r.Failed > 0 || r.Routed != r.Requests {
		t.Errorf("%d requests: %d failed, %d routed: %+v", r.Requests, r.Failed, r.Routed, r.Failures)
	}
}

// The same from nothing: the first start of all is killed again and again; traffic passes all the time, and in the end it
// is routed.
func TestAgentIsKilledWhileItStartsForTheFirstTime(t *testing.T) {
	m := open(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.startProxy()
	c := m.begin(near, underLoad())
	for delay := 2 * time.Millisecond; delay < 500*time.Millisecond; delay = delay * 3 / 2 {
		m.startAgent()
		time.Sleep(delay)
		m.kill(m.agent)
	}
	m.startAgent()
	m.ready()
	m.routed("web", near)
	if r := m.stop(c); r.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", r.Failed, r.Requests, r.Failures)
	}
}

// The proxy ends in order and comes back: connections go direct meanwhile. A Service that fails closed refuses them.
func TestProxyStopsAndStartsUnderLoad(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.route(producer, "strict", "closed", "", "web-v1=1")
	m.routed("web", near)
	m.routed("closed", near)

	l := underLoad()
	l.Connections = traffic.New
	c := m.begin(near, l)
	time.Sleep(300 * time.Millisecond)
	if err := m.proxy.Terminate(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	far := m.pods["far"]
	m.direct("web", far)
	r := m.load(far, traffic.Load{Targets: targets("closed"), Workers: 2, Requests: 10, Connections: traffic.New})
	if r.Failed != 10 || r.Failures[0].Kind != "refused" {
		t.Errorf("a Service that fails closed, without a proxy: %+v", r)
	}
	m.startProxy()
	m.ready()
	m.routed("web", far)
	m.routed("closed", far)
	time.Sleep(300 * time.Millisecond)
	if r := m.stop(c); r.Failed > 0 || r.Routed == r.OK() || r.Routed == 0 {
		t.Errorf("%d requests: %d failed, %d routed: %+v", r.Requests, r.Failed, r.Routed, r.Failures)
	}
}

// Connections that went direct while the proxy was away are closed when it is back, so that they come back routed.
func TestConnectionsThatBypassedAreClosed(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	if err := m.proxy.Terminate(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	m.direct("web", m.pods["far"])
	c := m.begin(near, traffic.Load{Targets: targets("web"), Workers: 4, Connections: traffic.KeepAlive, Rate: 100, Snapshots: 50 * time.Millisecond})
	for range 4 {
		if r := <-c.Reports; r.Routed > 0 {
			t.Fatalf("routed without a proxy: %+v", r)
		}
	}
	m.startProxy()
	m.ready()
	limit := time.After(20 * time.Second) // a connection that seems to be busy is closed after 10 s
	for routed := false; !routed; {
		select {
		case r := <-c.Reports:
			routed = r.OK() > 0 && r.Routed == r.OK()
		case <-limit:
			t.Fatal("kept connections stay direct")
		}
	}
	if r := m.stop(c); r.Failed > 4 {
		t.Errorf("%d requests failed on 4 connections: %+v", r.Failed, r.Failures)
	}
}

// A pod that ends is let go of within a second: nothing keeps its namespace.
func TestNamespaceOfAPodThatEndsIsLetGo(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	p := m.addPod(lab.PodSpec{Namespace: producer, Name: "short"})
	m.routed("web", p)
	var ns syscall.Stat_t
	if err := syscall.Stat(p.NetNS, &ns); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(); err != nil {
		t.Fatal(err)
	}
	took := m.eventually("nobody has the namespace open", 3*time.Second, func() error {
		for _, pid := range []int{m.agent.PID(), m.proxy.PID(), m.worker()} {
			if fd := holds(t, pid, ns.Ino); fd != "" {
				return fmt.Errorf("process %d has it open as %s", pid, fd)
			}
		}
		return nil
	})
	t.Logf("let go after %v", took)
}

// holds names the descriptor of the process that is the namespace, or "".
func holds(t *testing.T, pid int, inode uint64) string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && link == fmt.Sprintf("net:[%d]", inode) {
			return e.Name()
		}
	}
	return ""
}

// `sluice-agent cleanup` takes everything away that the agent left in the kernel.
func TestCleanupLeavesNothing(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	if err := m.agent.Terminate(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(m.lab.BPFFS); err != nil || len(left) == 0 {
		t.Fatalf("pins should outlive the agent: %v, %v", left, err)
	}
	p, err := m.lab.Start("agent", lab.Command{
		Name: "cleanup", Path: filepath.Join(programs, "sluice-agent"), Args: []string{"cleanup", "--cgroup", m.lab.Cgroup, "--bpffs", m.lab.BPFFS},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(m.lab.BPFFS); err == nil && len(left) > 0 {
		t.Errorf("pins are left: %v", left)
	}
	m.direct("web", near)
}
