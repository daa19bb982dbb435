package watch

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Pauses between attempts: all nodes of a cluster come back at once to an API server that was away, but none should be
// out of date for long.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second // and as much again, by chance
	goodWatch  = time.Minute     // a watch that lasted so long was a success: the pauses begin anew
)

// keepUp keeps a store up to date until the context ends.
func keepUp(ctx context.Context, name string, lw *cache.ListWatch, store cache.ReflectorStore) {
	r := cache.NewReflectorWithOptions(lw, nil, store, cache.ReflectorOptions{
		Name: name, TypeDescription: name,
		Backoff: &wait.Backoff{Duration: firstPause, Cap: lastPause, Factor: 2, Jitter: 1, Steps: 10},
	})
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		begin := time.Now()
		_ = r.ListAndWatchWithContext(ctx) // lw tells of failures
		if time.Since(begin) >= goodWatch {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.Jitter(pause, 1)):
		}
	}
}

// follow keeps the objects of a kind up to date until the context ends.
func (s *Source) follow(ctx context.Context, k *kind, version string) {
	client, err := s.server.client(k.group, version)
	if err != nil { // the configuration of a client does not depend on the API server
		s.health.report(k.name, err)
		return
	}
	f := &follower{kind: k, client: client, report: func(err error) { s.note(k, err) }}
	defer f.end()
	keepUp(ctx, k.name, f.listWatch(), k.objects)
}

// note takes the outcome of a request. Where a kind is not found, discovery has to tell whether it is gone.
func (s *Source) note(k *kind, err error) {
	if err != nil {
		s.metrics.errors.WithLabelValues(k.name).Inc()
	}
	if lost := k.custom() && apierrors.IsNotFound(err); lost != k.lost.Swap(lost) || lost {
		wake(s.look)
	}
	s.health.report(k.name, err)
}

// follower asks for the objects of a kind.
type follower struct {
	kind   *kind
	client rest.Interface
	report func(error)

	mu    sync.Mutex
	ended bool // outcomes do not matter any more: another follower may be there
}

// end has to be called because a reflector does not wait for a list that it does not want any more.
func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
}

func (f *follower) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := f.request(&o).Do(ctx).Get()
			f.tell(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.Watch = true
			w, err := f.request(&o).Watch(ctx)
			switch {
			case err == nil || o.SendInitialEvents == nil:
				f.tell(ctx, err)
			case !answered(err):
				f.tell(ctx, err)
				// A reflector that knows that a connection was refused waits, and does not notice that the context
				// has ended.
				err = errors.New(err.Error())
			}
			// Otherwise the API server does not send lists as streams, and is asked for an ordinary list next.
			return w, err
		},
	}
}

func (f *follower) request(o *metav1.ListOptions) *rest.Request {
	o.FieldSelector = f.kind.selector
	return f.client.Get().Resource(f.kind.resource).VersionedParams(o, metav1.ParameterCodec)
}

// tell reports outcomes, but not the ordinary ends of watches.
func (f *follower) tell(ctx context.Context, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || ctx.Err() != nil || apierrors.IsGone(err) || apierrors.IsResourceExpired(err) || apierrors.IsTooManyRequests(err) {
		return
	}
	f.report(err)
}
