package forward

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// maxAttempts is how many endpoints, or connections to one, a request is tried on. A next one is only tried while it is
// certain that no endpoint has the request, or safe that two have it.
const maxAttempts = 3

// forward sends the request to an endpoint of the set and the answer to the client.
func (x *exchange) forward(set *upstream.Set) {
	var body []byte
	var err error
	x.out = http1.AppendRequest(x.out[:0], &x.req, &x.head)
	if x.out, body, err = x.body.first(&x.in, x.out); err != nil { // begin has looked at it
		x.last, x.unread = true, true
		x.answer(400, badRequest, err.Error())
		return
	}
	if len(body) <= smallBody {
		x.out, body = append(x.out, body...), nil
	}
	fresh := false // a kept connection had just closed: not another kept one
	refused := make([]*upstream.Endpoint, 0, maxAttempts)
	for {
		e := x.choose(set, refused)
		switch {
		case e == nil && x.rec.Attempts == 0:
			x.answer(503, noEndpoint, "the backend has no endpoint that is ready")
			return
		case e == nil: // there is no other
			x.failed()
			return
		}
		x.rec.Attempts++
		again, ok := x.attempt(e, body, fresh)
		switch {
		case ok:
			x.pass()
			x.release()
			return
		case again == nothing || x.rec.Attempts >= maxAttempts:
			x.failed()
			return
		}
		if fresh = again == resend; !fresh {
			refused = append(refused, e)
		}
	}
}

// choose picks an endpoint of the set which is none of those that refused; nil: there is none. What is picked is random,
// so that the only one that is left of many is missed once in a while.
func (n *session) choose(set *upstream.Set, refused []*upstream.Endpoint) *upstream.Endpoint {
	const tries = 16
	var last *upstream.Endpoint
	if len(refused) > 0 {
		last = refused[len(refused)-1]
	}
	for range tries {
		if e := n.client.Upstream.Pick(set, last); !slices.Contains(refused, e) {
			return e
		}
	}
	return nil
}

// next says whether another attempt makes sense.
type next int

const (
	nothing   next = iota
	elsewhere      // the endpoint does not have the request
	resend         // the connection had just closed
)

// attempt connects to an endpoint, sends the request, and reads the head of the answer. What failed is in x.rec.
func (x *exchange) attempt(e *upstream.Endpoint, body []byte, fresh bool) (next, bool) {
	x.rec.Endpoint = e.Address
	reused := false
	var err error
	if fresh {
		x.to, err = x.client.Upstream.Dial(e, x.server.cfg.Limits.Connect)
	} else {
		x.to, reused, err = x.client.Upstream.Get(e, x.server.cfg.Limits.Connect)
	}
	if err != nil {
		x.to = nil
		x.rec.Failure = connectFailed
		if errors.Is(err, upstream.ErrClosed) {
			x.rec.Failure = clientPodIsGone
			return nothing, false
		}
		return elsewhere, false
	}
	e.Acquire()
	x.endpoint = e
	x.upstream.Store(x.to)
	x.up.Reset(x.to, &x.server.buffers)
	if err = x.to.WriteTwo(x.out, body); err == nil {
		if !x.body.complete {
			x.body.pumping = true
			go x.pump()
		}
		giveWay()
		if err = x.answerHead(); err == nil {
			x.rec.Failure = ""
			return nothing, true
		}
	}
	return x.lost(err, reused), false
}

// errPanicked is how a pump ends that had a bug.
var errPanicked = errors.New("the proxy has a bug")

// pump runs beside the exchange until it tells how it ended.
func (x *exchange) pump() {
	defer func() {
		if v := recover(); v != nil {
			x.server.caught(v, x.conn, x.to)
			x.body.done <- clientError{errPanicked}
		}
	}()
	x.body.pump(&x.in, x.to)
}

// lost lets go of a connection that failed before the head of the answer had come, and says what may follow.
func (x *exchange) lost(err error, reused bool) next {
	silent := !x.began && len(x.up.Buffered()) == 0
	x.stopPump()
	x.upstream.Store(nil)
	x.to.Reset()
	x.to = nil
	x.endpoint.Release()
	x.endpoint = nil
	if bad, ok := errors.AsType[*http1.Error](err); ok {
		x.rec.Failure = badResponse
		x.server.cfg.Log.Debug("a malformed answer", "endpoint", x.rec.Endpoint.String(), "reason", bad.Error())
		return nothing
	}
	if x.rec.Failure == "" || x.rec.Failure == connectFailed {
		x.rec.Failure = upstreamClosed
	}
	if reused && silent && x.body.complete && safeTwice(x.req.Method) {
		return resend
	}
	return nothing
}

// safeTwice tells whether a request may reach a server twice: its method is idempotent (RFC 9110, 9.2.2).
func safeTwice(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// failed answers a request that no endpoint answered.
func (x *exchange) failed() {
	switch {
	case x.began || x.rec.Failure == clientGone: // half an answer went to the client, or nobody is there
		x.last = true
		x.conn.Reset()
	case x.rec.Failure == connectFailed:
		x.answer(503, connectFailed, "no endpoint of the backend could be connected to")
	case x.rec.Failure == clientPodIsGone:
		x.answer(503, clientPodIsGone, "the client pod is being removed")
	case x.rec.Failure == badRequest:
		x.last, x.unread = true, true
		x.answer(400, badRequest, "the request's body is malformed")
	case x.rec.Failure == upstreamReset:
		x.answer(502, upstreamReset, "the endpoint reset the request's stream")
	case x.rec.Failure == overloaded:
		x.answer(503, overloaded, "the endpoint has too many requests")
	case x.rec.Failure == notHTTP2:
		x.answer(502, notHTTP2, "the endpoint does not speak HTTP/2")
	case x.rec.Failure == badResponse:
		x.answer(502, badResponse, "the endpoint's answer is malformed")
	default:
		x.answer(502, upstreamClosed, "the endpoint closed the connection before it answered")
	}
}

// stopPump waits for the pump, whatever it does, to end, and takes note of what the client did wrong.
func (x *exchange) stopPump() {
	if !x.body.pumping {
		return
	}
	x.body.pumping = false
	var err error
	select {
	case err = <-x.body.done:
	default:
		// It may be waiting for the client, or for the endpoint.
		_ = x.conn.SetReadDeadline(time.Unix(1, 0)) // fails when it is closed, which ends the pump as well
		if x.to != nil {
			_ = x.to.SetWriteDeadline(time.Unix(1, 0))
		}
		err = <-x.body.done
		if x.conn.SetReadDeadline(time.Time{}) != nil {
			x.last = true
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // our doing
			x.last, x.unread = true, true
			return
		}
	}
	x.pumped(err)
}

// joinPump takes note of a pump that has ended by itself, once the head of the answer is there.
func (x *exchange) joinPump() {
	if !x.body.pumping {
		return
	}
	select {
	case err := <-x.body.done:
		x.body.pumping = false
		x.pumped(err)
		if err != nil {
			x.respHead.Close = true // the endpoint does not have the whole request
		}
	default:
	}
}

// pumped takes note of how the pump ended.
func (x *exchange) pumped(err error) {
	if err == nil {
		return
	}
	x.last, x.unread = true, true
	ours, ok := errors.AsType[clientError](err)
	if !ok {
		return // the endpoint does not want the rest
	}
	if _, malformed := errors.AsType[*http1.Error](ours.error); malformed {
		x.rec.Failure = badRequest
		return
	}
	x.rec.Failure = clientGone
}

// release gives the endpoint's connection back, if another request can use it, else closes it.
func (x *exchange) release() {
	if x.endpoint != nil {
		x.endpoint.Release()
	}
	if x.to != nil {
		x.upstream.Store(nil)
		_ = x.to.Close() // nothing more is expected of it
	}
	x.endpoint, x.to = nil, nil
}
