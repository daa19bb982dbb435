package compile_test

import (
	"fmt"
	"reflect"
	"slices"
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

// What a large cluster has.
const (
	bigServices   = 1000
	bigRoutes     = 5000
	bigEndpoints  = 10 // of each Service
	bigNamespaces = 50
)

// bigService is the key of the i-th Service of a large cluster.
func bigService(i int) string {
	i %= bigServices
	return fmt.Sprintf("team-%d/backend-%d", i%bigNamespaces, i)
}

// bigRoute is the i-th route of a large cluster: two rules and three backends, one of them in another namespace.
func bigRoute(i int) *gatewayv1.HTTPRoute {
	first := rule(fmt.Sprintf("/api/v%d", i), backend(bigService(i), weight(90)), backend(bigService(i+bigNamespaces), weight(10)))
	first.Filters = append(first.Filters, setHeader("X-Version", fmt.Sprint(i)))
	r := route(fmt.Sprintf("team-%d/route-%d", i%bigServices%bigNamespaces, i), to(bigService(i)), first, rule("/", backend(bigService(i+1))))
	r.Generation = 1
	r.CreationTimestamp = metav1.NewTime(time.Unix(1_700_000_000+int64(i*7919%bigRoutes), 0))
	return r
}

func bigSlice(i, turn int) *discoveryv1.EndpointSlice {
	var endpoints []discoveryv1.Endpoint
	for j := range bigEndpoints {
		endpoints = append(endpoints, endpointAt(fmt.Sprintf("10.%d.%d.%d", turn, i/200, i%200+j), state(true, true, false), onNode(fmt.Sprintf("node-%d", j))))
	}
	return slice(bigService(i), fmt.Sprintf("backend-%d-abcde", i), endpoints)
}

// big is a large cluster.
func big() *objects.Set {
	set := &objects.Set{}
	for i := range bigNamespaces {
		name := fmt.Sprintf("team-%d", i)
		set.Namespaces = append(set.Namespaces, &corev1.Namespace{Name: name})
		set.ReferenceGrants = append(set.ReferenceGrants, grant(name, fmt.Sprintf("team-%d", (i+bigNamespaces-1)%bigNamespaces)))
	}
	for i := range bigServices {
		set.Services = append(set.Services, service(bigService(i), fmt.Sprintf("10.96.%d.%d", i/250, i%250+1)))
		set.EndpointSlices = append(set.EndpointSlices, bigSlice(i, 1))
	}
	for i := range bigRoutes {
		set.HTTPRoutes = append(set.HTTPRoutes, bigRoute(i))
	}
	return set
}

// replace puts another object in the place of one, as a source does: the slice of that kind is a new one, and all other objects stay.
func replace[T any](list *[]T, i int, to T) {
	*list = slices.Clone(*list)
	(*list)[i] = to
}

// bigChange is a change of one object of a large cluster. turn differs from one time to the next.
type bigChange struct {
	name  string
	apply func(set *objects.Set, turn int)
	want  compile.Work // that it leads to
}

func bigChanges() []bigChange {
	return []bigChange{
		{"endpoints", func(set *objects.Set, turn int) { replace(&set.EndpointSlices, 7, bigSlice(7, turn)) }, compile.Work{Endpoints: 1}},
		{"route", func(set *objects.Set, turn int) {
			r := bigRoute(7)
			r.Generation, r.Spec.Rules[0].BackendRefs[0].Weight = int64(turn), new(int32(turn))
			replace(&set.HTTPRoutes, 7, r)
		}, compile.Work{Routes: 1, Parents: 1, Services: 1, Statuses: 1}},
		{"status of a route", func(set *objects.Set, turn int) {
			r := bigRoute(7)
			r.ResourceVersion = fmt.Sprint(turn)
			r.Status.Parents = []gatewayv1.RouteParentStatus{{ControllerName: "sluice.dev/mesh"}}
			replace(&set.HTTPRoutes, 7, r)
		}, compile.Work{}},
		// 5 routes of its own have 15 backends; it is the backend of 10 routes of two other Services.
		{"Service", func(set *objects.Set, turn int) {
			s := service(bigService(207), "10.96.0.208", tcp(80, "http"), tcp(int32(1000+turn), "other"))
			replace(&set.Services, 207, s)
		}, compile.Work{Parents: 15, Services: 3, Endpoints: 2, Statuses: 15}},
		{"pod", func(set *objects.Set, turn int) {
			set.Pods = []*corev1.Pod{{Name: fmt.Sprint(turn)}}
		}, compile.Work{}},
		{"labels of a namespace", func(set *objects.Set, turn int) {
			replace(&set.Namespaces, 7, &corev1.Namespace{Name: "team-7", Labels: map[string]string{"turn": fmt.Sprint(turn)}})
		}, compile.Work{}},
		{"ReferenceGrant", func(set *objects.Set, turn int) {
			g := grant("team-7", "team-6")
			g.Spec.To[0].Name = new(gatewayv1.ObjectName(fmt.Sprint("backend-", 7+turn%2)))
			replace(&set.ReferenceGrants, 7, g)
		}, compile.Work{Parents: 100, Services: 20, Statuses: 100}},
	}
}

// A change is compiled where it matters, and nowhere else: above all, an endpoint that comes or goes compiles no route. What it
// leads to is what all objects lead to, and what it does not touch stays in its place.
func TestAChangeCompilesOnlyWhatDependsOnIt(t *testing.T) {
	set := big()
	c := compile.New(options())
	before := c.Compile(set)
	checkValid(t, before)
	if want := (compile.Work{Routes: bigRoutes, Parents: bigRoutes, Services: bigServices, Endpoints: bigServices, Statuses: bigRoutes}); c.Work() != want {
		t.Fatalf("the first time %+v were compiled, want %+v", c.Work(), want)
	}
	for _, change := range bigChanges() {
		t.Run(change.name, func(t *testing.T) {
			for turn := range 2 {
				next := *set
				change.apply(&next, 2+turn)
				set = &next
				after := c.Compile(set)
				if did := c.Work(); turn > 0 && did != change.want {
					t.Errorf("%+v were compiled, want %+v", did, change.want)
				}
				if turn > 0 && !reflect.DeepEqual(after, compile.Compile(set, options())) {
					t.Error("the result is not that of all objects")
				}
				checkKept(t, before, after)
				before = after
			}
		})
	}
}

// checkKept: what is equal is the same.
func checkKept(t *testing.T, before, after *compile.Result) {
	t.Helper()
	services := map[model.ServiceKey]*model.Service{}
	for _, s := range before.Services {
		services[s.ServiceKey] = s
	}
	for _, s := range after.Services {
		if was := services[s.ServiceKey]; was != nil && was != s && reflect.DeepEqual(was, s) {
			t.Errorf("Service %s is not kept", s.ServiceKey)
		}
	}
	sets := map[model.EndpointsKey]*model.EndpointSet{}
	for _, e := range before.Endpoints {
		sets[e.EndpointsKey] = e
	}
	for _, e := range after.Endpoints {
		if was := sets[e.EndpointsKey]; was != nil && was != e && reflect.DeepEqual(was, e) {
			t.Errorf("the endpoints %s are not kept", e.EndpointsKey)
		}
	}
	for what, kept := range map[string]bool{
		"Services":  sameOrDiffers(before.Services, after.Services),
		"endpoints": sameOrDiffers(before.Endpoints, after.Endpoints),
		"statuses":  sameOrDiffers(before.Statuses, after.Statuses),
		"events":    sameOrDiffers(before.Events, after.Events),
		"warnings":  sameOrDiffers(before.Warnings, after.Warnings),
	} {
		if !kept {
			t.Errorf("the list of %s is not kept", what)
		}
	}
	if before != after && reflect.DeepEqual(before, after) {
		t.Error("the result is not kept")
	}
}

func sameOrDiffers[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) || !reflect.DeepEqual(a, b)
}

// BenchmarkCompile takes the time for all objects, and for a change of one of them.
func BenchmarkCompile(b *testing.B) {
	set := big()
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			compile.Compile(set, options())
		}
	})
	for _, change := range bigChanges() {
		b.Run(change.name, func(b *testing.B) {
			b.ReportAllocs()
			c := compile.New(options())
			c.Compile(set)
			turn, at := 0, set
			for b.Loop() {
				b.StopTimer()
				turn = (turn + 1) % 100
				next := *at
				change.apply(&next, 2+turn)
				at = &next
				b.StartTimer()
				c.Compile(at)
			}
		})
	}
}
