package status

import (
	"slices"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Pauses after a status that could not be written.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 2 * time.Minute
)

type workQueue = workqueue.TypedRateLimitingInterface[model.RouteRef]

// newQueue holds each route once, however often it is added, and gives it to one worker at a time.
func newQueue() workQueue {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[model.RouteRef](firstPause, lastPause),
		workqueue.TypedRateLimitingQueueConfig[model.RouteRef]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[model.RouteRef]{
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[model.RouteRef]{Queue: &recent{}}),
			}),
		})
}

// recent gives out what came last, and each fourth time what came first. Whoever changes a route waits for its status
// now; thousands that are due since the start of an agent can wait, but not for ever. It implements workqueue.Queue.
type recent struct {
	routes []model.RouteRef
	taken  int
}

// oldestEach: one of so many is the oldest.
const oldestEach = 4

// Touch makes a route that waits the last that came: it is added again when its owner changed it.
func (q *recent) Touch(r model.RouteRef) {
	if i := slices.Index(q.routes, r); i >= 0 {
		q.routes = append(slices.Delete(q.routes, i, i+1), r)
	}
}

// Push adds a route.
func (q *recent) Push(r model.RouteRef) { q.routes = append(q.routes, r) }

// Len counts them.
func (q *recent) Len() int { return len(q.routes) }

// Pop takes one out.
func (q *recent) Pop() model.RouteRef {
	q.taken++
	if q.taken%oldestEach == 0 {
		r := q.routes[0]
		q.routes = q.routes[1:]
		return r
	}
	last := len(q.routes) - 1
	r := q.routes[last]
	q.routes = q.routes[:last]
	return r
}
