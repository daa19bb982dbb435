package status

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// How much is written.
const (
	perSecond    = 200 // requests about routes: 5,000 statuses take half a minute
	burst        = 50
	workers      = 8
	maxConflicts = 5                     // of one status, before it is put off
	compareEvery = 50 * time.Millisecond // all routes with their statuses, at most
)

// term is the time that we are elected for. What was learnt in it ends with it.
type term struct {
	w          *Writer
	log        *slog.Logger
	controller gatewayv1.GatewayController
	routes     routes
	limit      flowcontrol.RateLimiter
	queue      workQueue
	nodes      *nodes
	complaints complaints

	mu      sync.Mutex
	targets map[model.RouteRef]*target
	jobs    map[model.RouteRef]job     // what waits in the queue, or for its time to come back there
	written map[model.RouteRef]written // until the source has seen it
	told    map[model.RouteRef]map[compile.Event]bool
	due     map[model.RouteRef]map[compile.Event]bool // Events that are to be written
}

// target is a route as the source knows it, and our part of its status as it should be; none: nothing of it is ours.
type target struct {
	source string // the version that the source has
	has    view   // the freshest that is known
	want   []gatewayv1.RouteParentStatus
	events []compile.Event
}

// job is the version of a route that waits.
type job struct {
	uid        types.UID
	generation int64
}

// written is what a status became, which was of that version before.
type written struct {
	before string
	now    view
}

func newTerm(w *Writer) *term {
	return &term{
		w: w, log: w.log, controller: gatewayv1.GatewayController(w.cfg.ControllerName), routes: routes{w.cfg.Gateway},
		limit: flowcontrol.NewTokenBucketRateLimiter(perSecond, burst), queue: newQueue(),
		nodes: newNodes(&w.cfg), complaints: complaints{log: w.log},
		targets: map[model.RouteRef]*target{}, jobs: map[model.RouteRef]job{}, written: map[model.RouteRef]written{},
		told: map[model.RouteRef]map[compile.Event]bool{}, due: map[model.RouteRef]map[compile.Event]bool{},
	}
}

// lead writes statuses until ctx is done. Nothing is written before it is known what the nodes refused: a route that one
// of them could not take would be reported as accepted meanwhile.
func (t *term) lead(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer t.queue.ShutDown()
	wg.Go(func() { t.nodes.watch(ctx) })
	wg.Go(func() { t.nodes.collect(ctx) })
	wg.Go(func() { (&meshes{w: t.w, log: t.log}).run(ctx) })
	if !wait(ctx, time.Time{}, t.nodes.synced, nil) {
		return
	}
	for range workers {
		wg.Go(func() { t.work(ctx) })
	}
	for ctx.Err() == nil {
		report, reported := t.w.latest()
		now := time.Now()
		refused, refusing := t.nodes.refusals(now)
		if report != nil {
			t.compare(report, refused)
		}
		wait(ctx, t.nodes.next(now), reported, refusing)
		wait(ctx, now.Add(compareEvery), nil, nil)
	}
}

// compare finds the routes whose status is not as it should be.
func (t *term) compare(report *rollup.Report, refused map[string]rollup.Refusals) {
	refused[t.w.cfg.Node] = report.Refused
	t.w.metrics.refusing.Set(float64(countRefusing(refused)))
	wanted := map[model.RouteRef][]gatewayv1.RouteParentStatus{}
	for _, r := range rollup.Fold(report.Routes, rollup.Tell(refused)) {
		wanted[r.Route] = r.Parents
	}
	events := map[model.RouteRef][]compile.Event{}
	for _, e := range report.Events {
		events[e.Route] = append(events[e.Route], e)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.targets
	t.targets = make(map[model.RouteRef]*target, len(wanted))
	eachRoute(report.Objects, func(ref model.RouteRef, has view) {
		if want := wanted[ref]; len(want) > 0 || has.signed(t.controller) { // others are not touched (S-5)
			t.targets[ref] = &target{has.version, t.freshest(ref, has), want, events[ref]}
			t.enqueue(ref)
		}
	})
	t.forget(before)
	t.w.metrics.pending.Set(float64(len(t.jobs)))
}

func countRefusing(refused map[string]rollup.Refusals) int {
	n := 0
	for _, r := range refused {
		n += min(len(r), 1)
	}
	return n
}

// freshest is the route as we wrote it, until the source has seen that. The lock is held.
func (t *term) freshest(ref model.RouteRef, has view) view {
	w, ok := t.written[ref]
	switch {
	case !ok:
		return has
	case w.before == has.version:
		return w.now
	}
	delete(t.written, ref)
	return has
}

// enqueue queues a route whose status is not as it should be. One that waits already stays where it is, unless its owner
// changed it meanwhile. The lock is held.
func (t *term) enqueue(ref model.RouteRef) {
	tg := t.targets[ref]
	if c := plan(tg.has.parents, tg.want, t.controller, metav1.Time{}); len(c.operations) == 0 {
		return
	}
	now := job{tg.has.uid, tg.has.generation}
	if t.jobs[ref] == now {
		return
	}
	t.jobs[ref] = now
	t.queue.Add(ref)
}

// forget drops what is known of routes that are gone, and events that are over. The lock is held.
func (t *term) forget(before map[model.RouteRef]*target) {
	for ref := range before {
		if t.targets[ref] == nil {
			delete(t.jobs, ref)
			delete(t.written, ref)
			delete(t.told, ref)
			delete(t.due, ref)
			t.queue.Forget(ref)
		}
	}
	for ref, told := range t.told {
		current := map[compile.Event]bool{}
		for _, e := range t.targets[ref].events {
			current[e] = true
		}
		maps.DeleteFunc(told, func(e compile.Event, _ bool) bool { return !current[e] })
	}
}

// work writes what is queued.
func (t *term) work(ctx context.Context) {
	for {
		ref, closed := t.queue.Get()
		if closed {
			return
		}
		tg := t.take(ref)
		var err error
		if tg != nil && ctx.Err() == nil {
			err = t.write(ctx, ref, tg)
		}
		if err != nil && ctx.Err() == nil {
			t.w.metrics.count(ofRoute, err)
			t.complaints.add("the status of a route was not written; another attempt follows", ref.String(), err)
			t.putOff(ref, tg)
		} else {
			t.queue.Forget(ref)
		}
		t.queue.Done(ref)
	}
}

func (t *term) take(ref model.RouteRef) *target {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.jobs, ref)
	t.w.metrics.pending.Set(float64(len(t.jobs)))
	tg := t.targets[ref]
	if tg == nil {
		return nil
	}
	now := *tg
	if w, ok := t.written[ref]; ok && w.before == tg.source { // since it was queued
		now.has = w.now
	}
	return &now
}

func (t *term) putOff(ref model.RouteRef, tg *target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.targets[ref] == nil {
		return
	}
	if _, again := t.jobs[ref]; !again {
		t.jobs[ref] = job{tg.has.uid, tg.has.generation}
	}
	t.queue.AddRateLimited(ref)
}

// write makes the status of a route as it should be. What somebody else wrote meanwhile is read again.
func (t *term) write(ctx context.Context, ref model.RouteRef, tg *target) error {
	has := tg.has
	for range maxConflicts {
		err := t.attempt(ctx, ref, tg, has)
		if !apierrors.IsConflict(err) {
			return unlessGone(err)
		}
		t.w.metrics.conflicts.Inc()
		if err := t.limit.Wait(ctx); err != nil {
			return err
		}
		if has, err = t.routes.get(ctx, ref); err != nil {
			return unlessGone(err)
		}
	}
	return errConflicts
}

// attempt patches one version of a route. One that was changed or made anew is left to the next report, which knows it
// (S-6).
func (t *term) attempt(ctx context.Context, ref model.RouteRef, tg *target, has view) error {
	if has.uid != tg.has.uid || has.generation != tg.has.generation {
		return nil
	}
	c := plan(has.parents, tg.want, t.controller, metav1.Now())
	if c.left > 0 {
		t.complaints.add("the status of a route has no room for all parents", ref.String(), fmt.Errorf("%d are left out: %w", c.left, errNoRoom))
	}
	if len(c.operations) > 0 {
		body, err := c.patch(has.version)
		if err != nil {
			return err
		}
		if err := t.limit.Wait(ctx); err != nil {
			return err
		}
		if has, err = t.routes.patch(ctx, ref, body); err != nil {
			return err
		}
		t.w.metrics.count(ofRoute, nil)
	}
	t.wrote(ref, tg, has, c.told)
	return t.tell(ctx, ref, has)
}

// wrote notes what the status is now. Where conditions changed in what they say, the events that explain it are due, each
// once as long as it holds. What an earlier leader wrote changes nothing, so its events are not told again.
func (t *term) wrote(ref model.RouteRef, tg *target, has view, told bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if has.version != tg.source {
		t.written[ref] = written{tg.source, has}
	}
	if !told {
		return
	}
	for _, e := range tg.events {
		if t.told[ref][e] {
			continue
		}
		mark(t.told, ref, e)
		mark(t.due, ref, e)
	}
}

func mark(in map[model.RouteRef]map[compile.Event]bool, ref model.RouteRef, e compile.Event) {
	if in[ref] == nil {
		in[ref] = map[compile.Event]bool{}
	}
	in[ref][e] = true
}

// errNoRoom is told of a route that others have filled (S-3).
var errNoRoom = fmt.Errorf("the API allows %d entries in status.parents", maxParents)

// errConflicts is why a status is put off.
var errConflicts = fmt.Errorf("somebody else wrote it %d times while it was to be written", maxConflicts)

// unlessGone: the status of an object that is gone needs no writing.
func unlessGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
