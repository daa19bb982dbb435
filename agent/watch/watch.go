// Package watch reads Kubernetes objects from an API server and keeps up with their changes. What nobody reads of an
// object is dropped before it is kept.
//
// Each kind is watched by itself, so that what goes wrong with one does not stop the others. The watches only change
// their own collection and mark that there is something new; one loop makes the Set of it and publishes that.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
)

// holdOff is how long changes are gathered after a publication. The first one after a pause is published at once.
const holdOff = 5 * time.Millisecond

// Config is what a Source needs.
type Config struct {
	REST       *rest.Config          // of the API server; it is not edited. See Connect
	Node       string                // only pods of this node are read
	Log        *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: nothing is counted
}

// Source is an API server as the source of objects. Run it once.
type Source struct {
	cfg     Config
	log     *slog.Logger
	server  *connection
	kinds   []*kind
	health  *health
	metrics *metrics

	changed chan struct{} // marked when something may have to be published
	look    chan struct{} // marked when discovery may have something new to say
}

// New makes a Source. Nothing is asked of the API server before Run.
func New(cfg Config) (*Source, error) {
	if cfg.Node == "" {
		return nil, errors.New("the node has no name: its pods cannot be told from others")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	server, err := newConnection(cfg.REST)
	if err != nil {
		return nil, err
	}
	s := &Source{
		cfg: cfg, log: cfg.Log, server: server,
		changed: make(chan struct{}, 1), look: make(chan struct{}, 1),
	}
	s.kinds = allKinds(cfg.Node, s.mark)
	s.health = newHealth(server.host, cfg.Log, s.mark)
	s.metrics = newMetrics(cfg.Registerer, s.kinds)
	return s, nil
}

// mark says that something may have to be published.
func (s *Source) mark() { wake(s.changed) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is marked already
	}
}

// Run publishes all objects, and again whenever what is read of them or the problems have changed, until the context
// ends; then it returns nil. Nothing is published before every kind that the API server serves has been read: a Set
// that lacks objects would take what they stand for out of the data path. An API server that is away is waited for, and
// what was read before counts meanwhile. Neither the Set nor its objects are edited afterwards; an object that did not
// change has the same pointer in the next Set, and a slice without changes is the same slice.
func (s *Source) Run(ctx context.Context, publish func(*objects.Set, []kube.Problem)) error {
	// What client-go says by itself is for developers; what is wrong is told by health.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quieter{s.log.Handler()}))
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, k := range s.kinds {
		if !k.custom() {
			k.state.Store(served)
			wg.Go(func() { s.follow(ctx, k, k.versions[0]) })
		}
	}
	wg.Go(func() { s.discover(ctx) })
	s.publishChanges(ctx, publish)
	return nil
}

// publishChanges is the loop.
func (s *Source) publishChanges(ctx context.Context, publish func(*objects.Set, []kube.Problem)) {
	var set *objects.Set
	var problems []kube.Problem
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		if len(s.Waiting()) > 0 && set == nil {
			continue
		}
		newSet, newProblems := s.assemble(set), s.problems()
		if newSet != set || !slices.Equal(newProblems, problems) {
			set, problems = newSet, newProblems
			s.metrics.published.Inc()
			publish(set, problems)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(holdOff):
		}
	}
}

// assemble makes the next Set; it is the one before when no object has changed.
func (s *Source) assemble(before *objects.Set) *objects.Set {
	next := &objects.Set{}
	if before != nil {
		*next = *before
	}
	changed := before == nil
	for _, k := range s.kinds {
		changed = k.objects.fill(next) || changed
	}
	if !changed {
		return before
	}
	return next
}

// Waiting names the kinds that have to be read before anything is published for the first time, and why they are not
// read yet where that is known.
func (s *Source) Waiting() []string {
	var all []string
	for _, k := range s.kinds {
		if k.state.Load() != missing && !k.objects.hasSynced() {
			all = append(all, s.health.describe(k.name))
		}
	}
	return all
}

// problems are what is wrong now.
func (s *Source) problems() []kube.Problem {
	all := s.health.problems()
	for _, k := range s.kinds {
		if k.state.Load() == missing {
			all = append(all, kube.Problem{File: s.server.host, Object: k.name, Reason: "this kind is not served in a version that is read (" +
				k.readable() + "), so none counts: install the CRDs of the Gateway API"})
		}
		all = append(all, k.objects.malformed(s.server.host)...)
	}
	return all
}
