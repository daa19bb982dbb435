package state

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// retiring makes a State with a Service of two ports, whose retired ports stay, and what it told of them.
func retiring(t *testing.T) (*State, *[]*forward.Port) {
	t.Helper()
	s := newState(t, nil)
	s.retireFor = time.Hour
	var told []*forward.Port
	s.cfg.Retired = func(p *forward.Port) { told = append(told, p) }
	apply(t, s, &model.Update{
		Full: true, Services: []model.Service{twoPorts()},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1"), endpoints("web", 81, "10.0.0.1:2")},
	})
	return s, &told
}

func twoPorts() model.Service {
	web := unit("web", 80, 1)
	web.Ports = append(web.Ports, unit("web", 81, 2).Ports...)
	return web
}

// A40: the last route went. Who was redirected just before finds the Service's own endpoints, however soon they leave.
func TestA40APortRetiresBeforeItIsGone(t *testing.T) {
	s, told := retiring(t)
	before := frontend(t, s, 2).Port
	apply(t, s, &model.Update{Services: []model.Service{unit("web", 80, 1)}, RemovedEndpoints: []model.EndpointsKey{endpointsKey("web", 81)}})
	if f := frontend(t, s, 2); f.Port != before || f.Number != 81 {
		t.Errorf("its frontend: %+v", f)
	}
	if got := addressesOf(s, "web", 81); !slices.Equal(got, []string{"10.0.0.1:2"}) {
		t.Errorf("its endpoints: %v", got)
	}
	if !slices.Equal(*told, []*forward.Port{before}) {
		t.Errorf("told of %d ports, want that one", len(*told))
	}
	apply(t, s, &model.Update{Full: true}) // all that there is leaves
	frontend(t, s, 1)
	frontend(t, s, 2)
	if len(*told) != 2 || len(s.Dump().Services) != 0 {
		t.Errorf("told of %d ports; in force: %+v", len(*told), s.Dump().Services)
	}
	s.forgetRetired()
	frontend(t, s, 1) // it is not time yet

	end(s)
	if _, ok := s.Frontend(1); ok {
		t.Error("it is redirected for ever")
	}
	if known := s.cfg.Registry.Known(); len(known) > 0 {
		t.Errorf("endpoints stay: %v", known)
	}
}

// end makes time pass for what is retired.
func end(s *State) {
	s.mu.Lock()
	next := s.edit(s.Version())
	next.retired = map[model.EndpointsKey]retired{}
	for key, r := range s.current.Load().retired {
		r.until = time.Now()
		next.retired[key] = r
	}
	s.current.Store(next)
	s.mu.Unlock()
	s.forgetRetired()
}

// A route that is deleted and made anew: connections that stayed open find it.
func TestARetiredPortComesBack(t *testing.T) {
	s, told := retiring(t)
	before := frontend(t, s, 1).Port
	apply(t, s, &model.Update{
		RemovedServices:  []model.ServiceKey{serviceKey("web")},
		RemovedEndpoints: []model.EndpointsKey{endpointsKey("web", 80), endpointsKey("web", 81)},
	})
	apply(t, s, &model.Update{
		Services:  []model.Service{unit("web", 80, 3)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.9:1")},
	})
	if frontend(t, s, 3).Port != before {
		t.Error("its connections are left with the version that was retired")
	}
	end(s)
	frontend(t, s, 3)
	if got := addressesOf(s, "web", 80); !slices.Equal(got, []string{"10.0.0.9:1"}) {
		t.Errorf("its endpoints: %v", got)
	}
	if _, ok := s.Frontend(2); ok {
		t.Error("the other port came back too")
	}
	if len(*told) != 2 {
		t.Errorf("told of %d ports", len(*told))
	}
}

// The id of a retired port is free: its next owner has it.
func TestTheIDOfARetiredPortIsFree(t *testing.T) {
	s, _ := retiring(t)
	apply(t, s, &model.Update{RemovedServices: []model.ServiceKey{serviceKey("web")}})
	apply(t, s, &model.Update{Services: []model.Service{unit("api", 90, 1)}})
	if f := frontend(t, s, 1); f.Number != 90 {
		t.Errorf("id 1 is that of port %d", f.Number)
	}
}

func TestRetiredPortsAreForgottenInTime(t *testing.T) {
	s, _ := retiring(t)
	s.retireFor = 20 * time.Millisecond
	apply(t, s, &model.Update{Full: true})
	frontend(t, s, 1)
	eventually(t, "the port is gone", func() bool {
		_, ok := s.Frontend(1)
		return !ok && len(s.cfg.Registry.Known()) == 0
	})
}
