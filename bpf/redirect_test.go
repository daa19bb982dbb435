package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// variants runs the test with each way to refuse a connection.
func variants(t *testing.T, f func(*testing.T, *world)) {
	for _, setRetval := range []bool{true, false} {
		t.Run(fmt.Sprintf("set_retval=%v", setRetval), func(t *testing.T) {
			need.Root(t)
			if setRetval && !haveSetRetval() {
				t.Skip("the kernel has no bpf_set_retval in this hook")
			}
			f(t, newWorld(t, setRetval))
		})
	}
}

// An application sees what it would see without us: the address that it dialled, and its pod's own.
func TestRedirectIsNotSeen(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	mappedPod := netip.AddrFrom16(podV4.As16())
	for _, c := range []struct {
		name        string
		socket      [3]int
		bind        netip.AddrPort
		dst         netip.AddrPort
		id          uint32
		peer, local netip.Addr
	}{
		{"IPv4", [3]int{unix.AF_INET, unix.SOCK_STREAM, 0}, netip.AddrPort{}, frontV4, idV4, frontV4.Addr(), podV4},
		{"IPv6", [3]int{unix.AF_INET6, unix.SOCK_STREAM, 0}, netip.AddrPort{}, frontV6, idV6, frontV6.Addr(), podV6},
		{"IPv4 mapped", [3]int{unix.AF_INET6, unix.SOCK_STREAM, 0}, netip.AddrPort{}, frontMapped, idV4, frontMapped.Addr(), mappedPod},
		{"bound", [3]int{unix.AF_INET, unix.SOCK_STREAM, 0}, netip.AddrPortFrom(podV4, 45001), frontV4, idV4, frontV4.Addr(), podV4},
		{"bound to another address", [3]int{unix.AF_INET, unix.SOCK_STREAM, 0}, netip.AddrPortFrom(plainV4.Addr(), 45001), frontV4, idV4, frontV4.Addr(), plainV4.Addr()},
		{"MPTCP", [3]int{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, netip.AddrPort{}, frontV4, idV4, netip.Addr{}, netip.Addr{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.reset()
			fd := w.socket(c.socket[0], c.socket[1], c.socket[2])
			if c.bind.IsValid() {
				w.must(unix.Bind(fd, sockaddr(c.bind)))
			}
			l := w.connect(fd, c.dst)
			if l.where != "proxy" || l.id != c.id {
				t.Fatalf("%s, id %d", l.where, l.id)
			}
			if c.peer.IsValid() && (l.peer != netip.AddrPortFrom(c.peer, 80) || l.local.Addr() != c.local) {
				t.Errorf("getpeername is %s, getsockname %s", l.peer, l.local)
			}
			if c.bind.IsValid() && l.local.Port() != c.bind.Port() {
				t.Errorf("the port that it bound became %d", l.local.Port())
			}
			if got := w.counted(); got != "redirected=1 steered=1" {
				t.Errorf("counted %s", got)
			}
		})
	}
}

// What becomes of a connect, in each state that the maps can be in. The destinations are those of all families.
func TestVerdicts(t *testing.T) {
	served := func(*world) {}
	frontends := []netip.AddrPort{frontV4, frontV6, frontMapped}
	const failClosed, noEndpoints, passThrough = RedirectFlagFLAG_FAIL_CLOSED, RedirectFlagFLAG_NO_ENDPOINTS, RedirectFlagFLAG_PASS_THROUGH
	stale := func(w *world) { w.beat(61e9) }
	bypass := func(w *world) { w.set(RedirectSettings{HeartbeatLimit: 60e9, Bypass: 1}) }
	exempt := func(slot int) func(*world) {
		return func(w *world) {
			s := RedirectSettings{HeartbeatLimit: 60e9}
			s.ProxyCgroups[slot] = w.cgroup
			w.set(s)
		}
	}
	notEnrolled := func(w *world) { w.must(w.maps.Pods.Delete(w.cookie)) }
	all := func(steps ...func(*world)) func(*world) {
		return func(w *world) {
			for _, s := range steps {
				s(w)
			}
		}
	}
	flags := func(f RedirectFlag) func(*world) { return func(w *world) { w.flag(f) } }
	unlisten := func(w *world) { w.unlisten() }
	unlistenV6 := func(w *world) { w.must(w.maps.Listeners.Delete(w.listenerKey(unix.AF_INET6))) }
	dialled := []netip.AddrPort{
		prefixed(unix.AF_INET, idV4, 80), prefixed(unix.AF_INET6, idV6, 80), prefixed(unix.AF_INET, 0, 80),
		prefixed(unix.AF_INET, uint32(RedirectPrefixFRONTEND_ID_MAX), 1), prefixed(unix.AF_INET6, 0xffffffff, 65535),
		netip.AddrPortFrom(netip.AddrFrom16(prefixed(unix.AF_INET, idV4, 80).Addr().As16()), 80),
	}
	listener := []netip.AddrPort{
		netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", listenerPort)), netip.MustParseAddrPort(fmt.Sprintf("[::1]:%d", listenerPort)),
	}
	cases := []struct {
		name     string
		state    func(*world)
		dst      []netip.AddrPort
		want     string
		counted  string // for each connect
		recorded RedirectCounter
	}{
		{name: "served", state: served, dst: frontends, want: "proxy", counted: "redirected=1 steered=1"},
		{name: "no frontend", state: served, dst: []netip.AddrPort{plainV4, plainV6}, want: "direct"},
		{name: "another port of a frontend", state: served, dst: []netip.AddrPort{netip.AddrPortFrom(frontV4.Addr(), 81)}, want: "refused"},
		{name: "fail closed, served", state: flags(failClosed), dst: frontends, want: "proxy", counted: "redirected=1 steered=1"},
		{name: "no listener", state: unlisten, dst: frontends, want: "direct", counted: "no_listener=1", recorded: RedirectCounterCOUNTER_NO_LISTENER},
		// A mapped address is IPv4's.
		{name: "no IPv6 listener", state: unlistenV6, dst: []netip.AddrPort{frontV4, frontMapped}, want: "proxy", counted: "redirected=1 steered=1"},
		{name: "no IPv6 listener", state: unlistenV6, dst: []netip.AddrPort{frontV6}, want: "direct", counted: "no_listener=1", recorded: RedirectCounterCOUNTER_NO_LISTENER},
		{name: "fail closed, no listener", state: all(flags(failClosed), unlisten), dst: frontends, want: "refused", counted: "refused=1 no_listener=1"},
		{name: "stale heartbeat", state: stale, dst: frontends, want: "direct", counted: "stale_heartbeat=1", recorded: RedirectCounterCOUNTER_STALE_HEARTBEAT},
		{name: "fail closed, stale heartbeat", state: all(flags(failClosed), stale), dst: frontends, want: "refused", counted: "refused=1 stale_heartbeat=1"},
		{name: "a beat of another CPU, ahead", state: func(w *world) { w.beat(-5e9) }, dst: frontends, want: "proxy", counted: "redirected=1 steered=1"},
		{name: "no endpoints", state: flags(noEndpoints), dst: frontends, want: "refused", counted: "refused=1"},
		{name: "no endpoints and no listener", state: all(flags(noEndpoints), unlisten), dst: frontends, want: "refused", counted: "refused=1"},
		{name: "pass through", state: flags(passThrough), dst: frontends, want: "direct", counted: "pass_through=1"},
		{name: "bypass switch", state: bypass, dst: frontends, want: "direct", counted: "bypass_switch=1", recorded: RedirectCounterCOUNTER_BYPASS_SWITCH},
		{name: "bypass switch lifts fail closed", state: all(bypass, flags(failClosed), unlisten), dst: frontends, want: "direct", counted: "bypass_switch=1", recorded: RedirectCounterCOUNTER_BYPASS_SWITCH},
		{name: "bypass switch lifts no endpoints", state: all(bypass, flags(noEndpoints)), dst: frontends, want: "direct", counted: "bypass_switch=1", recorded: RedirectCounterCOUNTER_BYPASS_SWITCH},
		{name: "the proxy's cgroup", state: exempt(0), dst: frontends, want: "direct", counted: "exempt=1"},
		{name: "the cgroup of its successor", state: exempt(1), dst: frontends, want: "direct", counted: "exempt=1"},
		{name: "not enrolled", state: notEnrolled, dst: frontends, want: "direct", counted: "not_enrolled=1"},
		{name: "fail closed, not enrolled", state: all(flags(failClosed), notEnrolled), dst: frontends, want: "direct", counted: "not_enrolled=1"},
		{name: "the prefix", state: served, dst: dialled, want: "refused", counted: "prefix_dialled=1"},
		{name: "the listener", state: served, dst: listener, want: "refused", counted: "listener_dialled=1"},
		{name: "the listener, not enrolled", state: notEnrolled, dst: listener, want: "refused", counted: "listener_dialled=1"},
		// Redirection is no security boundary: who is not under the hook can say what the hook would have said.
		{name: "the prefix, not enrolled", state: notEnrolled, dst: dialled[:2], want: "proxy", counted: "steered=1"},
		{name: "id 0, not enrolled", state: notEnrolled, dst: dialled[2:3], want: "refused"},
		// As when the listener goes away between a connect and its handshake.
		{name: "the prefix without a listener", state: all(notEnrolled, unlisten), dst: dialled[:2], want: "refused", counted: "steer_no_listener=1"},
	}
	variants(t, func(t *testing.T, w *world) {
		// An application may listen on the wildcard: what we drop must not end there.
		w.listen(netip.MustParseAddrPort("0.0.0.0:80"))
		w.listen(netip.MustParseAddrPort("[::]:80"))
		for _, c := range cases {
			for _, dst := range c.dst {
				t.Run(c.name+" "+dst.String(), func(t *testing.T) {
					w.t = t
					w.reset()
					c.state(w)
					fd := w.socket(familyOf(dst.Addr()), unix.SOCK_STREAM, 0)
					if l := w.connect(fd, dst); l.where != c.want {
						t.Errorf("%s, want %s", l.where, c.want)
					} else if l.where == "direct" && l.peer != dst {
						t.Errorf("getpeername is %s", l.peer)
					}
					counted := c.counted
					if c.want == "refused" && dst == dialled[2] && c.name == "the prefix" {
						counted = "prefix_dialled=1" // id 0 is counted where it is refused, not where it is dropped
					}
					if got := w.counted(); got != counted {
						t.Errorf("counted %q, want %q", got, counted)
					}
					w.checkRecord(fd, dst, c.recorded)
				})
			}
		}
	})
}

// checkRecord looks for what is kept on a socket that went past the proxy.
func (w *world) checkRecord(fd int, dst netip.AddrPort, reason RedirectCounter) {
	w.t.Helper()
	var r RedirectBypassRecord
	err := w.maps.Bypassed.Lookup(uint32(fd), &r)
	switch {
	case reason == 0 && !errors.Is(err, ebpf.ErrKeyNotExist):
		w.t.Errorf("a record is kept: %+v, %v", r, err)
	case reason != 0 && (err != nil || r.Reason != reason || r.Frontend != frontendKey(dst)):
		w.t.Errorf("the record is %+v, %v", r, err)
	}
}

// The loopback address is the application's, but for the one port.
func TestOtherPortsOfLoopbackAreTheApplications(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	for _, at := range []string{"127.0.0.1:338", "[::1]:338", "127.0.0.2:337"} {
		w.reset()
		dst := netip.MustParseAddrPort(at)
		w.listen(dst)
		if l := w.dial(dst); l.where != "direct" || l.peer != dst || w.counted() != "" {
			t.Errorf("%s: %+v, counted %q", at, l, w.counted())
		}
	}
}

// An agent that was replaced may have left a listener beside ours, with which a proxy that drains serves what it has.
func TestNothingIsSteeredToAnotherListenerOfThePort(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	w.listen(netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", listenerPort)))
	w.listen(netip.MustParseAddrPort(fmt.Sprintf("[::1]:%d", listenerPort)))
	for range 16 {
		for _, dst := range []netip.AddrPort{frontV4, frontV6} {
			if l := w.dial(dst); l.where != "proxy" {
				t.Fatalf("%s: %+v", dst, l)
			}
		}
	}
}

func TestNonBlockingConnect(t *testing.T) {
	variants(t, func(t *testing.T, w *world) {
		for _, dst := range []netip.AddrPort{frontV4, frontV6, frontMapped} {
			for _, flags := range []RedirectFlag{0, RedirectFlagFLAG_NO_ENDPOINTS} {
				w.reset()
				w.flag(flags)
				fd := w.socket(familyOf(dst.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				err := unix.Connect(fd, sockaddr(dst))
				if errors.Is(err, unix.EINPROGRESS) {
					err = w.outcome(fd)
				}
				want := map[RedirectFlag]string{0: "proxy", RedirectFlagFLAG_NO_ENDPOINTS: "refused"}[flags]
				if l := w.landed(fd, dst, err); l.where != want {
					t.Errorf("%s: %s, want %s", dst, l.where, want)
				}
			}
		}
	})
}

// unconnect dissolves an association: connect(2) with AF_UNSPEC.
func (w *world) unconnect(fd int) {
	w.t.Helper()
	var unspec unix.RawSockaddr
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)); e != 0 {
		w.t.Fatal(e)
	}
}

// redirect/README pitfall 6: nothing of a socket's last connection holds for its next one.
func TestReconnectAfterUnspec(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	for _, pair := range [][2]netip.AddrPort{{frontV4, plainV4}, {frontV6, plainV6}, {frontMapped, netip.AddrPortFrom(netip.AddrFrom16(plainV4.Addr().As16()), 80)}} {
		front, plain := pair[0], pair[1]
		w.reset()
		fd := w.socket(familyOf(front.Addr()), unix.SOCK_STREAM, 0)
		steps := []struct {
			what     string
			before   func()
			dst      netip.AddrPort
			where    string
			recorded RedirectCounter
		}{
			{"redirected", func() {}, front, "proxy", 0},
			{"then to no frontend", func() {}, plain, "direct", 0},
			{"then past the proxy", w.unlisten, front, "direct", RedirectCounterCOUNTER_NO_LISTENER},
			{"then redirected again", w.reset, front, "proxy", 0},
			{"then past the proxy again", w.unlisten, front, "direct", RedirectCounterCOUNTER_NO_LISTENER},
			{"then to no frontend again", func() {}, plain, "direct", 0},
		}
		for i, s := range steps {
			if s.before(); i > 0 {
				w.unconnect(fd)
			}
			if l := w.connect(fd, s.dst); l.where != s.where || l.peer != s.dst {
				t.Fatalf("%s %s: %+v", s.what, s.dst, l)
			}
			w.checkRecord(fd, s.dst, s.recorded)
		}
	}
}

func TestUDPIsUntouched(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	for _, dst := range []netip.AddrPort{frontV4, frontV6} {
		server := w.socket(familyOf(dst.Addr()), unix.SOCK_DGRAM, 0)
		w.must(unix.Bind(server, sockaddr(dst)))
		client := w.socket(familyOf(dst.Addr()), unix.SOCK_DGRAM, 0)
		w.must(unix.Connect(client, sockaddr(dst)))
		if peer := name(t, client, unix.Getpeername); peer != dst {
			t.Errorf("getpeername is %s", peer)
		}
		if _, err := unix.Write(client, []byte("hello")); err != nil {
			t.Error(err)
		}
		b := make([]byte, 16)
		if n, err := unix.Read(server, b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("the server of %s reads %q, %v", dst, b[:max(n, 0)], err)
		}
	}
	if got := w.counted(); got != "" {
		t.Errorf("counted %s", got)
	}
}

// A socket that is bound to a device cannot reach lo by another's address.
func TestBoundToDevice(t *testing.T) {
	variants(t, func(t *testing.T, w *world) {
		for flags, want := range map[RedirectFlag][2]string{
			0:                            {"direct", "bound_to_device=1"},
			RedirectFlagFLAG_FAIL_CLOSED: {"refused", "refused=1 bound_to_device=1"},
		} {
			for _, dst := range []netip.AddrPort{frontV4, frontV6} {
				w.reset()
				w.flag(flags)
				fd := w.socket(familyOf(dst.Addr()), unix.SOCK_STREAM, 0)
				w.must(unix.BindToDevice(fd, "lo"))
				if l := w.connect(fd, dst); l.where != want[0] || w.counted() != want[1] {
					t.Errorf("%s with flags %d: %s, counted %q", dst, flags, l.where, w.counted())
				}
			}
		}
	})
}

// A neighbour that routes the prefix at the pod reaches neither the proxy nor the application.
func TestPrefixFromOutside(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	outside := need.NetNS(t)
	there := w.open(outside)
	w.in(func() error {
		veth := &netlink.Veth{Name: "up", PeerName: "down", PeerNamespace: netlink.NsFd(there)}
		return netlink.LinkAdd(veth)
	})
	_, prefix, err := net6()
	w.must(err)
	up := func(device, address string, to *netlink.Route) func() error {
		return func() error {
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l)); err != nil || to == nil {
				return err
			}
			to.LinkIndex = l.Attrs().Index
			return netlink.RouteAdd(to)
		}
	}
	w.in(up("up", "fd79::1/64", nil))
	need.In(t, outside, up("down", "fd79::2/64", &netlink.Route{Dst: prefix, Gw: netip.MustParseAddr("fd79::1").AsSlice()}))
	w.listen(netip.MustParseAddrPort("[::]:80"))
	w.reset()

	dst := prefixed(unix.AF_INET6, idV6, 80)
	deadline := time.Now().Add(5 * time.Second)
	for { // until the link is up
		l := w.connect(w.socketIn(outside, unix.AF_INET6, unix.SOCK_STREAM, 0), dst)
		if l.where == "refused" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", l)
		}
	}
	if got := w.counted(); got != "prefix_from_outside=1" {
		t.Errorf("counted %s", got)
	}
	if l := w.connect(w.socketIn(outside, unix.AF_INET6, unix.SOCK_STREAM, 0), netip.MustParseAddrPort("[fd79::1]:80")); l.where != "direct" {
		t.Errorf("the application's own server: %+v", l)
	}
}

// The kernel takes a listener out of the map when its last descriptor closes.
func TestListenerThatCloses(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	fd := -1
	w.in(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return errors.Join(err, unix.Bind(fd, sockaddr(netip.MustParseAddrPort("127.0.0.2:337"))), unix.Listen(fd, 16))
	})
	w.must(w.maps.Listeners.Put(w.listenerKey(unix.AF_INET), uint64(fd)))
	others := w.listens
	w.proxy[unix.AF_INET], w.listens = fd, append(w.listens, fd)
	if l := w.dial(frontV4); l.where != "proxy" || l.id != idV4 {
		t.Errorf("while it is open: %+v", l)
	}
	w.listens = others
	w.must(unix.Close(fd))
	if l := w.dial(frontV4); l.where != "direct" || w.counted() != "redirected=1 no_listener=1 steered=1" {
		t.Errorf("once it is closed: %+v, counted %q", l, w.counted())
	}
}

// What a connect to no frontend pays for us. The budget is 100 ns; the limit here leaves room for a busy machine.
func TestCostOfAConnectToNoFrontend(t *testing.T) {
	w := newWorld(t, haveSetRetval())
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{ // what it costs to run and measure any program
		Name: "empty", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	w.must(err)
	defer empty.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: w.dir, Attach: ebpf.AttachCGroupInet4Connect, Program: empty})
	w.must(err)
	defer l.Close()
	for i := range uint32(10000) { // so that a lookup is one among many
		w.front(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), 80), 100+i, 0)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	w.must(err)
	defer stats.Close()
	fd := w.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	for range 20000 {
		if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(plainV4.Addr(), 81))); err == nil {
			t.Fatal("somebody listens there")
		}
	}
	each := func(p *ebpf.Program) time.Duration {
		s, err := p.Stats()
		w.must(err)
		if s.RunCount < 10000 {
			t.Errorf("%s ran %d times", p, s.RunCount)
		}
		return s.Runtime / time.Duration(max(s.RunCount, 1))
	}
	ours, none := each(w.programs.SluiceConnect4), each(empty)
	t.Logf("our program takes %v; one that does nothing takes %v; sk_lookup takes %v", ours, none, each(w.steer.SluiceSteer))
	if ours-none > time.Microsecond {
		t.Errorf("a connect to no frontend takes %v longer", ours-none)
	}
}
