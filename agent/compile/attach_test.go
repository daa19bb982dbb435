package compile_test

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestA1OnlyAServiceIsAParentOfOurs(t *testing.T) {
	for name, c := range map[string]struct {
		group, kind *string
		ours        bool
	}{
		"no group and no kind is a Gateway":   {nil, nil, false},
		"a kind without its group is not one": {nil, new("Service"), false},
		"a group without its kind is not one": {new(""), nil, false},
		"the Gateway API's group":             {new(gatewayv1.GroupName), new("Service"), false},
		"a Gateway":                           {new(gatewayv1.GroupName), new("Gateway"), false},
		"a Gateway of the core group":         {new(""), new("Gateway"), false},
		"a ServiceImport":                     {new("multicluster.x-k8s.io"), new("ServiceImport"), false},
		"a Service":                           {new(""), new("Service"), true},
		"A-2: core is an alias":               {new("core"), new("Service"), true},
	} {
		t.Run(name, func(t *testing.T) {
			parents := to("shop/web", func(r *gatewayv1.ParentReference) {
				r.Group, r.Kind = (*gatewayv1.Group)(c.group), (*gatewayv1.Kind)(c.kind)
			})
			res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", parents, rule("/", backend("shop/web"))))
			table, status := "direct", ""
			if c.ours {
				table, status = "shop/r.0", good
			}
			expect(t, "table", tableOf(res, "shop/web", 80, "shop"), table)
			expect(t, "status", statusOf(res, "shop/r"), status) // S-8: no entry for what is none of ours
			if c.ours && !reflect.DeepEqual(parentsOf(res, "shop/r")[0].ParentRef, parents[0]) {
				t.Errorf("S-1: the parentRef is not repeated as the user wrote it: %+v", parentsOf(res, "shop/r")[0].ParentRef)
			}
		})
	}
}

func TestA3ParentNamespaceDefaultsToTheRoutes(t *testing.T) {
	parents := to("/web", func(r *gatewayv1.ParentReference) { r.Namespace = nil })
	res := result(t,
		service("shop/web", "10.96.0.1"), service("other/web", "10.96.0.2"),
		route("shop/r", parents, rule("/", backend("shop/web"))))
	expect(t, "own namespace", tableOf(res, "shop/web", 80, "any"), "shop/r.0")
	expect(t, "other namespace", tableOf(res, "other/web", 80, "shop"), "direct")
	if parentsOf(res, "shop/r")[0].ParentRef.Namespace != nil { // S-1
		t.Error("the status has a namespace that the user did not write")
	}
}

func TestA4ToA7PortsThatAParentRefSelects(t *testing.T) {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "admin"), udp(53, "dns"), tcp(53, "dns-tcp"), udp(54, "log"))
	web.Spec.Ports[0].TargetPort.IntVal, web.Spec.Ports[0].NodePort = 8080, 30080
	for name, c := range map[string]struct {
		edits []func(*gatewayv1.ParentReference)
		ports string // "": the parentRef is refused
		says  string // in that case
	}{
		"A-6: neither binds every TCP port":    {nil, "80 81 53", ""},
		"A-4: port is the Service's":           {edits(port(81)), "81", ""},
		"A-4: sectionName is the port's name":  {edits(section("http")), "80", ""},
		"A-5: both agree":                      {edits(port(80), section("http")), "80", ""},
		"A-5: both name ports, not the same":   {edits(port(81), section("http")), "", `no port with number 81 and name "http"`},
		"A-4: not the target port":             {edits(port(8080)), "", "no port with number 8080; it has 80 http, 81 admin"},
		"A-4: not the node port":               {edits(port(30080)), "", "no port with number 30080"},
		"A-4: not the number as a name":        {edits(section("80")), "", `no port with name "80"`},
		"A-78: UDP and TCP with one number":    {edits(port(53)), "53", ""},
		"A-78: the UDP port's name is no port": {edits(section("dns")), "", "protocol TCP"},
		"A-78: UDP only":                       {edits(port(54)), "", "protocol TCP"},
		"an empty sectionName names nothing":   {edits(section("")), "80 81 53", ""},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, web, route("shop/r", to("shop/web", c.edits...), rule("/", backend("shop/web"))))
			var bound []string
			for _, number := range []string{"80", "81", "53", "54", "8080", "30080"} {
				if tableOf(res, "shop/web", parse(number), "shop") == "shop/r.0" {
					bound = append(bound, number)
				}
			}
			expect(t, "ports", strings.Join(bound, " "), c.ports)
			if c.ports != "" {
				expect(t, "status", statusOf(res, "shop/r"), good)
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), noParent)
			if got := message(res, "shop/r", gatewayv1.RouteConditionAccepted); !strings.Contains(got, c.says) {
				t.Errorf("the message %q does not say %q", got, c.says)
			}
			if len(res.Services) != 0 {
				t.Error("something is programmed for a parent that was refused (A-44)")
			}
		})
	}
}

func edits(all ...func(*gatewayv1.ParentReference)) []func(*gatewayv1.ParentReference) { return all }

func parse(number string) uint16 {
	n := uint16(0)
	for _, c := range number {
		n = n*10 + uint16(c-'0')
	}
	return n
}

func TestA6PortsOfAServiceThatChange(t *testing.T) {
	web := service("shop/web", "10.96.0.1")
	r := route("shop/r", to("shop/web"), rule("/", backend("shop/web")))
	expect(t, "before", tableOf(result(t, web, r), "shop/web", 9090, "shop"), "direct")
	grown := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(9090, "metrics"))
	expect(t, "after", tableOf(result(t, grown, r), "shop/web", 9090, "shop"), "shop/r.0")

	named := route("shop/r", to("shop/web", section("http")), rule("/", backend("shop/web")))
	expect(t, "by name", statusOf(result(t, web, named), "shop/r"), good)
	renamed := service("shop/web", "10.96.0.1", tcp(80, "web"))
	expect(t, "renamed", statusOf(result(t, renamed, named), "shop/r"), noParent)
}

// A-8 for each parentRef (checklist 57): two of one route are two entries, in the route's order, and the port that both
// select has its rules once.
func TestA8TwoParentRefsToOneService(t *testing.T) {
	parents := append(to("shop/web", section("admin")), to("shop/web", section("none"))...)
	parents = append(parents, to("shop/web")...)
	res := result(t, service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "admin")),
		route("shop/r", parents, rule("/a", backend("shop/web")), rule("/b", backend("shop/web"))))
	expect(t, "status", statusOf(res, "shop/r"), good+"; "+noParent+"; "+good)
	expect(t, "one", tableOf(res, "shop/web", 81, "shop"), "shop/r.0 shop/r.1")
	expect(t, "all", tableOf(res, "shop/web", 80, "shop"), "shop/r.0 shop/r.1")
	if !portOf(res, "shop/web", 81).Producer.Explicit || portOf(res, "shop/web", 80).Producer.Explicit {
		t.Error("A-110: port 81 is named and port 80 is not")
	}
}

func TestA11GrantsDoNotGovernParents(t *testing.T) {
	web, r := service("shop/web", "10.96.0.1"), route("buyer/r", to("shop/web"), rule("/", backend("shop/web")))
	for name, all := range map[string][]any{"without a grant": {web, r}, "with one": {web, r, grant("shop", "buyer")}} {
		res := result(t, all...)
		expect(t, name, statusOf(res, "buyer/r"), good)
		expect(t, name+", its own clients", tableOf(res, "shop/web", 80, "buyer"), "buyer/r.0")
		expect(t, name+", others", tableOf(res, "shop/web", 80, "shop"), "direct")
	}
}

func TestA13EachControllerReportsItsOwnParents(t *testing.T) {
	gateway := gatewayv1.ParentReference{Name: "web"}
	parents := append([]gatewayv1.ParentReference{gateway}, to("shop/web")...)
	res := result(t, service("shop/web", "10.96.0.1"),
		route("shop/both", append(parents, gateway), rule("/", backend("shop/web"))),
		route("shop/gateway", []gatewayv1.ParentReference{gateway}, rule("/", backend("shop/web"))))
	if got := parentsOf(res, "shop/both"); len(got) != 1 || string(*got[0].ParentRef.Kind) != "Service" || got[0].ControllerName != "sluice.dev/mesh" {
		t.Errorf("the route has the entries %+v", got)
	}
	if len(res.Statuses) != 1 { // S-5
		t.Errorf("a route without a Service parent has a status: %+v", res.Statuses)
	}
	expect(t, "table", tableOf(res, "shop/web", 80, "shop"), "shop/both.0")
}

func TestA20ProducerRoutesAndA21ConsumerRoutes(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), service("shop/api", "10.96.0.2"),
		route("shop/p", to("shop/web"), rule("/", backend("shop/web"))),
		route("buyer/c", to("shop/api"), rule("/", backend("shop/api"))))
	for _, client := range []string{"shop", "buyer", "third", ""} {
		expect(t, "producer, client "+client, tableOf(res, "shop/web", 80, client), "shop/p.0")
	}
	expect(t, "consumer's client", tableOf(res, "shop/api", 80, "buyer"), "buyer/c.0")
	for _, client := range []string{"shop", "third", ""} { // an unknown client has no namespace
		expect(t, "consumer, client "+client, tableOf(res, "shop/api", 80, client), "direct")
	}
}

func TestA22ConsumerRoutesReplaceProducerRoutes(t *testing.T) {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(8080, "alt"))
	res := result(t, web,
		route("shop/p", to("shop/web"), rule("/", backend("shop/web"))),
		route("buyer/c", to("shop/web", port(80)), rule("/only", backend("shop/web"))))
	expect(t, "consumer", tableOf(res, "shop/web", 80, "buyer"), "buyer/c.0")
	expect(t, "third", tableOf(res, "shop/web", 80, "third"), "shop/p.0")
	expect(t, "A-25: another port", tableOf(res, "shop/web", 8080, "buyer"), "shop/p.0")

	// A consumer route that does not attach, or keeps no rule, is absent (A-44, A-44b).
	for name, absent := range map[string]*gatewayv1.HTTPRoute{
		"no such port": route("buyer/c", to("shop/web", port(99)), rule("/only", backend("shop/web"))),
		"no rule left": route("buyer/c", to("shop/web"), ruleWith("/", badMatch)),
	} {
		res := result(t, web, route("shop/p", to("shop/web"), rule("/", backend("shop/web"))), absent)
		expect(t, name, tableOf(res, "shop/web", 80, "buyer"), "shop/p.0")
	}
	// One that is there and matches nothing is not: no fall-through.
	res = result(t, web, route("shop/p", to("shop/web"), rule("/", backend("shop/web"))), route("buyer/c", to("shop/web")))
	expect(t, "without rules", tableOf(res, "shop/web", 80, "buyer"), "")
}

// badMatch makes a rule's match one that cannot be implemented.
func badMatch(r *gatewayv1.HTTPRouteRule) {
	r.Matches = []gatewayv1.HTTPRouteMatch{{Path: path(gatewayv1.PathMatchRegularExpression, "(")}}
}

// Precedence between equals (2.1, steps 7 to 9): the oldest route, then "namespace/name", then the place of the rule.
func TestA23RoutesOfOneSetMergeInTheOrderOfPrecedence(t *testing.T) {
	web := service("shop/web", "10.96.0.1")
	two := []gatewayv1.HTTPRouteRule{rule("/a", backend("shop/web")), rule("/b", backend("shop/web"))}
	res := result(t, web,
		after(2, route("shop/aaa", to("shop/web"), two...)),
		after(1, route("shop/zzz", to("shop/web"), two...)),
		after(2, route("shop/bbb", to("shop/web"), two...)),
		after(0, route("buyer/old", to("shop/web"), two...)))
	expect(t, "age, then name, then index", tableOf(res, "shop/web", 80, "shop"),
		"shop/zzz.0 shop/zzz.1 shop/aaa.0 shop/aaa.1 shop/bbb.0 shop/bbb.1")
}

func TestM5AgeCountsInSecondsAndNamesDecideBetweenThem(t *testing.T) {
	late, early := after(5, route("shop/b", to("shop/web"), rule("/"))), after(5, route("shop/a", to("shop/web"), rule("/")))
	res := result(t, service("shop/web", "10.96.0.1"), late, early)
	expect(t, "same second", tableOf(res, "shop/web", 80, "shop"), "shop/a.0 shop/b.0")
}

func TestA30TheFrontendIsEveryClusterIPAndNothingElse(t *testing.T) {
	web := service("shop/web", "10.96.0.1")
	web.Spec.ClusterIPs = []string{"10.96.0.1", "fd00:96::1"}
	web.Spec.Type = corev1.ServiceTypeLoadBalancer
	web.Spec.ExternalIPs = []string{"203.0.113.7"}
	web.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.8"}}
	res := result(t, web, route("shop/r", to("shop/web"), rule("/", backend("shop/web"))))
	var got []string
	for _, f := range portOf(res, "shop/web", 80).Frontends {
		got = append(got, f.Address.String())
	}
	expect(t, "frontends", strings.Join(got, " "), "10.96.0.1 fd00:96::1")
	expect(t, "status", statusOf(res, "shop/r"), good)

	old := service("shop/web", "10.96.0.1")
	old.Spec.ClusterIPs = nil // an object from before dual stack
	if p := portOf(result(t, old, route("shop/r", to("shop/web"), rule("/", backend("shop/web")))), "shop/web", 80); p == nil || len(p.Frontends) != 1 {
		t.Error("a Service that has clusterIP only is not redirected")
	}
}

func TestOneAddressBelongsToOneService(t *testing.T) {
	res := result(t, service("shop/a", "10.96.0.1"), service("shop/b", "10.96.0.1"),
		route("shop/r", append(to("shop/a"), to("shop/b")...), rule("/", backend("shop/a"))))
	if portOf(res, "shop/a", 80) == nil || portOf(res, "shop/b", 80) != nil {
		t.Errorf("the address is that of %+v", res.Services)
	}
	expect(t, "warning", strings.Join(res.Warnings, "\n"),
		"Service shop/b: the cluster IP 10.96.0.1 is that of Service shop/a too, which keeps it")
}

func TestA32BackendsAreEndpointsAndRoutesAreNotChained(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), service("shop/v2", "10.96.0.2"),
		route("shop/r", to("shop/web"), rule("/", backend("shop/v2"))),
		route("shop/loop", to("shop/v2"), rule("/", backend("shop/web")), rule("/self", backend("shop/v2"))))
	for key, want := range map[string]string{"shop/web": "shop/v2:80", "shop/v2": "shop/web:80"} {
		expect(t, key, portOf(res, key, 80).Producer.Rules[0].Backends[0].Endpoints.String(), want)
	}
}

func TestA40ServicesWithoutARouteAreLeftAlone(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "admin")), service("shop/alone", "10.96.0.2"),
		route("shop/r", to("shop/web", port(80)), rule("/", backend("shop/web"))))
	if len(res.Services) != 1 || len(res.Services[0].Ports) != 1 {
		t.Errorf("more than port 80 of shop/web is redirected: %+v", res.Services)
	}
	if len(res.Endpoints) != 1 {
		t.Errorf("endpoints that nobody names travel: %+v", res.Endpoints)
	}
}

func TestA44bRoutesWithoutARuleThatIsImplemented(t *testing.T) {
	web := service("shop/web", "10.96.0.1")
	invalid := "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"

	res := result(t, web, route("shop/r", to("shop/web"), ruleWith("/a", unsupported), ruleWith("/b", unsupported)))
	expect(t, "by a filter", tableOf(res, "shop/web", 80, "shop"), "shop/r.0 shop/r.1")
	expect(t, "by a filter", statusOf(res, "shop/r"), invalid)
	for _, r := range portOf(res, "shop/web", 80).Producer.Rules {
		if r.Fail == nil || r.Fail.Status != 500 || len(r.Backends) != 0 {
			t.Errorf("rule %d does not answer 500: %+v", r.Index, r)
		}
	}

	res = result(t, web, route("shop/r", to("shop/web"), ruleWith("/", badMatch)))
	expect(t, "by a match", tableOf(res, "shop/web", 80, "shop"), "direct")
	expect(t, "by a match", statusOf(res, "shop/r"), invalid)

	res = result(t, web, route("shop/r", to("shop/web"), ruleWith("/", badMatch), ruleWith("/f", unsupported)))
	expect(t, "by both", tableOf(res, "shop/web", 80, "shop"), "shop/r.1")
	expect(t, "by both", statusOf(res, "shop/r"), invalid)
}

// unsupported gives a rule a filter that is not implemented.
func unsupported(r *gatewayv1.HTTPRouteRule) {
	r.Filters = []gatewayv1.HTTPRouteFilter{{Type: gatewayv1.HTTPRouteFilterExternalAuth}}
}

func TestA45PartsOfARouteThatAreInvalid(t *testing.T) {
	partly := good + " PartiallyInvalid=True/UnsupportedValue"
	for name, c := range map[string]struct {
		bad    func(*gatewayv1.HTTPRouteRule)
		table  string
		dropOf string
	}{
		"a filter keeps the match and answers 500": {unsupported, "shop/r.0 shop/r.1 shop/r.2", "rules[1] (bad) answers 500: filters[0]: filter ExternalAuth"},
		"a bad match is dropped":                   {badMatch, "shop/r.0 shop/r.2", "rules[1] (bad) is left out: matches[0].path:"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := ruleWith("/b", c.bad)
			bad.Name = new(gatewayv1.SectionName("bad"))
			res := result(t, service("shop/web", "10.96.0.1"),
				route("shop/r", to("shop/web"), rule("/a", backend("shop/web")), bad, rule("/", backend("shop/web"))))
			expect(t, "table", tableOf(res, "shop/web", 80, "shop"), c.table)
			expect(t, "status", statusOf(res, "shop/r"), partly)
			got := message(res, "shop/r", gatewayv1.RouteConditionPartiallyInvalid)
			if !strings.HasPrefix(got, "Dropped Rule: ") || !strings.Contains(got, c.dropOf) { // S-23
				t.Errorf("the message is %q", got)
			}
			if names := portOf(res, "shop/web", 80).Producer.Rules[1].Name; c.table == "shop/r.0 shop/r.1 shop/r.2" && names != "bad" {
				t.Errorf("the rule's name is %q", names)
			}
		})
	}
}

func TestA46RoutesWithoutRulesMatchNothing(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web")))
	expect(t, "table", tableOf(res, "shop/web", 80, "shop"), "") // 404, not direct
	expect(t, "status", statusOf(res, "shop/r"), good)
}

func TestA47TheParentIsNoImplicitBackend(t *testing.T) {
	for name, r := range map[string]gatewayv1.HTTPRouteRule{"omitted": rule("/"), "empty": {BackendRefs: []gatewayv1.HTTPBackendRef{}}} {
		res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), r))
		if got := onlyRule(t, res); len(got.Backends) != 0 || got.Fail != nil {
			t.Errorf("%s: the rule is %+v", name, got)
		}
		expect(t, name, statusOf(res, "shop/r"), good) // B-4
	}
}

func TestA60ToA65ServicesThatCanBeParents(t *testing.T) {
	for name, c := range map[string]struct {
		edit    func(*corev1.Service)
		refused string
	}{
		"A-60: selector":              {func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, ""},
		"A-61: no selector":           {func(*corev1.Service) {}, ""},
		"A-62: headless":              {headless, "headless"},
		"A-63: NodePort":              {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, ""},
		"A-63: LoadBalancer":          {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }, ""},
		"A-64: ExternalName":          {externalName, "ExternalName"},
		"A-65: IPv6 only":             {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} }, ""},
		"no address yet":              {func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, "no cluster IP"},
		"IPv4 written as IPv6":        {func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"::ffff:10.96.0.1"} }, ""},
		"an address that is none":     {func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.256"} }, "no cluster IP"},
		"protocol TCP by default":     {func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "" }, ""},
		"no ports, as headless could": {func(s *corev1.Service) { s.Spec.Ports = nil }, "no ports"},
	} {
		t.Run(name, func(t *testing.T) {
			web := service("shop/web", "10.96.0.1")
			c.edit(web)
			res := result(t, web, service("shop/v1", "10.96.0.9"), route("shop/r", to("shop/web"), rule("/", backend("shop/v1"))))
			if c.refused == "" {
				expect(t, "table", tableOf(res, "shop/web", 80, "shop"), "shop/r.0")
				expect(t, "status", statusOf(res, "shop/r"), good)
				return
			}
			expect(t, "table", tableOf(res, "shop/web", 80, "shop"), "direct")
			expect(t, "status", statusOf(res, "shop/r"), noParent)
			if got := message(res, "shop/r", gatewayv1.RouteConditionAccepted); !strings.Contains(got, c.refused) {
				t.Errorf("the message is %q", got)
			}
		})
	}
}

func headless(s *corev1.Service) {
	s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
}

func externalName(s *corev1.Service) {
	s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "example.com", "", nil
}

func TestS8AParentThatIsNotThere(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", append(to("shop/gone"), to("shop/web")...), rule("/", backend("shop/web"))))
	expect(t, "status", statusOf(res, "shop/r"), noParent+"; "+good)
	expect(t, "message", message(res, "shop/r", gatewayv1.RouteConditionAccepted), "Service shop/gone is not there")
}

func TestA100HostnamesHaveNoEffectAndTheStatusSaysSo(t *testing.T) {
	with := route("shop/r", to("shop/web"), rule("/", backend("shop/web")))
	with.Spec.Hostnames = []gatewayv1.Hostname{"example.com"}
	without := route("shop/r", to("shop/web"), rule("/", backend("shop/web")))
	web := service("shop/web", "10.96.0.1")
	a, b := result(t, web, with), result(t, web, without)
	if !reflect.DeepEqual(a.Services, b.Services) {
		t.Error("hostnames change what is programmed")
	}
	const note = "hostnames have no effect"
	if !strings.Contains(message(a, "shop/r", gatewayv1.RouteConditionAccepted), note) ||
		strings.Contains(message(b, "shop/r", gatewayv1.RouteConditionAccepted), note) {
		t.Error("the message does not tell of hostnames where there are some, and only there")
	}
}

func TestA110APortIsExplicitWhereARouteOfTheSetNamesIt(t *testing.T) {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(443, "https"))
	web.Spec.Ports[1].AppProtocol = new("https")
	res := result(t, web,
		route("shop/all", to("shop/web"), rule("/", backend("shop/web"))),
		route("shop/one", to("shop/web", port(80)), rule("/x", backend("shop/web"))),
		route("buyer/all", to("shop/web"), rule("/", backend("shop/web"))))
	for number, want := range map[uint16][2]bool{80: {true, false}, 443: {false, false}} {
		p := portOf(res, "shop/web", number)
		if got := [2]bool{p.Producer.Explicit, p.Consumers["buyer"].Explicit}; got != want {
			t.Errorf("port %d: producer and consumer are explicit: %v, want %v", number, got, want)
		}
		if p.Default.Port != number || p.Default.Name != "web" {
			t.Errorf("port %d passes other bytes on to %s", number, p.Default)
		}
	}
	if p := portOf(res, "shop/web", 443); p.AppProtocol != "https" || p.Name != "https" {
		t.Errorf("port 443 lost what it says of itself: %+v", p)
	}
}
