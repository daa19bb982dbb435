package status

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Limits of the API, in bytes.
const (
	maxNote   = 1024
	maxObject = 200 // of the route's part in an Event's name, which may have 253
)

// tell writes the Events of a route that are due. An Event is made for each: client-go's recorder counts those of one
// reason as one, under the first one's words, and a route may lose several ports at once.
func (t *term) tell(ctx context.Context, ref model.RouteRef, has view) error {
	for _, e := range t.dueOf(ref) {
		if err := t.limit.Wait(ctx); err != nil {
			return err
		}
		err := t.createEvent(ctx, ref, has, e)
		t.w.metrics.count(ofEvent, err)
		if err != nil && !given(err) {
			return fmt.Errorf("write the Event %q: %w", e.Reason, err)
		}
		if err != nil {
			t.complaints.add("an Event was not written", e.String(), err)
		}
		t.mu.Lock()
		delete(t.due[ref], e)
		t.mu.Unlock()
	}
	return nil
}

// given says whether another attempt would have the same answer.
func given(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
}

func (t *term) dueOf(ref model.RouteRef) []compile.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Keys(t.due[ref]), func(a, b compile.Event) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
}

func (t *term) createEvent(ctx context.Context, ref model.RouteRef, has view, e compile.Event) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now := time.Now()
	_, err := t.w.cfg.Events.Events(ref.Namespace).Create(ctx, &eventsv1.Event{
		Namespace: ref.Namespace, GenerateName: short(ref.Name, maxObject) + "-",
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: t.w.cfg.ControllerName, ReportingInstance: short(t.w.cfg.Identity, 128),
		Type: corev1.EventTypeWarning, Reason: e.Reason, Action: "Program", Note: short(e.Message, maxNote),
		Regarding: corev1.ObjectReference{
			APIVersion: gatewayv1.GroupVersion.String(), Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name,
			UID: has.uid, ResourceVersion: has.version,
		},
	}, metav1.CreateOptions{})
	return err
}

func short(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && text[limit]&0xc0 == 0x80 { // not inside a character
		limit--
	}
	return text[:limit]
}
