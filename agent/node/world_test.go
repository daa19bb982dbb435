package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// world is a node without a kernel, in a bubble of synctest: the loop runs against a kernel, proxies and pods that do
// what the real ones do, as far as a connection could tell. After every single write, and after everything that a proxy
// takes in, it is checked that no connection could meet a half-made state (checkInvariants).
type world struct {
	t        *testing.T
	node     *Node
	registry *prometheus.Registry
	ctx      context.Context
	stop     func() error // ends the loop and waits for it

	mu      sync.Mutex
	kernel  *fakeKernel
	proxies *fakeProxies
	pods    *fakePods
	story   []string // what happened, in order
	broken  bool

	outside map[string]error // what is wrong with the cgroups of pods, by UID
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	w.kernel = &fakeKernel{
		w: w, numbers: map[netip.AddrPort]uint32{}, frontends: map[netip.AddrPort]datapath.Frontend{},
		pods: map[uint64]bool{}, listeners: map[listenerKey]uint64{}, busy: map[string]int{}, beating: true,
	}
	w.proxies = &fakeProxies{w: w, changed: make(chan struct{}, 1), sessions: map[uint64]*fakeProxy{}}
	w.pods = &fakePods{
		w: w, changed: make(chan struct{}, 1), desired: map[string]enroll.Wanted{}, held: map[string]*enroll.Held{},
		failing: map[string]error{}, sockets: map[*enroll.Pod][]uint64{}, cookies: map[string]uint64{}, spaces: map[uint64]string{},
	}
	return w
}

// make makes a Node on what there is: the first one, or the successor of one that was stopped.
func (w *world) make(log ...*slog.Logger) {
	w.registry = prometheus.NewRegistry()
	w.node = New(Config{
		Compile:  compile.New(options()).Compile,
		CheckPod: w.checkPod,
		Select:   enroll.Selector{Node: "n1", Folder: true}, Registerer: w.registry, Log: slog.New(slog.NewMultiHandler(handlers(log)...)),
	}, w.kernel, w.proxies, w.pods)
}

// checkPod says whether the programs run for what a pod does.
func (w *world) checkPod(uid string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("look at %s", uid)
	return w.outside[uid]
}

func options() compile.Options {
	return compile.Options{Node: "n1", ReferenceGrants: true, ControllerName: "sluice.dev/mesh"}
}

func handlers(all []*slog.Logger) []slog.Handler {
	var found []slog.Handler
	for _, l := range all {
		found = append(found, l.Handler())
	}
	return found
}

// run runs its loop.
func (w *world) run() {
	n := w.node
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	w.ctx = ctx
	w.stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
}

// bubble tells a story in a world whose loop runs, and ends it.
func bubble(t *testing.T, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		before := descriptors(t)
		w := newWorld(t)
		w.make()
		w.run()
		defer func() {
			w.end()
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors are open, which were %d before", after, before)
			}
		}()
		story(w)
	})
}

func descriptors(t *testing.T) int {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

func (w *world) end() {
	if err := w.stop(); err != nil {
		w.t.Errorf("the loop ended with %v", err)
	}
	w.pods.closeAll()
	w.proxies.closeAll()
	if w.t.Failed() {
		w.t.Logf("what happened:\n%s", strings.Join(w.story, "\n"))
	}
}

// after lets time pass and everything that is due then happen.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// soon is enough for a pass, and for what an ack brings about.
func (w *world) soon() { w.after(20 * time.Millisecond) }

// note writes the story. The lock is held.
func (w *world) note(format string, args ...any) {
	w.story = append(w.story, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// fail notes that an invariant is broken, once. The lock is held.
func (w *world) fail(format string, args ...any) {
	w.note("BROKEN: "+format, args...)
	if !w.broken {
		w.broken = true
		w.t.Errorf(format, args...)
	}
}

// checkInvariants is called after everything that changes something. A connection of a pod is sent to the listener that
// the kernel has for it, with the id of a frontend that the kernel has. So whoever accepts on that listener has to know
// every frontend in the kernel, must not be redirected itself, and has to have the endpoints of what it has in force. The
// lock is held.
func (w *world) checkInvariants(after string) {
	w.kernel.forgetClosed()
	for key, socket := range w.kernel.listeners {
		for _, p := range w.proxies.holders(socket) {
			has := map[uint32]netip.AddrPort{}
			for _, s := range p.services {
				for a, id := range addresses(s) {
					has[id] = a
				}
			}
			for a, f := range w.kernel.frontends {
				if has[f.ID] != a {
					w.fail("after %s: a connection of pod %d to %s may come to proxy %d as id %d, which it does not know", after, key.cookie, a, p.view.ID, f.ID)
				}
			}
			if !slices.Contains(w.kernel.cgroups[:], p.view.Cgroup) {
				w.fail("after %s: the connections of proxy %d are redirected", after, p.view.ID)
			}
		}
		if !w.kernel.pods[key.cookie] {
			w.fail("after %s: the kernel steers in the namespace %d, which it does not know", after, key.cookie)
		}
	}
	for _, p := range w.proxies.all {
		needed := map[model.EndpointsKey]bool{}
		needs(p.services, needed)
		for key := range needed {
			if p.endpoints[key] == nil && key != (model.EndpointsKey{}) {
				w.fail("after %s: proxy %d has lost the endpoints %s of what it has in force", after, p.view.ID, key)
			}
		}
	}
}

// mustBeAccepted: what the agent does by its own will must not leave a listener that is steered to without a proxy. The
// lock is held.
func (w *world) mustBeAccepted(after string, socket uint64) {
	w.kernel.forgetClosed()
	for key, steered := range w.kernel.listeners {
		if steered == socket && len(w.proxies.holders(socket)) == 0 {
			w.fail("after %s: nobody accepts what is steered to the listener of pod %d", after, key.cookie)
		}
	}
}

// ----- what the tests ask

// inKernel lists the frontends in the kernel.
func (w *world) inKernel() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, f := range slices.SortedFunc(maps.Values(w.kernel.frontends), func(a, b datapath.Frontend) int { return a.Addr.Compare(b.Addr) }) {
		s := f.Addr.String()
		if f.Flags&datapath.FailClosed != 0 {
			s += " closed"
		}
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}

// steered lists the pods that the kernel steers to a listener that is theirs now.
func (w *world) steered() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kernel.forgetClosed()
	found := map[string]bool{}
	for uid, h := range w.pods.held {
		for i, socket := range w.pods.sockets[h.Pod] {
			if w.kernel.listeners[listenerKey{h.Cookie, families()[i]}] == socket {
				found[uid] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), ", ")
}

// inForce lists the units that a proxy has.
func (w *world) inForce(p *fakeProxy) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, key := range slices.SortedFunc(maps.Keys(p.services), model.ServiceKey.Compare) {
		all = append(all, key.String())
	}
	return strings.Join(all, ", ")
}

// told says what happened with a word in it, in order and without the times.
func (w *world) told(word string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for _, line := range w.story {
		if _, what, _ := strings.Cut(line, " "); strings.Contains(what, word) {
			found = append(found, what)
		}
	}
	return found
}

func (w *world) expect(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (w *world) status() *Status {
	w.t.Helper()
	s, err := w.node.Status(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// do edits the world between two steps of the loop.
func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// ----- objects

// setOf is the Set of these objects.
func setOf(all ...any) *objects.Set {
	set := &objects.Set{}
	for _, o := range all {
		switch o := o.(type) {
		case *corev1.Service:
			set.Services = append(set.Services, o)
		case *corev1.Pod:
			set.Pods = append(set.Pods, o)
		case *gatewayv1.HTTPRoute:
			set.HTTPRoutes = append(set.HTTPRoutes, o)
		case *gatewayv1.GRPCRoute:
			set.GRPCRoutes = append(set.GRPCRoutes, o)
		case *discoveryv1.EndpointSlice:
			set.EndpointSlices = append(set.EndpointSlices, o)
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
	return set
}

func (w *world) publish(all ...any) { w.node.Publish(setOf(all...), nil) }

// service is one that is redirected also without a route.
func service(name, ip string, ports ...int32) *corev1.Service {
	s := &corev1.Service{
		Namespace: "shop", Name: name, Annotations: map[string]string{compile.AnnotationRedirect: "always"},
		Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: p, Protocol: corev1.ProtocolTCP})
	}
	return s
}

func closed(s *corev1.Service) *corev1.Service {
	s.Annotations[compile.AnnotationFail] = "closed"
	return s
}

// route binds to a Service of shop and sends everything to backends there, port 80.
func route(name, parent string, backends ...string) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{Namespace: "shop", Name: name, Generation: 1}
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{Group: new(gatewayv1.Group("")), Kind: new(gatewayv1.Kind("Service")), Name: gatewayv1.ObjectName(parent)}}
	var rule gatewayv1.HTTPRouteRule
	for _, b := range backends {
		ref := gatewayv1.HTTPBackendRef{}
		ref.Name, ref.Port = gatewayv1.ObjectName(b), new(gatewayv1.PortNumber(80))
		rule.BackendRefs = append(rule.BackendRefs, ref)
	}
	r.Spec.Rules = []gatewayv1.HTTPRouteRule{rule}
	return r
}

func client(uid string) *corev1.Pod {
	return &corev1.Pod{Namespace: "shop", Name: uid, UID: types.UID(uid), Spec: corev1.PodSpec{NodeName: "n1"}}
}

func families() []model.Family { return []model.Family{model.IPv4, model.IPv6} }
