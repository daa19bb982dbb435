package watch

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
)

const thisNode = "n1"

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 1}
}

func aNamespace(name string) *corev1.Namespace { return &corev1.Namespace{ObjectMeta: meta("", name)} }

func aService(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta("ns", name), Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: 80}}}}
}

func aPod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta("ns", name), Spec: corev1.PodSpec{NodeName: node}}
}

func aSlice(name string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: meta("ns", name), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}}}
}

func anHTTPRoute(name string) *gatewayv1.HTTPRoute {
	return &gatewayv1.HTTPRoute{ObjectMeta: meta("ns", name), Spec: gatewayv1.HTTPRouteSpec{Hostnames: []gatewayv1.Hostname{"a.test"}}}
}

func aGRPCRoute(name string) *gatewayv1.GRPCRoute {
	return &gatewayv1.GRPCRoute{ObjectMeta: meta("ns", name)}
}

func aGrant(name string) *gatewayv1.ReferenceGrant {
	return &gatewayv1.ReferenceGrant{ObjectMeta: meta("ns", name), Spec: gatewayv1.ReferenceGrantSpec{To: []gatewayv1.ReferenceGrantTo{{Kind: "Service"}}}}
}

// fill puts one object of each kind.
func (f *fakeAPI) fill() {
	f.put(namespaces, aNamespace("ns"))
	f.put(services, aService("a"))
	f.put(pods, aPod("here", thisNode))
	f.put(pods, aPod("elsewhere", "n2"))
	f.put(endpoints, aSlice("a"))
	f.put(httpRoutes, anHTTPRoute("a"))
	f.put(grpcRoutes, aGRPCRoute("a"))
	f.put(grants, aGrant("a"))
}

const filled = "ns/ns svc/a pod/here slice/a http/a grpc/a grant/a"

// names are the objects of a Set, in its order.
func names(s *objects.Set) string {
	var all []string
	for _, o := range s.Namespaces {
		all = append(all, "ns/"+o.Name)
	}
	for _, o := range s.Services {
		all = append(all, "svc/"+o.Name)
	}
	for _, o := range s.Pods {
		all = append(all, "pod/"+o.Name)
	}
	for _, o := range s.EndpointSlices {
		all = append(all, "slice/"+o.Name)
	}
	for _, o := range s.HTTPRoutes {
		all = append(all, "http/"+o.Name)
	}
	for _, o := range s.GRPCRoutes {
		all = append(all, "grpc/"+o.Name)
	}
	for _, o := range s.ReferenceGrants {
		all = append(all, "grant/"+o.Name)
	}
	return strings.Join(all, " ")
}

// running is a Source that runs until the end of the test, and what it published.
type running struct {
	*Source
	t   *testing.T
	api *fakeAPI
	log lines

	mu       sync.Mutex
	sets     []*objects.Set
	problems []kube.Problem
	at       []time.Time
}

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), what)
}

// start runs a Source. It has to be called in a bubble.
func start(t *testing.T, f *fakeAPI) *running {
	t.Helper()
	r := &running{t: t, api: f}
	var err error
	if r.Source, err = New(Config{REST: f.config(), Node: thisNode, Log: slog.New(slog.NewTextHandler(&r.log, nil))}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, r.publish) }()
	t.Cleanup(func() {
		begin := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 100*time.Millisecond { // whatever it waited for
			t.Errorf("it took %v to end", took)
		}
		f.close()
		synctest.Wait()
	})
	synctest.Sleep(10 * time.Millisecond)
	return r
}

func (r *running) publish(s *objects.Set, problems []kube.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets, r.problems = append(r.sets, s), problems
	r.at = append(r.at, time.Now())
}

func (r *running) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sets)
}

func (r *running) last() *objects.Set {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sets) == 0 {
		r.t.Fatalf("nothing was published; log:\n%s", r.log.String())
	}
	return r.sets[len(r.sets)-1]
}

// after lets changes take effect and returns the last Set.
func (r *running) after(d time.Duration) *objects.Set {
	r.t.Helper()
	synctest.Sleep(d)
	return r.last()
}

const soon = 20 * time.Millisecond

func (r *running) want(what, wanted string) {
	r.t.Helper()
	if got := names(r.after(soon)); got != wanted {
		r.t.Errorf("%s: %s, want %s", what, got, wanted)
	}
}

func (r *running) problem(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.problems, func(p kube.Problem) bool { return strings.Contains(p.String(), what) })
}

func TestAllKindsArePublishedAtOnceAndOnce(t *testing.T) {
	for _, noStream := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			f.noStream = noStream // as an API server before 1.35 may
			f.fill()
			r := start(t, f)
			r.want("at the start", filled)
			if r.count() != 1 || len(r.problems) != 0 || f.count("discovery") != 1 || r.log.count("level=") != 0 {
				t.Errorf("published %d times, problems %v, discovery asked %d times, log:\n%s", r.count(), r.problems, f.count("discovery"), r.log.String())
			}
			synctest.Sleep(30 * time.Minute)
			if r.count() != 1 || f.count("discovery") != 1 {
				t.Errorf("published %d times without a change, discovery asked %d times", r.count(), f.count("discovery"))
			}
		})
	}
}

// Until every kind that is served has been read nothing is published: the first Set may not lack anything.
func TestTheFirstSetIsWhole(t *testing.T) {
	for _, path := range []string{namespaces, services, pods, endpoints, httpRoutes, grpcRoutes, grants} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			f.fill()
			free := make(chan struct{})
			f.hold[path] = free
			r := start(t, f)
			synctest.Sleep(time.Minute)
			if r.count() != 0 || len(r.Waiting()) != 1 {
				t.Errorf("%s: published %d times, waiting for %v", path, r.count(), r.Waiting())
			}
			close(free)
			r.want(path, filled)
			if r.count() != 1 || len(r.Waiting()) != 0 {
				t.Errorf("%s: published %d times, waiting for %v", path, r.count(), r.Waiting())
			}
		})
	}
}

// A kind of which there is no object counts as read, too.
func TestAKindWithoutObjectsIsWaitedForAsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.put(services, aService("a"))
		free := make(chan struct{})
		f.hold[grpcRoutes] = free
		r := start(t, f)
		synctest.Sleep(time.Minute)
		if r.count() != 0 {
			t.Errorf("published %d times", r.count())
		}
		close(free)
		r.want("then", "svc/a")
	})
}

// Only what changed has a new pointer, and only the slices in which something changed are other ones.
func TestWhatDoesNotChangeKeepsItsPointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.put(httpRoutes, anHTTPRoute("c"))
		r := start(t, f)
		before := r.last()
		kept := *before
		f.put(httpRoutes, anHTTPRoute("b"))
		r.want("added", strings.Replace(filled, "http/a", "http/a http/b http/c", 1))
		added := r.last()
		if added.HTTPRoutes[0] != before.HTTPRoutes[0] || added.HTTPRoutes[2] != before.HTTPRoutes[1] || &added.Services[0] != &before.Services[0] {
			t.Error("what did not change is not the same")
		}
		changed := anHTTPRoute("b")
		changed.Generation = 2
		f.put(httpRoutes, changed)
		updated := r.after(soon)
		if o := updated.HTTPRoutes[1]; o == added.HTTPRoutes[1] || o.Generation != 2 || updated.HTTPRoutes[0] != added.HTTPRoutes[0] {
			t.Errorf("updated: %+v", o)
		}
		f.remove(httpRoutes, "ns", "a")
		r.want("removed", strings.Replace(filled, "http/a", "http/b http/c", 1))
		if names(&kept) != names(before) || names(added) != strings.Replace(filled, "http/a", "http/a http/b http/c", 1) || added.HTTPRoutes[1].Generation != 1 {
			t.Error("a Set was edited after it had been handed out")
		}
		if r.count() != 4 {
			t.Errorf("published %d times", r.count())
		}
	})
}

// Versions that differ in nothing that is read are not published; a route's status is read.
func TestWhatNobodyReadsIsNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		before := r.last()
		s := aService("a")
		s.Annotations = map[string]string{"example.org/a": "b"}
		s.Spec.Selector = map[string]string{"a": "b"}
		f.put(services, s)
		f.put(namespaces, aNamespace("ns")) // another resourceVersion
		e := aSlice("a")
		e.Generation = 7
		e.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}
		f.put(endpoints, e)
		p := aPod("here", thisNode)
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}}
		f.put(pods, p)
		f.put(pods, aPod("elsewhere", "n2"))
		if after := r.after(time.Second); after != before || r.count() != 1 {
			t.Errorf("published %d times", r.count())
		}

		route := anHTTPRoute("a")
		route.Status.Parents = []gatewayv1.RouteParentStatus{{ControllerName: "example.org/x"}}
		f.put(httpRoutes, route)
		after := r.after(soon)
		was, is := before.HTTPRoutes[0], after.HTTPRoutes[0]
		if was == is || len(is.Status.Parents) != 1 || is.Generation != was.Generation || is.ResourceVersion == was.ResourceVersion {
			t.Errorf("the status of a route: %+v", is)
		}
		if after.Services[0] != before.Services[0] || after.Pods[0] != before.Pods[0] {
			t.Error("versions that were not published have new pointers")
		}
	})
}

func TestAKindThatIsMissingIsWaitedForAndOneThatGoesIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.versions[grpcRoutes] = nil
		r := start(t, f)
		if r.count() != 0 {
			t.Error("one answer of discovery was believed")
		}
		synctest.Sleep(lookAtLeast * 2)
		r.want("missing", strings.Replace(filled, " grpc/a", "", 1))
		if !r.problem("http://api.test: GRPCRoute: this kind is not served") || r.log.count("a kind is not served") != 1 {
			t.Errorf("problems %v; log:\n%s", r.problems, r.log.String())
		}
		synctest.Sleep(time.Hour)
		if asked := f.count("discovery"); asked < 2*3600/15 || asked > 2*3600/9 {
			t.Errorf("discovery was asked %d times in an hour", asked)
		}

		f.change(func() { f.versions[grpcRoutes] = []string{"v1"} })
		synctest.Sleep(lookAtMost * 3 / 2)
		r.want("served", filled)
		if len(r.problems) != 0 {
			t.Errorf("problems %v", r.problems)
		}
		asked := f.count("discovery")
		synctest.Sleep(time.Hour)
		if f.count("discovery") != asked {
			t.Error("discovery is asked although nothing is missing")
		}

		// A CRD that is deleted takes its objects with it, first.
		f.remove(grpcRoutes, "ns", "a")
		f.change(func() { f.versions[grpcRoutes] = nil })
		f.cutWatches(false)
		synctest.Sleep(time.Minute)
		if len(r.problems) != 1 {
			t.Errorf("problems %v", r.problems)
		}
		r.want("gone", strings.Replace(filled, " grpc/a", "", 1))
		if !r.problem("GRPCRoute: this kind is not served") {
			t.Errorf("problems %v", r.problems)
		}
		f.change(func() { f.versions[grpcRoutes] = []string{"v1"} })
		f.put(grpcRoutes, aGRPCRoute("b"))
		synctest.Sleep(lookAtMost * 3 / 2)
		r.want("back", strings.Replace(filled, "grpc/a", "grpc/b", 1))

		// Should nobody have told of the objects' deletion, they go all the same.
		f.change(func() { f.versions[grpcRoutes] = nil })
		f.cutWatches(true)
		synctest.Sleep(time.Minute)
		r.want("gone at once", strings.Replace(filled, " grpc/a", "", 1))
	})
}

// Without any CRD of the Gateway API the agent works; all of them are told.
func TestNoKindOfTheGatewayAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.versions = map[string][]string{grpcRoutes: {"v1beta1"}} // which nobody ever specified
		r := start(t, f)
		synctest.Sleep(lookAtLeast * 2)
		r.want("none", "ns/ns svc/a pod/here slice/a")
		if len(r.problems) != 3 || !r.problem("GRPCRoute: this kind is not served in a version that is read (v1)") {
			t.Errorf("problems %v", r.problems)
		}
	})
}

// While a kind can be watched, it does not matter what discovery tells of it.
func TestAKindThatDiscoveryDoesNotTellOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.versions[grpcRoutes] = nil // so that discovery is asked
		r := start(t, f)
		synctest.Sleep(lookAtLeast * 2)
		f.change(func() { f.hidden = httpRoutes })
		synctest.Sleep(time.Minute)
		f.put(httpRoutes, anHTTPRoute("b"))
		r.want("hidden", strings.Replace(filled, "http/a grpc/a", "http/a http/b", 1))
	})
}

// A kind that is not found while discovery has it, or of which one answer lacks it, does not lose its objects.
func TestAKindThatSeemsToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		f.change(func() {
			f.refuse = func(r *http.Request) int {
				if strings.HasSuffix(r.URL.Path, "/httproutes") {
					return http.StatusNotFound
				}
				return 0
			}
		})
		f.cutWatches(true)
		synctest.Sleep(time.Minute)
		f.change(func() { f.refuse = nil })
		synctest.Sleep(time.Minute)

		answers := 0
		f.change(func() {
			f.refuse = func(r *http.Request) int {
				if strings.HasSuffix(r.URL.Path, "/v1") {
					answers++
				}
				if answers <= 1 && strings.HasPrefix(r.URL.Path, gatewayPath) {
					return http.StatusNotFound
				}
				return 0
			}
		})
		f.cutWatches(false)
		synctest.Sleep(time.Minute)
		if answers < 2 {
			t.Errorf("discovery was asked %d times", answers)
		}
		if r.sets[0] != r.last() || r.log.count("is not served") != 0 {
			t.Errorf("published %s; log:\n%s", names(r.last()), r.log.String())
		}
		f.put(httpRoutes, anHTTPRoute("b"))
		r.want("after", strings.Replace(filled, "http/a", "http/a http/b", 1))
	})
}

func TestOnlyV1Beta1IsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.versions[grants], f.versions[httpRoutes] = []string{"v1beta1"}, []string{"v1beta1"}
		r := start(t, f)
		r.want("v1beta1", filled)
		if g := r.last().ReferenceGrants[0]; len(g.Spec.To) != 1 || g.APIVersion != "" {
			t.Errorf("%+v", g)
		}
		f.put(grants, aGrant("b"))
		r.want("watched", filled+" grant/b")

		// The CRDs are replaced: nothing is taken out meanwhile.
		published := r.count()
		f.change(func() { f.versions[grants], f.versions[httpRoutes] = []string{"v1"}, []string{"v1"} })
		f.cutWatches(true)
		synctest.Sleep(time.Minute)
		f.put(grants, aGrant("c"))
		r.want("v1", filled+" grant/b grant/c")
		if r.count() != published+1 {
			t.Errorf("published %d times", r.count()-published)
		}
	})
}

// A watch that ends goes on; one that cannot go on from where it was begins anew. Nothing is published that did not change.
func TestWatchesThatEnd(t *testing.T) {
	for _, forget := range []bool{false, true} {
		for _, noStream := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeAPI(t)
				f.fill()
				f.noStream = noStream
				r := start(t, f)
				before := r.last()
				f.cutWatches(forget)
				synctest.Sleep(10 * time.Second)
				if r.count() != 1 {
					t.Errorf("forget %v, no stream %v: published %d times", forget, noStream, r.count())
				}
				f.listener.setAway(true)
				f.put(services, aService("b"))
				f.remove(httpRoutes, "ns", "a")
				f.cutWatches(forget)
				synctest.Sleep(time.Second)
				f.listener.setAway(false)
				synctest.Sleep(20 * time.Second)
				r.want("afterwards", strings.Replace(strings.Replace(filled, "svc/a", "svc/a svc/b", 1), "http/a ", "", 1))
				if after := r.last(); after.Services[0] != before.Services[0] || after.Pods[0] != before.Pods[0] {
					t.Error("what did not change is not the same")
				}
			})
		}
	}
}

func TestServerThatIsAwayAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.listener.setAway(true)
		r := start(t, f)
		synctest.Sleep(10 * time.Minute)
		if r.count() != 0 || r.log.count("level=") != 1 || r.log.count("does not answer") != 1 {
			t.Errorf("published %d times; log:\n%s", r.count(), r.log.String())
		}
		if w := r.Waiting(); len(w) != 7 || !strings.Contains(w[6], "connection refused") {
			t.Errorf("waiting for %q", w)
		}
		f.listener.setAway(false)
		synctest.Sleep(25 * time.Second)
		r.want("then", filled)
		if r.count() != 1 || r.log.count("answers again") != 1 || len(r.problems) != 0 {
			t.Errorf("published %d times, problems %v; log:\n%s", r.count(), r.problems, r.log.String())
		}
	})
}

// While the API server is away, what was read before counts, and it is said that it may be old.
func TestServerThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		before := r.last()
		f.listener.setAway(true)
		synctest.Sleep(patience / 2)
		if r.count() != 1 {
			t.Error("a short absence is told")
		}
		synctest.Sleep(time.Minute)
		published := r.count()
		synctest.Sleep(time.Hour)
		if r.count() != published {
			t.Errorf("the same problems were published %d times", r.count()-published)
		}
		if r.last() != before || !r.problem("Service: is not up to date") || r.log.count("does not answer") != 1 {
			t.Errorf("problems %v; log:\n%s", r.problems, r.log.String())
		}
		for i := range 2 {
			f.listener.setAway(false)
			synctest.Sleep(30 * time.Second)
			if r.last() != before || len(r.problems) != 0 || r.log.count("does not answer") != i+1 || r.log.count("answers again") != i+1 {
				t.Errorf("problems %v; log:\n%s", r.problems, r.log.String())
			}
			f.listener.setAway(true)
			synctest.Sleep(30 * time.Second)
		}
	})
}

// An API server that has just been started refuses what it does not know the permissions for yet.
func TestAShortRefusalIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.refuse = refuseWith(http.StatusForbidden)
		r := start(t, f)
		synctest.Sleep(time.Second)
		f.change(func() { f.refuse = nil })
		synctest.Sleep(10 * time.Second)
		r.want("then", filled)
		if r.log.count("level=") != 0 {
			t.Errorf("log:\n%s", r.log.String())
		}
	})
}

// One kind that is refused does not stop the others; before the first Set it does, because that would lack it.
func TestAKindThatIsRefused(t *testing.T) {
	refuse := func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "/grpcroutes") {
			return http.StatusForbidden
		}
		return 0
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		f.refuse = refuse
		r := start(t, f)
		synctest.Sleep(time.Minute)
		if w := r.Waiting(); r.count() != 0 || len(w) != 1 || w[0] != "GRPCRoute: refused by the test" || r.log.count("level=") != 1 {
			t.Errorf("published %d times, waiting for %q; log:\n%s", r.count(), w, r.log.String())
		}
		f.change(func() { f.refuse = nil })
		synctest.Sleep(25 * time.Second)
		r.want("then", filled)

		f.change(func() { f.refuse = refuse })
		f.cutWatches(true)
		synctest.Sleep(time.Minute)
		f.put(httpRoutes, anHTTPRoute("b"))
		r.want("others", strings.Replace(filled, "http/a", "http/a http/b", 1))
		if len(r.problems) != 1 || !r.problem("GRPCRoute: is not up to date") {
			t.Errorf("problems %v", r.problems)
		}
	})
}

// The first change is published at once; those that follow within 5 ms share a publication.
func TestChangesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		synctest.Sleep(time.Second)
		begin := time.Now()
		f.put(services, aService("b"))
		synctest.Wait()
		if r.count() != 2 || r.at[1] != begin {
			t.Fatalf("published %d times, at %v after the change", r.count(), r.at[len(r.at)-1].Sub(begin))
		}
		for i := range 100 { // within 2 ms
			f.put(services, aService(fmt.Sprint("c", i)))
			f.put(httpRoutes, anHTTPRoute(fmt.Sprint("c", i)))
			time.Sleep(20 * time.Microsecond)
		}
		synctest.Sleep(time.Second)
		if r.count() != 3 || r.at[2].Sub(begin) != holdOff || len(r.last().Services) != 102 {
			t.Errorf("published %d times, at %v after the first change, with %d Services", r.count(), r.at[len(r.at)-1].Sub(begin), len(r.last().Services))
		}
		for i := range 1000 {
			f.put(services, aService(fmt.Sprint("d", i)))
			time.Sleep(100 * time.Microsecond)
		}
		synctest.Sleep(time.Second)
		if n := r.count() - 3; n < 18 || n > 22 || len(r.last().Services) != 1102 {
			t.Errorf("published %d times in 100 ms, with %d Services", n, len(r.last().Services))
		}
	})
}

// What is there and gone again within 5 ms is not published.
func TestChangesThatCancelEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		synctest.Sleep(time.Second)
		f.put(httpRoutes, anHTTPRoute("b"))
		synctest.Wait()
		before := r.last()
		f.put(services, aService("b"))
		f.remove(services, "ns", "b")
		if after := r.after(soon); after != before || r.count() != 2 {
			t.Errorf("published %d times, last %s", r.count(), names(after))
		}
	})
}

// An object whose form is not known does not hide the others. Its last version that was read counts.
func TestAnObjectThatDoesNotDecode(t *testing.T) {
	bad := func(name string) any {
		return map[string]any{"metadata": map[string]any{"namespace": "ns", "name": name}, "spec": map[string]any{"hostnames": "a"}}
	}
	for _, noStream := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			f.fill()
			f.noStream = noStream
			f.put(httpRoutes, bad("bad"))
			r := start(t, f)
			r.want("at the start", filled)
			if !r.problem("HTTPRoute ns/bad: does not have the form that is known of its kind") || !r.problem("it does not count") {
				t.Errorf("problems %v", r.problems)
			}
			f.put(httpRoutes, bad("a"))
			f.put(httpRoutes, anHTTPRoute("b"))
			r.want("later", strings.Replace(filled, "http/a", "http/a http/b", 1))
			if !r.problem("HTTPRoute ns/a: ") || !r.problem("the version before it still counts") || len(r.problems) != 2 {
				t.Errorf("problems %v", r.problems)
			}
			f.cutWatches(true)
			synctest.Sleep(10 * time.Second)
			r.want("read anew", strings.Replace(filled, "http/a", "http/a http/b", 1))
			if len(r.problems) != 2 {
				t.Errorf("problems %v", r.problems)
			}
			f.put(httpRoutes, anHTTPRoute("a"))
			f.remove(httpRoutes, "ns", "bad")
			synctest.Sleep(soon)
			if len(r.problems) != 0 {
				t.Errorf("problems %v", r.problems)
			}
			f.put(httpRoutes, bad("b"))
			synctest.Sleep(soon)
			f.remove(httpRoutes, "ns", "b")
			r.want("removed", filled)
			if len(r.problems) != 0 {
				t.Errorf("problems %v", r.problems)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{Node: "n"}); err == nil {
		t.Error("no API server was taken")
	}
	if _, err := New(Config{REST: (&fakeAPI{}).config()}); err == nil {
		t.Error("no node was taken")
	}
}
