package compile_test

import (
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
)

// grpcRoute is bound to the Services that its parents name. It has no time, so it is older than what after makes younger.
func grpcRoute(key string, parents []gatewayv1.ParentReference, rules ...gatewayv1.GRPCRouteRule) *gatewayv1.GRPCRoute {
	r := &gatewayv1.GRPCRoute{ObjectMeta: meta(key), Spec: gatewayv1.GRPCRouteSpec{Rules: rules}}
	r.Spec.ParentRefs = parents
	return r
}

// calls sends the calls of a service to port 80 of Services.
func calls(name string, backends ...string) gatewayv1.GRPCRouteRule {
	r := gatewayv1.GRPCRouteRule{Matches: []gatewayv1.GRPCRouteMatch{rpc("Exact", name, "")}}
	for _, b := range backends {
		r.BackendRefs = append(r.BackendRefs, gatewayv1.GRPCBackendRef{BackendRef: backend(b).BackendRef})
	}
	return r
}

// callsWith changes a rule of one backend, web.
func callsWith(edit func(*gatewayv1.GRPCRouteRule)) gatewayv1.GRPCRouteRule {
	r := calls("shop.Carts", "shop/web")
	edit(&r)
	return r
}

// rpc is a match of names; "" is one that the route does not have.
func rpc(t gatewayv1.GRPCMethodMatchType, service, method string) gatewayv1.GRPCRouteMatch {
	m := gatewayv1.GRPCMethodMatch{Type: &t}
	if service != "" {
		m.Service = &service
	}
	if method != "" {
		m.Method = &method
	}
	return gatewayv1.GRPCRouteMatch{Method: &m}
}

func metadata(name, value string, t ...gatewayv1.GRPCHeaderMatchType) gatewayv1.GRPCHeaderMatch {
	m := gatewayv1.GRPCHeaderMatch{Name: gatewayv1.GRPCHeaderName(name), Value: value}
	for _, t := range t {
		m.Type = &t
	}
	return m
}

func TestM30Calls(t *testing.T) {
	with := func(all ...gatewayv1.GRPCHeaderMatch) []gatewayv1.GRPCRouteMatch {
		return []gatewayv1.GRPCRouteMatch{{Headers: all}}
	}
	of := func(all ...gatewayv1.GRPCRouteMatch) []gatewayv1.GRPCRouteMatch { return all }
	untyped := gatewayv1.GRPCRouteMatch{Method: &gatewayv1.GRPCMethodMatch{Service: new("a.B")}}
	both := rpc("Exact", "a.B", "C")
	both.Headers = append(both.Headers, metadata("X", "1"))
	for name, c := range map[string]struct {
		in   []gatewayv1.GRPCRouteMatch
		want string // JSON of the model's matches, or
		bad  string // why the rule is dropped
	}{
		"M-30: service and method":       {of(rpc("Exact", "a.B", "C")), `[{"rpc":{"type":"Exact","service":"a.B","method":"C"}}]`, ""},
		"M-31: service":                  {of(rpc("Exact", ".a.B", "")), `[{"rpc":{"type":"Exact","service":".a.B"}}]`, ""},
		"M-32: method":                   {of(rpc("Exact", "", "C")), `[{"rpc":{"type":"Exact","method":"C"}}]`, ""},
		"M-33: exact is the default":     {of(untyped), `[{"rpc":{"type":"Exact","service":"a.B"}}]`, ""},
		"M-33: expressions":              {of(rpc("RegularExpression", "a/.*", "C+")), `[{"rpc":{"type":"RegularExpression","service":"a/.*","method":"C+"}}]`, ""},
		"M-33: an exact name is none":    {of(rpc("Exact", "(", "[")), `[{"rpc":{"type":"Exact","service":"(","method":"["}}]`, ""},
		"M-33: a slash":                  {of(rpc("Exact", "a/B", "")), "", `matches[0].method.service: "a/B" has a "/"`},
		"M-33: neither":                  {of(rpc("Exact", "", "")), "", "matches[0].method: neither a service nor a method"},
		"M-33: neither, of expressions":  {of(rpc("RegularExpression", "", "")), "", "matches[0].method: neither a service nor a method"},
		"M-13: a service's expression":   {of(rpc("RegularExpression", "(?=a)", "")), "", "matches[0].method.service: error parsing regexp"},
		"M-13: a method's expression":    {of(rpc("Exact", "a", ""), rpc("RegularExpression", "a", "b)(c")), "", "matches[1].method.method: error parsing regexp"},
		"M-20: a type of tomorrow":       {of(rpc("Glob", "*", "")), "", `matches[0].method: match type "Glob" is not known`},
		"M-20: a path's type":            {of(rpc("PathPrefix", "a", "")), "", `match type "PathPrefix" is not known`},
		"M-34: none":                     {nil, `[{"rpc":{}}]`, ""},
		"M-34: an empty one":             {of(gatewayv1.GRPCRouteMatch{}), `[{"rpc":{}}]`, ""},
		"M-34: metadata in lower case":   {with(metadata("X-Env", "Test")), `[{"rpc":{},"headers":[{"name":"x-env","type":"Exact","value":"Test"}]}]`, ""},
		"M-34: metadata by expression":   {with(metadata("x", "a|b", "RegularExpression")), `[{"rpc":{},"headers":[{"name":"x","type":"RegularExpression","value":"a|b"}]}]`, ""},
		"M-15: the first of a name":      {with(metadata("Foo", "1"), metadata("foo", "(", "RegularExpression")), `[{"rpc":{},"headers":[{"name":"foo","type":"Exact","value":"1"}]}]`, ""},
		"M-16: metadata's expression":    {with(metadata("x", "(", "RegularExpression")), "", "matches[0].headers[0]: error parsing regexp"},
		"M-20: metadata's type":          {with(metadata("x", "1"), metadata("y", "1", "Present")), "", `matches[0].headers[1]: match type "Present" is not known`},
		"M-10: alternatives, conditions": {of(both, rpc("Exact", "d", "")), `[{"rpc":{"type":"Exact","service":"a.B","method":"C"},"headers":[{"name":"x","type":"Exact","value":"1"}]},{"rpc":{"type":"Exact","service":"d"}}]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			first := callsWith(func(r *gatewayv1.GRPCRouteRule) { r.Matches = c.in })
			res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web"), first, calls("other", "shop/web")))
			if !portOf(res, "shop/web", 80).Producer.GRPC {
				t.Error("the table is not one of GRPCRoutes")
			}
			if c.bad != "" {
				expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "shop/r.1")
				if got := message(res, "shop/r", gatewayv1.RouteConditionPartiallyInvalid); !strings.Contains(got, "rules[0] is left out: ") || !strings.Contains(got, c.bad) {
					t.Errorf("the message %q does not say %q", got, c.bad)
				}
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), good)
			got, err := json.Marshal(portOf(res, "shop/web", 80).Producer.Rules[0].Matches)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "matches", string(got), c.want)
		})
	}
}

// F-5, F-1: what is not supported is not skipped, as in an HTTPRoute.
func TestF5FiltersOfAGRPCRoute(t *testing.T) {
	filter := func(all ...gatewayv1.GRPCRouteFilter) func(*gatewayv1.GRPCRouteRule) {
		return func(r *gatewayv1.GRPCRouteRule) { r.Filters = all }
	}
	ofBackend := func(f gatewayv1.GRPCRouteFilter) func(*gatewayv1.GRPCRouteRule) {
		return func(r *gatewayv1.GRPCRouteRule) { r.BackendRefs[0].Filters = []gatewayv1.GRPCRouteFilter{f} }
	}
	set := gatewayv1.GRPCRouteFilter{Type: "RequestHeaderModifier", RequestHeaderModifier: setHeader("a", "b").RequestHeaderModifier}
	twice := gatewayv1.GRPCRouteFilter{Type: "RequestHeaderModifier", RequestHeaderModifier: &gatewayv1.HTTPHeaderFilter{Set: fields("a", "1"), Remove: []string{"A"}}}
	mirror := gatewayv1.GRPCRouteFilter{Type: "RequestMirror", RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{BackendRef: backend("shop/web").BackendObjectReference}}
	response := gatewayv1.GRPCRouteFilter{Type: "ResponseHeaderModifier", ResponseHeaderModifier: set.RequestHeaderModifier}
	tooMany := gatewayv1.GRPCRouteFilter{Type: "RequestMirror", RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{
		BackendRef: backend("shop/web").BackendObjectReference, Percent: new(int32(101)),
	}}
	for name, c := range map[string]struct {
		edit func(*gatewayv1.GRPCRouteRule)
		bad  string // "": it works
	}{
		"request headers":               {filter(set), ""},
		"request headers of a backend":  {ofBackend(set), ""},
		"F-11: one header twice":        {filter(twice), "filters[0]: header \"A\" is named by set and by remove"},
		"response headers":              {filter(response), ""},
		"response headers of a backend": {ofBackend(response), ""},
		"mirror":                        {filter(mirror), ""},
		"F-3: the same twice":           {filter(set, mirror, mirror, set), "filters[3]: there is another RequestHeaderModifier before it"},
		"F-51: of a mirror":             {filter(tooMany), "filters[0]: requestMirror.percent: 101 is not from 0 to 100"},
		"M-36: a redirect":              {filter(gatewayv1.GRPCRouteFilter{Type: "RequestRedirect"}), "filters[0]: filter RequestRedirect is none of a GRPCRoute's"},
		"M-36: a rewrite of a backend":  {ofBackend(gatewayv1.GRPCRouteFilter{Type: "URLRewrite"}), "backendRefs[0].filters[0]: filter URLRewrite is none of a GRPCRoute's"},
		"M-36: CORS":                    {filter(gatewayv1.GRPCRouteFilter{Type: "CORS"}), "filter CORS is none of a GRPCRoute's"},
		"M-20: of tomorrow":             {filter(gatewayv1.GRPCRouteFilter{Type: "Teleport"}), "filter Teleport"},
		"without its part":              {filter(gatewayv1.GRPCRouteFilter{Type: "RequestHeaderModifier"}), "has no requestHeaderModifier"},
		"F-6: of a backend":             {ofBackend(mirror), "backendRefs[0].filters[0]: filter RequestMirror"},
		"4.6: session persistence":      {func(r *gatewayv1.GRPCRouteRule) { r.SessionPersistence = &gatewayv1.SessionPersistence{} }, "sessionPersistence"}, //nolint:staticcheck // deprecated, and still in the experimental CRD
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web"), callsWith(c.edit), gatewayv1.GRPCRouteRule{}))
			expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "shop/r.0 shop/r.1")
			narrow := portOf(res, "shop/web", 80).Producer.Rules[0]
			if c.bad == "" {
				expect(t, "status", statusOf(res, "shop/r"), good)
				if narrow.Fail != nil || len(narrow.Backends) != 1 || len(narrow.Filters)+len(narrow.Backends[0].Filters) != 1 {
					t.Errorf("the rule is %+v", narrow)
				}
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), good+" PartiallyInvalid=True/UnsupportedValue")
			if got := message(res, "shop/r", gatewayv1.RouteConditionPartiallyInvalid); !strings.Contains(got, "rules[0] answers UNAVAILABLE: ") {
				t.Errorf("the message is %q", got)
			}
			if narrow.Fail == nil || narrow.Fail.Status != 500 || !strings.Contains(narrow.Fail.Reason, c.bad) || len(narrow.Filters)+len(narrow.Backends) != 0 {
				t.Errorf("the rule is %+v, its failure %+v", narrow, narrow.Fail)
			}
		})
	}
	res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web"), callsWith(filter(gatewayv1.GRPCRouteFilter{
		Type: "ExtensionRef", ExtensionRef: extension().ExtensionRef,
	}))))
	expect(t, "an extension", statusOf(res, "shop/r"), "Accepted=True/Accepted ResolvedRefs=False/InvalidKind")
	if r := onlyRule(t, res); r.Fail == nil || !strings.Contains(r.Fail.Reason, "rules[0].filters[0]: ExtensionRef to Auth strict") {
		t.Errorf("the rule's failure is %+v", r.Fail)
	}
}

// without rules a GRPCRoute is accepted and matches nothing: the port is its, and every call is UNIMPLEMENTED.
func TestA46AGRPCRouteWithoutRulesMatchesNothing(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web")))
	expect(t, "status", statusOf(res, "shop/r"), good)
	expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "")
	if !portOf(res, "shop/web", 80).Producer.GRPC {
		t.Error("the table is not one of GRPCRoutes")
	}
}

func TestB22AGRPCRuleWithoutBackends(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web"), calls("a")))
	expect(t, "status", statusOf(res, "shop/r"), good)
	if r := onlyRule(t, res); len(r.Backends) != 0 || r.Fail != nil {
		t.Errorf("the rule is %+v", r)
	}
}

// B-6 (C:MeshGRPCRouteWeight): a backend that is not there and has no weight takes nothing from the others.
func TestB6AnInvalidBackendWithoutWeightIsHarmless(t *testing.T) {
	r := calls("a", "shop/web", "shop/gone")
	r.BackendRefs[0].Weight, r.BackendRefs[1].Weight = new(int32(90)), new(int32(0))
	res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/r", to("shop/web"), r))
	expect(t, "status", statusOf(res, "shop/r"), "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
	if b := onlyRule(t, res).Backends; len(b) != 2 || b[0].Weight != 90 || b[0].Invalid != "" || b[1].Weight != 0 || b[1].Invalid == "" {
		t.Errorf("the backends are %+v", b)
	}
}

// a grant names the kind of the route.
func TestA95AGrantIsForOneKind(t *testing.T) {
	forGRPC := func(g *gatewayv1.ReferenceGrant) { g.Spec.From[0].Kind = "GRPCRoute" }
	all := func(g *gatewayv1.ReferenceGrant) []any {
		return []any{
			service("shop/web", "10.96.0.1"), service("shop/api", "10.96.0.2"), service("third/x", "10.96.0.3"), g,
			grpcRoute("shop/calls", to("shop/web"), calls("a", "third/x")), route("shop/requests", to("shop/api"), rule("/", backend("third/x"))),
		}
	}
	denied := "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted"
	res := result(t, all(grant("third", "shop"))...)
	expect(t, "GRPCRoute", statusOf(res, "shop/calls"), denied)
	expect(t, "HTTPRoute", statusOf(res, "shop/requests"), good)
	if got, want := message(res, "shop/calls", gatewayv1.RouteConditionResolvedRefs), "lets a GRPCRoute of namespace shop refer to Service x"; !strings.Contains(got, want) {
		t.Errorf("the message %q does not say %q", got, want)
	}
	res = result(t, all(grant("third", "shop", forGRPC))...)
	expect(t, "GRPCRoute", statusOf(res, "shop/calls"), good)
	expect(t, "HTTPRoute", statusOf(res, "shop/requests"), denied)
}

// a GRPCRoute's backends speak HTTP/2 whether they say so or not.
func TestA76AppProtocolOfAGRPCRoutesBackend(t *testing.T) {
	for protocol, want := range map[string]string{
		"": good, "kubernetes.io/h2c": good, "grpc": good, "http": good, "example.com/own": good,
		"kubernetes.io/ws":  "Accepted=True/Accepted ResolvedRefs=False/UnsupportedProtocol",
		"kubernetes.io/wss": "Accepted=True/Accepted ResolvedRefs=False/UnsupportedProtocol",
	} {
		web := service("shop/web", "10.96.0.1")
		if protocol != "" {
			web.Spec.Ports[0].AppProtocol = &protocol
		}
		res := result(t, web, grpcRoute("shop/r", to("shop/web"), calls("a", "shop/web")))
		expect(t, protocol, statusOf(res, "shop/r"), want)
	}
}

func TestA100HostnamesOfAGRPCRouteHaveNoEffect(t *testing.T) {
	r := grpcRoute("shop/r", to("shop/web"), calls("a", "shop/web"))
	r.Spec.Hostnames = []gatewayv1.Hostname{"example.com"}
	res := result(t, service("shop/web", "10.96.0.1"), r)
	expect(t, "status", statusOf(res, "shop/r"), good)
	expect(t, "message", message(res, "shop/r", gatewayv1.RouteConditionAccepted),
		"the route is bound to Service shop/web, port 80; hostnames have no effect where the parent is a Service: match the Host header instead")
}

const conflicted = "Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs"

// kindOf says which kind of route a client of a namespace meets at a port of shop/web.
func kindOf(res *compile.Result, number uint16, client string) string {
	p := portOf(res, "shop/web", number)
	switch {
	case p == nil || p.Table(client) == nil:
		return "direct"
	case p.Table(client).GRPC:
		return "GRPC " + tableOf(res, "shop/web", number, client)
	}
	return "HTTP " + tableOf(res, "shop/web", number, client)
}

// A-50, A-51 (checklist 16): GRPCRoutes go before HTTPRoutes, the oldest too.
func TestA50AGRPCRouteGoesBeforeAnOlderHTTPRoute(t *testing.T) {
	young := grpcRoute("shop/calls", to("shop/web"), calls("a", "shop/web"))
	young.CreationTimestamp = metav1.NewTime(after(100, route("x/x", nil)).CreationTimestamp.Time)
	old := after(0, route("shop/requests", to("shop/web"), rule("/", backend("shop/web"))))
	res := result(t, service("shop/web", "10.96.0.1"), old, young)
	expect(t, "port 80", kindOf(res, 80, "any"), "GRPC shop/calls.0")
	expect(t, "winner", statusOf(res, "shop/calls"), good)
	expect(t, "loser", statusOf(res, "shop/requests"), conflicted)
	expect(t, "loser's message", message(res, "shop/requests", gatewayv1.RouteConditionAccepted),
		"ignored on port 80 (taken by GRPCRoute shop/calls): on one port a GRPCRoute goes before an HTTPRoute")

	res = result(t, service("shop/web", "10.96.0.1"), old) // and when it goes, the other is back
	expect(t, "alone", kindOf(res, 80, "any"), "HTTP shop/requests.0")
	expect(t, "alone", statusOf(res, "shop/requests"), good)
}

// the conflict is per port.
func TestA52AnHTTPRouteKeepsThePortsThatItDidNotLose(t *testing.T) {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "grpc"), tcp(82, "grpc2"))
	res := result(t, web,
		route("shop/requests", append(to("shop/web"), to("shop/web", port(82))...), rule("/", backend("shop/web")), ruleWith("/b", badMatch)),
		grpcRoute("shop/calls", append(to("shop/web", port(81)), to("shop/web", section("grpc2"))...), calls("a", "shop/web")))
	expect(t, "port 80", kindOf(res, 80, "shop"), "HTTP shop/requests.0")
	expect(t, "port 81", kindOf(res, 81, "shop"), "GRPC shop/calls.0")
	expect(t, "port 82", kindOf(res, 82, "shop"), "GRPC shop/calls.0")
	expect(t, "status", statusOf(res, "shop/requests"), good+" PartiallyInvalid=True/UnsupportedValue; "+conflicted) // S-23: none where it is not accepted
	expect(t, "message", message(res, "shop/requests", gatewayv1.RouteConditionAccepted),
		"the route is bound to Service shop/web, port 80; ignored on port 81 (taken by GRPCRoute shop/calls), port 82 (taken by GRPCRoute shop/calls): "+
			"on one port a GRPCRoute goes before an HTTPRoute")
	if p := portOf(res, "shop/web", 82).Producer; !p.Explicit || portOf(res, "shop/web", 80).Producer.Explicit {
		t.Error("who names the port is not told from who does not")
	}
	res = result(t, web, route("shop/requests", to("shop/web", port(81)), rule("/", backend("shop/web"))), grpcRoute("shop/calls", to("shop/web")))
	if portOf(res, "shop/web", 81).Producer.Explicit { // the loser is ignored, in this too
		t.Error("a route that lost the port makes it explicit")
	}
}

// producers' and consumers' sets never serve the same client, so they do not conflict.
func TestA53EachSetHasAKindOfItsOwn(t *testing.T) {
	requests := func(key string) any { return route(key, to("shop/web"), rule("/", backend("shop/web"))) }
	called := func(key string) any { return grpcRoute(key, to("shop/web"), calls("a", "shop/web")) }
	res := result(t, service("shop/web", "10.96.0.1"), requests("shop/p"), called("buyer/c"), requests("buyer/h"), requests("zoo/h"))
	expect(t, "producer", kindOf(res, 80, "any"), "HTTP shop/p.0")
	expect(t, "buyer", kindOf(res, 80, "buyer"), "GRPC buyer/c.0")
	expect(t, "zoo", kindOf(res, 80, "zoo"), "HTTP zoo/h.0")
	for key, want := range map[string]string{"shop/p": good, "buyer/c": good, "buyer/h": conflicted, "zoo/h": good} {
		expect(t, key, statusOf(res, key), want)
	}
	res = result(t, service("shop/web", "10.96.0.1"), called("shop/p"), requests("buyer/h"))
	expect(t, "producer", kindOf(res, 80, "any"), "GRPC shop/p.0")
	expect(t, "buyer", kindOf(res, 80, "buyer"), "HTTP buyer/h.0")
	expect(t, "buyer's", statusOf(res, "buyer/h"), good)
}

// A-44, A-44b: what does not attach, or keeps no rule, takes no port. What only fails keeps its match, and so the port.
func TestA44AGRPCRouteThatIsAbsentTakesNoPort(t *testing.T) {
	dropped := callsWith(func(r *gatewayv1.GRPCRouteRule) { r.Matches = []gatewayv1.GRPCRouteMatch{rpc("Glob", "*", "")} })
	failed := callsWith(func(r *gatewayv1.GRPCRouteRule) { r.Filters = []gatewayv1.GRPCRouteFilter{{Type: "Teleport"}} })
	for name, c := range map[string]struct {
		calls    *gatewayv1.GRPCRoute
		takes    bool
		reported string
	}{
		"it selects no port":     {grpcRoute("shop/calls", to("shop/web", port(99)), calls("a")), false, noParent},
		"it is another's":        {grpcRoute("shop/calls", to("shop/api"), calls("a")), false, good},
		"all rules are dropped":  {grpcRoute("shop/calls", to("shop/web"), dropped), false, "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"},
		"all rules fail":         {grpcRoute("shop/calls", to("shop/web"), failed), true, "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"},
		"A-46: it has no rules":  {grpcRoute("shop/calls", to("shop/web")), true, good},
		"one rule of two is bad": {grpcRoute("shop/calls", to("shop/web"), dropped, calls("a")), true, good + " PartiallyInvalid=True/UnsupportedValue"},
	} {
		res := result(t, service("shop/web", "10.96.0.1"), service("shop/api", "10.96.0.2"), c.calls,
			route("shop/requests", to("shop/web"), rule("/", backend("shop/web"))))
		expect(t, name, statusOf(res, "shop/calls"), c.reported)
		kind, status := "HTTP", good
		if c.takes {
			kind, status = "GRPC", conflicted
		}
		if got := kindOf(res, 80, "shop"); !strings.HasPrefix(got, kind) {
			t.Errorf("%s: %s, want %s", name, got, kind)
		}
		expect(t, name, statusOf(res, "shop/requests"), status)
	}
	// A fault of its own is told before the conflict: correcting it is what the user can do.
	res := result(t, service("shop/web", "10.96.0.1"), grpcRoute("shop/calls", to("shop/web")), route("shop/requests", to("shop/web"), ruleWith("/", badMatch)))
	expect(t, "both", statusOf(res, "shop/requests"), "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs")
}

// routes of the winning kind merge, the oldest first.
func TestA23GRPCRoutesMergeInOrderOfAge(t *testing.T) {
	at := func(key string, seconds int64) *gatewayv1.GRPCRoute {
		r := grpcRoute(key, to("shop/web"), calls("a", "shop/web"), calls("b", "shop/web"))
		r.CreationTimestamp = after(seconds, route("x/x", nil)).CreationTimestamp
		return r
	}
	res := result(t, service("shop/web", "10.96.0.1"), at("shop/a", 5), at("shop/b", 1), at("shop/c", 1))
	expect(t, "rules", kindOf(res, 80, "shop"), "GRPC shop/b.0 shop/b.1 shop/c.0 shop/c.1 shop/a.0 shop/a.1")
}

// Routes of two kinds may have one name: their statuses are two.
func TestStatusesOfTwoKindsWithOneName(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rule("/")), grpcRoute("shop/r", to("shop/web"), calls("a")))
	var got []string
	for _, s := range res.Statuses {
		got = append(got, s.Route.String()+" "+s.Parents[0].Conditions[0].Reason)
	}
	expect(t, "statuses", strings.Join(got, ", "), "GRPCRoute shop/r Accepted, HTTPRoute shop/r Conflicted")
}
