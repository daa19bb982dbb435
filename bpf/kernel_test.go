package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

const (
	listenerPort = 337
	idV4, idV6   = 7, 0x12345
)

// Addresses of the one pod that these tests have, all on its loopback. What has no frontend is served there as well.
var (
	podV4, podV6 = netip.MustParseAddr("10.78.0.10"), netip.MustParseAddr("fd78::10")
	frontV4      = netip.MustParseAddrPort("10.96.0.10:80")
	frontV6      = netip.MustParseAddrPort("[fd96::10]:80")
	frontMapped  = netip.MustParseAddrPort("[::ffff:10.96.0.10]:80")
	plainV4      = netip.MustParseAddrPort("10.96.0.11:80")
	plainV6      = netip.MustParseAddrPort("[fd96::11]:80")
)

// world is the programs in a cgroup and in a pod of the test's own. The test's process is in the cgroup.
type world struct {
	t        *testing.T
	maps     RedirectMaps
	programs RedirectPrograms
	steer    SteerPrograms
	netns    string
	cookie   uint64
	dir      string // of the cgroup
	cgroup   uint64 // its id
	names    map[RedirectCounter]string
	proxy    map[uint32]int // listeners by family
	listens  []int          // all listeners
	before   map[string]uint64
}

func newWorld(t *testing.T, setRetval bool) *world {
	t.Helper()
	dir := need.Cgroup2(t)
	w := &world{t: t, dir: dir, netns: need.NetNS(t), proxy: map[uint32]int{}}
	w.furnish()
	w.load(dir, setRetval)
	w.names = counterNames(t)
	var st unix.Stat_t
	w.must(unix.Stat(dir, &st))
	w.cgroup = st.Ino
	w.must(os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	w.reset()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// furnish makes the pod's addresses, the route of the prefix, the proxy's listeners and those of the servers.
func (w *world) furnish() {
	w.in(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{podV4, podV6, frontV4.Addr(), frontV6.Addr(), plainV4.Addr(), plainV6.Addr()} {
			address := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(lo, address); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		_, prefix, err := net6()
		if err != nil {
			return err
		}
		err = netlink.RouteReplace(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: prefix, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
		if err != nil {
			return err
		}
		return reachable(podV6, frontV6.Addr(), plainV6.Addr())
	})
	s := w.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	var err error
	w.cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	w.must(err)
	w.proxy[unix.AF_INET] = w.listen(netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", listenerPort)))
	w.proxy[unix.AF_INET6] = w.listen(netip.MustParseAddrPort(fmt.Sprintf("[::1]:%d", listenerPort)))
	for _, at := range []netip.AddrPort{frontV4, frontV6, plainV4, plainV6} {
		w.listen(at)
	}
}

func (w *world) load(cgroup string, setRetval bool) {
	spec, err := LoadRedirect()
	w.must(err)
	w.must(spec.Variables[RedirectVarHaveSetRetval].Set(setRetval))
	w.must(spec.LoadAndAssign(&w.maps, nil))
	w.t.Cleanup(func() { w.maps.Close() })
	programs := &w.programs
	w.must(spec.LoadAndAssign(programs, &ebpf.CollectionOptions{MapReplacements: w.mapsByName(spec)}))
	w.t.Cleanup(func() { programs.Close() })
	for attach, p := range map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCGroupInet4Connect: programs.SluiceConnect4, ebpf.AttachCGroupInet6Connect: programs.SluiceConnect6,
		ebpf.AttachCgroupInet4GetPeername: programs.SluicePeer4, ebpf.AttachCgroupInet6GetPeername: programs.SluicePeer6,
		ebpf.AttachCgroupInet4GetSockname: programs.SluiceSock4, ebpf.AttachCgroupInet6GetSockname: programs.SluiceSock6,
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: attach, Program: p})
		w.must(err)
		w.t.Cleanup(func() { l.Close() })
	}
	spec, err = LoadSteer()
	w.must(err)
	w.must(spec.Variables[SteerVarNetnsCookie].Set(w.cookie))
	w.must(spec.Variables[SteerVarListenerPort].Set(uint32(listenerPort)))
	w.must(spec.LoadAndAssign(&w.steer, &ebpf.CollectionOptions{MapReplacements: w.mapsByName(spec)}))
	w.t.Cleanup(func() { w.steer.Close() })
	fd := w.open(w.netns)
	l, err := link.AttachNetNs(fd, w.steer.SluiceSteer)
	w.must(err)
	w.t.Cleanup(func() { l.Close() })
}

func (w *world) mapsByName(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	all := map[string]*ebpf.Map{
		RedirectMapBypassed: w.maps.Bypassed, RedirectMapCounters: w.maps.Counters, RedirectMapFrontends: w.maps.Frontends,
		RedirectMapHeartbeat: w.maps.Heartbeat, RedirectMapListeners: w.maps.Listeners, RedirectMapNumbering: w.maps.Numbering,
		RedirectMapOrigins: w.maps.Origins, RedirectMapPods: w.maps.Pods, RedirectMapSettings: w.maps.Settings,
	}
	maps.DeleteFunc(all, func(name string, _ *ebpf.Map) bool { return spec.Maps[name] == nil })
	return all
}

// in runs f in the pod's network namespace.
func (w *world) in(f func() error) { w.t.Helper(); need.In(w.t, w.netns, f) }

func (w *world) open(path string) int {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	w.must(err)
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// socket makes one in the pod, closed at the end of the test. Nothing waits on it for long.
func (w *world) socket(family, kind, protocol int) int {
	w.t.Helper()
	return w.socketIn(w.netns, family, kind, protocol)
}

func (w *world) socketIn(netns string, family, kind, protocol int) int {
	w.t.Helper()
	fd := -1
	need.In(w.t, netns, func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	w.t.Cleanup(func() { unix.Close(fd) })
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}))
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return fd
}

func (w *world) listen(at netip.AddrPort) int {
	w.t.Helper()
	fd := w.socket(familyOf(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	w.must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)) // beside one on the wildcard
	if at.Addr().Is6() {
		w.must(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	w.must(unix.Bind(fd, sockaddr(at)))
	w.must(unix.Listen(fd, 16))
	w.listens = append(w.listens, fd)
	return fd
}

// reset makes everything as it is while a proxy serves, and forgets what was counted.
func (w *world) reset() {
	w.t.Helper()
	w.set(RedirectSettings{HeartbeatLimit: 60e9})
	w.beat(0)
	w.must(w.maps.Pods.Put(w.cookie, RedirectPod{Ipv4: podV4.As4(), Ipv6: podV6.As16(), Port: listenerPort}))
	w.front(frontV4, idV4, 0)
	w.front(frontV6, idV6, 0)
	for family, fd := range w.proxy {
		w.must(w.maps.Listeners.Put(w.listenerKey(family), uint64(fd)))
	}
	w.before = w.counters()
}

func (w *world) set(s RedirectSettings) { w.t.Helper(); w.must(w.maps.Settings.Put(uint32(0), s)) }

// beat writes a heartbeat of that age.
func (w *world) beat(age int64) {
	w.t.Helper()
	var now unix.Timespec
	w.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	w.must(w.maps.Heartbeat.Put(uint32(0), uint64(now.Nano()-age)))
}

func (w *world) front(at netip.AddrPort, id uint32, flags RedirectFlag) {
	w.t.Helper()
	w.must(w.maps.Frontends.Put(frontendKey(at), RedirectFrontend{Id: id, Flags: flags}))
}

// flag gives both frontends the flags.
func (w *world) flag(flags RedirectFlag) {
	w.front(frontV4, idV4, flags)
	w.front(frontV6, idV6, flags)
}

func (w *world) unlisten() {
	w.t.Helper()
	for family := range w.proxy {
		w.must(w.maps.Listeners.Delete(w.listenerKey(family)))
	}
}

func (w *world) listenerKey(family uint32) RedirectListenerKey {
	return RedirectListenerKey{Netns: w.cookie, Family: family}
}

func frontendKey(at netip.AddrPort) RedirectFrontendKey {
	return RedirectFrontendKey{Address: at.Addr().As16(), Port: at.Port(), Protocol: unix.IPPROTO_TCP}
}

func (w *world) counters() map[string]uint64 {
	w.t.Helper()
	all := map[string]uint64{}
	for counter, name := range w.names {
		var perCPU []uint64
		w.must(w.maps.Counters.Lookup(uint32(counter), &perCPU))
		for _, v := range perCPU {
			all[name] += v
		}
	}
	return all
}

// counted returns what was counted since reset, as in "refused=1", sorted.
func (w *world) counted() string {
	w.t.Helper()
	var all []string
	now := w.counters()
	for counter := range RedirectCounterCOUNTER_COUNT {
		if name := w.names[counter]; now[name] != w.before[name] {
			all = append(all, fmt.Sprintf("%s=%d", name, now[name]-w.before[name]))
		}
	}
	return strings.Join(all, " ")
}

func haveSetRetval() bool {
	return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil
}

// landing is where a connection came out.
type landing struct {
	where       string // "proxy", "direct", "refused" or an error
	id          uint32 // at the proxy: the frontend
	peer, local netip.AddrPort
}

func (w *world) dial(dst netip.AddrPort) landing {
	w.t.Helper()
	return w.connect(w.socket(familyOf(dst.Addr()), unix.SOCK_STREAM, unix.IPPROTO_TCP), dst)
}

// connect connects the socket and looks which listener got the connection.
func (w *world) connect(fd int, dst netip.AddrPort) landing {
	w.t.Helper()
	err := unix.Connect(fd, sockaddr(dst))
	if errors.Is(err, unix.EINTR) { // it goes on in the background
		err = w.outcome(fd)
	}
	return w.landed(fd, dst, err)
}

// outcome waits for a connect to end.
func (w *world) outcome(fd int) error {
	w.t.Helper()
	if n := w.poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}); n != 1 {
		return unix.ETIMEDOUT
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	w.must(err)
	if e == 0 {
		return nil
	}
	return unix.Errno(e)
}

func (w *world) poll(fds []unix.PollFd) int {
	w.t.Helper()
	for {
		n, err := unix.Poll(fds, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		w.must(err)
		return n
	}
}

func (w *world) landed(fd int, dst netip.AddrPort, err error) landing {
	w.t.Helper()
	if errors.Is(err, unix.ECONNREFUSED) {
		return landing{where: "refused"}
	}
	if err != nil {
		return landing{where: err.Error()}
	}
	at, accepted := w.accept()
	l := landing{where: "direct", peer: name(w.t, fd, unix.Getpeername), local: name(w.t, fd, unix.Getsockname)}
	local := name(w.t, accepted, unix.Getsockname)
	if at == w.proxy[unix.AF_INET] || at == w.proxy[unix.AF_INET6] {
		l.where, l.id = "proxy", idOf(local.Addr())
		if l.id == math.MaxUint32 || local.Port() != dst.Port() {
			l.where = "the proxy, as a connection to " + local.String()
		}
	}
	return l
}

// accept takes the one connection that waits on any of the listeners.
func (w *world) accept() (listener, fd int) {
	w.t.Helper()
	var waiting []unix.PollFd
	for _, l := range w.listens {
		waiting = append(waiting, unix.PollFd{Fd: int32(l), Events: unix.POLLIN})
	}
	if n := w.poll(waiting); n != 1 {
		w.t.Fatalf("a connection was made and waits on %d listeners", n)
	}
	for _, p := range waiting {
		if p.Revents != 0 {
			fd, _, err := unix.Accept4(int(p.Fd), unix.SOCK_CLOEXEC)
			w.must(err)
			w.t.Cleanup(func() { unix.Close(fd) })
			return int(p.Fd), fd
		}
	}
	return -1, -1
}

// idOf returns what the proxy makes of the address that a connection was accepted on.
func idOf(a netip.Addr) uint32 {
	b := a.As16()
	id := binary.BigEndian.Uint32(b[12:])
	_, v6, _ := net6()
	switch {
	case a.Is4() && id&^uint32(RedirectPrefixFRONTEND_ID_MAX) == uint32(RedirectPrefixPREFIX_V4):
		return id & uint32(RedirectPrefixFRONTEND_ID_MAX)
	case a.Is6() && v6.Contains(a.AsSlice()):
		return id
	}
	return math.MaxUint32
}
