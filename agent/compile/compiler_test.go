package compile_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// cluster is objects that change at random. There are few names, so that objects meet, and go and come back.
type cluster struct {
	dice
	generation int64
	services   map[string]*corev1.Service
	slices     map[string]*discoveryv1.EndpointSlice
	http       map[string]*gatewayv1.HTTPRoute
	grpc       map[string]*gatewayv1.GRPCRoute
	grants     map[string]*gatewayv1.ReferenceGrant
	pods       int
	set        *objects.Set
}

func newCluster(seed uint64) *cluster {
	return &cluster{
		dice: dice{rand.New(rand.NewPCG(seed, 1))}, set: &objects.Set{},
		services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, http: map[string]*gatewayv1.HTTPRoute{},
		grpc: map[string]*gatewayv1.GRPCRoute{}, grants: map[string]*gatewayv1.ReferenceGrant{},
	}
}

func oneOf[T any](c *cluster, all ...T) T { return all[c.IntN(len(all))] }

func (c *cluster) name() string {
	return oneOf(c, "shop", "far", "a") + "/" + oneOf(c, "web", "api", "v1", "v2")
}

// change changes one object, or none.
func (c *cluster) change() {
	switch c.IntN(9) {
	case 0:
		mutate(c, c.services, &c.set.Services, c.name(), c.service)
	case 1:
		name := c.name()
		mutate(c, c.slices, &c.set.EndpointSlices, fmt.Sprint(name, c.IntN(2)), func(key string) *discoveryv1.EndpointSlice { return c.slice(name, key) })
	case 2, 3:
		mutate(c, c.http, &c.set.HTTPRoutes, c.name(), c.httpRoute)
	case 4:
		mutate(c, c.grpc, &c.set.GRPCRoutes, c.name(), c.grpcRoute)
	case 5:
		mutate(c, c.grants, &c.set.ReferenceGrants, oneOf(c, "shop", "far", "a"), func(key string) *gatewayv1.ReferenceGrant {
			return grant(key, oneOf(c, "shop", "far", "a"), func(g *gatewayv1.ReferenceGrant) {
				g.Spec.To[0].Name = pick(c.dice, func() gatewayv1.ObjectName { return gatewayv1.ObjectName(oneOf(c, "web", "v1")) })
			})
		})
	case 6:
		c.pods++
		c.set.Pods = []*corev1.Pod{{Name: fmt.Sprint(c.pods)}}
	case 7:
		c.makeAnew()
	default:
		c.writeStatus()
	}
}

// makeAnew changes one thing of an HTTPRoute, as one that was deleted and made anew may differ in any.
func (c *cluster) makeAnew() {
	keys := slices.Sorted(maps.Keys(c.http))
	if len(keys) == 0 {
		return
	}
	key := oneOf(c, keys...)
	r := c.http[key].DeepCopy()
	switch c.IntN(3) {
	case 0:
		r.Generation++
	case 1:
		after(int64(c.IntN(3)), r)
	default:
		r.Spec.Rules = append(r.Spec.Rules, rule("/anew", backend(c.name())))
	}
	c.http[key] = r
	c.set.HTTPRoutes = slices.Collect(maps.Values(c.http))
}

// mutate makes an object, puts another in its place, or an equal one, or takes it away.
func mutate[T interface{ DeepCopy() T }](c *cluster, all map[string]T, into *[]T, key string, make func(string) T) {
	old, is := all[key]
	switch {
	case is && c.IntN(4) == 0:
		delete(all, key)
	case is && c.IntN(4) == 0:
		all[key] = old.DeepCopy()
	default:
		all[key] = make(key)
	}
	*into = slices.Collect(maps.Values(all)) // in no order
}

func (c *cluster) service(key string) *corev1.Service {
	ports := []corev1.ServicePort{tcp(80, "http")}
	if c.maybe() {
		ports = append(ports, oneOf(c, tcp(81, "other"), udp(80, "udp"), tcp(443, "http")))
	}
	s := service(key, oneOf(c, "10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4", "10.96.0.5", "None"), ports...)
	s.Annotations = map[string]string{}
	if c.IntN(4) == 0 {
		s.Annotations[compile.AnnotationRedirect] = oneOf(c, "always", "never")
		s.Annotations[compile.AnnotationFail] = oneOf(c, "closed", "open", "")
	}
	if c.IntN(8) == 0 {
		s.Spec.Type = corev1.ServiceTypeExternalName
	}
	return s
}

func (c *cluster) slice(service, key string) *discoveryv1.EndpointSlice {
	var all []discoveryv1.Endpoint
	for range c.IntN(4) {
		all = append(all, endpointAt(fmt.Sprintf("10.1.0.%d", 1+c.IntN(5)), state(c.maybe(), c.maybe(), c.maybe()), onNode(oneOf(c, "n1", "n2"))))
	}
	s := slice(service, "", all)
	_, s.Name = meta(key).Namespace, meta(key).Name
	return s
}

func (c *cluster) parents() []gatewayv1.ParentReference {
	all := to(c.name())
	for range c.IntN(3) {
		all = append(all, to(c.name(), oneOf(c, port(80), port(81), section("http"), func(r *gatewayv1.ParentReference) { r.Kind = nil }))...)
	}
	return all
}

func (c *cluster) httpRoute(key string) *gatewayv1.HTTPRoute {
	r := after(int64(c.IntN(3)), route(key, c.parents()))
	c.generation++
	r.Generation = c.generation
	for range c.IntN(3) {
		one := c.rule()
		one.BackendRefs = nil
		for range c.IntN(3) {
			one.BackendRefs = append(one.BackendRefs, backend(c.name(), toPort(oneOf[int32](c, 80, 81))))
		}
		if c.IntN(4) > 0 {
			one.Filters, one.Timeouts, one.Retry = nil, nil, nil
		}
		if c.IntN(6) == 0 {
			one.Matches[0].Path = path("Odd", "/")
		}
		r.Spec.Rules = append(r.Spec.Rules, one)
	}
	return r
}

func (c *cluster) grpcRoute(key string) *gatewayv1.GRPCRoute {
	c.generation++
	r := &gatewayv1.GRPCRoute{ObjectMeta: meta(key), Spec: gatewayv1.GRPCRouteSpec{CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: c.parents()}}}
	r.Generation = c.generation
	r.Spec.Rules = []gatewayv1.GRPCRouteRule{{BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: backend(c.name()).BackendRef}}}}
	if c.IntN(4) == 0 {
		r.Spec.Rules[0].Matches = []gatewayv1.GRPCRouteMatch{{Method: &gatewayv1.GRPCMethodMatch{}}} // is left out
	}
	return r
}

// writeStatus writes the status of every HTTPRoute, as an agent does: other objects of the same generation.
func (c *cluster) writeStatus() {
	for key, r := range c.http {
		r = r.DeepCopy()
		r.ResourceVersion = fmt.Sprint(c.IntN(1000))
		r.Status.Parents = []gatewayv1.RouteParentStatus{{ControllerName: "x", Conditions: []metav1.Condition{{Type: "Accepted"}}}}
		c.http[key] = r
	}
	c.set.HTTPRoutes = slices.Collect(maps.Values(c.http))
}

// next is the objects after some changes.
func (c *cluster) next() *objects.Set {
	set := *c.set
	c.set = &set
	for range oneOf(c, 0, 1, 1, 1, 1, 5) {
		c.change()
	}
	return c.set
}

// Whatever changes, a Compiler gives what all objects give, and what is equal is the same.
func TestACompilerGivesWhatAllObjectsGive(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(12) {
		c := newCluster(seed)
		compiler := compile.New(options())
		before := compiler.Compile(c.set)
		for step := range 120 {
			set := c.next()
			after, full := compiler.Compile(set), compile.Compile(set, options())
			if !reflect.DeepEqual(after, full) {
				t.Fatalf("seed %d, step %d: the result\n%s\nis not that of all objects\n%s", seed, step, show(t, after), show(t, full))
			}
			checkKept(t, before, after)
			if t.Failed() {
				t.Fatalf("at seed %d, step %d", seed, step)
			}
			count(seen, after)
			before = after
		}
	}
	for _, what := range []string{"Services", "endpoints", "statuses", "events", "warnings", "flags", "invalid backends", "consumers", "dropped"} {
		if seen[what] < 100 {
			t.Errorf("the test saw %d %s", seen[what], what)
		}
	}
}

func count(seen map[string]int, res *compile.Result) {
	seen["Services"] += len(res.Services)
	seen["statuses"] += len(res.Statuses)
	seen["events"] += len(res.Events)
	seen["warnings"] += len(res.Warnings)
	seen["flags"] += len(res.Flags)
	for _, s := range res.Statuses {
		seen["dropped"] += len(s.Dropped)
	}
	for _, e := range res.Endpoints {
		seen["endpoints"] += len(e.Endpoints)
	}
	for _, s := range res.Services {
		for _, p := range s.Ports {
			seen["consumers"] += len(p.Consumers)
			seen["invalid backends"] += invalidBackends(p.Producer)
		}
	}
}

func invalidBackends(t *model.RouteTable) (count int) {
	if t == nil {
		return 0
	}
	for _, r := range t.Rules {
		for _, b := range r.Backends {
			if b.Invalid != "" {
				count++
			}
		}
	}
	return count
}
