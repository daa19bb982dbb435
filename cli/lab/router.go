package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the lab. They exist in its own namespaces only, which have no way out.
var (
	podsV4     = netip.MustParsePrefix("10.244.0.0/16")
	podsV6     = netip.MustParsePrefix("fd00:10:244::/64")
	gatewayV4  = netip.MustParseAddr("10.244.0.1")
	gatewayV6  = netip.MustParseAddr("fe80::1")
	maxPods    = 250
	firstIndex = 10 // of a pod: its last byte
)

// router is the namespace in the middle. Each pod has a veth pair of its own to it and a route through it, as with a CNI
// plugin that routes.
type router struct {
	path   string
	ns     *os.File
	thread *thread
	links  *netlink.Handle
}

func newRouter(path string) (*router, error) {
	t, err := newThread(path)
	if err != nil {
		return nil, err
	}
	r := &router{path: path, thread: t}
	if err := r.configure(); err != nil {
		r.close()
		return nil, fmt.Errorf("router: %w", err)
	}
	return r, nil
}

func (r *router) configure() error {
	var err error
	if r.ns, err = os.Open(r.path); err != nil {
		return err
	}
	return r.thread.do(func() error {
		for _, s := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"} {
			if err := sysctl(s); err != nil {
				return err
			}
		}
		var err error
		r.links, err = newHandle()
		return err
	})
}

func (r *router) close() {
	if r.links != nil {
		r.links.Close()
	}
	if r.ns != nil {
		r.ns.Close()
	}
	r.thread.close()
}

// newHandle opens rtnetlink in the namespace of the calling thread, with IPv6 on and usable at once.
func newHandle() (*netlink.Handle, error) {
	for _, s := range []string{
		"ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0",
		// Nobody else is on these links: without this an address is not usable for a second or two.
		"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
	} {
		if err := sysctl(s); err != nil {
			return nil, err
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return h, h.LinkSetUp(lo)
}

// sysctl sets a key below net, in the namespace of the calling thread.
func sysctl(setting string) error {
	for i := range len(setting) {
		if setting[i] == '=' {
			if err := os.WriteFile("/proc/sys/net/"+setting[:i], []byte(setting[i+1:]), 0); err != nil {
				return fmt.Errorf("sysctl %s: %w", setting, err)
			}
			return nil
		}
	}
	return fmt.Errorf("sysctl %q: want key=value", setting)
}

// podAddresses are those of the pod with the given number, from 0.
func podAddresses(n int) (v4, v6 netip.Addr) {
	a4, a6 := podsV4.Addr().As4(), podsV6.Addr().As16()
	a4[3], a6[15] = byte(firstIndex+n), byte(firstIndex+n)
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// connect joins a pod's namespace to the router. It leaves the pod with eth0, its addresses and a default route.
func (r *router) connect(n int, t *thread, netns int, v4, v6 netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pod" + strconv.Itoa(n)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(netns)}
	if err := r.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	if err := r.side(attrs.Name, v4, v6); err != nil {
		return fmt.Errorf("router's end: %w", err)
	}
	if err := t.do(func() error { return podSide(v4, v6) }); err != nil {
		return fmt.Errorf("pod's end: %w", err)
	}
	return nil
}

func (r *router) side(name string, v4, v6 netip.Addr) error {
	link, err := r.links.LinkByName(name)
	if err != nil {
		return err
	}
	if err := r.links.LinkSetUp(link); err != nil {
		return err
	}
	if err := addAddresses(r.links, link, netip.PrefixFrom(gatewayV4, 32), netip.PrefixFrom(gatewayV6, 64)); err != nil {
		return err
	}
	return addRoutes(r.links, link, route{to: single(v4)}, route{to: single(v6)})
}

func podSide(v4, v6 netip.Addr) error {
	h, err := newHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if err := addAddresses(h, link, single(v4), single(v6)); err != nil {
		return err
	}
	return addRoutes(h, link,
		route{to: single(gatewayV4)},
		route{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gatewayV4},
		route{to: netip.PrefixFrom(netip.IPv6Unspecified(), 0), via: gatewayV6})
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func addAddresses(h *netlink.Handle, link netlink.Link, prefixes ...netip.Prefix) error {
	for _, p := range prefixes {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

type route struct {
	to  netip.Prefix
	via netip.Addr // not valid: on the link
}

func addRoutes(h *netlink.Handle, link netlink.Link, routes ...route) error {
	for _, r := range routes {
		nl := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.to)}
		if r.via.IsValid() {
			nl.Gw = r.via.AsSlice()
		} else {
			nl.Scope = netlink.SCOPE_LINK
		}
		if err := h.RouteAdd(nl); err != nil {
			return fmt.Errorf("add route to %s: %w", r.to, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
