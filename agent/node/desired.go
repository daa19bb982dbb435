package node

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// desired is what the objects ask for, numbered. It is immutable, and a unit that did not change from one to the next
// keeps its pointer. So do the maps.
type desired struct {
	result    *compile.Result
	problems  []kube.Problem
	compiled  map[model.ServiceKey]*model.Service // without ids
	services  map[model.ServiceKey]*model.Service
	endpoints map[model.EndpointsKey]*model.EndpointSet
	frontends map[netip.AddrPort]frontend
	ids       map[netip.AddrPort]uint32 // of all frontends
}

// frontend is an address that is to be redirected, and the unit that carries it.
type frontend struct {
	datapath.Frontend
	unit model.ServiceKey
}

// compile derives a new desired from the objects, if there are new ones. While they cannot be numbered the earlier
// one stays in force. Most changes change little, and many nothing: what follows from the rest is not done again.
func (n *Node) compile() {
	if !n.dirty {
		return
	}
	n.mu.Lock()
	in := n.input
	n.mu.Unlock()
	start := time.Now()
	result := n.cfg.Compile(in.set)
	n.metrics.compile.Observe(time.Since(start).Seconds())
	before := n.desired
	if before == nil || result != before.result || !slices.Equal(in.problems, before.problems) {
		ids, err := n.number(result.Services)
		if !n.did("number the frontends", err) {
			return
		}
		n.desired = derive(result, ids, before)
		n.desired.problems = in.problems
		n.resend = n.resend || n.desired.sends(before)
		if before == nil || !slices.Equal(in.problems, before.problems) || !sameSlice(result.Warnings, before.result.Warnings) || !sameSlice(result.Events, before.result.Events) {
			n.said.problems(in.problems, result.Warnings, result.Events)
		}
	}
	n.dirty = false
	if set := n.status.set; set == nil || !sameSlice(set.Pods, in.set.Pods) || !sameSlice(set.Namespaces, in.set.Namespaces) {
		n.selectPods(in.set, start)
	}
	n.status.compiled(in.set, n.desired != before)
}

// number returns the ids of the frontends. Those of units that are all as they were are given already.
func (n *Node) number(services []*model.Service) (map[netip.AddrPort]uint32, error) {
	if n.desired != nil && sameSlice(services, n.desired.result.Services) {
		return n.desired.ids, nil
	}
	return n.kernel.Number(addressesOf(services))
}

// sends tells whether proxies get something else than before.
func (d *desired) sends(before *desired) bool {
	return before == nil || !sameSlice(d.result.Services, before.result.Services) || !sameSlice(d.result.Endpoints, before.result.Endpoints)
}

// sameSlice tells whether two are one slice, which nobody edits.
func sameSlice[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// addresses yields the frontends of a unit with their ids.
func addresses(s *model.Service) iter.Seq2[netip.AddrPort, uint32] {
	return func(yield func(netip.AddrPort, uint32) bool) {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if !yield(netip.AddrPortFrom(f.Address, p.Number), f.ID) {
					return
				}
			}
		}
	}
}

// addressesOf returns the frontends of all units, sorted and each once.
func addressesOf(services []*model.Service) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range services {
		for a := range addresses(s) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// derive numbers what was compiled. What was compiled and numbered as it is now keeps its version.
func derive(result *compile.Result, ids map[netip.AddrPort]uint32, before *desired) *desired {
	if before == nil {
		before = &desired{}
	}
	d := *before
	d.result, d.ids = result, ids
	if before.result == nil || !sameSlice(result.Services, before.result.Services) || !maps.Equal(result.Flags, before.result.Flags) {
		d.deriveServices(ids, before)
	}
	if before.result == nil || !sameSlice(result.Endpoints, before.result.Endpoints) {
		d.endpoints = make(map[model.EndpointsKey]*model.EndpointSet, len(result.Endpoints))
		for _, e := range result.Endpoints {
			d.endpoints[e.EndpointsKey] = e
		}
	}
	return &d
}

func (d *desired) deriveServices(ids map[netip.AddrPort]uint32, before *desired) {
	d.compiled = make(map[model.ServiceKey]*model.Service, len(d.result.Services))
	d.services = make(map[model.ServiceKey]*model.Service, len(d.result.Services))
	d.frontends = make(map[netip.AddrPort]frontend, len(before.frontends))
	for _, compiled := range d.result.Services {
		s := before.services[compiled.ServiceKey]
		if s == nil || before.compiled[compiled.ServiceKey] != compiled || !hasIDs(s, ids) {
			s = numbered(compiled, ids)
		}
		d.compiled[s.ServiceKey], d.services[s.ServiceKey] = compiled, s
		for a, id := range addresses(s) {
			if _, taken := d.frontends[a]; taken {
				continue // two Services with one address: the first by name has it
			}
			f := datapath.Frontend{Addr: a, ID: id}
			if d.result.Flags[a].FailClosed {
				f.Flags |= datapath.FailClosed
			}
			d.frontends[a] = frontend{f, s.ServiceKey}
		}
	}
}

// hasIDs tells whether the frontends of a unit have those ids.
func hasIDs(s *model.Service, ids map[netip.AddrPort]uint32) bool {
	for a, id := range addresses(s) {
		if ids[a] != id {
			return false
		}
	}
	return true
}

// numbered returns a copy of the unit whose frontends have their ids.
func numbered(s *model.Service, ids map[netip.AddrPort]uint32) *model.Service {
	c := *s
	c.Ports = slices.Clone(s.Ports)
	for i := range c.Ports {
		p := &c.Ports[i]
		p.Frontends = slices.Clone(p.Frontends)
		for j := range p.Frontends {
			p.Frontends[j].ID = ids[netip.AddrPortFrom(p.Frontends[j].Address, p.Number)]
		}
	}
	return &c
}

// needs adds the endpoints that the units name.
func needs(units map[model.ServiceKey]*model.Service, into map[model.EndpointsKey]bool) {
	for _, s := range units {
		for key := range s.EndpointSets() {
			into[key] = true
		}
	}
}

// carriesAny tells whether the unit has one of the frontends.
func carriesAny(s *model.Service, of map[netip.AddrPort]bool) bool {
	for a := range addresses(s) {
		if of[a] {
			return true
		}
	}
	return false
}

// carries tells whether the unit has the frontend under that id.
func carries(s *model.Service, a netip.AddrPort, id uint32) bool {
	if s == nil {
		return false
	}
	for at, has := range addresses(s) {
		if at == a && has == id {
			return true
		}
	}
	return false
}
