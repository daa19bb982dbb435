package compile_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
)

// routed compiles shop/web with a route to itself and slices.
func routed(t *testing.T, edit func(*corev1.Service), all ...any) *compile.Result {
	t.Helper()
	web := service("shop/web", "10.96.0.1")
	if edit != nil {
		edit(web)
	}
	return result(t, append(all, web, route("shop/r", to("shop/web"), rule("/", backend("shop/web"))))...)
}

func some(all ...discoveryv1.Endpoint) []discoveryv1.Endpoint { return all }

func TestA72EndpointsThatCanBeUsed(t *testing.T) {
	ready, dead := state(true, true, false), state(false, false, false)
	draining, drained := state(false, true, true), state(false, false, true)
	for name, c := range map[string]struct {
		in   []discoveryv1.Endpoint
		want string
	}{
		"ready":                            {some(endpointAt("10.0.0.2", ready), endpointAt("10.0.0.1", ready)), "10.0.0.1:8080, 10.0.0.2:8080"},
		"unknown readiness is ready":       {some(endpointAt("10.0.0.1")), "10.0.0.1:8080"},
		"not ready":                        {some(endpointAt("10.0.0.1", dead), endpointAt("10.0.0.2", ready)), "10.0.0.2:8080"},
		"terminating while one is ready":   {some(endpointAt("10.0.0.1", draining), endpointAt("10.0.0.2", ready)), "10.0.0.2:8080"},
		"terminating when none is ready":   {some(endpointAt("10.0.0.1", draining), endpointAt("10.0.0.2", drained), endpointAt("10.0.0.3", dead)), "10.0.0.1:8080 terminating"},
		"serving but not ready":            {some(endpointAt("10.0.0.1", state(false, true, false))), ""},
		"publishNotReadyAddresses (A-66)":  {some(endpointAt("10.0.0.1", state(true, false, false)), endpointAt("10.0.0.2", state(true, false, true))), "10.0.0.1:8080, 10.0.0.2:8080"},
		"serving follows ready by default": {some(endpointAt("10.0.0.1", func(e *discoveryv1.Endpoint) { e.Conditions.Ready, e.Conditions.Terminating = new(false), new(true) })), ""},
		"none, B-7":                        {nil, ""},
		"no address":                       {some(discoveryv1.Endpoint{}), ""},
		"the first address counts":         {some(discoveryv1.Endpoint{Addresses: []string{"10.0.0.1", "10.0.0.2"}}), "10.0.0.1:8080"},
		"a mistake costs itself only":      {some(endpointAt("pod-1"), endpointAt("0.0.0.0"), endpointAt("239.1.1.1"), endpointAt("fe80::1%eth0"), endpointAt("10.0.0.1")), "10.0.0.1:8080"},
		"IPv4 written as IPv6":             {some(endpointAt("::ffff:10.0.0.1"), endpointAt("10.0.0.1")), "10.0.0.1:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, "endpoints", endpointsOf(routed(t, nil, slice("shop/web", "s", c.in)), "shop/web"), c.want)
		})
	}
}

func TestA70TheSliceHasTheTargetPort(t *testing.T) {
	ports := func(all ...discoveryv1.EndpointPort) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Ports = all }
	}
	entry := func(name *string, number *int32, protocol *corev1.Protocol) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: name, Port: number, Protocol: protocol}
	}
	nameless := func(s *corev1.Service) { s.Spec.Ports[0].Name = "" }
	http, web := new("http"), new("web")
	for name, c := range map[string]struct {
		service func(*corev1.Service)
		slice   func(*discoveryv1.EndpointSlice)
		want    string
	}{
		"by the port's name":            {nil, ports(entry(web, new(int32(1)), nil), entry(http, new(int32(2)), nil)), "10.0.0.1:2"},
		"not the Service's target port": {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 3000 }, ports(entry(http, new(int32(4000)), nil)), "10.0.0.1:4000"},
		"a slice without that port":     {nil, ports(entry(web, new(int32(1)), nil)), ""},
		"a slice without any":           {nil, ports(), ""},
		"a name to none":                {nil, ports(entry(nil, new(int32(1)), nil)), ""},
		"none to a name":                {nameless, ports(entry(http, new(int32(1)), nil)), ""},
		"none to none":                  {nameless, ports(entry(nil, new(int32(1)), nil)), "10.0.0.1:1"},
		"none to an empty one":          {nameless, ports(entry(new(""), new(int32(1)), nil)), "10.0.0.1:1"},
		"A-78: UDP is another":          {nil, ports(entry(http, new(int32(1)), new(corev1.ProtocolUDP)), entry(http, new(int32(2)), new(corev1.ProtocolTCP))), "10.0.0.1:2"},
		"an entry without a number":     {nil, ports(entry(http, nil, nil)), ""},
		"a number that is none":         {nil, ports(entry(http, new(int32(70000)), nil)), ""},
		"a slice of names, not numbers": {nil, func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }, ""},
		"a slice of another Service":    {nil, func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "other" }, ""},
		"a slice of another namespace":  {nil, func(s *discoveryv1.EndpointSlice) { s.Namespace = "other" }, ""},
		"a slice that is nobody's":      {nil, func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, ""},
		"A-65: a slice of the other kind": {nil, func(s *discoveryv1.EndpointSlice) {
			s.AddressType, s.Endpoints = discoveryv1.AddressTypeIPv6, some(endpointAt("fd00::1"))
		}, "[fd00::1]:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			res := routed(t, c.service, slice("shop/web", "s", some(endpointAt("10.0.0.1")), c.slice))
			expect(t, "endpoints", endpointsOf(res, "shop/web"), c.want)
		})
	}
}

// Checklist 45: several slices, a named target port that differs between them, one endpoint in two of them.
func TestA70SlicesOfOneServiceAreMerged(t *testing.T) {
	on := func(number int32) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = &number }
	}
	zone := func(name string) func(*discoveryv1.Endpoint) { return func(e *discoveryv1.Endpoint) { e.Zone = &name } }
	a := slice("shop/web", "a", some(endpointAt("10.0.0.3", zone("z1")), endpointAt("10.0.0.1", state(false, true, true))), on(8080))
	b := slice("shop/web", "b", some(endpointAt("10.0.0.3", zone("z2")), endpointAt("10.0.0.2")), on(8080))
	c := slice("shop/web", "c", some(endpointAt("10.0.0.3")), on(9090))
	for name, all := range map[string][]any{"in order": {a, b, c}, "in another": {c, b, a}} {
		res := routed(t, nil, all...)
		expect(t, name, endpointsOf(res, "shop/web"), "10.0.0.2:8080, 10.0.0.3:8080, 10.0.0.3:9090")
		if got := res.Endpoints[0].Endpoints[1].Zone; got != "z1" {
			t.Errorf("%s: of two that are the same, the one of zone %q counts", name, got)
		}
	}
	var many []any
	for i := range 3 {
		var full []discoveryv1.Endpoint
		for j := range 100 {
			full = append(full, endpointAt(fmt.Sprintf("10.0.%d.%d", i, j)))
		}
		many = append(many, slice("shop/web", fmt.Sprint(i), full))
	}
	if got := len(routed(t, nil, many...).Endpoints[0].Endpoints); got != 300 {
		t.Errorf("of 300 endpoints there are %d", got)
	}
}

// what says where an endpoint is goes on to the proxy, which chooses.
func TestA66EndpointsCarryNodeZoneAndHints(t *testing.T) {
	res := routed(t, nil, slice("shop/web", "s", some(endpointAt("10.0.0.1", onNode("n2"), func(e *discoveryv1.Endpoint) {
		e.Zone = new("z1")
		e.Hints = &discoveryv1.EndpointHints{
			ForZones: []discoveryv1.ForZone{{Name: "z1"}, {Name: "z2"}}, ForNodes: []discoveryv1.ForNode{{Name: "n3"}},
		}
	}), endpointAt("10.0.0.2"))))
	e := res.Endpoints[0].Endpoints
	if got := fmt.Sprint(e[0].Node, e[0].Zone, e[0].ForZones, e[0].ForNodes); got != "n2z1[z1 z2] [n3]" {
		t.Errorf("the endpoint says %s", got)
	}
	if got := fmt.Sprintf("%q%q%v%v", e[1].Node, e[1].Zone, e[1].ForZones, e[1].ForNodes); got != `""""[][]` {
		t.Errorf("an endpoint that says nothing says %s", got)
	}
}

func TestA66InternalTrafficPolicyLocal(t *testing.T) {
	local := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	}
	cluster := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	here, there := onNode("n1"), onNode("n2")
	all := some(endpointAt("10.0.0.1", here), endpointAt("10.0.0.2", there), endpointAt("10.0.0.3"))
	expect(t, "local", endpointsOf(routed(t, local, slice("shop/web", "s", all)), "shop/web"), "10.0.0.1:8080")
	expect(t, "cluster", endpointsOf(routed(t, cluster, slice("shop/web", "s", all)), "shop/web"), "10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080")
	expect(t, "nobody here", endpointsOf(routed(t, local, slice("shop/web", "s", all[1:])), "shop/web"), "")
	// As kube-proxy does: what terminates here, before what is ready elsewhere.
	all[0].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	expect(t, "terminating here", endpointsOf(routed(t, local, slice("shop/web", "s", all)), "shop/web"), "10.0.0.1:8080 terminating")

	// It holds for each backend, not for the parent.
	v2 := service("shop/v2", "10.96.0.2")
	local(v2)
	res := result(t, service("shop/web", "10.96.0.1"), v2, slice("shop/v2", "v2", some(endpointAt("10.0.1.1", here), endpointAt("10.0.1.2", there))),
		slice("shop/web", "web", some(endpointAt("10.0.2.1", there))),
		route("shop/r", to("shop/web"), rule("/", backend("shop/v2"), backend("shop/web"))))
	expect(t, "the local backend", endpointsOf(res, "shop/v2"), "10.0.1.1:8080")
	expect(t, "the other", endpointsOf(res, "shop/web"), "10.0.2.1:8080")

	opts := options()
	opts.Node = ""
	web := service("shop/web", "10.96.0.1")
	local(web)
	res = compile.Compile(setOf(web, slice("shop/web", "s", some(endpointAt("10.0.0.2", there))),
		route("shop/r", to("shop/web"), rule("/", backend("shop/web")))), opts)
	expect(t, "where no node is known", endpointsOf(res, "shop/web"), "10.0.0.2:8080")
}

// ClientIP affinity goes on where a route applies, for as long as the Service says.
func TestA66AffinityIsKept(t *testing.T) {
	sticky := func(seconds *int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			if seconds != nil {
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: seconds}}
			}
		}
	}
	for name, c := range map[string]struct {
		edit func(*corev1.Service)
		want string
	}{
		"none":        {nil, "0s"},
		"said":        {sticky(new(int32(90))), "1m30s"},
		"the default": {sticky(nil), "3h0m0s"},
	} {
		res := routed(t, c.edit)
		expect(t, name, res.Endpoints[0].Affinity.String(), c.want)
		expect(t, name, strings.Join(res.Warnings, "\n"), "")
	}
}

// hints are followed as kube-proxy follows them: those for nodes first, then those for zones; only when every endpoint
// that is ready has one, and one is for us. Where traffic stays on the node, they have no part.
func TestA66HintsAreFollowed(t *testing.T) {
	hinted := func(addr string, zones, nodes []string) discoveryv1.Endpoint {
		e := endpointAt(addr, func(e *discoveryv1.Endpoint) { e.Hints = &discoveryv1.EndpointHints{} })
		for _, z := range zones {
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
		}
		for _, n := range nodes {
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
		}
		return e
	}
	gone := func(e discoveryv1.Endpoint) discoveryv1.Endpoint {
		e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
		return e
	}
	z := func(names ...string) []string { return names }
	for name, c := range map[string]struct {
		all  []discoveryv1.Endpoint
		want string
	}{
		"ours":               {some(hinted("10.0.0.1", z("z1"), nil), hinted("10.0.0.2", z("z2"), nil)), "10.0.0.1:8080"},
		"several zones":      {some(hinted("10.0.0.1", z("z2"), nil), hinted("10.0.0.2", z("z2", "z1"), nil)), "10.0.0.2:8080"},
		"none is ours":       {some(hinted("10.0.0.1", z("z2"), nil), hinted("10.0.0.2", z("z3"), nil)), "10.0.0.1:8080, 10.0.0.2:8080"},
		"one has no hint":    {some(hinted("10.0.0.1", z("z1"), nil), endpointAt("10.0.0.2")), "10.0.0.1:8080, 10.0.0.2:8080"},
		"nodes before zones": {some(hinted("10.0.0.1", z("z1"), z("n2")), hinted("10.0.0.2", z("z2"), z("n1"))), "10.0.0.2:8080"},
		"nodes elsewhere":    {some(hinted("10.0.0.1", z("z1"), z("n2")), hinted("10.0.0.2", z("z2"), z("n3"))), "10.0.0.1:8080"},
		"only what is ready": {some(hinted("10.0.0.1", z("z1"), nil), gone(endpointAt("10.0.0.2"))), "10.0.0.1:8080"},
		"ours is not ready":  {some(gone(hinted("10.0.0.1", z("z1"), nil)), hinted("10.0.0.2", z("z2"), nil)), "10.0.0.2:8080"},
		"none is ready":      {some(gone(hinted("10.0.0.1", z("z2"), nil)), gone(hinted("10.0.0.2", z("z1"), nil))), "10.0.0.1:8080 terminating, 10.0.0.2:8080 terminating"},
	} {
		expect(t, name, endpointsOf(routed(t, nil, slice("shop/web", "s", c.all)), "shop/web"), c.want)
	}
	local := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	}
	here := func(e *discoveryv1.Endpoint) { e.NodeName = new("n1") }
	both := some(hinted("10.0.0.1", z("z1"), nil), hinted("10.0.0.2", z("z2"), nil))
	here(&both[0])
	here(&both[1])
	expect(t, "on the node", endpointsOf(routed(t, local, slice("shop/web", "s", both)), "shop/web"), "10.0.0.1:8080, 10.0.0.2:8080")
}

func TestA73TheSetCarriesTheBackendsAppProtocol(t *testing.T) {
	res := routed(t, func(s *corev1.Service) { s.Spec.Ports[0].AppProtocol = new("kubernetes.io/ws") })
	expect(t, "appProtocol", res.Endpoints[0].AppProtocol, "kubernetes.io/ws")
}

func TestEndpointsAreThoseThatTheServicesName(t *testing.T) {
	res := result(t,
		service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "admin")), service("shop/v2", "10.96.0.2"),
		service("shop/v3", "10.96.0.3"), service("shop/v4", "10.96.0.4"), service("shop/unused", "10.96.0.5"),
		route("shop/r", to("shop/web", port(80)), rule("/", backend("shop/v2"), backend("shop/gone"), backend("shop/v2"))),
		route("shop/fails", to("shop/web", port(80)), ruleWith("/x", unsupported)),
		route("buyer/r", to("shop/web", port(80)), rule("/", backend("shop/v3"))))
	var got []string
	for _, e := range res.Endpoints {
		got = append(got, e.String())
		if e.Endpoints == nil {
			t.Errorf("the endpoints of %s are null, not empty", e.EndpointsKey)
		}
	}
	expect(t, "endpoints", strings.Join(got, " "), "shop/v2:80 shop/v3:80 shop/web:80")
}
