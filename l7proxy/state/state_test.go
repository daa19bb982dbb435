package state

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

func TestAFullUpdateIsInForce(t *testing.T) {
	s := newState(t, nil)
	if s.Full() {
		t.Error("nothing was applied, and it is full")
	}
	apply(t, s, &model.Update{
		Version: 7, Full: true,
		Services:  []model.Service{unit("web", 80, 1, 2), unit("api", 90, 3)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:8080")},
	})
	if !s.Full() || s.Version() != 7 || s.Refused() != 0 {
		t.Errorf("full %v, version %d, %d refused", s.Full(), s.Version(), s.Refused())
	}
	one, two, three := frontend(t, s, 1), frontend(t, s, 2), frontend(t, s, 3)
	if one.Port != two.Port || one.Port == three.Port || one.Number != 80 || three.Number != 90 {
		t.Errorf("frontends %+v, %+v, %+v", one, two, three)
	}
	if _, ok := s.Frontend(4); ok {
		t.Error("id 4 is in force")
	}
	if got := addressesOf(s, "web", 80); !slices.Equal(got, []string{"10.0.0.1:8080"}) {
		t.Errorf("endpoints %v", got)
	}
}

// Connections keep their port, and see the new tables with their next request.
func TestAPortStaysTheSameAcrossUpdates(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}})
	before := frontend(t, s, 1).Port
	apply(t, s, &model.Update{Services: []model.Service{unit("web", 80, 2)}})
	if after := frontend(t, s, 2).Port; after != before {
		t.Error("after a change of the Service the port is another one")
	}
	if _, ok := s.Frontend(1); ok {
		t.Error("an id that the Service has no more is in force")
	}
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}})
	if after := frontend(t, s, 1).Port; after != before {
		t.Error("after a full Update the port is another one")
	}
	apply(t, s, &model.Update{RemovedServices: []model.ServiceKey{serviceKey("web")}})
	s.forgetRetired()
	apply(t, s, &model.Update{Services: []model.Service{unit("web", 80, 1)}})
	if after := frontend(t, s, 1).Port; after == before {
		t.Error("a Service that was removed and made anew has its old port")
	}
}

func TestAPartialUpdateChangesWhatItNames(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{
		Full:      true,
		Services:  []model.Service{unit("web", 80, 1), unit("api", 80, 2)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1"), endpoints("api", 80, "10.0.0.2:1")},
	})
	apply(t, s, &model.Update{
		Version:         2,
		RemovedServices: []model.ServiceKey{serviceKey("api")}, RemovedEndpoints: []model.EndpointsKey{endpointsKey("api", 80)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.3:1")},
	})
	s.forgetRetired()
	frontend(t, s, 1)
	if _, ok := s.Frontend(2); ok {
		t.Error("a removed Service is in force")
	}
	if got := addressesOf(s, "web", 80); !slices.Equal(got, []string{"10.0.0.3:1"}) {
		t.Errorf("endpoints %v", got)
	}
	if s.cfg.Registry.Set(endpointsKey("api", 80)).Known() {
		t.Error("a removed endpoint set is known")
	}
}

func TestWhatAFullUpdateDoesNotNameIsGone(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{
		Full:      true,
		Services:  []model.Service{unit("web", 80, 1), unit("api", 80, 2)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1"), endpoints("api", 80, "10.0.0.2:1")},
	})
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("api", 80, 2)}, Endpoints: []model.EndpointSet{endpoints("api", 80, "10.0.0.2:1")}})
	s.forgetRetired()
	if _, ok := s.Frontend(1); ok {
		t.Error("a Service that a full Update does not name is in force")
	}
	frontend(t, s, 2)
	if known := s.cfg.Registry.Known(); !slices.Equal(known, []model.EndpointsKey{endpointsKey("api", 80)}) {
		t.Errorf("known endpoint sets: %v", known)
	}
}

// A unit that does not validate is refused by itself: its previous version serves on, everything else is in force.
func TestARefusedUnitKeepsItsPreviousVersion(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{
		Full:      true,
		Services:  []model.Service{unit("web", 80, 1), unit("api", 80, 2)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1")},
	})
	port := frontend(t, s, 1).Port
	bad := unit("web", 80, 1)
	bad.Ports[0].Producer = &model.RouteTable{Rules: []model.Rule{{}}}
	badSet := endpoints("web", 80, "10.0.0.9:1", "10.0.0.9:1")
	refused := s.Apply(&model.Update{
		Version: 2, Services: []model.Service{bad, unit("api", 81, 3)},
		Endpoints: []model.EndpointSet{badSet, endpoints("api", 81, "10.0.0.2:1")},
	})
	web, webSet := serviceKey("web"), endpointsKey("web", 80)
	want := []model.Refusal{{Endpoints: &webSet}, {Service: &web}}
	if diff := cmp.Diff(want, refused, cmpopts.IgnoreFields(model.Refusal{}, "Reason")); diff != "" {
		t.Fatalf("-want +refused\n%s", diff)
	}
	for i, reason := range []string{"endpoints[1].address: 10.0.0.9:1 is there twice", "ports[0].producer.rules[0].route"} {
		if !strings.Contains(refused[i].Reason, reason) {
			t.Errorf("reason %q does not say %q", refused[i].Reason, reason)
		}
	}
	if frontend(t, s, 1).Port != port || frontend(t, s, 3).Number != 81 {
		t.Error("the previous version, or what else there was, is not in force")
	}
	if got := addressesOf(s, "web", 80); !slices.Equal(got, []string{"10.0.0.1:1"}) {
		t.Errorf("endpoints %v", got)
	}
	if s.Refused() != 2 || s.Version() != 2 || len(s.Dump().Refused) != 2 {
		t.Errorf("%d refused, version %d", s.Refused(), s.Version())
	}
	apply(t, s, &model.Update{Services: []model.Service{unit("web", 80, 1)}, RemovedEndpoints: []model.EndpointsKey{webSet}})
	if s.Refused() != 0 {
		t.Errorf("%d refused after the units were mended or removed: %+v", s.Refused(), s.Dump().Refused)
	}
}

// In a full Update the refused unit is named, so it is not gone.
func TestAFullUpdateThatIsRefusedInPart(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}, Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1")}})
	bad := unit("web", 80, 1)
	bad.Ports[0].Number = 0
	if refused := s.Apply(&model.Update{Full: true, Services: []model.Service{bad}, Endpoints: []model.EndpointSet{endpoints("web", 80, "0.0.0.0:1")}}); len(refused) != 2 {
		t.Fatalf("refused %+v", refused)
	}
	frontend(t, s, 1)
	if got := addressesOf(s, "web", 80); !slices.Equal(got, []string{"10.0.0.1:1"}) {
		t.Errorf("endpoints %v", got)
	}
}

func TestAnIDBelongsToOneService(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}})
	port := frontend(t, s, 1).Port
	refused := s.Apply(&model.Update{Services: []model.Service{unit("api", 90, 1)}})
	if len(refused) != 1 || *refused[0].Service != serviceKey("api") || !strings.Contains(refused[0].Reason, "that of Service shop/web") {
		t.Fatalf("refused %+v", refused)
	}
	if frontend(t, s, 1).Port != port {
		t.Error("the id went to the other Service")
	}
}

// An id that one Service gives up and another one gets in the same Update goes over, in whatever order they are named.
func TestAnIDGoesToAnotherService(t *testing.T) {
	for _, order := range [][]model.Service{
		{unit("api", 90, 1), unit("web", 80, 3)},
		{unit("web", 80, 3), unit("api", 90, 1)},
		{unit("a", 70, 2), unit("api", 90, 1), unit("web", 80, 3)}, // a chain
	} {
		s := newState(t, nil)
		apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1), unit("api", 90, 2)}})
		if refused := s.Apply(&model.Update{Services: order}); len(refused) > 0 {
			t.Errorf("refused %+v", refused)
		}
		if frontend(t, s, 1).Number != 90 {
			t.Error("id 1 is not api's")
		}
	}
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}})
	apply(t, s, &model.Update{RemovedServices: []model.ServiceKey{serviceKey("web")}, Services: []model.Service{unit("api", 90, 1)}})
	if frontend(t, s, 1).Number != 90 {
		t.Error("the id of a removed Service did not go over")
	}
}

// A set that no table refers to and nobody tells of is forgotten; one that a table refers to is not, because the table
// would not see its endpoints come back.
func TestEndpointSetsAreForgotten(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1)}})
	set := s.cfg.Registry.Set(endpointsKey("web", 80)) // of the table
	apply(t, s, &model.Update{Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1")}})
	apply(t, s, &model.Update{RemovedEndpoints: []model.EndpointsKey{endpointsKey("web", 80)}})
	if s.cfg.Registry.Set(endpointsKey("web", 80)) != set {
		t.Error("a set that a table refers to was forgotten")
	}
	apply(t, s, &model.Update{RemovedServices: []model.ServiceKey{serviceKey("web")}})
	s.forgetRetired()
	if s.cfg.Registry.Set(endpointsKey("web", 80)) == set {
		t.Error("a set that nobody needs is kept")
	}
}

func TestModelsAreWhatIsInForce(t *testing.T) {
	s := newState(t, nil)
	apply(t, s, &model.Update{Full: true, Services: []model.Service{unit("web", 80, 1), unit("api", 90, 2)}})
	for range 2 { // the second time it keeps what its connections have
		fds, _ := podDescriptors(t)
		applyPods(t, s, &model.Pods{Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	}
	pods, services := s.Models()
	if len(pods) != 1 || pods[0] != s.current.Load().pods["a"].Serving.Pod {
		t.Errorf("pods %+v: want the one that connections have", pods)
	}
	if len(services) != 2 {
		t.Errorf("%d services", len(services))
	}
}

func TestDump(t *testing.T) {
	s := newState(t, nil)
	web := unit("web", 80, 1)
	route := model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "all"}
	rule := model.Rule{Route: route, Matches: []model.Match{{Path: model.PathMatch{Type: model.PathPrefix, Value: "/"}}}}
	web.Ports[0].AppProtocol = "http"
	call := model.Rule{Route: route, Matches: []model.Match{{RPC: &model.RPCMatch{}}}}
	web.Ports[0].Producer = &model.RouteTable{Explicit: true, GRPC: true, Rules: []model.Rule{call, call}}
	web.Ports[0].Consumers = map[string]*model.RouteTable{"far": {Rules: []model.Rule{rule}}}
	apply(t, s, &model.Update{
		Version: 3, Full: true, Services: []model.Service{web, unit("api", 90, 2)},
		Endpoints: []model.EndpointSet{endpoints("web", 80, "10.0.0.1:1")},
	})
	fds, _ := podDescriptors(t)
	applyPods(t, s, &model.Pods{Version: 4, Added: []model.EnrolledPod{pod("a", model.IPv4)}}, fds)
	s.cfg.Registry.Set(endpointsKey("web", 80)).Endpoints()[0].Acquire()

	d := s.Dump()
	if d.Version != 4 || len(d.Services) != 2 || d.Services[0].Service != "shop/api" || len(d.Refused) != 0 {
		t.Fatalf("%+v", d)
	}
	tables := d.Services[1].Ports[0].Tables
	if d.Services[1].Ports[0].AppProtocol != "http" || len(tables) != 2 || tables[0].GRPC || !tables[1].GRPC || tables[0].Namespace != "far" || tables[1].Namespace != "" {
		t.Errorf("%+v", d.Services[1])
	}
	if len(tables) != 2 || tables[0].Clients != "namespace far" || tables[1].Clients != "all other namespaces" || !tables[1].Explicit ||
		!slices.Equal(tables[1].Routes, []string{"HTTPRoute shop/all"}) || len(tables[1].Rules) != 2 {
		t.Errorf("tables %+v", tables)
	}
	if e := d.Endpoints; len(e) != 1 || e[0].Set != "shop/web:80" || e[0].Endpoints[0].Outstanding != 1 {
		t.Errorf("endpoints %+v", e)
	}
	if p := d.Pods; len(p) != 1 || p[0].Name != "a" || !slices.Equal(p[0].Families, []model.Family{model.IPv4}) {
		t.Errorf("pods %+v", p)
	}
}

// Whoever explains what is in force has nothing but the dump.
func TestDumpHasAllOfTheModel(t *testing.T) {
	for _, c := range []struct{ model, dump reflect.Type }{
		{reflect.TypeFor[model.Port](), reflect.TypeFor[PortDump]()},
		{reflect.TypeFor[model.RouteTable](), reflect.TypeFor[TableDump]()},
		{reflect.TypeFor[model.EndpointSet](), reflect.TypeFor[EndpointsDump]()},
	} {
		for f := range c.model.Fields() {
			name := f.Name
			if other, renamed := map[string]string{"Producer": "Tables", "Consumers": "Tables", "EndpointsKey": "Set"}[name]; renamed {
				name = other
			}
			if _, shown := c.dump.FieldByName(name); !shown {
				t.Errorf("%s does not show %s.%s", c.dump, c.model, f.Name)
			}
		}
	}
}

// newState makes a State whose loop runs, and which lets go of pods soon.
func newState(t *testing.T, accept func(fd int, pod *Pod)) *State {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	loop, err := inbound.New(func(bool) {}, log)
	if err != nil {
		t.Fatal(err)
	}
	pools := upstream.NewPools(upstream.Limits{})
	s := New(Config{Registry: upstream.NewRegistry(pools), Pools: pools, Inbound: loop, Accept: accept, Log: log})
	s.replacedLinger, s.endGrace, s.retireFor = 50*time.Millisecond, 50*time.Millisecond, 0
	t.Cleanup(func() {
		s.Close()
		if err := loop.Free(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func apply(t *testing.T, s *State, u *model.Update) {
	t.Helper()
	if refused := s.Apply(u); len(refused) > 0 {
		t.Fatalf("refused: %+v", refused)
	}
}

func frontend(t *testing.T, s *State, id uint32) Frontend {
	t.Helper()
	f, ok := s.Frontend(id)
	if !ok {
		t.Fatalf("frontend %d is not in force", id)
	}
	return f
}

func serviceKey(name string) model.ServiceKey {
	return model.ServiceKey{Namespace: "shop", Name: name}
}

func endpointsKey(name string, port uint16) model.EndpointsKey {
	return model.EndpointsKey{Namespace: "shop", Name: name, Port: port}
}

// unit is a Service with one port and a frontend for each id.
func unit(name string, port uint16, ids ...uint32) model.Service {
	p := model.Port{Number: port, Default: endpointsKey(name, port)}
	for _, id := range ids {
		p.Frontends = append(p.Frontends, model.Frontend{ID: id, Address: netip.MustParseAddr(fmt.Sprintf("10.96.0.%d", id))})
	}
	return model.Service{ServiceKey: serviceKey(name), Ports: []model.Port{p}}
}

func endpoints(name string, port uint16, addresses ...string) model.EndpointSet {
	set := model.EndpointSet{EndpointsKey: endpointsKey(name, port)}
	for _, a := range addresses {
		set.Endpoints = append(set.Endpoints, model.Endpoint{Address: netip.MustParseAddrPort(a)})
	}
	return set
}

func addressesOf(s *State, name string, port uint16) (addresses []string) {
	for _, e := range s.cfg.Registry.Set(endpointsKey(name, port)).Endpoints() {
		addresses = append(addresses, e.Address.String())
	}
	return addresses
}
