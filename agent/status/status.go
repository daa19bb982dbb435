// Package status tells the API server what became of the routes. Each node's agent says on a Lease of its own what its
// proxies refused. One of the agents is elected: it writes the status of every route, with all nodes' refusals rolled up
// into it, the status of the mesh, and Events.
package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	gateway "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/sluice-mesh/sluice/agent/rollup"
)

// callTimeout bounds one call to the API server.
const callTimeout = 10 * time.Second

// Clients are what a Writer talks to the API server with. They share no rate limit: a Lease that waits behind thousands
// of routes expires.
type Clients struct {
	Leases  coordinationv1.LeasesGetter
	Events  eventsv1.EventsGetter
	Gateway gateway.Interface // not limited: the Writer limits itself, because it knows what is urgent
}

// NewClients makes them.
func NewClients(to *rest.Config) (Clients, error) {
	core := rest.CopyConfig(to)
	core.QPS, core.Burst = 20, 40
	leases, err := coordinationv1.NewForConfig(core)
	if err != nil {
		return Clients{}, fmt.Errorf("make a client for Leases: %w", err)
	}
	events, err := eventsv1.NewForConfig(core)
	if err != nil {
		return Clients{}, fmt.Errorf("make a client for Events: %w", err)
	}
	unlimited := rest.CopyConfig(to)
	unlimited.QPS = -1
	unlimited.ContentType, unlimited.AcceptContentTypes = "application/json", "" // custom resources have no other
	routes, err := gateway.NewForConfig(unlimited)
	if err != nil {
		return Clients{}, fmt.Errorf("make a client for the Gateway API: %w", err)
	}
	return Clients{Leases: leases, Events: events, Gateway: routes}, nil
}

// Config is what a Writer needs.
type Config struct {
	Clients
	Node           string // that we run on
	Namespace      string // our own, where the Leases are
	Identity       string // unique among the agents that run: the pod's name
	ControllerName string // that signs our part of a status
	MeshName       string // of the XMesh that is made where there is none; "": none is made
	Log            *slog.Logger
	Registerer     prometheus.Registerer
}

// Writer is one agent's part in it. Its methods may be called from any goroutine.
type Writer struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	own     *ownLease
	leader  atomic.Pointer[string] // who was elected, as far as we know
	leading atomic.Bool

	renewing, writing sync.Mutex // held while that is done: Withdraw waits for it

	mu        sync.Mutex
	report    *rollup.Report // the last; nil: none yet
	changed   chan struct{}  // closed when there is another
	withdrawn chan struct{}  // closed by Withdraw
}

// New makes a Writer, which does nothing until Run.
func New(cfg Config) (*Writer, error) {
	for _, needed := range []struct{ what, value string }{
		{"the node's name", cfg.Node}, {"our namespace", cfg.Namespace}, {"our pod's name", cfg.Identity}, {"the controller's name", cfg.ControllerName},
	} {
		if needed.value == "" {
			return nil, fmt.Errorf("statuses cannot be written: %s is not known", needed.what)
		}
	}
	if cfg.Leases == nil || cfg.Events == nil || cfg.Gateway == nil {
		return nil, errors.New("statuses cannot be written: a client is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	return &Writer{
		cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Registerer), own: newOwnLease(&cfg),
		changed: make(chan struct{}), withdrawn: make(chan struct{}),
	}, nil
}

// Publish says what there is to write from now on. It does not wait.
func (w *Writer) Publish(r rollup.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report = &r
	close(w.changed)
	w.changed = make(chan struct{})
}

// latest returns the last report, nil before the first, and what is closed when there is another.
func (w *Writer) latest() (*rollup.Report, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report, w.changed
}

// Run says what this node refused, and writes statuses while it is elected, until ctx is done. Before it returns,
// nothing more is written, and another agent may be elected at once.
func (w *Writer) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.beat(ctx) })
	err := w.campaign(ctx)
	stop()
	return err
}

// wait returns when one of the channels is closed, each of which may be nil, or at the time, if there is one. It tells
// whether ctx is not done.
func wait(ctx context.Context, at time.Time, a, b <-chan struct{}) bool {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case <-a:
	case <-b:
	}
	return ctx.Err() == nil
}
