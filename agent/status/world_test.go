package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

const (
	controller = "sluice.dev/mesh"
	namespace  = "sluice-system"
	leasePath  = "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/"
	meshPath   = "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes/"
)

func routePath(name string) string {
	return "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/" + name
}

// world is a cluster without nodes: an API server, and the part of agents that this package is.
type world struct {
	*api
	t      *testing.T
	agents map[string]*agent

	decoded map[string]decoded // by path
}

// agent is a Writer, and what its node would have to say.
type agent struct {
	*Writer
	w        *world
	cable    *cable
	registry *prometheus.Registry
	log      *buffer
	stop     context.CancelFunc
	done     chan error

	mu       sync.Mutex
	refused  rollup.Refusals
	events   []compile.Event
	verdicts func(model.RouteRef) []metav1.Condition // nil: everything is in order
	count    uint64
}

// cable is an agent's connection to the server.
type cable struct {
	*api
	cut atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (c *cable) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.cut.Load() {
		return nil, errors.New("no route to host")
	}
	return c.api.RoundTrip(r)
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bubble tells a story in a world, and ends what runs there.
func bubble(t *testing.T, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{api: newAPI(t), t: t, agents: map[string]*agent{}, decoded: map[string]decoded{}}
		w.missing["xmeshes"] = true
		defer func() {
			for _, a := range w.agents {
				a.end()
			}
			w.mu.Lock()
			for x := range w.watches {
				close(x.events)
			}
			w.mu.Unlock()
			if t.Failed() {
				for name, a := range w.agents {
					t.Logf("log of %s:\n%s", name, a.log)
				}
			}
		}()
		story(w)
	})
}

// start starts the agent of a node.
func (w *world) start(node, pod string) *agent {
	w.t.Helper()
	a := &agent{w: w, cable: &cable{api: w.api}, registry: prometheus.NewRegistry(), log: &buffer{}, done: make(chan error, 1)}
	to := w.config()
	to.Transport = a.cable
	clients, err := NewClients(to)
	if err != nil {
		w.t.Fatal(err)
	}
	a.Writer, err = New(Config{
		Clients: clients, Node: node, Namespace: namespace, Identity: pod, ControllerName: controller, MeshName: "sluice",
		Log: slog.New(slog.NewTextHandler(a.log, nil)), Registerer: a.registry,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.stop = background(w.t)
	go func() { a.done <- a.Run(ctx) }()
	w.agents[pod] = a
	return a
}

func (a *agent) end() {
	a.stop()
	err := <-a.done
	a.done <- err
	if err != nil {
		a.w.t.Errorf("%s ended with %v", a.cfg.Identity, err)
	}
}

// refuse sets what the node's proxies refuse.
func (a *agent) refuse(all rollup.Refusals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = all
}

// observe gives the agent what the server has now, as its source would.
func (a *agent) observe() {
	a.w.t.Helper()
	set := a.w.set()
	r := rollup.Report{Objects: set}
	a.mu.Lock()
	a.count++
	r.Refused, r.Events, r.Generation = a.refused, a.events, a.count
	verdicts := a.verdicts
	a.mu.Unlock()
	for _, o := range set.HTTPRoutes {
		r.Routes = append(r.Routes, compiled(model.RouteRef{Kind: httpRoute, Namespace: o.Namespace, Name: o.Name}, o.Generation, o.Spec.ParentRefs, verdicts)...)
	}
	for _, o := range set.GRPCRoutes {
		r.Routes = append(r.Routes, compiled(model.RouteRef{Kind: grpcRoute, Namespace: o.Namespace, Name: o.Name}, o.Generation, o.Spec.ParentRefs, verdicts)...)
	}
	a.Publish(r)
}

// compiled is what the compiler says of a route: nothing of one that has no Service for a parent.
func compiled(ref model.RouteRef, generation int64, parents []gatewayv1.ParentReference, verdicts func(model.RouteRef) []metav1.Condition) []compile.RouteStatus {
	s := compile.RouteStatus{Route: ref, Generation: generation}
	for _, p := range parents {
		if p.Kind == nil || *p.Kind != "Service" {
			continue
		}
		conditions := []metav1.Condition{
			{Type: "Accepted", Status: "True", Reason: "Accepted", Message: "bound"}, {Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs", Message: "resolved"},
		}
		if verdicts != nil {
			conditions = verdicts(ref)
		}
		for i := range conditions {
			conditions[i].ObservedGeneration = generation
		}
		s.Parents = append(s.Parents, gatewayv1.RouteParentStatus{ParentRef: p, ControllerName: controller, Conditions: conditions})
	}
	if s.Parents == nil {
		return nil
	}
	return []compile.RouteStatus{s}
}

// set is what the server has, as the source's types have it. What did not change is the same object.
func (w *world) set() *objects.Set {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	set := &objects.Set{}
	for _, path := range slices.Sorted(maps.Keys(w.objects)) {
		switch kind, _, _, _ := w.target(path); kind {
		case "httproutes":
			set.HTTPRoutes = append(set.HTTPRoutes, cached[gatewayv1.HTTPRoute](w, path))
		case "grpcroutes":
			set.GRPCRoutes = append(set.GRPCRoutes, cached[gatewayv1.GRPCRoute](w, path))
		}
	}
	return set
}

func cached[T any](w *world, path string) *T {
	version := field(w.objects[path], "metadata", "resourceVersion")
	if c, ok := w.decoded[path]; ok && c.version == version {
		return c.object.(*T)
	}
	o := new(T)
	if err := json.Unmarshal(encodeObject(w.objects[path]), o); err != nil {
		w.t.Fatal(err)
	}
	w.decoded[path] = decoded{version, o}
	return o
}

type decoded struct {
	version string
	object  any
}

// settle lets every agent see what the server has, and do what follows from it.
func (w *world) settle() {
	w.t.Helper()
	for range 3 {
		for _, a := range w.agents {
			a.observe()
		}
		w.after(compareEvery)
		w.after(compareEvery)
	}
}

func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// service is a parentRef in JSON.
func service(name string) string {
	return fmt.Sprintf(`{"group": "", "kind": "Service", "name": %q}`, name)
}

// route makes a route with those parents.
func (w *world) route(name string, parents ...string) {
	w.put(routePath(name), fmt.Sprintf(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {"parentRefs": [%s]}}`, strings.Join(parents, ",")))
}

// says is our part of a route's status: each parent with its conditions.
func (w *world) says(name string) string {
	w.t.Helper()
	o := w.get(routePath(name))
	if o == nil {
		return "gone"
	}
	var r gatewayv1.HTTPRoute
	if err := json.Unmarshal(encodeObject(o), &r); err != nil {
		w.t.Fatal(err)
	}
	var parts []string
	for _, p := range r.Status.Parents {
		if p.ControllerName != controller {
			continue
		}
		part := string(p.ParentRef.Name) + ":"
		for _, c := range p.Conditions {
			part += fmt.Sprintf(" %s=%s/%s@%d", c.Type, c.Status, c.Reason, c.ObservedGeneration)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

func (w *world) expect(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// metric is the value of a series of an agent, 0 where it is not there.
func (a *agent) metric(name, label string) float64 {
	families, err := a.registry.Gather()
	if err != nil {
		a.w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

const fine = "Accepted=True/Accepted@1 ResolvedRefs=True/ResolvedRefs@1"
