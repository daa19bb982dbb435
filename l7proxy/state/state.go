// Package state holds what is in force in a worker: which frontend is which Service port, and which pods there are.
//
// One goroutine applies what the agent sends; whoever accepts a connection or serves a request reads without a lock.
package state

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Config is what a State needs.
type Config struct {
	Registry *upstream.Registry
	Pools    *upstream.Pools
	Inbound  *inbound.Loop
	// Accept gets each connection that is accepted for a pod: a descriptor which it owns. It must not block.
	Accept func(fd int, pod *Pod)
	// Gone is told of each pod that ended: what it still has open upstream is to be cut. It may be nil.
	Gone func(*Pod)
	// Retired is told of each port that is no longer redirected: what is open there should come to an end, so that it
	// comes back direct. It may be nil, and must not block.
	Retired func(*forward.Port)
	Log     *slog.Logger
}

// State is what is in force. Apply, ApplyPods, Resync and Close exclude each other; the other methods never wait.
type State struct {
	cfg Config

	// replacedLinger is how long a listener that was replaced is still accepted on: until the agent has the kernel
	// steer to the new one, which it does after our ack, and what shakes hands with the old one is through.
	replacedLinger time.Duration
	// endGrace is how long the connections of a pod that is gone may go on.
	endGrace time.Duration
	// retireFor is how long a port that is no longer redirected is served.
	retireFor time.Duration

	mu        sync.Mutex
	named     map[string]bool             // pods that were named since the last Resync; nil: the list is complete
	lingering map[*Pod]bool               // that were replaced, and whose listeners are still accepted on
	leaving   map[model.EndpointsKey]bool // endpoint sets that the agent took away and a retired port may need
	closed    bool

	current atomic.Pointer[view]
}

// view is never edited: a change makes a new one.
type view struct {
	full      bool // a full Update was applied
	version   uint64
	frontends map[uint32]Frontend
	services  map[model.ServiceKey]*service
	retired   map[model.EndpointsKey]retired // by the Service's own endpoints
	pods      map[string]*Pod
	refused   map[string]model.Refusal // by unit
}

// Frontend is one address of a Service port that is in force.
type Frontend struct {
	Port   *forward.Port
	Number uint16 // of the Service port: a second check of what the kernel wrote into the address
	owner  model.ServiceKey
}

// service is one Service that is in force.
type service struct {
	model *model.Service
	ports map[uint16]*forward.Port
	uses  []model.EndpointsKey
}

// New makes an empty State.
func New(cfg Config) *State {
	s := &State{
		cfg: cfg, replacedLinger: 2 * time.Second, endGrace: 800 * time.Millisecond, retireFor: 5 * time.Second,
		lingering: map[*Pod]bool{}, leaving: map[model.EndpointsKey]bool{},
	}
	s.current.Store(&view{
		frontends: map[uint32]Frontend{}, services: map[model.ServiceKey]*service{}, retired: map[model.EndpointsKey]retired{},
		pods: map[string]*Pod{}, refused: map[string]model.Refusal{},
	})
	return s
}

// Frontend returns what is in force for an id, or was until a moment ago.
func (s *State) Frontend(id uint32) (Frontend, bool) {
	v := s.current.Load()
	if f, ok := v.frontends[id]; ok {
		return f, true
	}
	return v.retiredFrontend(id)
}

// Full tells whether a full Update was applied: before it, ids of connections that come are not known.
func (s *State) Full() bool { return s.current.Load().full }

// Refused is the number of units of which another version is in force than the agent wants, or none.
func (s *State) Refused() int { return len(s.current.Load().refused) }

// Version is that of the last message that was applied.
func (s *State) Version() uint64 { return s.current.Load().version }

// Models returns the pods and the Services that are in force. They are not to be edited.
func (s *State) Models() (pods []*model.Pod, services []*model.Service) {
	v := s.current.Load()
	for _, p := range v.pods {
		pods = append(pods, p.Serving.Pod)
	}
	for _, svc := range v.services {
		services = append(services, svc.model)
	}
	return pods, services
}

// edit returns a view to be changed and stored. Its maps are the current ones: clone what is edited.
func (s *State) edit(version uint64) *view {
	next := *s.current.Load()
	next.version = version
	next.refused = maps.Clone(next.refused)
	return &next
}

// Apply brings an Update into force, and returns the units that were refused: their previous versions serve on, and
// everything else is in force.
func (s *State) Apply(u *model.Update) []model.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.edit(u.Version)
	next.full = next.full || u.Full
	var refused []model.Refusal

	// Endpoints come before the tables that choose among them, and leave after them.
	added := s.endpoints(u, next, &refused)
	s.cfg.Registry.Apply(added, nil)
	servicesChange := u.Full || len(u.Services)+len(u.RemovedServices) > 0
	if servicesChange {
		s.services(u, next, &refused)
	}
	s.current.Store(next)
	s.release(next)
	if servicesChange {
		s.prune(next)
	}
	return refused
}

// endpoints sorts out which endpoint sets come, which it returns, and which leave.
func (s *State) endpoints(u *model.Update, next *view, refused *[]model.Refusal) (added []model.EndpointSet) {
	named := make(map[model.EndpointsKey]bool, len(u.Endpoints))
	for i := range u.Endpoints {
		set := &u.Endpoints[i]
		named[set.EndpointsKey] = true
		delete(next.refused, endpointsUnit(set.EndpointsKey))
		if err := set.Validate(); err != nil {
			key := set.EndpointsKey
			next.refuse(refused, endpointsUnit(key), model.Refusal{Endpoints: &key, Reason: err.Error()})
			continue
		}
		added = append(added, *set)
		delete(s.leaving, set.EndpointsKey)
	}
	leaving := slices.Clone(u.RemovedEndpoints)
	if u.Full {
		for _, key := range s.cfg.Registry.Known() {
			if !named[key] {
				leaving = append(leaving, key)
			}
		}
	}
	for _, key := range leaving {
		delete(next.refused, endpointsUnit(key))
		s.leaving[key] = true
	}
	return added
}

func (v *view) refuse(list *[]model.Refusal, unit string, r model.Refusal) {
	v.refused[unit] = r
	*list = append(*list, r)
}

// services brings the Services of an Update into force. Those that leave go first, so that their ids are free.
func (s *State) services(u *model.Update, next *view, refused *[]model.Refusal) {
	next.services = maps.Clone(next.services)
	next.frontends = maps.Clone(next.frontends)
	next.retired = maps.Clone(next.retired)
	for _, key := range leavingServices(u, next) {
		s.retire(next, next.services[key], nil)
		next.drop(key)
		delete(next.refused, serviceUnit(key))
	}
	// An id may go from one Service to another in one Update: whoever waits for it is tried again.
	todo := make([]*model.Service, len(u.Services))
	for i := range u.Services {
		todo[i] = &u.Services[i]
	}
	for before := len(todo) + 1; len(todo) > 0; {
		final := len(todo) == before // the last round changed nothing
		before = len(todo)
		todo = slices.DeleteFunc(todo, func(unit *model.Service) bool {
			err := s.take(unit, next)
			if errors.Is(err, errTaken) && !final {
				return false
			}
			key := unit.ServiceKey
			delete(next.refused, serviceUnit(key))
			if err != nil {
				next.refuse(refused, serviceUnit(key), model.Refusal{Service: &key, Reason: err.Error()})
			}
			return true
		})
	}
}

func leavingServices(u *model.Update, next *view) []model.ServiceKey {
	leaving := append([]model.ServiceKey(nil), u.RemovedServices...)
	if !u.Full {
		return leaving
	}
	named := make(map[model.ServiceKey]bool, len(u.Services))
	for i := range u.Services {
		named[u.Services[i].ServiceKey] = true
	}
	for key := range next.services {
		if !named[key] {
			leaving = append(leaving, key)
		}
	}
	return leaving
}

// take compiles a unit and brings it into force. A port that stays keeps its *forward.Port: connections that are open
// see the new tables with their next request.
func (s *State) take(unit *model.Service, next *view) error {
	if err := next.conflict(unit); err != nil {
		return err
	}
	fresh := &service{model: unit, ports: make(map[uint16]*forward.Port, len(unit.Ports))}
	compiled, err := forward.Compile(unit, func(key model.EndpointsKey) *upstream.Set {
		fresh.uses = append(fresh.uses, key)
		return s.cfg.Registry.Set(key)
	})
	if err != nil {
		return err
	}
	old := next.services[unit.ServiceKey]
	next.drop(unit.ServiceKey)
	for i := range unit.Ports {
		p := &unit.Ports[i]
		port := next.portOf(old, p)
		if port == nil {
			port = forward.NewPort(compiled, p.Number)
		} else {
			port.Swap(compiled)
		}
		fresh.ports[p.Number] = port
		for _, f := range p.Frontends {
			next.frontends[f.ID] = Frontend{Port: port, Number: p.Number, owner: unit.ServiceKey}
		}
	}
	s.retire(next, old, fresh)
	next.services[unit.ServiceKey] = fresh
	return nil
}

// errTaken says that another Service has an id.
var errTaken = errors.New("a frontend's id is taken")

// conflict tells what is wrong with the unit, or that another Service has one of its ids.
func (v *view) conflict(unit *model.Service) error {
	if err := unit.Validate(); err != nil {
		return err
	}
	for i := range unit.Ports {
		for _, f := range unit.Ports[i].Frontends {
			if has, taken := v.frontends[f.ID]; taken && has.owner != unit.ServiceKey {
				return fmt.Errorf("%w: %d of port %d is that of Service %s", errTaken, f.ID, unit.Ports[i].Number, has.owner)
			}
		}
	}
	return nil
}

// drop takes a Service out of a view whose maps are its own.
func (v *view) drop(key model.ServiceKey) {
	old := v.services[key]
	if old == nil {
		return
	}
	delete(v.services, key)
	for i := range old.model.Ports {
		for _, f := range old.model.Ports[i].Frontends {
			delete(v.frontends, f.ID)
		}
	}
}

// prune lets go of endpoint sets that nobody has told of and no table refers to.
func (s *State) prune(v *view) {
	used := map[model.EndpointsKey]bool{}
	for _, svc := range v.services {
		for _, key := range svc.uses {
			used[key] = true
		}
	}
	s.cfg.Registry.Prune(func(key model.EndpointsKey) bool { return used[key] })
}

func serviceUnit(k model.ServiceKey) string     { return "Service " + k.String() }
func endpointsUnit(k model.EndpointsKey) string { return "endpoints of " + k.String() }
func podUnit(uid string) string                 { return "pod " + uid }

var errClosed = errors.New("this proxy is stopping")
