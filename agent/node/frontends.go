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
	want := wantFrontends(n.desired, accepting, n.frontends.may, away, n.podTable.strange())
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
//   - what every proxy that accepts connections has in force. What is not there yet enters with the unit as it is desired:
//     an earlier version that has it may be on its way out. And nothing enters for as long as a proxy may accept that we
//     do not know;
//   - with no such proxy, for as long as listeners are still steered to: what is there already, which was in force when
//     it came there;
//   - with no such proxy and no listener: everything. Nothing can be sent to a proxy then; a Service that fails closed
//     is refused, and what goes direct is recorded, so that it comes back later.
func wantFrontends(d *desired, accepting []push.Proxy, there map[netip.AddrPort]datapath.Frontend, away, strange bool) map[netip.AddrPort]datapath.Frontend {
	want := make(map[netip.AddrPort]datapath.Frontend, len(d.frontends))
	for a, f := range d.frontends {
		has, in := there[a]
		in = in && has.ID == f.ID
		switch {
		case len(accepting) > 0 && in:
			in = !slices.ContainsFunc(accepting, func(p push.Proxy) bool { return !carries(p.Services[f.unit], a, f.ID) })
		case len(accepting) > 0:
			in = !strange && !slices.ContainsFunc(accepting, func(p push.Proxy) bool { return p.Services[f.unit] != d.services[f.unit] })
		case away:
			in = true
		}
		if in {
			want[a] = f.Frontend
		}
	}
	return want
}

// covers tells whether the proxy has everything in force that may be in the kernel.
func covers(p push.Proxy, there map[netip.AddrPort]datapath.Frontend) bool {
	has := map[uint32]netip.AddrPort{} // by id: an earlier version of a unit may have the address under another one
	for _, s := range p.Services {
		for a, id := range addresses(s) {
			has[id] = a
		}
	}
	for a, f := range there {
		if has[f.ID] != a {
			return false
		}
	}
	return true
}

// publish sets what proxies should have: all that is desired, but no unit loses a frontend that may be in the kernel.
// The first time it waits until the kernel has nothing that is not desired: a proxy that served a predecessor of ours
// drops what the first state does not name, and we do not know what that is.
func (n *Node) publish(proxies []push.Proxy) {
	if n.desired == nil || !n.resend && !n.spare || n.sent == nil && !n.frontends.exact {
		return
	}
	before := n.sent
	if before == nil {
		before = &push.State{}
	}
	services := publishable(before.Services, n.desired.services, n.frontends.may)
	spare := spareEndpoints(before, services, n.desired.endpoints, proxies)
	n.spare = len(spare) > 0
	if !n.resend && len(n.desired.endpoints)+len(spare) == len(before.Endpoints) {
		return // none of the spare ones can be spared yet
	}
	n.sent = &push.State{Services: services, Endpoints: n.desired.endpoints, Pods: n.podTable.told()}
	if n.spare {
		maps.Copy(spare, n.desired.endpoints)
		n.sent.Endpoints = spare
	}
	n.proxies.Set(n.sent)
	n.resend = false
}

// publishable returns the units that proxies should have. A unit stays at its earlier version for as long as the new
// one, or its absence, would take away a frontend that may still be in the kernel; and so does one that is to have an
// address of such a unit, because a proxy takes an address from one unit only.
func publishable(before, desired map[model.ServiceKey]*model.Service, there map[netip.AddrPort]datapath.Frontend) map[model.ServiceKey]*model.Service {
	held := map[model.ServiceKey]bool{}
	taken := map[netip.AddrPort]bool{}
	hold := func(key model.ServiceKey) {
		held[key] = true
		if old := before[key]; old != nil {
			for a := range addresses(old) {
				taken[a] = true
			}
		}
	}
	for key, old := range before {
		for a, id := range addresses(old) {
			if f, in := there[a]; in && f.ID == id && !carries(desired[key], a, id) {
				hold(key)
				break
			}
		}
	}
	for more := len(held) > 0; more; { // what waits may itself have what others wait for
		more = false
		for key, s := range desired {
			if !held[key] && carriesAny(s, taken) {
				hold(key)
				more = true
			}
		}
	}
	next := maps.Clone(desired)
	for key := range held {
		if delete(next, key); before[key] != nil {
			next[key] = before[key]
		}
	}
	return next
}

// spareEndpoints returns the endpoints that proxies have, and that are not desired any more, but that a version of a unit
// may need which is still in force: one that stays for now, or one whose successor a proxy refused or has not acked yet.
func spareEndpoints(before *push.State, services map[model.ServiceKey]*model.Service, desired map[model.EndpointsKey]*model.EndpointSet,
	proxies []push.Proxy,
) map[model.EndpointsKey]*model.EndpointSet {
	spare := map[model.EndpointsKey]*model.EndpointSet{}
	for key, set := range before.Endpoints {
		if desired[key] == nil {
			spare[key] = set
		}
	}
	if len(spare) == 0 {
		return spare
	}
	inStep := true
	needed := map[model.EndpointsKey]bool{}
	for _, p := range proxies {
		inStep = inStep && hasAnswered(p, before.Services)
		needs(p.Services, needed)
	}
	needs(services, needed)
	maps.DeleteFunc(spare, func(key model.EndpointsKey, _ *model.EndpointSet) bool { return inStep && !needed[key] })
	return spare
}

// hasAnswered tells whether the proxy acked or refused each of the units, and has no others.
func hasAnswered(p push.Proxy, units map[model.ServiceKey]*model.Service) bool {
	for key, s := range units {
		refused := func(r model.Refusal) bool { return r.Service != nil && *r.Service == key }
		if p.Services[key] != s && !slices.ContainsFunc(p.Refused, refused) {
			return false
		}
	}
	for key := range p.Services {
		if units[key] == nil {
			return false
		}
	}
	return true
}
