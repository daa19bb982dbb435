package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

const bridge = "nodes"

// network is the network that joins control plane, nodes and machine: a bridge in the control plane's namespace. It goes with the
// processes whose namespaces these are.
type network struct {
	cp    *netlink.Handle
	nodes map[string]*netlink.Handle
}

// connect makes the network, of the namespaces of those processes.
func connect(controlPlane int, nodes []layout.Node, pids map[string]int) error {
	n := network{nodes: map[string]*netlink.Handle{}}
	var err error
	if n.cp, err = handle(controlPlane); err != nil {
		return err
	}
	defer n.cp.Close()
	if err := n.bridge(); err != nil {
		return fmt.Errorf("the control plane's network: %w", err)
	}
	if err := n.machine(controlPlane); err != nil {
		return fmt.Errorf("the machine's link to the cluster: %w", err)
	}
	for _, node := range nodes {
		h, err := handle(pids[node.Name])
		if err != nil {
			return err
		}
		defer h.Close()
		n.nodes[node.Name] = h
		if err := n.join(node, pids[node.Name]); err != nil {
			return fmt.Errorf("network of node %s: %w", node.Name, err)
		}
	}
	return n.routes(nodes)
}

func handle(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	h, err := netlink.NewHandleAt(ns)
	return h, errors.Join(err, ns.Close())
}

func (n network) bridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	if err := n.cp.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return err
	}
	return errors.Join(up(n.cp, "lo"), address(n.cp, bridge, layout.Gateway()))
}

// machine gives the machine an address in the network, so that kubectl and tests reach the API server as they would anywhere.
func (n network) machine(controlPlane int) error {
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	if err := n.plug(host, layout.Link, "machine", controlPlane); err != nil {
		return err
	}
	return address(host, layout.Link, layout.Machine())
}

// join gives a node its link.
func (n network) join(node layout.Node, pid int) error {
	h := n.nodes[node.Name]
	attrs := netlink.NewLinkAttrs()
	attrs.Name = node.Name
	if err := n.cp.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}); err != nil {
		return err
	}
	if err := n.enslave(node.Name); err != nil {
		return err
	}
	return errors.Join(up(h, "lo"), address(h, "eth0", node.Address))
}

// plug makes a link on the machine, whose peer is on the bridge.
func (n network) plug(host *netlink.Handle, name, peer string, controlPlane int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsPid(controlPlane)}); err != nil {
		return err
	}
	return n.enslave(peer)
}

func (n network) enslave(name string) error {
	master, err := n.cp.LinkByName(bridge)
	if err != nil {
		return err
	}
	link, err := n.cp.LinkByName(name)
	if err != nil {
		return err
	}
	return errors.Join(n.cp.LinkSetMaster(link, master), n.cp.LinkSetUp(link))
}

// routes lead to each node's pods, from the other nodes and from the control plane, and from the nodes to everything else.
func (n network) routes(nodes []layout.Node) error {
	gateway := layout.Gateway()
	for _, to := range nodes {
		if err := route(n.cp, to.Pods, to.Address); err != nil {
			return fmt.Errorf("route to the pods of %s: %w", to.Name, err)
		}
		for from, h := range n.nodes {
			if from == to.Name {
				continue
			}
			if err := route(h, to.Pods, to.Address); err != nil {
				return fmt.Errorf("route from %s to the pods of %s: %w", from, to.Name, err)
			}
		}
	}
	// What is for a Service that a node does not know of yet comes here. It is told so, instead of waiting for an answer.
	for _, services := range layout.ServiceRanges() {
		if err := n.cp.RouteAdd(&netlink.Route{Dst: ipNet(services), Type: unix.RTN_UNREACHABLE}); err != nil {
			return fmt.Errorf("route of Services' addresses: %w", err)
		}
	}
	everywhere := layout.Pair{V4: netip.MustParsePrefix("0.0.0.0/0"), V6: netip.MustParsePrefix("::/0")}
	for name, h := range n.nodes {
		if err := route(h, everywhere, gateway); err != nil {
			return fmt.Errorf("default route of %s: %w", name, err)
		}
	}
	return nil
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return h.LinkSetUp(link)
}

// noDAD is IFA_F_NODAD: an address that nobody else can have is used at once.
const noDAD = 0x02

func address(h *netlink.Handle, name string, p layout.Pair) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p.V4)}); err != nil {
		return err
	}
	return h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p.V6), Flags: noDAD})
}

func route(h *netlink.Handle, to, via layout.Pair) error {
	return errors.Join(
		h.RouteAdd(&netlink.Route{Dst: ipNet(to.V4.Masked()), Gw: via.V4.Addr().AsSlice()}),
		h.RouteAdd(&netlink.Route{Dst: ipNet(to.V6.Masked()), Gw: via.V6.Addr().AsSlice()}),
	)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// disconnect removes the machine's link, if it is still there.
func disconnect() error {
	link, err := netlink.LinkByName(layout.Link)
	if _, is := errors.AsType[netlink.LinkNotFoundError](err); is {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
