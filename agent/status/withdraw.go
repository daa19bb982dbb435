package status

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	meshv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// removers are how many requests at once take away what we wrote: the right to do so goes within moments.
const removers = 16

// pageSize of lists of routes.
const pageSize = 500

// Withdraw is for the end of the installation, while Run still runs: this agent writes nothing any more, and what was
// written is taken away, by the elected agent or, where there is none, by this one. The others only take away their own
// Lease. The elected one stays elected until Run ends, or another would write everything anew. ctx bounds it.
func (w *Writer) Withdraw(ctx context.Context) error {
	w.mu.Lock()
	if !w.isWithdrawn() {
		close(w.withdrawn)
	}
	w.mu.Unlock()
	for _, busy := range []*sync.Mutex{&w.renewing, &w.writing} { // what was under way comes first
		busy.Lock()
		busy.Unlock() //nolint:staticcheck // only its end was waited for
	}
	if leader := w.leader.Load(); !w.leading.Load() && leader != nil && *leader != "" && *leader != w.cfg.Identity {
		return deleteLease(ctx, &w.cfg, leaseName(w.cfg.Node))
	}
	return Remove(ctx, w.cfg)
}

// isWithdrawn says whether Withdraw was called.
func (w *Writer) isWithdrawn() bool {
	select {
	case <-w.withdrawn:
		return true
	default:
		return false
	}
}

// Remove takes away everything that agents wrote to the API server: our entries in the statuses of routes, what XMesh
// objects say of us, and the Leases. No agent has to run. Events go by themselves. It needs what Clients, Namespace and
// ControllerName of the Config say.
func Remove(ctx context.Context, cfg Config) error {
	set, err := listRoutes(ctx, &cfg)
	if err != nil {
		return err
	}
	return errors.Join(removeEntries(ctx, &cfg, set), removeMeshes(ctx, &cfg), removeLeases(ctx, &cfg))
}

// listRoutes reads the routes of the kinds that are served, page by page.
func listRoutes(ctx context.Context, cfg *Config) (*objects.Set, error) {
	set := &objects.Set{}
	client := cfg.Gateway.GatewayV1()
	err := pages(func(o metav1.ListOptions) (string, error) {
		l, err := client.HTTPRoutes("").List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range l.Items {
			set.HTTPRoutes = append(set.HTTPRoutes, &l.Items[i])
		}
		return l.Continue, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list HTTPRoutes: %w", err)
	}
	err = pages(func(o metav1.ListOptions) (string, error) {
		l, err := client.GRPCRoutes("").List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range l.Items {
			set.GRPCRoutes = append(set.GRPCRoutes, &l.Items[i])
		}
		return l.Continue, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list GRPCRoutes: %w", err)
	}
	return set, nil
}

// pages calls list until there is no more. A kind that is not served has none.
func pages(list func(metav1.ListOptions) (more string, err error)) error {
	o := metav1.ListOptions{Limit: pageSize}
	for {
		more, err := list(o)
		if err != nil || more == "" {
			return unlessGone(err)
		}
		o.Continue = more
	}
}

// removeEntries takes our entries out of the statuses of all routes. It gives up at the first failure that the others
// would have too.
func removeEntries(ctx context.Context, cfg *Config, set *objects.Set) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, removers)
	client := routes{cfg.Gateway}
	eachRoute(set, func(ref model.RouteRef, has view) {
		if !has.signed(gatewayv1.GatewayController(cfg.ControllerName)) {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := removeEntry(ctx, client, ref, has, cfg.ControllerName); err != nil {
				giveUp(fmt.Errorf("take our part out of the status of %s: %w", ref, err))
			}
		})
	})
	wg.Wait()
	return context.Cause(ctx)
}

func removeEntry(ctx context.Context, client routes, ref model.RouteRef, has view, controller string) error {
	for range maxConflicts {
		c := plan(has.parents, nil, gatewayv1.GatewayController(controller), metav1.Time{})
		if len(c.operations) == 0 {
			return nil
		}
		body, err := c.patch(has.version)
		if err != nil {
			return err
		}
		if _, err = client.patch(ctx, ref, body); !apierrors.IsConflict(err) {
			return unlessGone(err)
		}
		if has, err = client.get(ctx, ref); err != nil {
			return unlessGone(err)
		}
	}
	return errConflicts
}

// removeMeshes gives XMesh objects of ours the status of one that no controller has seen.
func removeMeshes(ctx context.Context, cfg *Config) error {
	all, err := cfg.Gateway.ExperimentalV1alpha1().XMeshes().List(ctx, metav1.ListOptions{})
	if err != nil {
		if err = unlessGone(err); err != nil {
			return fmt.Errorf("list XMesh objects: %w", err)
		}
		return nil
	}
	var errs []error
	for i := range all.Items {
		x := &all.Items[i]
		if string(x.Spec.ControllerName) != cfg.ControllerName {
			continue
		}
		next := x.DeepCopy()
		next.Status = meshv1alpha1.MeshStatus{Conditions: withCondition(x.Status.Conditions, metav1.Condition{
			Type: string(meshv1alpha1.MeshConditionAccepted), Status: metav1.ConditionUnknown,
			Reason: string(meshv1alpha1.MeshReasonPending), Message: "Waiting for controller", ObservedGeneration: x.Generation,
		}, metav1.Now())}
		_, err := cfg.Gateway.ExperimentalV1alpha1().XMeshes().UpdateStatus(ctx, next, metav1.UpdateOptions{})
		if err = unlessGone(err); err != nil {
			errs = append(errs, fmt.Errorf("take back the status of XMesh %s: %w", x.Name, err))
		}
	}
	return errors.Join(errs...)
}

// removeLeases deletes those of the nodes, and the election's last: while it is there, nobody else is elected.
func removeLeases(ctx context.Context, cfg *Config) error {
	all, err := cfg.Leases.Leases(cfg.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelLease + "=" + leaseOfNode})
	if err != nil {
		return fmt.Errorf("list Leases: %w", err)
	}
	var errs []error
	for _, l := range all.Items {
		errs = append(errs, deleteLease(ctx, cfg, l.Name))
	}
	return errors.Join(append(errs, deleteLease(ctx, cfg, electionLease))...)
}

func deleteLease(ctx context.Context, cfg *Config, name string) error {
	err := cfg.Leases.Leases(cfg.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete Lease %s: %w", name, err)
	}
	return nil
}
