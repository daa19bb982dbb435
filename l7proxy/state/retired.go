package state

import (
	"maps"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// retired is a Service port that is no longer redirected, because its last route went. The kernel knew before us, but
// connections that it had redirected may still be on their way, and others are open. For a while they are served as
// without a mesh, by the Service's own endpoints.
type retired struct {
	port  *forward.Port
	ids   []uint32
	until time.Time
}

// retire lets the ports of a Service retire that its new version, which may be nil, does not have.
func (s *State) retire(next *view, old, fresh *service) {
	if old == nil {
		return
	}
	plain := model.Service{ServiceKey: old.model.ServiceKey}
	for _, p := range old.model.Ports {
		if fresh == nil || fresh.ports[p.Number] == nil {
			p.Producer, p.Consumers = nil, nil
			plain.Ports = append(plain.Ports, p)
		}
	}
	if len(plain.Ports) == 0 {
		return
	}
	compiled, err := forward.Compile(&plain, s.cfg.Registry.Set)
	if err != nil { // there is nothing in it that could be wrong
		s.cfg.Log.Error("a Service that is no longer redirected cannot be compiled", "service", plain.String(), "error", err)
		return
	}
	for i := range plain.Ports {
		p := &plain.Ports[i]
		r := retired{port: old.ports[p.Number], until: time.Now().Add(s.retireFor)}
		for _, f := range p.Frontends {
			r.ids = append(r.ids, f.ID)
		}
		r.port.Swap(compiled)
		next.retired[p.Default] = r
		if s.cfg.Retired != nil {
			s.cfg.Retired(r.port)
		}
	}
	time.AfterFunc(s.retireFor, s.forgetRetired)
}

// portOf returns the port that connections to p have, be it retired, or nil.
func (v *view) portOf(old *service, p *model.Port) *forward.Port {
	if r, ok := v.retired[p.Default]; ok {
		delete(v.retired, p.Default)
		return r.port
	}
	if old == nil {
		return nil
	}
	return old.ports[p.Number]
}

func (v *view) retiredFrontend(id uint32) (Frontend, bool) {
	for key, r := range v.retired {
		if slices.Contains(r.ids, id) {
			return Frontend{Port: r.port, Number: key.Port, owner: model.ServiceKey{Namespace: key.Namespace, Name: key.Name}}, true
		}
	}
	return Frontend{}, false
}

// forgetRetired lets go of the ports that were retired long enough.
func (s *State) forgetRetired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.edit(s.Version())
	now := time.Now()
	next.retired = maps.Clone(next.retired)
	maps.DeleteFunc(next.retired, func(_ model.EndpointsKey, r retired) bool { return !now.Before(r.until) })
	s.current.Store(next)
	s.release(next)
}

// release lets go of the endpoint sets that leave and that no retired port needs.
func (s *State) release(v *view) {
	var keys []model.EndpointsKey
	for key := range s.leaving {
		if _, needed := v.retired[key]; !needed {
			keys = append(keys, key)
			delete(s.leaving, key)
		}
	}
	s.cfg.Registry.Apply(nil, keys)
	if len(keys) > 0 {
		s.prune(v)
	}
}
