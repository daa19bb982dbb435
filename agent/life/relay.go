// Package life is how an agent gets the node, gives it up, and ends. Two run on a node during an upgrade: both read the
// objects, one has the node, and the other answers that it has not.
package life

import (
	"sync"

	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
)

// Relay keeps the last objects, which are read all the time, for when the agent has the node. The zero Relay does not
// work; use NewRelay. Its methods may be called from any goroutine.
type Relay struct {
	first chan struct{} // closed with the first objects

	mu       sync.Mutex
	set      *objects.Set
	problems []kube.Problem
	to       func(*objects.Set, []kube.Problem) // nil: nobody
}

// NewRelay makes a Relay.
func NewRelay() *Relay { return &Relay{first: make(chan struct{})} }

// First is closed when there are objects.
func (r *Relay) First() <-chan struct{} { return r.first }

// Publish takes new objects, and passes them on.
func (r *Relay) Publish(set *objects.Set, problems []kube.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		close(r.first)
	}
	r.set, r.problems = set, problems
	if r.to != nil {
		r.to(set, problems)
	}
}

// Attach passes what there is, and what comes, to f, which does not wait. With nil nobody gets it any more.
func (r *Relay) Attach(f func(*objects.Set, []kube.Problem)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to = f; f != nil && r.set != nil {
		f(r.set, r.problems)
	}
}
