package datapath

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	if n, err := d.CloseBypassed(t.Context(), p.NetNS, 1000); err != nil || n != 0 {
		t.Errorf("with the bypass switch on %d were closed, %v", n, err)
	}
	m.must(d.SetBypass(false))
	const rate = 100
	start := time.Now()
	if n, err := d.CloseBypassed(t.Context(), p.NetNS, rate); err != nil || n != 5 {
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
	if n, err := d.CloseBypassed(t.Context(), p.NetNS, rate); err != nil || n != 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if _, err := d.CloseBypassed(t.Context(), -1, rate); err == nil {
		t.Error("a namespace that is none is taken")
	}
}
