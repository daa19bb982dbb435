package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Discovery is asked at the start, and then only while a kind is missing.
const (
	lookAtLeast  = time.Second      // passes between two times
	lookAtMost   = 10 * time.Second // passes at the most
	lookPatience = 10 * time.Second // for an answer
	// sureAfter is how many answers in a row have to lack a kind before that is believed: of several API servers one
	// may be late.
	sureAfter = 2
)

// discovery stands for a kind's name where discovery itself fails.
const discovery = "the kinds of the Gateway API"

// discoverer follows the kinds that somebody has to install first, for as long as they are served. Nobody else starts
// and stops that.
type discoverer struct {
	*Source
	follows map[*kind]*following
	absent  map[*kind]int // answers in a row that lack the kind
}

type following struct {
	version string
	stop    func() // and wait
}

func (s *Source) discover(ctx context.Context) {
	d := &discoverer{s, map[*kind]*following{}, map[*kind]int{}}
	defer func() {
		for _, f := range d.follows {
			f.stop()
		}
	}()
	for pause := lookAtLeast; ; {
		found, err := s.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		s.health.report(discovery, err)
		again, sure := true, true
		if err == nil {
			again, sure = d.adjust(ctx, found)
		}
		if !sure {
			pause = lookAtLeast
		}
		if !s.rest(ctx, pause, again) {
			return
		}
		pause = min(2*pause, lookAtMost)
	}
}

// rest waits until discovery is to be asked again: when a kind that was followed is not found any more, or, if so
// told, after a pause. It tells whether it is to be asked at all.
func (s *Source) rest(ctx context.Context, pause time.Duration, again bool) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(lookAtLeast):
	}
	var due <-chan time.Time
	if again {
		due = time.After(wait.Jitter(pause, 0.5) - lookAtLeast)
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.look:
	case <-due:
	}
	return true
}

// adjust follows what is found. It tells whether discovery is to be asked again, because a kind is missing, and whether
// what it said is certain.
func (d *discoverer) adjust(ctx context.Context, found map[string]string) (again, sure bool) {
	sure = true
	for _, k := range d.kinds {
		if !k.custom() {
			continue
		}
		version, f := found[k.resource], d.follows[k]
		switch {
		case f != nil && (version == f.version || !k.lost.Load()):
			d.absent[k] = 0
		case version != "":
			d.absent[k] = 0
			d.start(ctx, k, version)
		default:
			again = true
			if d.absent[k]++; d.absent[k] < sureAfter {
				sure = false
			} else if k.state.Load() != missing {
				d.miss(k)
			}
		}
	}
	return again, sure
}

// start follows a kind in a version. The objects of another version count until those of this one are read.
func (d *discoverer) start(ctx context.Context, k *kind, version string) {
	if f := d.follows[k]; f != nil {
		f.stop()
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	d.follows[k] = &following{version, func() { cancel(); <-done }}
	k.lost.Store(false)
	if k.state.Swap(served) == missing {
		d.log.Info("a kind is served now", "server", d.server.host, "kind", k.name, "version", version)
	}
	go func() {
		defer close(done)
		d.follow(ctx, k, version)
	}()
	d.mark()
}

// miss forgets a kind that is not served, or not any more.
func (d *discoverer) miss(k *kind) {
	if f := d.follows[k]; f != nil {
		f.stop()
		delete(d.follows, k)
	}
	d.log.Warn("a kind is not served, so none of its objects counts; it is read as soon as it is served: install the CRDs of the Gateway API",
		"server", d.server.host, "kind", k.name, "versions", k.readable())
	k.state.Store(missing)
	d.health.forget(k.name)
	k.objects.drop()
}

// ask asks in which version each kind of the Gateway API is served; what is not in the answer is not served.
func (s *Source) ask(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	found := map[string]string{}
	for _, version := range []string{"v1", "v1beta1"} {
		there, err := s.resources(ctx, version)
		if err != nil {
			return nil, err
		}
		all := true
		for _, k := range s.kinds {
			if !k.custom() || found[k.resource] != "" {
				continue
			}
			if slices.Contains(k.versions, version) && slices.Contains(there, k.resource) {
				found[k.resource] = version
			} else {
				all = false
			}
		}
		if all {
			break
		}
	}
	return found, nil
}

// resources are those of a version of the Gateway API.
func (s *Source) resources(ctx context.Context, version string) ([]string, error) {
	client, err := s.server.client(gatewayv1.GroupName, version)
	if err != nil {
		return nil, err
	}
	answer, err := client.Get().DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(answer, &list); err != nil {
		return nil, fmt.Errorf("read which kinds are served in %s/%s: %w", gatewayv1.GroupName, version, err)
	}
	var names []string
	for _, r := range list.APIResources {
		names = append(names, r.Name)
	}
	return names, nil
}
