package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Names are written "namespace/name".

func meta(key string) metav1.ObjectMeta {
	namespace, name, _ := strings.Cut(key, "/")
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 7}
}

// service has the port http 80, whose pods listen on 8080, unless it is given others.
func service(key, ip string, ports ...corev1.ServicePort) *corev1.Service {
	if len(ports) == 0 {
		ports = []corev1.ServicePort{tcp(80, "http")}
	}
	return &corev1.Service{
		ObjectMeta: meta(key),
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports},
	}
}

func tcp(number int32, name string) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: number, Protocol: corev1.ProtocolTCP}
}

func udp(number int32, name string) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: number, Protocol: corev1.ProtocolUDP}
}

// route is bound to the Services that its parents name; it was made at a time that after moves.
func route(key string, parents []gatewayv1.ParentReference, rules ...gatewayv1.HTTPRouteRule) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: meta(key), Spec: gatewayv1.HTTPRouteSpec{Rules: rules}}
	r.Spec.ParentRefs = parents
	return r
}

// after makes a route younger.
func after(seconds int64, r *gatewayv1.HTTPRoute) *gatewayv1.HTTPRoute {
	r.CreationTimestamp = metav1.NewTime(time.Unix(1_700_000_000+seconds, 0))
	return r
}

// to is a parentRef to a Service, which edits may change.
func to(key string, edits ...func(*gatewayv1.ParentReference)) []gatewayv1.ParentReference {
	namespace, name, _ := strings.Cut(key, "/")
	ref := gatewayv1.ParentReference{
		Group: new(gatewayv1.Group("")), Kind: new(gatewayv1.Kind("Service")),
		Namespace: new(gatewayv1.Namespace(namespace)), Name: gatewayv1.ObjectName(name),
	}
	for _, edit := range edits {
		edit(&ref)
	}
	return []gatewayv1.ParentReference{ref}
}

func port(number int32) func(*gatewayv1.ParentReference) {
	return func(r *gatewayv1.ParentReference) { r.Port = new(number) }
}

func section(name string) func(*gatewayv1.ParentReference) {
	return func(r *gatewayv1.ParentReference) { r.SectionName = new(gatewayv1.SectionName(name)) }
}

// rule sends what has a path prefix to backends.
func rule(prefix string, backends ...gatewayv1.HTTPBackendRef) gatewayv1.HTTPRouteRule {
	return gatewayv1.HTTPRouteRule{
		Matches:     []gatewayv1.HTTPRouteMatch{{Path: path(gatewayv1.PathMatchPathPrefix, prefix)}},
		BackendRefs: backends,
	}
}

func path(t gatewayv1.PathMatchType, value string) *gatewayv1.HTTPPathMatch {
	return &gatewayv1.HTTPPathMatch{Type: &t, Value: &value}
}

// ruleWith changes a rule of one backend, web.
func ruleWith(prefix string, edit func(*gatewayv1.HTTPRouteRule)) gatewayv1.HTTPRouteRule {
	r := rule(prefix, backend("shop/web"))
	edit(&r)
	return r
}

// backend refers to port 80 of a Service, unless edits say otherwise.
func backend(key string, edits ...func(*gatewayv1.HTTPBackendRef)) gatewayv1.HTTPBackendRef {
	namespace, name, _ := strings.Cut(key, "/")
	ref := gatewayv1.HTTPBackendRef{}
	ref.Name, ref.Namespace, ref.Port = gatewayv1.ObjectName(name), new(gatewayv1.Namespace(namespace)), new(gatewayv1.PortNumber(80))
	for _, edit := range edits {
		edit(&ref)
	}
	return ref
}

func weight(n int32) func(*gatewayv1.HTTPBackendRef) {
	return func(r *gatewayv1.HTTPBackendRef) { r.Weight = &n }
}

func toPort(n int32) func(*gatewayv1.HTTPBackendRef) {
	return func(r *gatewayv1.HTTPBackendRef) { r.Port = new(n) }
}

// setHeader is a filter that is supported.
func setHeader(name, value string) gatewayv1.HTTPRouteFilter {
	return gatewayv1.HTTPRouteFilter{
		Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier,
		RequestHeaderModifier: &gatewayv1.HTTPHeaderFilter{
			Set: []gatewayv1.HTTPHeader{{Name: gatewayv1.HTTPHeaderName(name), Value: value}},
		},
	}
}

func extension() gatewayv1.HTTPRouteFilter {
	return gatewayv1.HTTPRouteFilter{
		Type:         gatewayv1.HTTPRouteFilterExtensionRef,
		ExtensionRef: &gatewayv1.LocalObjectReference{Group: "example.com", Kind: "Auth", Name: "strict"},
	}
}

// slice holds endpoints that listen on 8080 as the port http, unless edits say otherwise.
func slice(serviceKey, name string, endpoints []discoveryv1.Endpoint, edits ...func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	m := meta(serviceKey)
	s := &discoveryv1.EndpointSlice{
		Namespace: m.Namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: m.Name},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		Endpoints:   endpoints,
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// endpointAt is an endpoint that says nothing of its conditions unless edits do.
func endpointAt(address string, edits ...func(*discoveryv1.Endpoint)) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{address}}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

func state(ready, serving, terminating bool) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) {
		e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
}

func onNode(name string) func(*discoveryv1.Endpoint) {
	return func(e *discoveryv1.Endpoint) { e.NodeName = &name }
}

// grant lets HTTPRoutes of a namespace refer to the Services of another; edits narrow or spoil it.
func grant(namespace, from string, edits ...func(*gatewayv1.ReferenceGrant)) *gatewayv1.ReferenceGrant {
	g := &gatewayv1.ReferenceGrant{
		ObjectMeta: meta(namespace + "/grant"),
		Spec: gatewayv1.ReferenceGrantSpec{
			From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Namespace: gatewayv1.Namespace(from)}},
			To:   []gatewayv1.ReferenceGrantTo{{Group: "", Kind: "Service"}},
		},
	}
	for _, edit := range edits {
		edit(g)
	}
	return g
}

func setOf(all ...any) *objects.Set {
	set := &objects.Set{}
	for _, o := range all {
		switch o := o.(type) {
		case *corev1.Service:
			set.Services = append(set.Services, o)
		case *discoveryv1.EndpointSlice:
			set.EndpointSlices = append(set.EndpointSlices, o)
		case *gatewayv1.HTTPRoute:
			set.HTTPRoutes = append(set.HTTPRoutes, o)
		case *gatewayv1.GRPCRoute:
			set.GRPCRoutes = append(set.GRPCRoutes, o)
		case *gatewayv1.ReferenceGrant:
			set.ReferenceGrants = append(set.ReferenceGrants, o)
		default:
			panic(fmt.Sprintf("%T has no place in a Set", o))
		}
	}
	return set
}

// options are those of an agent with its defaults.
func options() compile.Options {
	return compile.Options{Node: "n1", Zone: "z1", ReferenceGrants: true, ControllerName: "sluice.dev/mesh"}
}

// result compiles objects. Whatever they are, the proxy has to be able to take the result.
func result(t *testing.T, all ...any) *compile.Result {
	t.Helper()
	res := compile.Compile(setOf(all...), options())
	checkValid(t, res)
	return res
}

// checkValid: a unit that the proxy refuses would keep every other route of its Service from changing.
func checkValid(t *testing.T, res *compile.Result) {
	t.Helper()
	id := uint32(0)
	for _, compiled := range res.Services {
		s := *compiled
		s.Ports = slices.Clone(s.Ports)
		for i := range s.Ports {
			s.Ports[i].Frontends = slices.Clone(s.Ports[i].Frontends)
			for j := range s.Ports[i].Frontends {
				id++
				s.Ports[i].Frontends[j].ID = id
			}
		}
		if err := s.Validate(); err != nil {
			t.Errorf("the proxy refuses Service %s: %v", s.ServiceKey, err)
		}
	}
	for _, e := range res.Endpoints {
		if err := e.Validate(); err != nil {
			t.Errorf("the proxy refuses endpoints %s: %v", e.EndpointsKey, err)
		}
	}
}

// portOf returns a port of a Service, or nil where the Service or the port is left alone.
func portOf(res *compile.Result, key string, number uint16) *model.Port {
	for i := range res.Services {
		if res.Services[i].ServiceKey.String() != key {
			continue
		}
		for j := range res.Services[i].Ports {
			if p := &res.Services[i].Ports[j]; p.Number == number {
				return p
			}
		}
	}
	return nil
}

// tableOf says which rules apply to a client of a namespace, as "namespace/route.rule"; "direct": none does, and
// traffic passes as without a mesh.
func tableOf(res *compile.Result, key string, number uint16, client string) string {
	p := portOf(res, key, number)
	if p == nil || p.Table(client) == nil {
		return "direct"
	}
	rules := []string{}
	for _, r := range p.Table(client).Rules {
		rules = append(rules, fmt.Sprintf("%s/%s.%d", r.Route.Namespace, r.Route.Name, r.Index))
	}
	return strings.Join(rules, " ")
}

// onlyRule returns the one rule of port 80 of shop/web for the Service's own namespace.
func onlyRule(t *testing.T, res *compile.Result) *model.Rule {
	t.Helper()
	p := portOf(res, "shop/web", 80)
	if p == nil || p.Producer == nil || len(p.Producer.Rules) != 1 {
		t.Fatalf("shop/web has not one rule: %s", tableOf(res, "shop/web", 80, "shop"))
	}
	return &p.Producer.Rules[0]
}

// statusOf says what is reported of a route: for each parent its conditions as type=status/reason.
func statusOf(res *compile.Result, key string) string {
	var parents []string
	for _, p := range parentsOf(res, key) {
		var all []string
		for _, c := range p.Conditions {
			all = append(all, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
		}
		parents = append(parents, strings.Join(all, " "))
	}
	return strings.Join(parents, "; ")
}

func parentsOf(res *compile.Result, key string) []gatewayv1.RouteParentStatus {
	for _, s := range res.Statuses {
		if s.Route.Namespace+"/"+s.Route.Name == key {
			return s.Parents
		}
	}
	return nil
}

// message is that of a condition of a route's first parent; "": there is no such condition.
func message(res *compile.Result, key string, t gatewayv1.RouteConditionType) string {
	parents := parentsOf(res, key)
	if len(parents) == 0 {
		return ""
	}
	for _, c := range parents[0].Conditions {
		if c.Type == string(t) {
			return c.Message
		}
	}
	return ""
}

// What is usual.
const (
	good     = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"
	noParent = "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs"
)

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// endpointsOf says which endpoints a Service's port 80 has, in order.
func endpointsOf(res *compile.Result, key string) string {
	for _, set := range res.Endpoints {
		if set.Namespace+"/"+set.Name != key || set.Port != 80 {
			continue
		}
		var all []string
		for _, e := range set.Endpoints {
			s := e.Address.String()
			if e.Terminating {
				s += " terminating"
			}
			all = append(all, s)
		}
		return strings.Join(all, ", ")
	}
	return "unknown"
}

// rewrite changes the host, the path, or both.
func rewrite(host string, p *gatewayv1.HTTPPathModifier) gatewayv1.HTTPRouteFilter {
	f := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterURLRewrite, URLRewrite: &gatewayv1.HTTPURLRewriteFilter{Path: p}}
	if host != "" {
		f.URLRewrite.Hostname = new(gatewayv1.PreciseHostname(host))
	}
	return f
}

func redirect(edit func(*gatewayv1.HTTPRequestRedirectFilter)) gatewayv1.HTTPRouteFilter {
	f := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestRedirect, RequestRedirect: &gatewayv1.HTTPRequestRedirectFilter{}}
	edit(f.RequestRedirect)
	return f
}

// mirror copies requests to port 80 of a Service, all of them unless edits say otherwise.
func mirror(key string, edits ...func(*gatewayv1.HTTPRequestMirrorFilter)) gatewayv1.HTTPRouteFilter {
	f := gatewayv1.HTTPRouteFilter{
		Type:          gatewayv1.HTTPRouteFilterRequestMirror,
		RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{BackendRef: backend(key).BackendObjectReference},
	}
	for _, edit := range edits {
		edit(f.RequestMirror)
	}
	return f
}

func cors(edit func(*gatewayv1.HTTPCORSFilter)) gatewayv1.HTTPRouteFilter {
	f := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterCORS, CORS: &gatewayv1.HTTPCORSFilter{}}
	edit(f.CORS)
	return f
}

// replacePath and replacePrefix are the ways to change a path.
func replacePath(value string) *gatewayv1.HTTPPathModifier {
	return &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &value}
}

func replacePrefix(value string) *gatewayv1.HTTPPathModifier {
	return &gatewayv1.HTTPPathModifier{Type: gatewayv1.PrefixMatchHTTPPathModifier, ReplacePrefixMatch: &value}
}
