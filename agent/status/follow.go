package status

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// follower is told what happens to objects of a kind.
type follower struct {
	changed func(object any)
	gone    func(name string)
	synced  func()
	failed  func(error)
}

// follow lists and watches objects until ctx is done, and again and again while it cannot.
func follow(ctx context.Context, kind runtime.Object, lw *cache.ListWatch, f follower) {
	informer := cache.NewSharedInformer(lw, kind, 0)
	// Neither can fail before the informer runs.
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !errors.Is(err, io.EOF) && !apierrors.IsResourceExpired(err) { // a watch that ends is a matter of course
			f.failed(err)
		}
	})
	handle, _ := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    f.changed,
		UpdateFunc: func(_, o any) { f.changed(o) },
		DeleteFunc: func(o any) {
			if key, err := cache.DeletionHandlingObjectToName(o); err == nil {
				f.gone(key.Name)
			}
		},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if cache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
			f.synced()
		}
	}()
	informer.RunWithContext(quiet(ctx))
	<-done
}

// quiet keeps client-go from logging in a form of its own. What matters is logged by those who call it.
func quiet(ctx context.Context) context.Context {
	return logr.NewContext(ctx, logr.FromSlogHandler(slog.DiscardHandler))
}
