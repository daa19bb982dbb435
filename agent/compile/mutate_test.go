package compile_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// spoiler sets fields of objects to what no schema of ours would let pass. A server's schema may be older, or take what it has
// stored before for right.
type spoiler struct{ dice }

// spoil changes a value somewhere, or something in it.
func (s spoiler) spoil(v reflect.Value) {
	if s.IntN(6) == 0 && v.Kind() != reflect.Struct {
		s.set(v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		switch {
		case !v.IsNil():
			s.spoil(v.Elem())
		case v.CanSet():
			s.set(v)
		}
	case reflect.Struct:
		if n := v.NumField(); n > 0 {
			i := s.IntN(n)
			if name := v.Type().Field(i).Name; v.Type() == reflect.TypeFor[metav1.ObjectMeta]() && (name == "Name" || name == "Namespace") {
				return // every server looks at these
			}
			s.spoil(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() > 0 {
			s.spoil(v.Index(s.IntN(v.Len())))
		}
	default:
		s.set(v)
	}
}

// set gives a value that has nothing to do with the one before.
func (s spoiler) set(v reflect.Value) {
	if !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s.garbage())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64([]int32{0, 1, -1, 80, 65536, 65616, 1 << 30, -1 << 31}[s.IntN(8)]))
	case reflect.Bool:
		v.SetBool(s.maybe())
	case reflect.Pointer:
		if v.IsNil() && s.maybe() {
			v.Set(reflect.New(v.Type().Elem()))
			if s.maybe() {
				s.spoil(v.Elem())
			}
			return
		}
		v.SetZero()
	case reflect.Slice:
		switch {
		case v.Len() > 0 && s.maybe(): // twice
			v.Set(reflect.AppendSlice(v, v))
		case s.maybe():
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		default:
			v.SetZero()
		}
	default:
		v.SetZero()
	}
}

func (s spoiler) garbage() string {
	all := []string{
		"", "/", "a", "A", "shop", "web", "none", "Service", "http", "TCP", "UDP", "SCTP", "ExternalName", "Exact", "RegularExpression", "PathPrefix",
		"(", "[a", "a{1001}", `\C`, strings.Repeat("(", 1001) + strings.Repeat(")", 1001), "(?P<a>", strings.Repeat("x", 70000), "a b", "a\x00b", "ü", "a\xffb", "..", "None",
		"10.96.0.1", "::ffff:10.96.0.1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "::", "1s", "-1s", "URLRewrite", "RequestMirror", "ExtensionRef", "GET", "get",
	}
	return all[s.IntN(len(all))]
}

// rich are objects with everything in them.
func (s spoiler) rich() []any {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "other"), udp(80, "dns"))
	web.Annotations = map[string]string{compile.AnnotationRedirect: "always", compile.AnnotationFail: "closed"}
	web.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	web.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(5))}}
	web.Spec.Ports[1].AppProtocol = new("kubernetes.io/ws")
	v1 := service("far/v1", "10.96.0.2")
	v1.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	http := route("shop/r", append(to("shop/web"), to("far/v1", port(80), section("http"))...), s.rule(), s.rule())
	http.Spec.Hostnames = []gatewayv1.Hostname{"a.example"}
	for i := range http.Spec.Rules {
		r := &http.Spec.Rules[i]
		r.Matches = append(r.Matches, gatewayv1.HTTPRouteMatch{
			Path: path(gatewayv1.PathMatchRegularExpression, "/a.*"), Method: new(gatewayv1.HTTPMethodGet),
			Headers:     []gatewayv1.HTTPHeaderMatch{{Name: "x", Value: "y", Type: new(gatewayv1.HeaderMatchRegularExpression)}},
			QueryParams: []gatewayv1.HTTPQueryParamMatch{{Name: "q", Value: "y"}},
		})
		r.BackendRefs = append(r.BackendRefs, backend("far/v1", weight(3)))
	}
	if s.maybe() { // so that what follows counts
		http.Spec.Rules[0].Filters, http.Spec.Rules[0].Timeouts, http.Spec.Rules[0].Retry = nil, nil, nil
	}
	grpc := &gatewayv1.GRPCRoute{ObjectMeta: meta("shop/g"), Spec: gatewayv1.GRPCRouteSpec{
		CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: to("shop/web", port(81))},
		Rules: []gatewayv1.GRPCRouteRule{{
			Matches: []gatewayv1.GRPCRouteMatch{{
				Method:  &gatewayv1.GRPCMethodMatch{Service: new("a.B"), Method: new("C"), Type: new(gatewayv1.GRPCMethodMatchRegularExpression)},
				Headers: []gatewayv1.GRPCHeaderMatch{{Name: "x", Value: "y"}},
			}},
			Filters: []gatewayv1.GRPCRouteFilter{
				{Type: gatewayv1.GRPCRouteFilterRequestHeaderModifier, RequestHeaderModifier: s.edit()},
				{Type: gatewayv1.GRPCRouteFilterRequestMirror, RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{BackendRef: backend("far/v1").BackendObjectReference}},
			},
			BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: backend("shop/web").BackendRef}},
		}},
	}}
	endpoints := slice("far/v1", "v1-a", nil)
	endpoints.Endpoints = append(endpoints.Endpoints, endpointAt("10.1.0.1", state(true, true, false), onNode("n1")), endpointAt("10.1.0.2"))
	return []any{web, v1, http, grpc, grant("far", "shop"), slice("shop/web", "web-a", endpoints.Endpoints), endpoints}
}

// match is one of a route's.
func (s spoiler) match(of []any) any {
	http, grpc := of[2].(*gatewayv1.HTTPRoute), of[3].(*gatewayv1.GRPCRoute)
	if len(http.Spec.Rules) > 0 && len(http.Spec.Rules[0].Matches) > 0 && s.maybe() {
		return &http.Spec.Rules[0].Matches[len(http.Spec.Rules[0].Matches)-1]
	}
	if len(grpc.Spec.Rules) > 0 && len(grpc.Spec.Rules[0].Matches) > 0 {
		return &grpc.Spec.Rules[0].Matches[0]
	}
	return http
}

// Whatever a server takes for an object, nothing panics, the proxy takes what comes of it, and what is wrong is said: a rule is in
// force or told to be left out, and a backend that cannot be used is a reference that is not resolved.
func TestWhateverObjectsAreTheyAreCompiled(t *testing.T) {
	s := spoiler{dice{rand.New(rand.NewPCG(11, 11))}}
	inForce, dropped, invalid := 0, 0, 0
	for i := range 4000 {
		all := s.rich()
		for range 1 + s.IntN(4) {
			s.spoil(reflect.ValueOf(all[s.IntN(len(all))]).Elem())
		}
		if s.maybe() { // what is most of a route
			s.spoil(reflect.ValueOf(s.match(all)).Elem())
		}
		set := setOf(all...)
		res := compileSpoiled(t, set)
		for _, status := range res.Statuses {
			checkConditions(t, status)
			a, b, c := checkTold(t, set, res, status)
			inForce, dropped, invalid = inForce+a, dropped+b, invalid+c
		}
		if t.Failed() {
			text, _ := json.Marshal(set)
			t.Fatalf("at %d: %s", i, text)
		}
	}
	if inForce < 4000 || dropped < 250 || invalid < 250 {
		t.Errorf("%d rules were in force, %d dropped, %d backends invalid", inForce, dropped, invalid)
	}
}

func compileSpoiled(t *testing.T, set *objects.Set) *compile.Result {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			text, _ := json.Marshal(set)
			t.Fatalf("it panics: %v\n%s", p, text)
		}
	}()
	res := compile.Compile(set, options())
	checkValid(t, res)
	return res
}

// checkConditions: the server has to take them.
func checkConditions(t *testing.T, s compile.RouteStatus) {
	t.Helper()
	reason := regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)
	for _, p := range s.Parents {
		if len(p.Conditions) < 2 || p.Conditions[0].Type != "Accepted" || p.Conditions[1].Type != "ResolvedRefs" { // S-20
			t.Errorf("the conditions of %s are %+v", s.Route, p.Conditions)
		}
		for _, c := range p.Conditions {
			if !reason.MatchString(c.Reason) || c.Message == "" || len(c.Message) > 32768 || !utf8.ValidString(c.Message) {
				t.Errorf("the server does not take the condition %+v of %s", c, s.Route)
			}
		}
	}
}

// checkTold looks at each port where a parent of the route is accepted.
func checkTold(t *testing.T, set *objects.Set, res *compile.Result, s compile.RouteStatus) (inForce, dropped, invalid int) {
	t.Helper()
	rules := 0
	for _, r := range set.HTTPRoutes {
		if s.Route == (model.RouteRef{Kind: "HTTPRoute", Namespace: r.Namespace, Name: r.Name}) {
			rules = len(r.Spec.Rules)
		}
	}
	for _, r := range set.GRPCRoutes {
		if s.Route == (model.RouteRef{Kind: "GRPCRoute", Namespace: r.Namespace, Name: r.Name}) {
			rules = len(r.Spec.Rules)
		}
	}
	resolved := !slices.ContainsFunc(s.Parents, func(p gatewayv1.RouteParentStatus) bool { return p.Conditions[1].Status != metav1.ConditionTrue })
	for _, service := range res.Services {
		for _, port := range service.Ports {
			for _, table := range append(slices.Collect(valuesOf(port.Consumers)), port.Producer) {
				indexes := map[int]bool{}
				for _, r := range rulesOf(table, s.Route) {
					inForce++
					indexes[r.Index] = true
					for _, b := range r.Backends {
						if b.Invalid != "" {
							if invalid++; resolved {
								t.Errorf("%s has a backend that cannot be used, and all references are resolved: %s", s.Route, b.Invalid)
							}
						}
					}
				}
				if len(indexes) > 0 && len(indexes)+len(s.Dropped) != rules {
					t.Errorf("of %d rules of %s %v are in force, and %v are told to be left out", rules, s.Route, indexes, s.Dropped)
				}
			}
		}
	}
	if len(s.Dropped) > 0 {
		for _, p := range s.Parents {
			whole := fmt.Sprint(p.Conditions)
			if p.Conditions[0].Reason != string(gatewayv1.RouteReasonNoMatchingParent) && p.Conditions[0].Reason != "Conflicted" &&
				!strings.Contains(whole, fmt.Sprintf("rules[%d]", s.Dropped[0].Index)) {
				t.Errorf("that %+v is dropped is not told: %s", s.Dropped[0], whole)
			}
		}
	}
	return inForce, len(s.Dropped), invalid
}

func valuesOf(m map[string]*model.RouteTable) func(func(*model.RouteTable) bool) {
	return func(yield func(*model.RouteTable) bool) {
		for _, t := range m {
			if !yield(t) {
				return
			}
		}
	}
}

func rulesOf(table *model.RouteTable, route model.RouteRef) (all []model.Rule) {
	if table == nil {
		return nil
	}
	for _, r := range table.Rules {
		if r.Route == route {
			all = append(all, r)
		}
	}
	return all
}
