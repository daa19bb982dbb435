// Package upstream knows the endpoints of each backend, chooses among them, and pools connections to them.
//
// A connection belongs to a client pod: it was made in the pod's network namespace and leaves with the pod's own
// address, so it is never lent to another pod's requests.
package upstream

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Endpoint is one address that serves backends. There is one Endpoint for an address, however many sets it is in, so
// what is outstanding counts for all of them.
type Endpoint struct {
	Address netip.AddrPort

	hash        uint64 // of the address, for subsets
	outstanding atomic.Int64
	speaking    speaking
	gone        atomic.Bool // in no set any more: running requests finish, connections are not kept

	failures atomic.Int32 // connects that failed since the last that did not
	outUntil atomic.Int64 // unix time in ns until which it is not picked, if there is another; 0: it is
}

// Acquire counts a request that was given to the endpoint; Release counts its end. Each Acquire has one Release.
func (e *Endpoint) Acquire() { e.outstanding.Add(1) }

// Release is the end of what Acquire began.
func (e *Endpoint) Release() { e.outstanding.Add(-1) }

// Outstanding is the number of requests that the endpoint has now.
func (e *Endpoint) Outstanding() int64 { return e.outstanding.Load() }

// Gone tells that the endpoint has left every set.
func (e *Endpoint) Gone() bool { return e.gone.Load() }

// The time for which an endpoint that cannot be connected to is left out: it doubles with each failure. When it is over,
// the next request is the test.
const (
	firstOut = 500 * time.Millisecond
	maxOut   = 30 * time.Second
)

// Failed notes that the endpoint could not be connected to.
func (e *Endpoint) Failed() {
	n := e.failures.Add(1)
	e.outUntil.Store(time.Now().Add(min(firstOut<<min(n-1, 10), maxOut)).UnixNano())
}

// Connected notes that it could.
func (e *Endpoint) Connected() {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
		e.outUntil.Store(0)
	}
}

// out tells whether the endpoint is left out now.
func (e *Endpoint) out() bool {
	until := e.outUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Set is one endpoint set. Its pointer is stable: whoever compiled a table keeps it, and sees each change of the
// endpoints. It is safe for concurrent use, and readers take no lock.
type Set struct {
	Key model.EndpointsKey

	current atomic.Pointer[snapshot]
}

// snapshot is never edited.
type snapshot struct {
	unit      *model.EndpointSet // nil: nobody has told of the set
	endpoints []*Endpoint
	speaks    Protocol
	affinity  time.Duration // 0: none
}

var none = &snapshot{}

func newSet(key model.EndpointsKey) *Set {
	s := &Set{Key: key}
	s.current.Store(none)
	return s
}

// Pick chooses the endpoint of a request: of two random ones, the one that has fewer requests outstanding. It prefers
// another than not, which may be nil, and one that can be connected to, and returns nil when the set is empty (B-7). Client.Pick is what a client pod's
// requests use: it keeps the pod to its subset of a large set.
func (s *Set) Pick(not *Endpoint) *Endpoint { return pick(s.current.Load().endpoints, not) }

func pick(from []*Endpoint, not *Endpoint) *Endpoint {
	switch len(from) {
	case 0:
		return nil
	case 1:
		return from[0]
	}
	i, j := rand.IntN(len(from)), rand.IntN(len(from)-1)
	if j >= i {
		j++
	}
	a, b := from[i], from[j]
	switch aUsable, bUsable := a != not && !a.out(), b != not && !b.out(); {
	case aUsable && bUsable:
		if b.outstanding.Load() < a.outstanding.Load() {
			return b
		}
		return a
	case aUsable:
		return a
	case bUsable:
		return b
	}
	for k := range from { // two that are no good: any other
		if e := from[(i+k)%len(from)]; e != not && !e.out() {
			return e
		}
	}
	if a != not { // none can be connected to, as far as is known
		return a
	}
	return b
}

// Known tells a set that is empty from one that nobody has told of, or that was removed.
func (s *Set) Known() bool { return s.current.Load().unit != nil }

// Len is the number of endpoints.
func (s *Set) Len() int { return len(s.current.Load().endpoints) }

// AppProtocol is that of the backend Service's port, "" where none is known.
func (s *Set) AppProtocol() string {
	if u := s.current.Load().unit; u != nil {
		return u.AppProtocol
	}
	return ""
}

// Protocol is what a backend's endpoints speak, as far as its Service says.
type Protocol int

// What appProtocol says.
const (
	AnyHTTP   Protocol = iota // nothing: perhaps both
	HTTP1Only                 // WebSocket
	HTTP2Only                 // with prior knowledge
)

func protocolOf(appProtocol string) Protocol {
	switch strings.ToLower(appProtocol) {
	case "kubernetes.io/h2c", "h2c", "http2", "grpc":
		return HTTP2Only
	case "kubernetes.io/ws", "ws":
		return HTTP1Only
	}
	return AnyHTTP
}

// Speaks is what the endpoints speak.
func (s *Set) Speaks() Protocol { return s.current.Load().speaks }

// Unit is what the set was made of, nil when it is not known.
func (s *Set) Unit() *model.EndpointSet { return s.current.Load().unit }

// Endpoints are the set's endpoints now. The slice is not to be edited.
func (s *Set) Endpoints() []*Endpoint { return s.current.Load().endpoints }
