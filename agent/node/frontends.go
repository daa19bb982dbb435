package node

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// frontends is what is known of the kernel's frontends.
type frontends struct {
	known bool // the rest means something
	// may is what may be in the kernel: what is, and after a write that failed also what was to be.
	may   map[netip.AddrPort]datapath.Frontend
	exact bool // what may be there is there
}

// readFrontends learns what is in the kernel.
func (n *Node) readFrontends() {
	list, err := n.kernel.Frontends()
	if !n.did("list the frontends", err) {
		return
	}
	n.frontends = frontends{known: true, exact: true, may: byAddress(list)}
}

func byAddress(list []datapath.Frontend) map[netip.AddrPort]datapath.Frontend {
	m := make(map[netip.AddrPort]datapath.Frontend, len(list))
	for _, f := range list {
		m[f.Addr] = f
	}
	return m
}

// writeFrontends makes the kernel's frontends what they should be now.
func (n *Node) writeFrontends(proxies []push.Proxy) {
	if n.desired == nil {
		return
	}
	if !n.frontends.known {
		if n.readFrontends(); !n.frontends.known {
			return
		}
	}
	accepting := slices.DeleteFunc(slices.Clone(proxies), func(p push.Proxy) bool { return !p.Accepts() })
	away := n.live.state == Down && !n.podTable.steered()
	want := wantFrontends(n.desired, accepting, n.frontends.may, away)
	if n.frontends.exact && maps.Equal(want, n.frontends.may) {
		return
	}
	list := slices.SortedFunc(maps.Values(want), func(a, b datapath.Frontend) int { return a.Addr.Compare(b.Addr) })
	if n.did("write the frontends", n.kernel.SetFrontends(list)) {
		n.frontends = frontends{known: true, exact: true, may: want}
	} else {
		both := maps.Clone(n.frontends.may)
		maps.Copy(both, want)
		n.frontends.may, n.frontends.exact = both, false
	}
	n.resend = true
}

// wantFrontends returns what may be in the kernel: of what is desired,
//   - what every proxy that accepts connections has in force;
//   - with no such proxy, for as long as listeners are still steered to: what is there already, which was in force when
//     it came there;
//   - with no such proxy and no listener: everything. Nothing can be sent to a proxy then; a Service that fails closed
//     is refused, and what goes direct is recorded, so that it comes back later.
func wantFrontends(d *desired, accepting []push.Proxy, there map[netip.AddrPort]datapath.Frontend, away bool) map[netip.AddrPort]datapath.Frontend {
	want := make(map[netip.AddrPort]datapath.Frontend, len(d.frontends))
	for a, f := range d.frontends {
		in := away
		switch {
		case len(accepting) > 0:
			in = !slices.ContainsFunc(accepting, func(p push.Proxy) bool { return !carries(p.Services[f.unit], a, f.ID) })
		case !away:
			_, in = there[a]
		}
		if in {
			want[a] = f.Frontend
		}
	}
	return want
}

// covers tells whether the proxy has everything in force that may be in the kernel.
func covers(p push.Proxy, there map[netip.AddrPort]datapath.Frontend) bool {
	has := map[netip.AddrPort]uint32{}
	for _, s := range p.Services {
		for a, id := range addresses(s) {
			has[a] = id
		}
	}
	for a, f := range there {
		if has[a] != f.ID {
			return false
		}
	}
	return true
}

// publish sets what proxies should have: all that is desired, but no unit loses a frontend that may be in the kernel.
// The first time it waits until the kernel has nothing that is not desired: a proxy that served a predecessor of ours
// drops what the first state does not name, and we do not know what that is.
func (n *Node) publish() {
	if n.desired == nil || !n.resend || n.sent == nil && !n.frontends.exact {
		return
	}
	before := n.sent
	if before == nil {
		before = &push.State{}
	}
	n.sent = &push.State{
		Services:  publishable(before.Services, n.desired.services, n.frontends.may),
		Endpoints: n.desired.endpoints,
		Pods:      n.podTable.told(),
	}
	if !n.frontends.exact { // an earlier version of a unit may stay, with the endpoints that it names
		n.sent.Endpoints = maps.Clone(before.Endpoints)
		maps.Copy(n.sent.Endpoints, n.desired.endpoints)
	}
	n.proxies.Set(n.sent)
	n.resend = false
}

// publishable returns the units that proxies should have. A unit stays at its earlier version for as long as the new
// one, or its absence, would take away a frontend that may still be in the kernel.
func publishable(before, desired map[model.ServiceKey]*model.Service, there map[netip.AddrPort]datapath.Frontend) map[model.ServiceKey]*model.Service {
	next := maps.Clone(desired)
	for key, old := range before {
		for a, id := range addresses(old) {
			if f, in := there[a]; in && f.ID == id && !carries(desired[key], a, id) {
				next[key] = old
				break
			}
		}
	}
	return next
}
