package forward

import (
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// session is one connection of a client.
type session struct {
	server *Server
	conn   *sock.Conn
	client *Client
	port   *Port
	in     http1.Reader
	state  atomic.Int32

	exchange *exchange // that is under way

	// upstream is the connection to an endpoint that is in use, so that whoever ends the session ends that too: who waits
	// for an endpoint does not see what becomes of the client.
	upstream atomic.Pointer[sock.Conn]
	relayed  string // why the connection is relayed, if it is

	next, before *session // of the server's
}

// The states of a session.
const (
	busy int32 = iota
	idle       // it waits for a request
	closing
)

// ending tells whether the connection is to end with the answer.
func (n *session) ending() bool { return n.server.draining.Load() || n.port.retired.Load() }

// cut ends the session from outside. A connection that was given back just now may be hit as well: its next user finds
// it closed, and takes another one.
func (n *session) cut() {
	n.conn.Reset()
	if to := n.upstream.Load(); to != nil {
		to.Reset()
	}
}

// serve finds out what the client speaks, and serves it.
func (n *session) serve() {
	p := n.port.current.Load()
	if n.client.connections.Load() > n.server.cfg.Limits.Connections {
		n.overloaded()
		return
	}
	n.relayed = otherBytes
	switch n.detect(p, p.table(n.client.Pod.Namespace)) {
	case speaksHTTP:
		n.serveHTTP()
	case speaksOther:
		n.relayTo(p.fallback)
	case saysNothing:
	}
}

// overloaded answers the first request with 503.
func (n *session) overloaded() {
	if n.await() {
		n.refuse(503, overloaded, "the client pod has too many connections open")
	}
}

// refuse answers a request that is not even looked at.
func (n *session) refuse(status int, failure, reason string) {
	x := n.take()
	x.refuse(status, failure, reason)
	n.give(x)
}

func (n *session) serveHTTP() {
	for {
		if !n.await() {
			return
		}
		x := n.take()
		again := x.serve()
		n.give(x)
		if !again {
			return
		}
	}
}

// take and give lend the memory of an exchange to the connection while it has something to say.
func (n *session) take() *exchange {
	x, ok := n.server.spare.Get().(*exchange)
	if !ok {
		x = newExchange()
	}
	x.session = n
	n.exchange = x
	return x
}

func (n *session) give(x *exchange) {
	n.exchange = nil
	x.reset()
	n.server.spare.Put(x)
	n.in.Release()
}

// await waits for the next request. False: there is none.
func (n *session) await() bool {
	n.state.Store(idle)
	err := n.in.Await()
	if n.state.CompareAndSwap(idle, busy) {
		return err == nil
	}
	// The server closes the connection. A request that has come by now is served, whether or not it woke us.
	n.server.mu.Lock()
	n.state.Store(busy)
	open := n.conn.SetReadDeadline(time.Time{}) == nil
	n.server.mu.Unlock()
	if isTimeout(err) && open && n.conn.Stale() {
		err = n.in.Await()
	}
	return open && err == nil
}
