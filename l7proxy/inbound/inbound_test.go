package inbound

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var prefixes = Prefixes{V4: netip.MustParsePrefix("127.64.0.0/10"), V6: netip.MustParsePrefix("fd6d:6573:6800::/96")}

func TestTheFrontendIsInTheAddress(t *testing.T) {
	if err := prefixes.Check(); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]uint32{
		"127.64.0.1":               1,
		"127.64.1.2":               258,
		"127.127.255.255":          1<<22 - 1,
		"::ffff:127.64.0.7":        7,
		"fd6d:6573:6800::9":        9,
		"fd6d:6573:6800::3f:ffff":  1<<22 - 1,
		"127.64.0.0":               0, // id 0 names nothing
		"127.0.0.1":                0, // the listener itself
		"127.128.0.1":              0,
		"10.64.0.1":                0,
		"::1":                      0,
		"fd6d:6573:6800::":         0,
		"fd6d:6573:6800::40:0":     0, // more than an id can be
		"fd6d:6573:6800:0:0:1:0:9": 0,
	} {
		id, ok := prefixes.Frontend(netip.MustParseAddr(addr))
		if ok != (want != 0) || ok && id != want {
			t.Errorf("%s: id %d, %v; want %d", addr, id, ok, want)
		}
	}
}

func TestPrefixesOfAnotherSizeAreRefused(t *testing.T) {
	for _, p := range []Prefixes{
		{},
		{V4: prefixes.V4},
		{V4: netip.MustParsePrefix("127.64.0.0/16"), V6: prefixes.V6},
		{V4: prefixes.V4, V6: netip.MustParsePrefix("fd6d::/64")},
		{V4: prefixes.V6, V6: prefixes.V6},
	} {
		if p.Check() == nil {
			t.Errorf("%v is taken", p)
		}
	}
}

func TestConnectionsAreAcceptedFromEachListener(t *testing.T) {
	l, _ := start(t)
	for range 3 {
		got := make(chan int, 100)
		_, addr := add(t, l, func(fd int) { got <- fd })
		for range 20 {
			dial(t, addr)
		}
		for range 20 {
			fd := <-got
			if on, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || on&unix.O_NONBLOCK == 0 {
				t.Errorf("the accepted socket blocks (%v)", err)
			}
			unix.Close(fd)
		}
	}
}

func TestAClosedListenerAcceptsNothingMore(t *testing.T) {
	l, _ := start(t)
	s, addr := add(t, l, func(fd int) { unix.Close(fd) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the listener still listens")
	}
}

// What is queued when a listener is closed is accepted, not reset.
func TestAListenerIsDrainedBeforeItCloses(t *testing.T) {
	l, err := New(func(bool) {}, slog.New(slog.DiscardHandler)) // it does not run: everything stays queued
	if err != nil {
		t.Fatal(err)
	}
	defer l.Free()
	accepted := 0
	s, addr := add(t, l, func(fd int) { accepted++; unix.Close(fd) })
	for range 100 {
		dial(t, addr)
	}
	if err := s.Close(); err != nil || accepted != 100 {
		t.Errorf("%d of 100 were accepted, error %v", accepted, err)
	}
}

// A pod with a long queue does not keep another's connection waiting.
func TestPodsHaveTheirTurns(t *testing.T) {
	l, err := New(func(bool) {}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Free()
	var order []string
	greedy, greedyAddr := add(t, l, func(fd int) { order = append(order, "greedy"); unix.Close(fd) })
	modest, modestAddr := add(t, l, func(fd int) { order = append(order, "modest"); unix.Close(fd) })
	for range 10 * perTurn {
		dial(t, greedyAddr)
	}
	dial(t, modestAddr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.beat = func(bool) {
		if len(order) == 10*perTurn+1 {
			cancel()
		}
	}
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for i, who := range order {
		if who == "modest" && i > perTurn {
			t.Errorf("the modest pod waited for %d connections of the greedy one", i)
		}
	}
	greedy.Close()
	modest.Close()
}

func TestTheLoopBeatsWhenNothingHappens(t *testing.T) {
	_, beats := start(t)
	before := beats.Load()
	time.Sleep(time.Second)
	if n := beats.Load() - before; n < 5 {
		t.Errorf("%d beats in a second", n)
	}
}

// The beat comes from the loop itself: one that is stuck while its process lives is silent.
func TestABlockedHandlerIsAMissingBeat(t *testing.T) {
	l, beats := start(t)
	blocked, release := make(chan struct{}), make(chan struct{})
	s, addr := add(t, l, func(fd int) {
		unix.Close(fd)
		close(blocked)
		<-release
	})
	dial(t, addr)
	<-blocked
	before := beats.Load()
	time.Sleep(3 * beatEvery)
	if n := beats.Load() - before; n != 0 {
		t.Errorf("%d beats while the loop was blocked", n)
	}
	close(release)
	for deadline := time.Now().Add(5 * time.Second); beats.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no beat after the handler returned")
		}
	}
	s.Close()
}

// Without descriptors connections wait: the loop says so, does not spin, and goes on when there are some.
func TestNoDescriptorsLeft(t *testing.T) {
	var starved, accepting atomic.Int64
	l, err := New(func(ok bool) {
		if ok {
			accepting.Add(1)
		} else {
			starved.Add(1)
		}
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan int, 1)
	_, addr := add(t, l, func(fd int) { accepted <- fd })
	dial(t, addr)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	run(t, l)
	time.Sleep(300 * time.Millisecond)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if n := starved.Load(); n == 0 || n > 20 {
		t.Errorf("%d turns without descriptors in 300 ms", n)
	}
	select {
	case fd := <-accepted:
		unix.Close(fd)
	case <-time.After(5 * time.Second):
		t.Fatal("the connection that waited was not accepted")
	}
}

func TestAddRefusesWhatIsNoListener(t *testing.T) {
	l, _ := start(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	if _, err := l.Add(int(r.Fd()), func(int) {}); err == nil {
		t.Error("a pipe was taken for a listener")
	}
}

func start(t *testing.T) (*Loop, *atomic.Int64) {
	t.Helper()
	var beats atomic.Int64
	l, err := New(func(bool) { beats.Add(1) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run(t, l)
	return l, &beats
}

// run runs the loop until the end of the test.
func run(t *testing.T, l *Loop) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the loop: %v", err)
		}
		l.mu.Lock()
		left := make([]*Listener, 0, len(l.listeners))
		for _, s := range l.listeners {
			left = append(left, s)
		}
		l.mu.Unlock()
		for _, s := range left {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		l.Free()
	})
}

func add(t *testing.T, l *Loop, accept func(fd int)) (*Listener, string) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	f, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Add(fd, accept)
	if err != nil {
		t.Fatal(err)
	}
	return s, tcp.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
