package forward

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
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
	h2       atomic.Pointer[http2.Conn] // what the connection is, when it speaks HTTP/2
	inflow   atomic.Pointer[inflow]     // what an endpoint that speaks HTTP/2 sends to a client that does not
	pausing  atomic.Pointer[time.Timer] // between two tries
	full     bool                       // requests are refused: the pod has too many connections
	late     late
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
	if h2 := n.h2.Load(); h2 != nil {
		h2.Stop() // and its calls end with it
		return
	}
	n.conn.Reset()
	if in := n.inflow.Load(); in != nil {
		in.cut()
	}
	if to := n.upstream.Load(); to != nil {
		to.Reset()
	}
	if timer := n.pausing.Load(); timer != nil {
		timer.Reset(0)
	}
}

// pause waits for a while. False: the session was cut.
func (n *session) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	n.pausing.Store(timer)
	defer n.pausing.Store(nil)
	if n.closed() { // before it could wake us
		return false
	}
	<-timer.C
	return !n.closed()
}

// closed tells whether the session was cut. Its connection has no deadline of reads.
func (n *session) closed() bool { return n.conn.SetReadDeadline(time.Time{}) != nil }

// guard is deferred where another goroutine works for the session: a panic there costs this connection only.
func (n *session) guard() {
	if v := recover(); v != nil {
		n.server.panicked(v)
		n.cut()
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
	case speaksHTTP2:
		n.serveHTTP2()
	case speaksOther:
		n.relayTo(p.fallback)
	case saysNothing:
	}
}

// overloaded answers the first request with 503, over HTTP/2 all that come until the client has heard that it ends.
func (n *session) overloaded() {
	if !n.await() {
		return
	}
	if classify(n.in.Buffered()) == looksHTTP2 {
		n.full = true
		n.serveHTTP2()
		return
	}
	n.refuse(503, overloaded, "the client pod has too many connections open")
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

// serveHTTP2 serves a client that speaks HTTP/2. The connection has no buffer of ours while it is idle, and little on its
// stack: what is not needed then is in functions of its own.
func (n *session) serveHTTP2() {
	defer n.endLate()
	early := n.beginHTTP2()
	if err := n.h2.Load().Serve(early); err != nil {
		n.endedHTTP2(err)
	}
}

// beginHTTP2 returns what was read already.
func (n *session) beginHTTP2() (early []byte) {
	conn := http2.NewServer(n.conn, n.server.cfg.HTTP2, n)
	n.h2.Store(conn)
	if n.ending() || n.full {
		conn.Drain()
	}
	early = slices.Clone(n.in.Buffered())
	n.in.Use(len(early))
	n.in.Release()
	return early
}

func (n *session) endedHTTP2(err error) {
	n.server.cfg.Log.Debug("an HTTP/2 connection ended", "pod", n.client.Pod.Namespace+"/"+n.client.Pod.Name, "reason", err.Error())
}

// drain ends a connection that speaks HTTP/2 in order. False: it does not.
func (n *session) drain() bool {
	h2 := n.h2.Load()
	if h2 != nil {
		h2.Drain()
	}
	return h2 != nil
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
