package status

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/sluice-mesh/sluice/agent/rollup"
)

// What a node's Lease looks like.
const (
	nodeLease            = "sluice-node-" // and the node's name
	labelLease           = "sluice.dev/lease"
	leaseOfNode          = "node"
	leaseOfStatus        = "status"
	annotationNode       = "sluice.dev/node"
	annotationGeneration = "sluice.dev/generation"
	annotationRefused    = "sluice.dev/refused"
)

// Times of a node's Lease. A renewal of each node is what the API server has of us when nothing happens.
const (
	leaseDuration = time.Minute
	renewEvery    = 20 * time.Second
	retryAfter    = 2 * time.Second
	settleFor     = time.Second // proxies connect before a successor says that nothing is refused
	writeEvery    = time.Second
)

// leaseLabels are on all Leases of ours.
func leaseLabels(of string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "node", labelLease: of}
}

// leaseName is the name of a node's Lease. The API allows 253 bytes, which a node's own name may have.
func leaseName(node string) string {
	const most = 253
	name := nodeLease + node
	if len(name) <= most {
		return name
	}
	sum := sha256.Sum256([]byte(node))
	suffix := "-" + hex.EncodeToString(sum[:8])
	return name[:most-len(suffix)] + suffix
}

// ownLease is what this node's agent says of itself. One goroutine uses it.
type ownLease struct {
	client leases.LeaseInterface
	log    *slog.Logger
	node   string
	holder string

	last     *coordinationv1.Lease // as the server had it last; nil: it has to be read
	held     bool                  // it has been ours
	yielding bool
}

func newOwnLease(cfg *Config) *ownLease {
	return &ownLease{client: cfg.Leases.Leases(cfg.Namespace), log: cfg.Log, node: cfg.Node, holder: cfg.Identity}
}

// beat renews our Lease until ctx is done or we withdraw. What is refused is written when it changes, at most once a
// second; the generation alone waits for the next renewal, because a write for each change on each node is too much in a
// large cluster.
func (w *Writer) beat(ctx context.Context) {
	var said string
	var wrote, due time.Time
	complaints := complaints{log: w.log}
	for {
		report, changed := w.latest()
		now := time.Now()
		if report != nil {
			text := rollup.Encode(report.Refused)
			switch {
			case due.IsZero():
				due = now.Add(settleFor)
			case !wrote.IsZero() && text != said && wrote.Add(writeEvery).Before(due):
				due = wrote.Add(writeEvery)
			}
			if !now.Before(due) {
				err := w.renew(ctx, text, report.Generation)
				if ctx.Err() != nil || w.isWithdrawn() {
					return
				}
				w.metrics.count(ofLease, err)
				wrote, due = time.Now(), time.Now().Add(jitter(renewEvery))
				if err != nil {
					due = wrote.Add(retryAfter)
					complaints.add("this node's Lease was not written; another attempt follows", leaseName(w.cfg.Node), err)
				} else {
					said = text
				}
				continue
			}
		}
		if !wait(ctx, due, changed, w.withdrawn) || w.isWithdrawn() {
			return
		}
	}
}

// renew writes the Lease, unless we withdraw.
func (w *Writer) renew(ctx context.Context, refused string, generation uint64) error {
	w.renewing.Lock()
	defer w.renewing.Unlock()
	if w.isWithdrawn() {
		return nil
	}
	return w.own.write(ctx, refused, generation)
}

// jitter keeps the nodes of a cluster from renewing together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/5) }

// write renews the Lease and says what is refused.
func (o *ownLease) write(ctx context.Context, refused string, generation uint64) error {
	for range 2 {
		err := o.attempt(ctx, refused, generation)
		if err == nil {
			return nil
		}
		o.last = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return fmt.Errorf("write Lease %s: it is changed by others", leaseName(o.node))
}

func (o *ownLease) attempt(ctx context.Context, refused string, generation uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if o.last == nil {
		got, err := o.client.Get(ctx, leaseName(o.node), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read Lease %s: %w", leaseName(o.node), err)
		}
		if err == nil {
			o.last = got
		}
	}
	now := time.Now()
	if o.yields(now) {
		o.last = nil
		return nil
	}
	var err error
	if o.last == nil {
		l := &coordinationv1.Lease{Name: leaseName(o.node)}
		o.fill(l, refused, generation, now)
		o.last, err = o.client.Create(ctx, l, metav1.CreateOptions{})
	} else {
		l := o.last.DeepCopy()
		o.fill(l, refused, generation, now)
		o.last, err = o.client.Update(ctx, l, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Lease %s: %w", leaseName(o.node), err)
	}
	o.held = true
	return nil
}

// yields says whether a successor on this node speaks for it. The one that starts later takes the Lease; the earlier one
// is still there for as long as a rollout takes, and comes back if the other is not heard of any more.
func (o *ownLease) yields(now time.Time) bool {
	yields := o.held && o.last != nil && o.last.Spec.HolderIdentity != nil && *o.last.Spec.HolderIdentity != o.holder &&
		o.last.Spec.RenewTime != nil && now.Sub(o.last.Spec.RenewTime.Time) < leaseDuration
	if yields && !o.yielding {
		o.log.Info("another agent speaks for this node", "pod", *o.last.Spec.HolderIdentity)
	}
	o.yielding = yields
	return yields
}

func (o *ownLease) fill(l *coordinationv1.Lease, refused string, generation uint64, now time.Time) {
	l.Labels = leaseLabels(leaseOfNode)
	l.Annotations = map[string]string{annotationNode: o.node, annotationGeneration: strconv.FormatUint(generation, 10)}
	if refused != "" {
		l.Annotations[annotationRefused] = refused
	}
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity != o.holder {
		l.Spec.AcquireTime = new(metav1.NewMicroTime(now))
	}
	l.Spec.HolderIdentity = new(o.holder)
	l.Spec.LeaseDurationSeconds = new(int32(leaseDuration / time.Second))
	l.Spec.RenewTime = new(metav1.NewMicroTime(now))
}
