package explain

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/cli/text"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Report is what there is to say of all routes.
type Report struct {
	Source   string   `json:"source"`
	Good     bool     `json:"good"` // all conditions are as they should be, and there are no problems
	Routes   []Route  `json:"routes"`
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Route is one route.
type Route struct {
	model.RouteRef
	Parents []Parent `json:"parents"` // in the order of the route
}

// Parent is a Service that the route is to be bound to.
type Parent struct {
	Service    string      `json:"service"`
	Selects    string      `json:"selects"` // which ports, in words
	Ports      []uint16    `json:"ports"`   // those on which it applies
	Lost       []Lost      `json:"lost,omitempty"`
	Consumer   bool        `json:"consumer,omitempty"`
	Clients    string      `json:"clients"` // whom it applies to, in words
	Conditions []Condition `json:"conditions"`
	Rules      []Rule      `json:"rules"`
}

// Lost is a port that routes of another kind have.
type Lost struct {
	Port uint16 `json:"port"`
	To   string `json:"to"`
}

// Condition is one condition of a parent.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Routes tells of the routes that wanted picks.
func Routes(v *inforce.View, wanted func(model.RouteRef) bool) *Report {
	r := &Report{Source: v.Source, Good: len(v.Problems) == 0, Routes: []Route{}, Problems: v.Problems, Warnings: v.Warnings}
	for i := range v.Routes {
		status := &v.Routes[i]
		if !wanted(status.Route) {
			continue
		}
		route := Route{RouteRef: status.Route}
		for j := range status.Parents {
			route.Parents = append(route.Parents, describeParent(v, status, &status.Parents[j]))
			for k := range status.Parents[j].Conditions {
				r.Good = r.Good && isGood(&status.Parents[j].Conditions[k])
			}
		}
		r.Routes = append(r.Routes, route)
	}
	return r
}

func describeParent(v *inforce.View, status *compile.RouteStatus, from *gatewayv1.RouteParentStatus) Parent {
	key := parentOf(status.Route, &from.ParentRef)
	p := Parent{
		Service: key.String(), Selects: describePorts(&from.ParentRef), Ports: []uint16{}, Rules: []Rule{},
		Consumer: status.Route.Namespace != key.Namespace, Clients: "every client",
	}
	for _, c := range from.Conditions {
		p.Conditions = append(p.Conditions, Condition{c.Type, string(c.Status), c.Reason, c.Message})
	}
	if p.Consumer {
		p.Clients = "clients in namespace " + status.Route.Namespace
	}
	rules := p.place(v.Service(key), status.Route, from)
	for i := range rules {
		p.Rules = append(p.Rules, describeRule(v, &rules[i], rules[i].Route.Kind == "GRPCRoute"))
	}
	p.Rules = append(p.Rules, leftOut(from.Conditions, rules)...)
	slices.SortStableFunc(p.Rules, func(a, b Rule) int { return cmp.Compare(a.Index, b.Index) })
	return p
}

// place finds the ports on which the route applies, and its rules, which are the same on all of them.
func (p *Parent) place(s *model.Service, route model.RouteRef, from *gatewayv1.RouteParentStatus) []model.Rule {
	if s == nil {
		return nil
	}
	var rules []model.Rule
	replaced := map[string]bool{}
	for i := range s.Ports {
		port := &s.Ports[i]
		if !selects(&from.ParentRef, port) {
			continue
		}
		table := port.Producer
		if p.Consumer {
			table = port.Consumers[route.Namespace]
		}
		if table == nil {
			continue
		}
		otherKind := table.GRPC != (route.Kind == "GRPCRoute")
		switch found := rulesOf(table, route); {
		case len(found) > 0, !otherKind && notAccepted(from.Conditions) == "": // one without rules applies too
			rules = found
			p.Ports = append(p.Ports, port.Number)
			for namespace := range port.Consumers {
				replaced[namespace] = !p.Consumer
			}
		case otherKind:
			p.Lost = append(p.Lost, Lost{port.Number, owner(table)})
		}
	}
	if len(replaced) > 0 && !p.Consumer {
		p.Clients = "every client, except where namespaces have routes of their own: " + strings.Join(slices.Sorted(maps.Keys(replaced)), ", ")
	}
	return rules
}

// owner is the route that has a table's port.
func owner(t *model.RouteTable) string {
	switch {
	case len(t.Rules) > 0:
		return t.Rules[0].Route.String()
	case t.GRPC:
		return "a GRPCRoute without rules"
	}
	return "another route"
}

// String is the report for people.
func (r *Report) String() string {
	t := &text.Page{}
	t.Line(0, "From %s", r.Source)
	if len(r.Routes) == 0 {
		t.Blank()
		t.Line(0, "no route has a Service for a parent")
	}
	for i := range r.Routes {
		t.Blank()
		t.Line(0, "%s", r.Routes[i].RouteRef)
		for j := range r.Routes[i].Parents {
			r.Routes[i].Parents[j].write(t)
		}
	}
	t.List("Problems:", r.Problems)
	t.List("Warnings:", r.Warnings)
	return t.String()
}

func (p *Parent) write(t *text.Page) {
	if len(p.Ports) > 0 {
		t.Line(2, "applies to Service %s, port %s, for %s", p.Service, numbers(p.Ports), p.Clients)
	} else {
		t.Line(2, "applies to no port of Service %s; it names %s", p.Service, p.Selects)
	}
	for _, c := range p.Conditions {
		t.Line(4, "%s=%s (%s): %s", c.Type, c.Status, c.Reason, c.Message)
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.LeftOut != "" {
			t.Line(4, "%s is left out: %s", label(r.Index, r.Name), r.LeftOut)
			continue
		}
		t.Line(4, "%s: %s", label(r.Index, r.Name), r.Matches[0])
		for _, m := range r.Matches[1:] {
			t.Line(6, "or %s", m)
		}
		r.write(t, 6)
	}
}
