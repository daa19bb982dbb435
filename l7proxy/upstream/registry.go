package upstream

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Registry holds the endpoint sets of a worker. It is safe for concurrent use.
type Registry struct {
	pools *Pools

	mu        sync.Mutex
	sets      map[model.EndpointsKey]*Set
	endpoints map[netip.AddrPort]*shared
}

// shared is an endpoint and the number of sets that it is in.
type shared struct {
	Endpoint
	sets int
}

// NewRegistry makes an empty Registry. It tells pools, which may be nil, when endpoints leave.
func NewRegistry(pools *Pools) *Registry {
	return &Registry{pools: pools, sets: map[model.EndpointsKey]*Set{}, endpoints: map[netip.AddrPort]*shared{}}
}

// Set returns the set of that key. One that nobody has told of yet is made: empty, and not Known.
func (r *Registry) Set(key model.EndpointsKey) *Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set(key)
}

func (r *Registry) set(key model.EndpointsKey) *Set {
	s, ok := r.sets[key]
	if !ok {
		s = newSet(key)
		r.sets[key] = s
	}
	return s
}

// Apply replaces the endpoints of some sets and makes others unknown. An address that stays keeps its Endpoint, and
// with it what is outstanding and its idle connections. An endpoint that left every set gets no new request; those
// that run finish.
func (r *Registry) Apply(added []model.EndpointSet, removed []model.EndpointsKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := false
	for i := range added {
		left = r.swap(r.set(added[i].EndpointsKey), &added[i]) || left
	}
	for _, key := range removed {
		if s, ok := r.sets[key]; ok {
			left = r.swap(s, nil) || left
		}
	}
	if left && r.pools != nil {
		r.pools.wake()
	}
}

// swap gives a set its endpoints, and tells whether one left for good.
func (r *Registry) swap(s *Set, unit *model.EndpointSet) (left bool) {
	before := s.current.Load()
	after := none
	if unit != nil {
		after = &snapshot{unit: unit, speaks: protocolOf(unit.AppProtocol), affinity: time.Duration(unit.Affinity), endpoints: make([]*Endpoint, 0, len(unit.Endpoints))}
		for _, e := range unit.Endpoints {
			after.endpoints = append(after.endpoints, r.acquire(e.Address))
		}
	}
	s.current.Store(after)
	for _, e := range before.endpoints { // after the new ones were acquired: what is in both stays
		left = r.release(e.Address) || left
	}
	return left
}

func (r *Registry) acquire(addr netip.AddrPort) *Endpoint {
	e, ok := r.endpoints[addr]
	if !ok {
		e = &shared{Address: addr, hash: hashOf(addr)}
		r.endpoints[addr] = e
	}
	e.sets++
	return &e.Endpoint
}

func (r *Registry) release(addr netip.AddrPort) (left bool) {
	e := r.endpoints[addr]
	e.sets--
	if e.sets > 0 {
		return false
	}
	delete(r.endpoints, addr)
	e.gone.Store(true)
	return true
}

// Known lists the keys of the sets that are known.
func (r *Registry) Known() []model.EndpointsKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	var keys []model.EndpointsKey
	for k, s := range r.sets {
		if s.Known() {
			keys = append(keys, k)
		}
	}
	return keys
}

// Prune forgets the sets that are unknown and that needed does not want. A table that is still in force and refers to
// a forgotten set would never see its endpoints come back.
func (r *Registry) Prune(needed func(model.EndpointsKey) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, s := range r.sets {
		if !s.Known() && !needed(k) {
			delete(r.sets, k)
		}
	}
}

func hashOf(addr netip.AddrPort) uint64 {
	h := fnv.New64a()
	ip := addr.Addr().As16()
	h.Write(ip[:])
	h.Write(binary.BigEndian.AppendUint16(nil, addr.Port()))
	return h.Sum64()
}
