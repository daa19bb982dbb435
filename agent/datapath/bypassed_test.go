package datapath

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/sockdiag"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// hold makes connections to the address; it returns their sockets.
func (m *machine) hold(p *testPod, to netip.AddrPort, n int, want string) []int {
	m.t.Helper()
	var fds []int
	for range n {
		what, fd := p.connect(m.t, to)
		m.t.Cleanup(func() { unix.Close(fd) })
		if what != want {
			m.t.Fatalf("%s: %s, want %s", to, what, want)
		}
		fds = append(fds, fd)
	}
	return fds
}

// aborted counts the sockets that were closed by SOCK_DESTROY.
func (m *machine) aborted(fds []int) int {
	m.t.Helper()
	n := 0
	for _, fd := range fds {
		e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		m.must(err)
		if errors.Is(unix.Errno(e), unix.ECONNABORTED) {
			n++
		}
	}
	return n
}

func TestConnectionsThatWentPastTheProxyAreClosed(t *testing.T) {
	m := newMachine(t, 2)
	p, other := m.pods[0], m.pods[1]
	d := m.open()
	m.serve(d, 0)
	for _, pod := range m.pods {
		for _, f := range families {
			m.must(d.ClearListener(pod.Cookie, f))
		}
	}
	v4, v6 := m.hold(p, addrA, 3, "direct"), m.hold(p, addrC, 2, "direct")
	gone, elsewhere := m.hold(p, addrB, 1, "direct"), m.hold(other, addrA, 1, "direct")
	through := m.hold(p, addrD, 1, "direct")
	m.must(d.SetFrontends(append(numberedAs(t, d, 0, addrA, addrC), numberedAs(t, d, PassThrough, addrD)...)))
	plain := m.hold(p, addrB, 1, "direct")
	m.must(d.SetListener(p.Cookie, model.IPv4, p.listeners[model.IPv4]))
	list, err := d.Frontends()
	m.must(err)
	if list[0].Addr != addrA {
		t.Fatal(list)
	}

	m.must(d.SetBypass(true))
	if n, _, err := d.CloseBypassed(t.Context(), p.NetNS, 1000, true); err != nil || n != 0 {
		t.Errorf("with the bypass switch on %d were closed, %v", n, err)
	}
	m.must(d.SetBypass(false))
	const rate = 100
	start := time.Now()
	if n, _, err := d.CloseBypassed(t.Context(), p.NetNS, rate, true); err != nil || n != 5 {
		t.Errorf("%d were closed, %v; want 5", n, err)
	}
	if took := time.Since(start); took < 4*time.Second/rate {
		t.Errorf("5 connections were closed in %v, faster than %d a second", took, rate)
	}
	for what, c := range map[string]struct {
		fds  []int
		want int
	}{
		"IPv4": {v4, 3}, "IPv6": {v6, 2}, "to what is no frontend any more": {gone, 0},
		"to no frontend": {plain, 0}, "of another pod": {elsewhere, 0}, "to what is passed through by now": {through, 0},
	} {
		if n := m.aborted(c.fds); n != c.want {
			t.Errorf("%s: %d of %d are closed, want %d", what, n, len(c.fds), c.want)
		}
	}
	if n, _, err := d.CloseBypassed(t.Context(), p.NetNS, rate, true); err != nil || n != 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if _, _, err := d.CloseBypassed(t.Context(), -1, rate, true); err == nil {
		t.Error("a namespace that is none is taken")
	}
}

// What tells a connection that waits for its next request from one that waits for an answer.
func TestBetweenExchanges(t *testing.T) {
	const established, synSent, closeWait = 1, 2, 8
	ms := time.Millisecond
	for what, c := range map[string]struct {
		socket sockdiag.Socket
		want   bool
	}{
		"answered a while ago":        {sockdiag.Socket{State: established, SinceSent: 80 * ms, SinceReceived: 50 * ms}, true},
		"answered, or not":            {sockdiag.Socket{State: established, SinceSent: 900 * ms, SinceReceived: 900 * ms}, false},
		"never used":                  {sockdiag.Socket{State: established, SinceSent: 1000 * ms, SinceReceived: 1000 * ms}, true},
		"answered just now":           {sockdiag.Socket{State: established, SinceSent: 30 * ms, SinceReceived: 10 * ms}, false},
		"waits for an answer":         {sockdiag.Socket{State: established, SinceSent: 900 * ms, SinceReceived: 1000 * ms}, false},
		"has bytes to read or to ack": {sockdiag.Socket{State: established, SinceSent: 80 * ms, SinceReceived: 50 * ms, Queued: 1}, false},
		"is being made":               {sockdiag.Socket{State: synSent, SinceSent: 80 * ms, SinceReceived: 80 * ms}, false},
		"is being closed":             {sockdiag.Socket{State: closeWait, SinceSent: 80 * ms, SinceReceived: 50 * ms}, false},
	} {
		if got := betweenExchanges(c.socket); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// An exchange that is under way is not cut: its connection is closed when it is over, or when its time has come.
func TestBusyConnectionsAreSpared(t *testing.T) {
	m := newMachine(t, 1)
	p := m.pods[0]
	d := m.open()
	m.serve(d, 0)
	for _, f := range families {
		m.must(d.ClearListener(p.Cookie, f))
	}
	idle, waiting := m.hold(p, addrA, 1, "direct"), m.hold(p, addrC, 1, "direct")
	time.Sleep(20 * time.Millisecond) // more than a tick: the request is not sent in that of the connection
	_, err := unix.Write(waiting[0], []byte("a request"))
	m.must(err)
	for deadline := time.Now().Add(5 * time.Second); ; {
		closed, busy, err := d.CloseBypassed(t.Context(), p.NetNS, 1000, false)
		m.must(err)
		if busy == 0 || closed > 1 {
			t.Fatalf("%d closed, %d busy: the one that waits for an answer has to be left", closed, busy)
		}
		if closed == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the idle one is not closed")
		}
	}
	if m.aborted(idle) != 1 {
		t.Error("it was not the idle one")
	}
	if closed, busy, err := d.CloseBypassed(t.Context(), p.NetNS, 1000, true); err != nil || closed != 1 || busy != 0 {
		t.Errorf("when even busy ones go: %d closed, %d busy, %v", closed, busy, err)
	}
}
