package explain

import (
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/cli/text"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/router"
)

// Reason is why a rule, or a whole route, does not decide about a request.
type Reason string

// The reasons.
const (
	NoMatch      Reason = "no_match"      // a condition does not hold
	LessSpecific Reason = "less_specific" // it matches, and another match is more specific
	Later        Reason = "later"         // it matches as specifically, and another rule comes first
	NoCall       Reason = "no_call"       // it is for calls of gRPC, and the request is none
	LeftOut      Reason = "left_out"      // the rule cannot be implemented
	OtherPort    Reason = "other_port"    // the route names other ports
	OtherClients Reason = "other_clients" // it is a consumer route of another namespace
	Replaced     Reason = "replaced"      // the client's namespace has routes of its own
	OtherKind    Reason = "other_kind"    // another kind of route has the port
	NotAccepted  Reason = "not_accepted"  // the route is not in force
	NoRules      Reason = "no_rules"      // it has none
)

// Other is a rule that does not decide, or a route none of whose rules does.
type Other struct {
	Route  model.RouteRef `json:"route"`
	Rule   *int           `json:"rule,omitempty"` // in its route; nil: all of them
	Name   string         `json:"name,omitempty"`
	Reason Reason         `json:"reason"`
	Why    []string       `json:"why"` // in words; for no_match one for each of its matches
}

func (o *Other) write(t *text.Page) {
	subject := o.Route.String()
	if o.Rule != nil {
		subject += ", " + label(*o.Rule, o.Name)
	}
	if len(o.Why) == 1 {
		t.Line(2, "%s: %s", subject, o.Why[0])
		return
	}
	t.Line(2, "%s:", subject)
	t.Lines(4, o.Why)
}

// losers are the rules of the table that do not decide, in its order.
func losers(t *model.RouteTable, e router.Explanation) []Other {
	var all []Other
	for i := range t.Rules {
		if i == e.Rule {
			continue
		}
		r := &t.Rules[i]
		o := Other{Route: r.Route, Rule: &r.Index, Name: r.Name, Reason: NoMatch}
		if e.NoCall {
			o.Reason, o.Why = NoCall, []string{"it is for calls of gRPC only"}
		}
		alternatives := slices.DeleteFunc(slices.Clone(e.Alternatives), func(a router.Alternative) bool { return a.Rule != i })
		if held := slices.IndexFunc(alternatives, func(a router.Alternative) bool { return len(a.Misses) == 0 }); held >= 0 {
			o.outdone(t, e, &alternatives[held])
			all = append(all, o)
			continue
		}
		slices.SortFunc(alternatives, func(a, b router.Alternative) int { return a.Match - b.Match })
		for _, a := range alternatives {
			o.Why = append(o.Why, describeMisses(&r.Matches[a.Match], a.Misses))
		}
		all = append(all, o)
	}
	return all
}

// outdone tells why a rule that matches is not the one.
func (o *Other) outdone(t *model.RouteTable, e router.Explanation, a *router.Alternative) {
	winner, rule := &t.Rules[e.Rule], &t.Rules[a.Rule]
	why := "matches too, but " + describeLost(a.Lost, &winner.Matches[e.Match], &rule.Matches[a.Match])
	o.Reason = LessSpecific
	if a.Lost == router.ByOrder {
		o.Reason = Later
		why = fmt.Sprintf("matches as specifically, but %s of the same route comes first", label(winner.Index, winner.Name))
		if winner.Route != rule.Route {
			why = fmt.Sprintf("matches as specifically, but %s goes first: the older route does, or the first by namespace/name", winner.Route)
		}
	}
	if rule.Fail != nil {
		why += fmt.Sprintf("; it would answer %d: %s", rule.Fail.Status, rule.Fail.Reason)
	}
	o.Why = []string{why}
}

// others are the routes of the Service that are not in the table that applies, and the rules that those in it have left out. In the
// order of the statuses.
func others(v *inforce.View, q Question, table *model.RouteTable, port *model.Port) []Other {
	var all []Other
	for i := range v.Routes {
		r := &v.Routes[i]
		if rules := rulesOf(table, r.Route); len(rules) > 0 {
			all = append(all, leftOutOf(r, q.Service, rules)...)
			continue
		}
		var best *Other
		for j := range r.Parents {
			p := &r.Parents[j]
			if parentOf(r.Route, &p.ParentRef) != q.Service {
				continue
			}
			o := absent(r.Route, p, q, table, port)
			if best == nil || best.Reason == OtherPort { // what it is on this port tells more
				best = &o
			}
		}
		if best != nil {
			all = append(all, *best)
		}
	}
	return all
}

// leftOutOf are the rules of a route that applies which are not in force.
func leftOutOf(r *compile.RouteStatus, service model.ServiceKey, in []model.Rule) []Other {
	var all []Other
	for i := range r.Parents {
		if parentOf(r.Route, &r.Parents[i].ParentRef) != service || len(all) > 0 {
			continue
		}
		for _, rule := range leftOut(r.Parents[i].Conditions, in) {
			all = append(all, Other{r.Route, &rule.Index, rule.Name, LeftOut, []string{"left out: " + rule.LeftOut}})
		}
	}
	return all
}

// absent tells why a route that names the Service is not in the table.
func absent(route model.RouteRef, p *gatewayv1.RouteParentStatus, q Question, table *model.RouteTable, port *model.Port) Other {
	o := Other{Route: route, Reason: NotAccepted}
	refused := notAccepted(p.Conditions)
	producer := route.Namespace == q.Service.Namespace
	_, consumed := port.Consumers[q.Namespace]
	var why string
	switch {
	case !selects(&p.ParentRef, port):
		o.Reason, why = OtherPort, "it names "+describePorts(&p.ParentRef)
		if refused != "" {
			why += ", and is not accepted: " + refused
		}
	case !producer && route.Namespace != q.Namespace:
		o.Reason, why = OtherClients, "it applies to clients in namespace "+route.Namespace+" only"
	case producer && consumed:
		o.Reason, why = Replaced, fmt.Sprintf("routes of namespace %s take the place of the Service's own for clients there", q.Namespace)
	case table != nil && table.GRPC != (route.Kind == "GRPCRoute"):
		o.Reason, why = OtherKind, fmt.Sprintf("on port %d a GRPCRoute goes before it: %s", port.Number, owner(table))
	case refused != "":
		why = "not accepted: " + refused
	case table != nil:
		o.Reason, why = NoRules, "it has no rules"
	default:
		why = fmt.Sprintf("not in force on port %d: %s", port.Number, accepted(p.Conditions))
	}
	o.Why = []string{why}
	return o
}
