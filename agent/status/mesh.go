package status

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	meshv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// meshRetry is the pause after the status of an XMesh could not be written.
const meshRetry = 5 * time.Second

// meshes keeps the statuses of the XMesh objects that name our controller (GEP-3949). Where the kind is not served, it
// waits for it.
type meshes struct {
	w   *Writer
	log *slog.Logger

	mu      sync.Mutex
	known   map[string]*meshv1alpha1.XMesh
	synced  bool
	changed chan struct{}
}

// run follows the objects until ctx is done.
func (m *meshes) run(ctx context.Context) {
	m.known, m.changed = map[string]*meshv1alpha1.XMesh{}, make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.follow(ctx) })
	complaints := complaints{log: m.log}
	looked := false
	var retry time.Time
	for wait(ctx, retry, m.changed, nil) {
		retry = time.Time{}
		all, synced := m.all()
		if synced && !looked {
			if err := m.find(ctx, all); err != nil {
				complaints.add("the XMesh was not made; another attempt follows", m.w.cfg.MeshName, err)
				retry = time.Now().Add(meshRetry)
			} else {
				looked = true
			}
		}
		for _, x := range all {
			err := m.settle(ctx, x)
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				complaints.add("the status of an XMesh was not written; another attempt follows", x.Name, err)
				retry = time.Now().Add(meshRetry)
			}
		}
	}
}

func (m *meshes) follow(ctx context.Context) {
	client := m.w.cfg.Gateway.ExperimentalV1alpha1().XMeshes()
	complaints := complaints{log: m.log}
	follow(ctx, &meshv1alpha1.XMesh{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, follower{
		changed: func(o any) {
			if x, ok := o.(*meshv1alpha1.XMesh); ok {
				m.note(func() { m.known[x.Name] = x })
			}
		},
		gone:   func(name string) { m.note(func() { delete(m.known, name) }) },
		synced: func() { m.note(func() { m.synced = true }) },
		failed: func(err error) {
			if !apierrors.IsNotFound(err) { // the kind is not served
				complaints.add("the XMesh objects cannot be read", m.w.cfg.MeshName, err)
			}
		},
	})
}

// note changes what is known, and wakes the loop.
func (m *meshes) note(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *meshes) all() ([]*meshv1alpha1.XMesh, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*meshv1alpha1.XMesh
	for _, name := range slices.Sorted(maps.Keys(m.known)) {
		all = append(all, m.known[name])
	}
	return all, m.synced
}

// find looks for the XMesh of the name that we have, and makes it where there is none. One of another controller is left
// alone, and so is a spec, always.
func (m *meshes) find(ctx context.Context, all []*meshv1alpha1.XMesh) error {
	name := m.w.cfg.MeshName
	if name == "" {
		return nil
	}
	for _, x := range all {
		if x.Name != name {
			continue
		}
		if !m.ours(x) {
			m.log.Warn("the XMesh of our name belongs to another controller; nothing is said there of what Sluice supports", "xmesh", name, "controller", x.Spec.ControllerName)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := m.w.cfg.Gateway.ExperimentalV1alpha1().XMeshes().Create(ctx, &meshv1alpha1.XMesh{
		Name: name,
		Spec: meshv1alpha1.MeshSpec{ControllerName: gatewayv1.GatewayController(m.w.cfg.ControllerName)},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the XMesh %q: %w", name, err)
	}
	return nil
}

func (m *meshes) ours(x *meshv1alpha1.XMesh) bool {
	return string(x.Spec.ControllerName) == m.w.cfg.ControllerName
}

// settle writes the status of an XMesh of ours that is not as it should be.
func (m *meshes) settle(ctx context.Context, x *meshv1alpha1.XMesh) error {
	if !m.ours(x) {
		return nil
	}
	status := m.status(x, metav1.Now())
	if reflect.DeepEqual(status, x.Status) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := x.DeepCopy()
	next.Status = status
	_, err := m.w.cfg.Gateway.ExperimentalV1alpha1().XMeshes().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) {
		m.w.metrics.count(ofMesh, err)
	}
	return err
}

// status is what the XMesh should say. Conditions of other types stay as they are.
func (m *meshes) status(x *meshv1alpha1.XMesh, now metav1.Time) meshv1alpha1.MeshStatus {
	accepted := metav1.Condition{
		Type: string(meshv1alpha1.MeshConditionAccepted), Status: metav1.ConditionTrue, Reason: string(meshv1alpha1.MeshReasonAccepted),
		Message: fmt.Sprintf("Sluice in namespace %s is this mesh", m.w.cfg.Namespace), ObservedGeneration: x.Generation,
	}
	var supported []gatewayv1.SupportedFeature
	if x.Spec.ParametersRef != nil {
		accepted.Status, accepted.Reason = metav1.ConditionFalse, string(meshv1alpha1.MeshReasonInvalidParameters)
		accepted.Message = "Sluice has no parameters: remove spec.parametersRef"
	} else {
		for _, name := range Features() {
			supported = append(supported, gatewayv1.SupportedFeature{Name: name})
		}
	}
	return meshv1alpha1.MeshStatus{Conditions: withCondition(x.Status.Conditions, accepted, now), SupportedFeatures: supported}
}

// withCondition is a copy of conditions with that one in it.
func withCondition(all []metav1.Condition, c metav1.Condition, now metav1.Time) []metav1.Condition {
	stamped := stamp([]metav1.Condition{c}, all, now)[0]
	all = slices.Clone(all)
	if had := find(all, c.Type); had != nil {
		*had = stamped
		return all
	}
	return append(all, stamped)
}
