package enroll

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/within"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// backlog is what we ask for; the namespace's net.core.somaxconn is its limit.
const backlog = 65535

// opener makes Pods out of namespaces.
type opener struct {
	proc   string
	port   uint16
	prefix netip.Prefix // of redirected IPv6 connections
}

// open enters the namespace that path names and makes everything there that a pod needs: listeners and the route.
// What was made is undone when a later step fails.
func (o opener) open(w Wanted, path string) (_ *Pod, err error) {
	fd, id, err := o.openNS(path)
	if err != nil {
		return nil, err
	}
	p := &Pod{Wanted: w, Port: o.port, path: path, id: id, netns: fd, undo: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.release())
		}
	}()
	err = within.Network(fd, func() error {
		if err := p.letGoOfPath(); err != nil {
			return err
		}
		return o.furnish(p)
	})
	if err != nil {
		return nil, err
	}
	fd = p.netns
	p.undo = func() error { return within.Network(fd, func() error { return o.route(netlink.RouteDel) }) }
	return p, nil
}

// letGoOfPath runs inside the namespace and opens it anew, by no path of the host's: the first descriptor keeps what is
// mounted at the path busy, which the container runtime could then not unmount.
func (p *Pod) letGoOfPath() error {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace from inside: %w", err)
	}
	unix.Close(p.netns)
	p.netns = fd
	return nil
}

// openNS opens the namespace, unless it is the host's: nothing of ours belongs there.
func (o opener) openNS(path string) (int, nsID, error) {
	host, err := hostNS(o.proc)
	if err != nil {
		return -1, nsID{}, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nsID{}, fmt.Errorf("open the network namespace %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, nsID{}, fmt.Errorf("look at the network namespace %s: %w", path, err)
	}
	id := nsID{st.Dev, st.Ino}
	if id == host {
		unix.Close(fd)
		return -1, nsID{}, fmt.Errorf("%s is the host's network namespace, which is not enrolled", path)
	}
	return fd, id, nil
}

// furnish runs inside the namespace.
func (o opener) furnish(p *Pod) error {
	var err error
	if p.Cookie, err = cookie(); err != nil {
		return fmt.Errorf("read the namespace's cookie: %w", err)
	}
	if p.IPv4, p.IPv6, err = addresses(p.IPs); err != nil {
		return err
	}
	if err := loopbackIsUp(); err != nil {
		return err
	}
	v4, err := o.listen(unix.AF_INET, &unix.SockaddrInet4{Port: int(o.port), Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		return fmt.Errorf("listen on 127.0.0.1:%d: %w", o.port, err)
	}
	p.listeners = append(p.listeners, Listener{model.IPv4, v4})
	v6, err := o.listen(unix.AF_INET6, &unix.SockaddrInet6{Port: int(o.port), Addr: netip.IPv6Loopback().As16()})
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // the namespace has no IPv6
	}
	if err != nil {
		return fmt.Errorf("listen on [::1]:%d: %w", o.port, err)
	}
	p.listeners = append(p.listeners, Listener{model.IPv6, v6})
	if err := o.route(netlink.RouteReplace); err != nil {
		return fmt.Errorf("make the local route for %s: %w", o.prefix, err)
	}
	return nil
}

// loopbackIsUp: on one that is down some kernels let a listener be bound, which nothing reaches.
func loopbackIsUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the namespace's loopback interface: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("the namespace's loopback interface is down")
	}
	return nil
}

func cookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	return unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// listen makes a listener of plain TCP: a redirected connection is none of MPTCP's. SO_REUSEPORT lets an agent that
// was started anew listen beside the copies that its predecessor gave to a proxy.
func (o opener) listen(family int, at unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	err = func() error {
		for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, at); err != nil {
			return err
		}
		return unix.Listen(fd, backlog)
	}()
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("the agent lacks CAP_NET_BIND_SERVICE: %w", err)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("an application of the pod has port %d, which the mesh needs there: let it use another one, "+
			"or opt the pod out with the label %s: disabled: %w", o.port, MeshLabel, err)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// route edits the route that makes the prefix of redirected IPv6 connections local.
func (o opener) route(edit func(*netlink.Route) error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = edit(&netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       &net.IPNet{IP: o.prefix.Addr().AsSlice(), Mask: net.CIDRMask(o.prefix.Bits(), 128)},
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		Scope:     netlink.SCOPE_HOST,
	})
	if errors.Is(err, unix.ESRCH) { // to be removed, and not there
		return nil
	}
	return err
}

// addresses returns the pod's own addresses: those that are known, else the namespace's first global ones.
func addresses(known []netip.Addr) (v4, v6 netip.Addr, err error) {
	if len(known) == 0 {
		if known, err = globalAddresses(); err != nil {
			return v4, v6, fmt.Errorf("list the namespace's addresses: %w", err)
		}
	}
	for _, a := range known {
		switch {
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	if !v4.IsValid() && !v6.IsValid() {
		return v4, v6, errors.New("the pod has no address yet: neither its status nor its network namespace has one")
	}
	return v4, v6, nil
}

func globalAddresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b netlink.Addr) int { return cmp.Compare(a.LinkIndex, b.LinkIndex) })
	var all []netip.Addr
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		unusable := a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0
		if ip = ip.Unmap(); ok && !unusable && a.Scope == int(netlink.SCOPE_UNIVERSE) && !ip.IsLoopback() {
			all = append(all, ip)
		}
	}
	return all, nil
}
