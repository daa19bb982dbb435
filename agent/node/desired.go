package node

import (
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// desired is what the objects ask for, numbered. It is immutable, and a unit that did not change from one to the next
// keeps its pointer.
type desired struct {
	result    *compile.Result
	problems  []kube.Problem
	services  map[model.ServiceKey]*model.Service
	endpoints map[model.EndpointsKey]*model.EndpointSet
	frontends map[netip.AddrPort]frontend
}

// frontend is an address that is to be redirected, and the unit that carries it.
type frontend struct {
	datapath.Frontend
	unit model.ServiceKey
}

// compile derives a new desired from the objects, if there are new ones. While they cannot be numbered the earlier
// one stays in force.
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
	ids, err := n.kernel.Number(addressesOf(result.Services))
	if !n.did("number the frontends", err) {
		return
	}
	n.dirty = false
	n.desired = derive(result, ids, n.desired)
	n.desired.problems = in.problems
	n.resend = true
	n.pods.SetDesired(enroll.Desired(in.set, n.cfg.Select))
	n.said.problems(in.problems, result.Warnings, result.Events)
}

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
func addressesOf(services []model.Service) []netip.AddrPort {
	var all []netip.AddrPort
	for i := range services {
		for a := range addresses(&services[i]) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// derive numbers what was compiled. What equals the earlier version of itself is that version.
func derive(result *compile.Result, ids map[netip.AddrPort]uint32, before *desired) *desired {
	if before == nil {
		before = &desired{}
	}
	d := &desired{
		result:    result,
		services:  make(map[model.ServiceKey]*model.Service, len(result.Services)),
		endpoints: make(map[model.EndpointsKey]*model.EndpointSet, len(result.Endpoints)),
		frontends: map[netip.AddrPort]frontend{},
	}
	for i := range result.Services {
		s := numbered(&result.Services[i], ids)
		if old := before.services[s.ServiceKey]; old != nil && reflect.DeepEqual(old, s) {
			s = old
		}
		d.services[s.ServiceKey] = s
		for a, id := range addresses(s) {
			if _, taken := d.frontends[a]; taken {
				continue // two Services with one address: the first by name has it
			}
			f := datapath.Frontend{Addr: a, ID: id}
			if result.Flags[a].FailClosed {
				f.Flags |= datapath.FailClosed
			}
			d.frontends[a] = frontend{f, s.ServiceKey}
		}
	}
	for i := range result.Endpoints {
		e := &result.Endpoints[i]
		if old := before.endpoints[e.EndpointsKey]; old != nil && reflect.DeepEqual(old, e) {
			e = old
		}
		d.endpoints[e.EndpointsKey] = e
	}
	return d
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
