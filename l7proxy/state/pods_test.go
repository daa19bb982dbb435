package state

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/tests/need"
)

func TestConnectionsComeWithTheirPod(t *testing.T) {
	came := make(chan *Pod, 10)
	s := newState(t, func(fd int, pod *Pod) {
		unix.Close(fd)
		came <- pod
	})
	run(t, s)
	for _, uid := range []string{"a", "b"} {
		fds, addresses := podDescriptors(t, "127.0.0.1:0", "[::1]:0")
		applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod(uid, model.IPv4, model.IPv6)}}, fds)
		for _, address := range addresses {
			dial(t, address)
			if p := <-came; p.Model.UID != uid || p.Serving == nil || p.Serving.Pod.UID != uid {
				t.Errorf("a connection to %s came for pod %+v", uid, p.Model)
			}
		}
	}
}

// A connection may come while its pod is still being added.
func TestAConnectionThatWaitsWhileItsPodIsAdded(t *testing.T) {
	entered := make(chan bool, 1)
	s := newState(t, func(fd int, pod *Pod) {
		c := own(t, fd)
		entered <- pod.Serving != nil && pod.Enter(c)
	})
	run(t, s)
	fds, addresses := podDescriptors(t, "127.0.0.1:0")
	dial(t, addresses[0])
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	if !<-entered {
		t.Error("it met a pod that was not made yet")
	}
}

// A pod that is added again, as after the agent's restart, keeps its limits and upstream connections. What is queued on
// its old listeners is accepted.
func TestAPodThatIsAddedAgain(t *testing.T) {
	came := make(chan int, 10)
	s := newState(t, func(fd int, _ *Pod) { came <- fd })
	s.replacedLinger = time.Hour
	before := descriptors(t)
	fds, old := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	first := s.current.Load().pods["a"]
	fds, fresh := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	second := s.current.Load().pods["a"]
	if second.Serving != first.Serving || second.open != first.open {
		t.Error("it does not have what it had")
	}
	if n := descriptors(t); n != before+3 { // one namespace, two listeners
		t.Errorf("%d descriptors, before there were %d", n, before)
	}

	changed := pod("a", model.IPv4)
	changed.Workload = "web"
	fds, _ = podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{changed}}, fds)
	third := s.current.Load().pods["a"]
	if third.Serving.Pod.Workload != "web" || third.Serving.Upstream != first.Serving.Upstream {
		t.Errorf("a pod that is another workload's now: %+v", third.Serving)
	}

	dial(t, old[0])
	dial(t, fresh[0])
	s.Close() // the loop does not run: both are queued
	for range 2 {
		select {
		case fd := <-came:
			unix.Close(fd)
		default:
			t.Fatal("a connection that was queued on a replaced listener was dropped")
		}
	}
}

func TestReplacedListenersCloseAfterAWhile(t *testing.T) {
	s := newState(t, func(fd int, _ *Pod) { unix.Close(fd) })
	fds, old := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	fds, fresh := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	eventually(t, "the old listener is closed", func() bool { return !listens(old[0]) })
	if !listens(fresh[0]) {
		t.Error("the new listener is closed")
	}
	eventually(t, "nothing is remembered of it", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.lingering) == 0
	})
}

// A pod that ends: nothing of it is accepted or open a moment later, and its namespace is let go of.
func TestAPodThatIsRemoved(t *testing.T) {
	var gone sync.WaitGroup
	gone.Add(1)
	entered := make(chan *sock.Conn, 1)
	s := newState(t, func(fd int, pod *Pod) {
		c := own(t, fd)
		if !pod.Enter(c) {
			t.Error("the connection may not enter")
		}
		entered <- c
	})
	s.cfg.Gone = func(p *Pod) {
		if p.Model.UID != "a" {
			t.Errorf("gone is %q", p.Model.UID)
		}
		gone.Done()
	}
	run(t, s)
	before := descriptors(t)
	fds, addresses := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	client := dial(t, addresses[0])
	c := <-entered
	p := s.current.Load().pods["a"]
	if p.Connections() != 1 {
		t.Errorf("%d connections", p.Connections())
	}
	// Who serves a connection sets deadlines, and lifts them: that must not save it.
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	applyPods(t, s, &model.Pods{Removed: []string{"a", "unknown"}}, nil)
	if listens(addresses[0]) {
		t.Error("the listener is open")
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("its connection: %v", err)
	}
	p.Leave(c)
	gone.Wait()
	if p.Enter(c) {
		t.Error("a connection of a pod that is gone may enter")
	}
	if p.Connections() != 0 {
		t.Errorf("%d connections", p.Connections())
	}
	client.Close()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, before there were %d", n, before)
	}
}

// The pod's name stays and its namespace is another one: nothing of the old one goes on.
func TestAPodWithAnotherNamespace(t *testing.T) {
	need.Root(t)
	gone := make(chan *model.Pod, 1)
	s := newState(t, func(fd int, _ *Pod) { unix.Close(fd) })
	s.cfg.Gone = func(p *Pod) { gone <- &p.Model }
	fds, old := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	first := s.current.Load().pods["a"]
	fds, fresh := podDescriptors(t, "127.0.0.1:0")
	unix.Close(fds[0])
	var err error
	if fds[0], err = unix.Open(need.NetNS(t), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	second := s.current.Load().pods["a"]
	if second.Serving == first.Serving || second.Serving.Upstream == first.Serving.Upstream || second.open == first.open {
		t.Error("it has what the other namespace had")
	}
	<-gone
	if listens(old[0]) || !listens(fresh[0]) {
		t.Error("want the old listener closed, the new one open")
	}
}

// After a reconnect the agent names all pods: those that it does not name ended while it was away.
func TestResync(t *testing.T) {
	s := newState(t, func(fd int, _ *Pod) { unix.Close(fd) })
	add := func(complete bool, uids ...string) {
		t.Helper()
		m := &model.Pods{Complete: complete}
		var all []int
		for _, uid := range uids {
			fds, _ := podDescriptors(t, "127.0.0.1:0")
			m.Added = append(m.Added, pod(uid, model.IPv4))
			all = append(all, fds...)
		}
		applyPods(t, s, m, all)
	}
	uids := func() (uids []string) {
		for _, p := range s.Dump().Pods {
			uids = append(uids, p.UID)
		}
		return uids
	}
	s.Resync()
	add(false, "a", "b")
	add(true, "c", "d")
	s.Resync()
	add(false, "a")
	if got := uids(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("while the list is not complete: %v", got)
	}
	applyPods(t, s, &model.Pods{Removed: []string{"d"}}, nil)
	// One that is named and refused was named all the same.
	fds, _ := podDescriptors(t, "127.0.0.1:0")
	bad := pod("c", "ipv5")
	if refused := s.ApplyPods(&model.Pods{Added: []model.EnrolledPod{bad}, Complete: true}, fds); len(refused) != 1 {
		t.Fatalf("refused %+v", refused)
	}
	if got := uids(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("when the list is complete: %v", got)
	}
	add(false, "e") // what comes later is no list
	if got := uids(); !slices.Equal(got, []string{"a", "c", "e"}) {
		t.Errorf("afterwards: %v", got)
	}
}

// Whatever becomes of a pod, none of its descriptors stays open that is not used.
func TestRefusedPodsKeepNoDescriptor(t *testing.T) {
	s := newState(t, func(fd int, _ *Pod) { unix.Close(fd) })
	fds, kept := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("known", model.IPv4)}}, fds)
	serving := s.current.Load().pods["known"].Serving
	for name, c := range map[string]struct {
		pod  model.EnrolledPod
		want string
	}{
		"no name":                {model.EnrolledPod{UID: "x", Namespace: "shop", Families: both}, "no name of an object"},
		"no uid":                 {pod("", both...), "uid: it is empty"},
		"unknown family":         {pod("x", model.IPv4, "ipx"), `listener 1 is for "ipx"`},
		"family twice":           {pod("x", model.IPv4, model.IPv4), "each once"},
		"of one that is known":   {pod("known", model.IPv4, "ipx"), `listener 1 is for "ipx"`},
		"a listener that is not": {pod("x", both...), "should be a listener is none"},
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			fds, _ := podDescriptors(t, "127.0.0.1:0", "[::1]:0")
			if strings.Contains(name, "that is not") {
				unix.Close(fds[2])
				var err error
				if fds[2], err = unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
					t.Fatal(err)
				}
			}
			refused := s.ApplyPods(&model.Pods{Added: []model.EnrolledPod{c.pod}}, fds)
			if len(refused) != 1 || refused[0].Pod != c.pod.UID || !strings.Contains(refused[0].Reason, c.want) {
				t.Errorf("refused %+v, want %q", refused, c.want)
			}
			if n := descriptors(t); n != before {
				t.Errorf("%d descriptors, before there were %d", n, before)
			}
		})
	}
	if p := s.current.Load().pods["known"]; p == nil || p.Serving != serving || !listens(kept[0]) {
		t.Error("what was refused took the previous version along")
	}
	c := &sock.Conn{}
	if !s.current.Load().pods["known"].Enter(c) {
		t.Error("connections of the previous version may not enter any more")
	}
	s.current.Load().pods["known"].Leave(c)
	refused := s.Refused()
	fds, _ = podDescriptors(t)
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("known", model.IPv4)}, Removed: []string{"x", ""}}, fds)
	if refused != 3 || s.Refused() != 0 {
		t.Errorf("%d pods counted as refused, and %d after they were added or removed", refused, s.Refused())
	}
}

// One refused pod of a message is no reason to refuse the others, and gets none of their descriptors.
func TestPodsAreRefusedByThemselves(t *testing.T) {
	came := make(chan string, 4)
	s := newState(t, func(fd int, p *Pod) {
		unix.Close(fd)
		came <- p.Model.UID
	})
	run(t, s)
	first, _ := podDescriptors(t, "127.0.0.1:0")
	second, address := podDescriptors(t, "127.0.0.1:0")
	refused := s.ApplyPods(&model.Pods{Added: []model.EnrolledPod{pod("", model.IPv4), pod("b", model.IPv4)}}, append(first, second...))
	if len(refused) != 1 {
		t.Fatalf("refused %+v", refused)
	}
	dial(t, address[0])
	if uid := <-came; uid != "b" {
		t.Errorf("it came for %q", uid)
	}
}

func TestAfterCloseNothingIsTaken(t *testing.T) {
	accepted := 0
	s := newState(t, func(fd int, _ *Pod) {
		unix.Close(fd)
		accepted++
	})
	fds, addresses := podDescriptors(t, "127.0.0.1:0")
	applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	for range 5 {
		dial(t, addresses[0])
	}
	s.Close()
	if accepted != 5 || listens(addresses[0]) {
		t.Errorf("%d of 5 queued connections were accepted; the listener listens: %v", accepted, listens(addresses[0]))
	}
	before := descriptors(t)
	fds, _ = podDescriptors(t, "127.0.0.1:0")
	refused := s.ApplyPods(&model.Pods{Added: []model.EnrolledPod{pod("b", model.IPv4)}}, fds)
	if len(refused) != 1 || !strings.Contains(refused[0].Reason, "stopping") {
		t.Errorf("refused %+v", refused)
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, before there were %d", n, before)
	}
	applyPods(t, s, &model.Pods{Removed: []string{"a"}}, nil) // what has a listener no more can still be removed
}

var both = []model.Family{model.IPv4, model.IPv6}

func pod(uid string, families ...model.Family) model.EnrolledPod {
	return model.EnrolledPod{UID: uid, Namespace: "shop", Name: "a", Families: families}
}

func applyPods(t *testing.T, s *State, m *model.Pods, fds []int) {
	t.Helper()
	if refused := s.ApplyPods(m, fds); len(refused) > 0 {
		t.Fatalf("refused: %+v", refused)
	}
}

// podDescriptors are what the agent sends of a pod: this process's namespace, and listeners. One IPv4 listener if no
// address is given.
func podDescriptors(t *testing.T, at ...string) (fds []int, addresses []string) {
	t.Helper()
	if len(at) == 0 {
		at = []string{"127.0.0.1:0"}
	}
	netns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fds = append(fds, netns)
	for _, a := range at {
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, l.Addr().String())
		raw, err := l.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var fd int
		if ctlErr := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); ctlErr != nil || err != nil {
			t.Fatal(ctlErr, err)
		}
		fds = append(fds, fd)
		l.Close()
	}
	return fds, addresses
}

// run runs the State's loop until the end of the test.
func run(t *testing.T, s *State) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.cfg.Inbound.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func own(t *testing.T, fd int) *sock.Conn {
	c, err := sock.New(fd)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func listens(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ask(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 5 s: %s", what)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return len(names)
}
