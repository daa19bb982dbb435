package status

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-mesh/sluice/agent/rollup"
)

// How long a node counts that is not heard of. An agent that restarts, or one that is away while its proxy serves on, is
// still right about what its proxy refused; a node that is gone must not hold a route back for long. Kubernetes gives a
// node's pods up after the same five minutes.
const (
	countFor     = 5 * time.Minute
	keepFor      = time.Hour // then its Lease is deleted
	collectEvery = time.Minute
)

// nodes is what the other nodes say.
type nodes struct {
	client     leases.LeaseInterface
	log        *slog.Logger
	own        string // the name of our own Lease, which is not looked at: we know better
	complaints complaints
	synced     chan struct{} // closed once all Leases have been read

	mu      sync.Mutex
	known   map[string]*node // by the name of the Lease
	changed chan struct{}    // closed when other things are refused
}

type node struct {
	name    string
	refused rollup.Refusals
	heard   time.Time // by our clock: nodes' clocks differ
	lease   *coordinationv1.Lease
}

func newNodes(cfg *Config) *nodes {
	return &nodes{
		client: cfg.Leases.Leases(cfg.Namespace), log: cfg.Log, own: leaseName(cfg.Node), complaints: complaints{log: cfg.Log},
		synced: make(chan struct{}), known: map[string]*node{}, changed: make(chan struct{}),
	}
}

// watch follows the Leases until ctx is done.
func (n *nodes) watch(ctx context.Context) {
	selected := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector = labelLease + "=" + leaseOfNode
		return o
	}
	follow(ctx, &coordinationv1.Lease{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return n.client.List(ctx, selected(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return n.client.Watch(ctx, selected(o))
		},
	}, follower{
		changed: func(o any) {
			if l, ok := o.(*coordinationv1.Lease); ok {
				n.hear(l, time.Now())
			}
		},
		gone:   func(name string) { n.lose(name) },
		synced: func() { close(n.synced) },
		failed: func(err error) { n.complaints.add("the nodes' Leases cannot be read", n.own, err) },
	})
}

// hear takes in a Lease. A node that was not known before may have been away for long.
func (n *nodes) hear(l *coordinationv1.Lease, now time.Time) {
	if l.Name == n.own {
		return
	}
	refused, more, err := rollup.Decode(l.Annotations[annotationRefused])
	if err != nil {
		n.complaints.add("a node's Lease cannot be understood", l.Name, err)
	}
	if more > 0 {
		n.log.Warn("a node refused more than it can say", "node", l.Annotations[annotationNode], "more", more)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.known[l.Name]
	heard := now
	if before == nil && l.Spec.RenewTime != nil && l.Spec.RenewTime.Time.Before(now) {
		heard = l.Spec.RenewTime.Time
	}
	if before != nil && sameRenewal(before.lease, l) {
		heard = before.heard
	}
	n.known[l.Name] = &node{name: l.Annotations[annotationNode], refused: refused, heard: heard, lease: l}
	if before == nil && len(refused) > 0 ||
		before != nil && (!maps.Equal(before.refused, refused) || len(refused) > 0 && !before.counts(now)) {
		n.mark()
	}
}

func sameRenewal(a, b *coordinationv1.Lease) bool { return a.Spec.RenewTime.Equal(b.Spec.RenewTime) }

func (n *nodes) lose(lease string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.known[lease]
	delete(n.known, lease)
	if before != nil && len(before.refused) > 0 {
		n.mark()
	}
}

// mark says that other things are refused. The lock is held.
func (n *nodes) mark() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) counts(now time.Time) bool { return now.Sub(n.heard) < countFor }

// refusals are those of the nodes that count, by node, and what is closed when they change.
func (n *nodes) refusals(now time.Time) (map[string]rollup.Refusals, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]rollup.Refusals{}
	for _, k := range n.known {
		if k.counts(now) && len(k.refused) > 0 {
			all[k.name] = k.refused
		}
	}
	return all, n.changed
}

// next is when a node that refused something ceases to count, unless it is heard of; zero: there is none.
func (n *nodes) next(now time.Time) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	var next time.Time
	for _, k := range n.known {
		if at := k.heard.Add(countFor); len(k.refused) > 0 && k.counts(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// collect deletes the Leases of nodes that are gone, until ctx is done.
func (n *nodes) collect(ctx context.Context) {
	for wait(ctx, time.Now().Add(collectEvery), nil, nil) {
		for _, l := range n.garbage(time.Now()) {
			name, version := l.Name, l.ResourceVersion
			call, cancel := context.WithTimeout(ctx, callTimeout)
			err := n.client.Delete(call, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
			cancel()
			switch {
			case err == nil:
				n.log.Info("the Lease of a node that is gone was deleted", "lease", name)
			case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil:
				n.complaints.add("the Lease of a node that is gone was not deleted", name, err)
			}
		}
	}
}

func (n *nodes) garbage(now time.Time) []*coordinationv1.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*coordinationv1.Lease
	for _, name := range slices.Sorted(maps.Keys(n.known)) {
		if k := n.known[name]; now.Sub(k.heard) >= keepFor {
			all = append(all, k.lease)
		}
	}
	return all
}
