package compile_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestB1WeightsAreKeptAsTheyAre(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), service("shop/v2", "10.96.0.2"),
		route("shop/r", to("shop/web"), rule("/",
			backend("shop/web"), backend("shop/v2", weight(90)), backend("shop/v2", weight(0)), // B-9: one twice
			backend("shop/web", weight(1_000_000)), backend("shop/gone", weight(7))))) // B-2
	var got []string
	for _, b := range onlyRule(t, res).Backends {
		got = append(got, fmt.Sprintf("%d %s/%s %v", b.Weight, b.Endpoints.Name, b.Invalid, b.Filters))
	}
	expect(t, "backends", strings.Join(got, "\n"), "1 web/ []\n90 v2/ []\n0 v2/ []\n1000000 web/ []\n7 /Service shop/gone is not there []")
}

func TestB1WeightsOutOfRangeDoNotCostTheService(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"),
		route("shop/r", to("shop/web"), rule("/", backend("shop/web", weight(-1)), backend("shop/web", weight(2_000_000)))))
	if b := onlyRule(t, res).Backends; b[0].Weight != 0 || b[1].Weight != model.MaxWeight {
		t.Errorf("the weights are %d and %d", b[0].Weight, b[1].Weight)
	}
}

// B-2, B-3, B-6: a reference that leads nowhere keeps its weight, whatever it is, and the route stays accepted (S-21).
func TestB2ReferencesThatLeadNowhere(t *testing.T) {
	ported := func(number int32, appProtocol string) *corev1.Service {
		s := service("shop/v2", "10.96.0.2", tcp(number, "http"))
		s.Spec.Ports[0].AppProtocol = &appProtocol
		return s
	}
	external := service("shop/v2", "")
	externalName(external)
	for name, c := range map[string]struct {
		others []any
		ref    gatewayv1.HTTPBackendRef
		reason gatewayv1.RouteConditionReason
		says   string
	}{
		"a kind that is no Service": {nil, backend("shop/v2", func(r *gatewayv1.HTTPBackendRef) {
			r.Kind = new(gatewayv1.Kind("Bucket"))
		}), "InvalidKind", "kind Bucket"},
		"A-80: a ServiceImport": {nil, backend("shop/v2", func(r *gatewayv1.HTTPBackendRef) {
			r.Group, r.Kind = new(gatewayv1.Group("multicluster.x-k8s.io")), new(gatewayv1.Kind("ServiceImport"))
		}), "InvalidKind", "ServiceImport.multicluster.x-k8s.io"},
		"a Service of another group": {[]any{service("shop/v2", "10.96.0.2")}, backend("shop/v2", func(r *gatewayv1.HTTPBackendRef) {
			r.Group = new(gatewayv1.Group("example.com"))
		}), "InvalidKind", "Service.example.com"},
		"not there":             {nil, backend("shop/v2"), "BackendNotFound", "Service shop/v2 is not there"},
		"A-71: no such port":    {[]any{service("shop/v2", "10.96.0.2")}, backend("shop/v2", toPort(8080)), "BackendNotFound", "no port 8080; it has 80 http"},
		"no port":               {[]any{service("shop/v2", "10.96.0.2")}, backend("shop/v2", func(r *gatewayv1.HTTPBackendRef) { r.Port = nil }), "BackendNotFound", "names no port"},
		"A-64: ExternalName":    {[]any{external}, backend("shop/v2"), "InvalidKind", "ExternalName"},
		"A-78: UDP":             {[]any{service("shop/v2", "10.96.0.2", udp(80, "http"))}, backend("shop/v2"), "UnsupportedProtocol", "is UDP, not TCP"},
		"A-75: wss":             {[]any{ported(80, "kubernetes.io/wss")}, backend("shop/v2"), "UnsupportedProtocol", "kubernetes.io/wss"},
		"A-94: another's":       {[]any{service("third/v2", "10.96.0.3")}, backend("third/v2"), "RefNotPermitted", "no ReferenceGrant in namespace third"},
		"S-22: nor its absence": {nil, backend("third/v2"), "RefNotPermitted", "no ReferenceGrant in namespace third"},
	} {
		t.Run(name, func(t *testing.T) {
			c.ref.Weight = new(int32(3))
			res := result(t, append(c.others, service("shop/web", "10.96.0.1"),
				route("shop/r", to("shop/web"), rule("/", backend("shop/web"), c.ref)))...)
			b := onlyRule(t, res).Backends[1]
			if b.Weight != 3 || !strings.Contains(b.Invalid, c.says) || b.Endpoints != (model.EndpointsKey{}) {
				t.Errorf("the backend is %+v", b)
			}
			expect(t, "status", statusOf(res, "shop/r"), "Accepted=True/Accepted ResolvedRefs=False/"+string(c.reason))
			if got := message(res, "shop/r", gatewayv1.RouteConditionResolvedRefs); !strings.HasPrefix(got, "rules[0].backendRefs[1]: ") ||
				!strings.Contains(got, c.says) {
				t.Errorf("the message is %q", got)
			}
		})
	}
}

func TestA71BackendsThatCanBeUsed(t *testing.T) {
	for name, edit := range map[string]func(*corev1.Service, *gatewayv1.HTTPBackendRef){
		"kind and group by default": func(*corev1.Service, *gatewayv1.HTTPBackendRef) {},
		"written out": func(_ *corev1.Service, r *gatewayv1.HTTPBackendRef) {
			r.Group, r.Kind = new(gatewayv1.Group("")), new(gatewayv1.Kind("Service"))
		},
		"the route's namespace, nil": func(_ *corev1.Service, r *gatewayv1.HTTPBackendRef) { r.Namespace = nil },
		"A-62: headless":             func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) { headless(s) },
		"A-63: NodePort":             func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"A-78: UDP with the same number": func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) {
			s.Spec.Ports = []corev1.ServicePort{udp(80, "u"), tcp(80, "http")}
		},
		"A-73: http": func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) { s.Spec.Ports[0].AppProtocol = new("http") },
		"A-73: h2c": func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) {
			s.Spec.Ports[0].AppProtocol = new("kubernetes.io/h2c")
		},
		"A-73: ws": func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) {
			s.Spec.Ports[0].AppProtocol = new("kubernetes.io/ws")
		},
		"A-73: of one's own": func(s *corev1.Service, _ *gatewayv1.HTTPBackendRef) {
			s.Spec.Ports[0].AppProtocol = new("example.com/x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			v2, ref := service("shop/v2", "10.96.0.2"), backend("shop/v2")
			edit(v2, &ref)
			res := result(t, service("shop/web", "10.96.0.1"), v2, route("shop/r", to("shop/web"), rule("/", ref)))
			if b := onlyRule(t, res).Backends[0]; b.Invalid != "" || b.Endpoints.String() != "shop/v2:80" {
				t.Errorf("the backend is %+v", b)
			}
			expect(t, "status", statusOf(res, "shop/r"), good)
		})
	}
}

func TestA94WhereABackendMayBe(t *testing.T) {
	services := []any{service("shop/web", "10.96.0.1"), service("buyer/v2", "10.96.0.2"), service("third/v3", "10.96.0.3")}
	for name, c := range map[string]struct {
		route *gatewayv1.HTTPRoute
		extra []any
		want  string
	}{
		"A-92: the parent's namespace": {route("buyer/r", to("shop/web"), rule("/", backend("shop/web"))), nil, good},
		"the route's own":              {route("buyer/r", to("shop/web"), rule("/", backend("buyer/v2"))), nil, good},
		"a third one":                  {route("buyer/r", to("shop/web"), rule("/", backend("third/v3"))), nil, notPermitted},
		"with a grant":                 {route("buyer/r", to("shop/web"), rule("/", backend("third/v3"))), []any{grant("third", "buyer")}, good},
		"a grant to the parent's":      {route("buyer/r", to("shop/web"), rule("/", backend("third/v3"))), []any{grant("third", "shop")}, notPermitted},
		// Each parent has its own answer: what the client of one may reach anyhow, that of the other may not.
		"for each parent": {route("third/r", append(to("shop/web"), to("buyer/v2")...), rule("/", backend("shop/web"))), nil,
			good + "; " + notPermitted},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, append(append(c.extra, c.route), services...)...)
			expect(t, "status", statusOf(res, c.route.Namespace+"/r"), c.want)
		})
	}
	opts := options()
	opts.ReferenceGrants = false
	res := compile.Compile(setOf(append(services, route("buyer/r", to("shop/web"), rule("/", backend("third/v3"))))...), opts)
	expect(t, "turned off", statusOf(res, "buyer/r"), good)
}

const notPermitted = "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted"

// A-94 evaluates per parent: one rule of one route differs from table to table.
func TestA94TheRuleOfEachParentHasItsOwnBackends(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), service("buyer/v2", "10.96.0.2"),
		route("third/r", append(to("shop/web"), to("buyer/v2")...), rule("/", backend("shop/web"))))
	if b := portOf(res, "shop/web", 80).Consumers["third"].Rules[0].Backends[0]; b.Invalid != "" {
		t.Errorf("where the backend is in the parent's namespace: %+v", b)
	}
	if b := portOf(res, "buyer/v2", 80).Consumers["third"].Rules[0].Backends[0]; b.Invalid == "" {
		t.Errorf("where it is not: %+v", b)
	}
}

// C:HTTPRouteInvalidReferenceGrant: near misses.
func TestA95WhatAGrantCovers(t *testing.T) {
	from := func(edit func(*gatewayv1.ReferenceGrantFrom)) func(*gatewayv1.ReferenceGrant) {
		return func(g *gatewayv1.ReferenceGrant) { edit(&g.Spec.From[0]) }
	}
	onto := func(edit func(*gatewayv1.ReferenceGrantTo)) func(*gatewayv1.ReferenceGrant) {
		return func(g *gatewayv1.ReferenceGrant) { edit(&g.Spec.To[0]) }
	}
	for name, c := range map[string]struct {
		namespace string
		edit      func(*gatewayv1.ReferenceGrant)
		permits   bool
	}{
		"every Service":            {"third", func(*gatewayv1.ReferenceGrant) {}, true},
		"this Service":             {"third", onto(func(to *gatewayv1.ReferenceGrantTo) { to.Name = new(gatewayv1.ObjectName("v3")) }), true},
		"an empty name":            {"third", onto(func(to *gatewayv1.ReferenceGrantTo) { to.Name = new(gatewayv1.ObjectName("")) }), true},
		"another Service":          {"third", onto(func(to *gatewayv1.ReferenceGrantTo) { to.Name = new(gatewayv1.ObjectName("v4")) }), false},
		"another kind":             {"third", onto(func(to *gatewayv1.ReferenceGrantTo) { to.Kind = "Secret" }), false},
		"another group":            {"third", onto(func(to *gatewayv1.ReferenceGrantTo) { to.Group = "example.com" }), false},
		"from another namespace":   {"third", from(func(f *gatewayv1.ReferenceGrantFrom) { f.Namespace = "shop" }), false},
		"no wildcards":             {"third", from(func(f *gatewayv1.ReferenceGrantFrom) { f.Namespace = "*" }), false},
		"from another kind":        {"third", from(func(f *gatewayv1.ReferenceGrantFrom) { f.Kind = "GRPCRoute" }), false},
		"from another group":       {"third", from(func(f *gatewayv1.ReferenceGrantFrom) { f.Group = "" }), false},
		"in the route's namespace": {"buyer", func(*gatewayv1.ReferenceGrant) {}, false},
		"both lists are ORed": {"third", func(g *gatewayv1.ReferenceGrant) {
			g.Spec.From = append([]gatewayv1.ReferenceGrantFrom{{Group: "x", Kind: "Y", Namespace: "z"}}, g.Spec.From...)
			g.Spec.To = append([]gatewayv1.ReferenceGrantTo{{Kind: "Secret"}}, g.Spec.To...)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"), service("third/v3", "10.96.0.3"), grant(c.namespace, "buyer", c.edit),
				route("buyer/r", to("shop/web"), rule("/", backend("third/v3"))))
			want := notPermitted
			if c.permits {
				want = good
			}
			expect(t, "status", statusOf(res, "buyer/r"), want)
		})
	}
}

// S-22: all references that lead nowhere are told, also those of rules that are not in force; the gravest gives the reason.
func TestS22EveryReferenceCounts(t *testing.T) {
	mirror := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestMirror, RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{
		BackendRef: backend("shop/mirror").BackendObjectReference,
	}}
	auth := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterExternalAuth, ExternalAuth: &gatewayv1.HTTPExternalAuthFilter{
		BackendRef: backend("third/auth").BackendObjectReference,
	}}
	filters := func(all ...gatewayv1.HTTPRouteFilter) func(*gatewayv1.HTTPRouteRule) {
		return func(r *gatewayv1.HTTPRouteRule) { r.Filters = all }
	}
	ofBackend := func(all ...gatewayv1.HTTPRouteFilter) func(*gatewayv1.HTTPRouteRule) {
		return func(r *gatewayv1.HTTPRouteRule) { r.BackendRefs[0].Filters = all }
	}
	secret := service("shop/secret", "10.96.0.2")
	secret.Spec.Ports[0].AppProtocol = new("kubernetes.io/wss")
	for name, c := range map[string]struct {
		rules  []gatewayv1.HTTPRouteRule
		reason string
		told   []string
	}{
		"a mirror":              {[]gatewayv1.HTTPRouteRule{ruleWith("/", filters(mirror))}, "BackendNotFound", []string{"rules[0].filters[0]: Service shop/mirror"}},
		"an auth service":       {[]gatewayv1.HTTPRouteRule{ruleWith("/", filters(mirror, auth))}, "RefNotPermitted", []string{"filters[0]", "filters[1]"}},
		"an extension":          {[]gatewayv1.HTTPRouteRule{ruleWith("/", filters(extension()))}, "InvalidKind", []string{`rules[0].filters[0]: ExtensionRef to Auth strict of group "example.com"`}},
		"a backend's mirror":    {[]gatewayv1.HTTPRouteRule{ruleWith("/", ofBackend(mirror))}, "BackendNotFound", []string{"rules[0].backendRefs[0].filters[0]: Service shop/mirror"}},
		"a backend's extension": {[]gatewayv1.HTTPRouteRule{ruleWith("/", ofBackend(setHeader("a", "b"), extension()))}, "InvalidKind", []string{"rules[0].backendRefs[0].filters[1]: ExtensionRef"}},
		"a backend and its extension": {[]gatewayv1.HTTPRouteRule{ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
			r.BackendRefs[0] = backend("third/x")
			r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{extension()}
		})}, "RefNotPermitted", []string{"rules[0].backendRefs[0]: no ReferenceGrant", "rules[0].backendRefs[0].filters[0]: ExtensionRef"}},
		"of a dropped rule": {[]gatewayv1.HTTPRouteRule{rule("/ok", backend("shop/web")), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
			badMatch(r)
			r.Filters = []gatewayv1.HTTPRouteFilter{extension()}
			r.BackendRefs = append(r.BackendRefs, backend("shop/gone"))
		})}, "InvalidKind", []string{"rules[1].filters[0]: ExtensionRef", "rules[1].backendRefs[1]: Service shop/gone"}},
		"the order of reasons": {[]gatewayv1.HTTPRouteRule{rule("/", backend("shop/secret"), backend("shop/gone"))}, "BackendNotFound",
			[]string{"backendRefs[0]: port 80 of Service shop/secret", "backendRefs[1]: Service shop/gone"}},
		"and more": {[]gatewayv1.HTTPRouteRule{rule("/", backend("shop/gone"), backend("shop/x", func(r *gatewayv1.HTTPBackendRef) {
			r.Kind = new(gatewayv1.Kind("X"))
		}))}, "InvalidKind", []string{"backendRefs[0]", "backendRefs[1]"}},
		"and all": {[]gatewayv1.HTTPRouteRule{rule("/", backend("shop/gone"), backend("third/x"), backend("shop/secret"))}, "RefNotPermitted",
			[]string{"backendRefs[0]", "backendRefs[1]", "backendRefs[2]"}},
		"the least": {[]gatewayv1.HTTPRouteRule{rule("/", backend("shop/secret"))}, "UnsupportedProtocol", []string{"backendRefs[0]"}},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"), secret, route("shop/r", to("shop/web"), c.rules...))
			if got := statusOf(res, "shop/r"); !strings.Contains(got, "ResolvedRefs=False/"+c.reason) {
				t.Errorf("the status is %q", got)
			}
			got := message(res, "shop/r", gatewayv1.RouteConditionResolvedRefs)
			if n := len(strings.Split(got, "; ")); n != len(c.told) {
				t.Errorf("%d faults are told, want %d: %q", n, len(c.told), got)
			}
			for _, want := range c.told {
				if !strings.Contains(got, want) {
					t.Errorf("the message %q does not tell of %q", got, want)
				}
			}
		})
	}
}
