package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/tests/need"
)

var (
	families = []model.Family{model.IPv4, model.IPv6}
	podAddrs = []netip.Addr{netip.MustParseAddr("10.78.0.10"), netip.MustParseAddr("fd78::10")}
	addrA    = netip.MustParseAddrPort("10.96.0.10:80")
	addrB    = netip.MustParseAddrPort("10.96.0.11:80")
	addrC    = netip.MustParseAddrPort("[fd96::10]:80")
	addrD    = netip.MustParseAddrPort("10.96.0.12:8080")
	addrs    = []netip.AddrPort{addrA, addrB, addrC, addrD}
)

// machine is a node of the test's own: a cgroup, in which the test's process is, a BPF file system and pods.
type machine struct {
	t    *testing.T
	cfg  Config
	pods []*testPod
}

// testPod is a network namespace, a proxy's listeners in it, and a server on every address that may be a frontend: what
// goes direct ends there.
type testPod struct {
	Pod
	netns     string
	listeners map[model.Family]int
	sockets   map[int]string // what listens: "proxy", "direct" or "wildcard"
}

func newMachine(t *testing.T, pods int) *machine {
	t.Helper()
	cgroup := need.Cgroup2(t)
	m := &machine{t: t, cfg: Config{
		BPFFS: filepath.Join(need.BPFFS(t), "sluice"), Cgroup: cgroup, HeartbeatLimit: time.Minute,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	t.Cleanup(func() {
		if err := Remove(m.cfg); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	for range pods {
		m.pods = append(m.pods, newPod(t))
	}
	m.must(os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// open opens the datapath, with a proxy that beats.
func (m *machine) open() *Datapath {
	m.t.Helper()
	d, err := Open(m.cfg)
	m.must(err)
	m.t.Cleanup(func() { d.Close() })
	m.must(beat(d))
	return d
}

// beat writes a heartbeat that counts for a while.
func beat(d *Datapath) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return d.maps.Heartbeat.Put(uint32(0), uint64(now.Nano()))
}

// serve makes the datapath serve the pods: each has listeners, each address is a frontend.
func (m *machine) serve(d *Datapath, flags Flags) {
	m.t.Helper()
	for _, p := range m.pods {
		m.must(d.AddPod(p.Pod))
		for _, f := range families {
			m.must(d.SetListener(p.Cookie, f, p.listeners[f]))
		}
	}
	m.must(d.SetFrontends(numberedAs(m.t, d, flags, addrs...)))
}

func numberedAs(t *testing.T, d *Datapath, flags Flags, addrs ...netip.AddrPort) []Frontend {
	t.Helper()
	ids, err := d.Number(addrs)
	if err != nil {
		t.Fatal(err)
	}
	var all []Frontend
	for _, a := range addrs {
		all = append(all, Frontend{a, ids[a], flags})
	}
	return all
}

func newPod(t *testing.T) *testPod {
	t.Helper()
	p := &testPod{netns: need.NetNS(t), listeners: map[model.Family]int{}, sockets: map[int]string{}}
	need.In(t, p.netns, p.furnish)
	fd, err := unix.Open(p.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := p.socket(t, unix.AF_INET)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(s)
	p.Pod = Pod{Cookie: cookie, NetNS: fd, IPv4: podAddrs[0], IPv6: podAddrs[1], Port: ListenerPort}
	p.listeners[model.IPv4] = p.listen(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ListenerPort), "proxy")
	p.listeners[model.IPv6] = p.listen(t, netip.AddrPortFrom(netip.IPv6Loopback(), ListenerPort), "proxy")
	for _, a := range addrs {
		p.listen(t, a, "direct")
	}
	// An application may listen on the wildcard: what is sent to the prefix must not end there.
	for _, at := range []string{"0.0.0.0:80", "0.0.0.0:8080", "[::]:80"} {
		p.listen(t, netip.MustParseAddrPort(at), "wildcard")
	}
	t.Cleanup(func() {
		unix.Close(fd)
		for s := range p.sockets {
			unix.Close(s)
		}
	})
	return p
}

// furnish runs in the namespace. What enrolment does there in earnest, the route, is done as well.
func (p *testPod) furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	all := slices.Clone(podAddrs)
	for _, a := range addrs {
		all = append(all, a.Addr())
	}
	for _, a := range all {
		address := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, address); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
	}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: PrefixV6.Addr().AsSlice(), Mask: net.CIDRMask(PrefixV6.Bits(), 128)},
	})
	if err != nil {
		return err
	}
	return reachable(all)
}

// reachable waits until there are routes to the addresses: the kernel makes those of IPv6 in the background.
func reachable(all []netip.Addr) error {
	deadline := time.Now().Add(20 * time.Second)
	for _, a := range all {
		for {
			c, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			runtime.Gosched()
		}
	}
	return nil
}

func (p *testPod) socket(t *testing.T, family int) int {
	t.Helper()
	fd := -1
	need.In(t, p.netns, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	return fd
}

func (p *testPod) listen(t *testing.T, at netip.AddrPort, what string) int {
	t.Helper()
	fd := p.socket(t, familyOf(at))
	p.sockets[fd] = what
	if at.Addr().Is6() { // the IPv4 wildcard is another socket's
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 64), unix.SetNonblock(fd, true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// dial connects to the address from within the pod and says where that ended: "direct", "refused", "proxy 7" with the
// frontend's id, or what went wrong.
func (p *testPod) dial(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	what, fd := p.connect(t, to)
	unix.Close(fd)
	return what
}

func (p *testPod) connect(t *testing.T, to netip.AddrPort) (string, int) {
	t.Helper()
	fd := p.socket(t, familyOf(to))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	if err := connect(fd, to); errors.Is(err, unix.ECONNREFUSED) {
		return "refused", fd
	} else if err != nil {
		return err.Error(), fd
	}
	if peer, err := unix.Getpeername(fd); err != nil || addrPort(peer) != to {
		return fmt.Sprintf("the peer is said to be %v (%v)", addrPort(peer), err), fd
	}
	return p.accept(t, to), fd
}

// connect is connect(2). One that a signal interrupts goes on in the background.
func connect(fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, sockaddr(to))
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return errors.Join(unix.ETIMEDOUT, err)
		}
		e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || e == 0 {
			return err
		}
		return unix.Errno(e)
	}
}

// accept finds the listener on which the connection waits.
func (p *testPod) accept(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	var waiting []unix.PollFd
	for fd := range p.sockets {
		waiting = append(waiting, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	n, err := unix.Poll(waiting, 5000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(waiting, 5000)
	}
	if err != nil || n != 1 {
		return fmt.Sprintf("the connection waits on %d listeners of its pod (%v)", n, err)
	}
	for _, w := range waiting {
		if w.Revents == 0 {
			continue
		}
		fd, _, err := unix.Accept(int(w.Fd))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) }) // until then the connection is open
		local, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		what, at := p.sockets[int(w.Fd)], addrPort(local)
		if what == "wildcard" || what == "direct" && at != to || what == "proxy" && at.Port() != to.Port() {
			return fmt.Sprintf("the %s listener got a connection to %s", what, at)
		}
		if what == "proxy" {
			return fmt.Sprintf("proxy %d", idOf(at.Addr()))
		}
		return what
	}
	return ""
}

// idOf is what the proxy makes of the address that it accepted a connection on; 0 is none.
func idOf(a netip.Addr) uint32 {
	b := a.As16()
	low := binary.BigEndian.Uint32(b[12:])
	switch {
	case PrefixV4.Contains(a):
		return low & (1<<(32-PrefixV4.Bits()) - 1)
	case PrefixV6.Contains(a):
		return low
	}
	return 0
}

func familyOf(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
