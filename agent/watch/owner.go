package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// gonePatience is how long Gone asks.
const gonePatience = 5 * time.Second

// OwnerConfig is what an Owner needs.
type OwnerConfig struct {
	REST      *rest.Config
	Namespace string // of the DaemonSet
	DaemonSet string // its name
	Log       *slog.Logger
}

// Owner tells an uninstallation from an upgrade, which both end in a SIGTERM: it watches the DaemonSet that our own pod
// belongs to. What removes that removes our permissions right afterwards, so only a watch that runs already is sure to
// be told. A refusal, or no answer, never counts as a deletion; nor does a deletion that leaves the pods running.
type Owner struct {
	cfg    OwnerConfig
	client metadata.ResourceInterface

	mu       sync.Mutex
	uid      types.UID // of the DaemonSet; "": it was not seen
	orphaned bool      // it is being deleted without its pods
	gone     bool      // it is being deleted or was deleted, and its pods with it
}

// NewOwner makes an Owner. Nothing is asked of the API server yet.
func NewOwner(cfg OwnerConfig) (*Owner, error) {
	if cfg.Namespace == "" || cfg.DaemonSet == "" {
		return nil, errors.New("the DaemonSet that the agent belongs to has no namespace or no name")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	server, err := newConnection(cfg.REST)
	if err != nil {
		return nil, err
	}
	client, err := server.metadata(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"})
	if err != nil {
		return nil, err
	}
	return &Owner{cfg: cfg, client: client.Namespace(cfg.Namespace)}, nil
}

// Run watches until the context ends, then it returns nil.
func (o *Owner) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quieter{o.cfg.Log.Handler()}))
	selector := fields.OneTermEqualSelector("metadata.name", o.cfg.DaemonSet).String()
	var failing bool
	tell := func(ctx context.Context, err error) {
		switch {
		case ctx.Err() != nil || apierrors.IsGone(err) || apierrors.IsResourceExpired(err):
		case err == nil:
			failing = false
		case !failing:
			failing = true
			o.cfg.Log.Warn("the own DaemonSet cannot be watched, so an uninstallation is not noticed; it is tried again",
				"namespace", o.cfg.Namespace, "daemonset", o.cfg.DaemonSet, "error", err)
		}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = selector
			list, err := o.client.List(ctx, opts)
			tell(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
			opts.FieldSelector = selector
			return o.client.Watch(ctx, opts)
		},
	}
	keepUp(ctx, "DaemonSet", lw, ownerStore{o})
	return nil
}

// Gone asks whether the DaemonSet is gone, for whoever is told to end and does not know why. It takes some seconds at
// most. Where it cannot be known there is an error, and no reason to take anything away.
func (o *Owner) Gone(ctx context.Context) (bool, error) {
	if o.isGone() {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, gonePatience)
	defer cancel()
	set, err := get(ctx, o.client, o.cfg.DaemonSet)
	switch {
	case o.isGone(): // the watch was told meanwhile
		return true, nil
	case apierrors.IsNotFound(err):
		if o.deleted() {
			return true, nil
		}
		return false, fmt.Errorf("the agent was not deployed by DaemonSet %s/%s, or that left its pods running", o.cfg.Namespace, o.cfg.DaemonSet)
	case err != nil:
		return false, fmt.Errorf("ask whether DaemonSet %s/%s is there: %w", o.cfg.Namespace, o.cfg.DaemonSet, err)
	}
	o.see(set)
	return o.isGone(), nil
}

func (o *Owner) isGone() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone
}

// see takes a version of the DaemonSet.
func (o *Owner) see(set *metav1.PartialObjectMetadata) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.uid != "" && o.uid != set.UID && !o.orphaned:
		o.gone = true // ours was deleted, and there is another of its name
		return
	case o.uid != set.UID:
		o.uid, o.orphaned = set.UID, false // the one that adopts our pod, if it was orphaned
	}
	switch {
	case set.DeletionTimestamp == nil:
	case slices.Contains(set.Finalizers, metav1.FinalizerOrphanDependents):
		o.orphaned = true
	default:
		o.gone = true
	}
}

// deleted takes that there is no such DaemonSet. It tells whether ours is gone.
func (o *Owner) deleted() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.uid != "" && !o.orphaned {
		o.gone = true
	}
	return o.gone
}

// ownerStore is what a reflector tells of the DaemonSet.
type ownerStore struct{ owner *Owner }

func (s ownerStore) Add(o any) error {
	set, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return unexpected(o)
	}
	s.owner.see(set)
	return nil
}

func (s ownerStore) Update(o any) error { return s.Add(o) }

func (s ownerStore) Delete(any) error {
	s.owner.deleted()
	return nil
}

func (s ownerStore) Replace(all []any, _ string) error {
	for _, o := range all {
		return s.Add(o) // there is one of that name
	}
	if !s.owner.deleted() {
		s.owner.cfg.Log.Warn("there is no DaemonSet of the name that the agent was given, so an uninstallation is not noticed: correct --daemonset",
			"namespace", s.owner.cfg.Namespace, "daemonset", s.owner.cfg.DaemonSet)
	}
	return nil
}

func (s ownerStore) Resync() error { return nil }
