package status

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The election. A leader that stops well gives the Lease up, so a rollout waits for no time-out.
const (
	electionLease = "sluice-status"
	electFor      = 15 * time.Second
	electRenewed  = 10 * time.Second // within that, or it is given up
	electEvery    = 2 * time.Second
)

// campaign stands for election until ctx is done, and leads while elected. The Lease is given up after the last write
// came to an end.
func (w *Writer) campaign(ctx context.Context) error {
	hold, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	var leading sync.Mutex // held while we lead
	defer context.AfterFunc(ctx, func() {
		leading.Lock()
		defer leading.Unlock()
		release()
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: w.cfg.Namespace, Name: electionLease}, Labels: leaseLabels(leaseOfStatus),
			Client: ballots{w.cfg.Leases, &complaints{log: w.log}}, LockConfig: resourcelock.ResourceLockConfig{Identity: w.cfg.Identity},
		},
		LeaseDuration: electFor, RenewDeadline: electRenewed, RetryPeriod: electEvery, ReleaseOnCancel: true, Name: electionLease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(elected context.Context) {
				leading.Lock()
				defer leading.Unlock()
				w.serve(ctx, elected)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				w.leader.Store(&identity)
				w.log.Info("an agent is elected to write statuses", "pod", identity)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("stand for election: %w", err)
	}
	for hold.Err() == nil {
		elector.Run(quiet(hold))
	}
	leading.Lock() // the last term is over
	defer leading.Unlock()
	return nil
}

// serve leads until the election is lost, ctx is done or we withdraw.
func (w *Writer) serve(ctx, elected context.Context) {
	if ctx.Err() != nil {
		return
	}
	term, end := context.WithCancel(elected)
	defer end()
	defer context.AfterFunc(ctx, end)()
	w.leading.Store(true)
	w.metrics.leader.Set(1)
	defer w.metrics.leader.Set(0)
	defer w.leading.Store(false)
	var wg sync.WaitGroup
	defer wg.Wait()
	writing, pause := context.WithCancel(term)
	defer pause()
	wg.Go(func() { // who withdraws keeps the Lease, or another would write everything anew
		if wait(term, time.Time{}, w.withdrawn, nil) {
			pause()
		}
	})
	w.log.Info("this agent writes statuses")
	w.write(writing)
	<-term.Done()
	w.log.Info("this agent no longer writes statuses")
}

func (w *Writer) write(ctx context.Context) {
	w.writing.Lock()
	defer w.writing.Unlock()
	newTerm(w).lead(ctx)
}

// ballots is how the election's Lease is reached. Each agent looks at it every few seconds: the answer comes from the API
// server's memory. It may be old, but who takes the Lease names the version that it saw.
type ballots struct {
	leases.LeasesGetter
	complaints *complaints
}

// Leases implements LeasesGetter.
func (b ballots) Leases(namespace string) leases.LeaseInterface {
	return ballot{b.LeasesGetter.Leases(namespace), b.complaints}
}

type ballot struct {
	leases.LeaseInterface
	complaints *complaints
}

// Get implements LeaseInterface.
func (b ballot) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	o.ResourceVersion = "0"
	l, err := b.LeaseInterface.Get(ctx, name, o)
	b.note(ctx, err)
	return l, err
}

// Create implements LeaseInterface.
func (b ballot) Create(ctx context.Context, l *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	l, err := b.LeaseInterface.Create(ctx, l, o)
	b.note(ctx, err)
	return l, err
}

// Update implements LeaseInterface.
func (b ballot) Update(ctx context.Context, l *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	l, err := b.LeaseInterface.Update(ctx, l, o)
	b.note(ctx, err)
	return l, err
}

// note logs what is not a matter of course among candidates.
func (b ballot) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		b.complaints.add("the agent that writes statuses cannot be elected", electionLease, err)
	}
}
