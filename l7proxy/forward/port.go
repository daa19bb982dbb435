// Package forward takes what clients send to where the routes say: one exchange of HTTP from request to response, or a
// connection's bytes where they are no HTTP.
package forward

import (
	"fmt"
	"sync/atomic"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/router"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
	"github.com/sluice-mesh/sluice/l7proxy/weighted"
)

// Port is one port of a Service that is in force. Connections keep it, and each request takes what is in it then.
type Port struct {
	current atomic.Pointer[port]

	// serverFirst: on this port the server spoke first, so clients that are silent are not waited for again.
	serverFirst atomic.Bool

	// retired: the port is not redirected any more. What is open on it is to end, so that it comes back direct.
	retired atomic.Bool
}

// Service is a compiled model.Service.
type Service struct{ ports map[uint16]*port }

// port is compiled, and never edited.
type port struct {
	service   model.ServiceKey
	number    uint16
	host      string // of requests that name none
	protocol  protocolHint
	fallback  *upstream.Set // the Service's own endpoints
	producer  *table
	consumers map[string]*table
}

// table is a compiled model.RouteTable.
type table struct {
	match    *router.Table
	rules    []rule
	explicit bool
	grpc     bool // the rules are those of GRPCRoutes
}

type rule struct {
	model    *model.Rule
	filters  filter.Chain
	choice   weighted.Choice
	mirrors  []mirror
	backends []backend
}

type backend struct {
	model     *model.Backend
	endpoints *upstream.Set // nil: invalid
	filters   filter.Chain
}

// Compile compiles a Service, which has passed its validation. Set returns the endpoint set of a key; it is called once
// or more for each that the Service names.
func Compile(unit *model.Service, set func(model.EndpointsKey) *upstream.Set) (*Service, error) {
	s := &Service{ports: make(map[uint16]*port, len(unit.Ports))}
	for i := range unit.Ports {
		p, err := compilePort(unit.ServiceKey, &unit.Ports[i], set)
		if err != nil {
			return nil, fmt.Errorf("ports[%d].%w", i, err)
		}
		s.ports[p.number] = p
	}
	return s, nil
}

func compilePort(service model.ServiceKey, m *model.Port, set func(model.EndpointsKey) *upstream.Set) (*port, error) {
	p := &port{service: service, number: m.Number, host: service.Name + "." + service.Namespace, protocol: hintOf(m.AppProtocol, m.Name), fallback: set(m.Default)}
	if m.Producer != nil {
		t, err := compileTable(m.Producer, set)
		if err != nil {
			return nil, fmt.Errorf("producer.%w", err)
		}
		p.producer = t
	}
	for ns, rt := range m.Consumers {
		t, err := compileTable(rt, set)
		if err != nil {
			return nil, fmt.Errorf("consumers[%q].%w", ns, err)
		}
		if p.consumers == nil {
			p.consumers = map[string]*table{}
		}
		p.consumers[ns] = t
	}
	return p, nil
}

func compileTable(m *model.RouteTable, set func(model.EndpointsKey) *upstream.Set) (*table, error) {
	match, err := router.Compile(m)
	if err != nil {
		return nil, err
	}
	t := &table{match: match, explicit: m.Explicit, grpc: m.GRPC, rules: make([]rule, len(m.Rules))}
	for i := range m.Rules {
		if t.rules[i], err = compileRule(&m.Rules[i], set); err != nil {
			return nil, fmt.Errorf("rules[%d].%w", i, err)
		}
	}
	return t, nil
}

func compileRule(m *model.Rule, set func(model.EndpointsKey) *upstream.Set) (rule, error) {
	r := rule{model: m, backends: make([]backend, len(m.Backends))}
	var err error
	if r.filters, err = filter.Compile(m.Filters); err != nil {
		return r, err
	}
	weights := make([]uint32, len(m.Backends))
	for i := range m.Backends {
		b := &m.Backends[i]
		weights[i] = b.Weight
		r.backends[i].model = b
		if b.Invalid == "" {
			r.backends[i].endpoints = set(b.Endpoints)
		}
		if r.backends[i].filters, err = filter.Compile(b.Filters); err != nil {
			return r, fmt.Errorf("backends[%d].%w", i, err)
		}
	}
	r.choice = weighted.New(weights)
	r.mirrors = mirrorsOf(&r, set)
	return r, nil
}

// NewPort brings a port of a compiled Service into force. The Service has that port.
func NewPort(s *Service, number uint16) *Port {
	p := &Port{}
	p.current.Store(s.ports[number])
	return p
}

// Swap brings a new version of the port into force, also when it was retired. A port that s does not have stays as it is.
func (p *Port) Swap(s *Service) {
	if next := s.ports[p.current.Load().number]; next != nil {
		p.current.Store(next)
		p.retired.Store(false)
	}
}

// table is the one that applies to a client of the namespace, nil when none does.
func (p *port) table(clientNamespace string) *table {
	if p.consumers != nil {
		if t, ok := p.consumers[clientNamespace]; ok {
			return t
		}
	}
	return p.producer
}
