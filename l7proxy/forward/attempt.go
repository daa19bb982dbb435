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
	if body, err = x.collect(body); err != nil {
		x.uncollected(err)
		return
	}
	fresh := false // a kept connection had just closed: not another kept one
	refused := make([]*upstream.Endpoint, 0, maxAttempts)
	for {
		again := nothing
		if e := x.choose(set, refused, x.previous); e != nil {
			x.rec.Attempts++
			x.previous = e
			again = x.attempt(e, body, fresh)
			if again == elsewhere {
				refused = append(refused, e)
			}
		}
		fresh = again == resend
		switch {
		case again == answered && !x.wanted(x.resp.Status):
			x.pass()
			x.release()
			return
		case x.goesOn(again):
			continue
		}
		x.drop()
		if !x.tryAgain(again) {
			x.failed()
			return
		}
		refused = refused[:0]
	}
}

// collect reads the rest of a body that may have to be sent again, if it is small and its client does not wait to be told
// to go on.
func (x *exchange) collect(body []byte) ([]byte, error) {
	b := &x.body
	if x.verdict.retry() == nil || b.complete || b.kind != http1.Length || b.sent+b.left > maxRetry || x.head.Continue {
		return body, nil
	}
	x.out = append(x.out, body...)
	_ = x.conn.SetReadDeadline(x.requestBy) // fails when it is closed, as the read does
	for !b.complete {
		err := x.in.Fill()
		if err == nil {
			x.out, b.complete, err = b.more(&x.in, x.out)
		}
		if err != nil {
			return nil, err
		}
	}
	b.copied()
	return nil, x.conn.SetReadDeadline(time.Time{})
}

// uncollected ends an exchange whose body did not come.
func (x *exchange) uncollected(err error) {
	x.last, x.unread = true, true
	x.rec.Failure = clientGone
	if isTimeout(err) && x.timedOut() {
		x.failed()
	}
}

// goesOn tells whether the request may go to an endpoint at once, whatever the rule says of retries: none has it.
func (x *exchange) goesOn(again next) bool {
	return (again == elsewhere || again == resend) && x.rec.Attempts-x.retried < maxAttempts
}

// wanted tells whether the rule wants another try after what the last one came to, and another one can be made.
func (x *exchange) wanted(status int) bool {
	p := x.verdict.retry()
	return p != nil && !x.began && x.body.complete && x.head.Upgrade == "" && x.req.Method != "CONNECT" && !final(x.rec.Failure) &&
		retries(p, x.retried, status, unprocessed(x.rec.Failure))
}

// tryAgain waits until another try is to be made. False: none is.
func (x *exchange) tryAgain(again next) bool {
	if again != answered && !x.wanted(answerTo(x.rec.Failure).status) {
		return false
	}
	x.retried++
	wait := backoff(x.verdict.retry(), x.retried)
	if !x.requestBy.IsZero() {
		wait = min(wait, time.Until(x.requestBy))
	}
	open := x.pause(wait)
	switch {
	case due(x.requestBy, time.Now()): // B-55
		x.rec.Failure = requestTimeout
	case !open:
		x.rec.Failure = clientGone
	default:
		x.rec.Failure = ""
		return true
	}
	return false
}

// drop lets go of an answer that nobody gets, if there is one, and of its connection.
func (x *exchange) drop() {
	if x.to != nil {
		x.to.Reset()
	}
	x.release()
}

// choose picks an endpoint of the set which is none of those that refused, and rather not the previous one; nil: there is
// none. What is picked is random, so that the only one that is left of many is missed once in a while.
func (n *session) choose(set *upstream.Set, refused []*upstream.Endpoint, previous *upstream.Endpoint) *upstream.Endpoint {
	const tries = 16
	last := previous
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
	answered       // the head of an answer has come
)

// attempt connects to an endpoint, sends the request, and reads the head of the answer. What failed is in x.rec.
func (x *exchange) attempt(e *upstream.Endpoint, body []byte, fresh bool) next {
	x.rec.Endpoint = e.Address
	reused := false
	var err error
	limit := x.connectLimit()
	if fresh {
		x.to, err = x.client.Upstream.Dial(e, limit)
	} else {
		x.to, reused, err = x.client.Upstream.Get(e, limit)
	}
	if err != nil {
		x.to = nil
		x.rec.Failure = connectFailed
		if errors.Is(err, upstream.ErrClosed) {
			x.rec.Failure = clientPodIsGone
			return nothing
		}
		if due(x.requestBy, time.Now()) {
			x.rec.Failure = requestTimeout
			return nothing
		}
		return elsewhere
	}
	x.limitTry()
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
			return answered
		}
	}
	return x.lost(err, reused)
}

// connectLimit is how long connecting may take.
func (x *exchange) connectLimit() time.Duration {
	limit := x.server.cfg.Limits.Connect
	if x.requestBy.IsZero() {
		return limit
	}
	return max(min(limit, time.Until(x.requestBy)), time.Millisecond)
}

// limitTry sets the time of a try (B-42), which is no longer than that of the request (B-55).
func (x *exchange) limitTry() {
	if x.tryBy = x.tryEnds(); !x.tryBy.IsZero() {
		_ = x.to.SetDeadline(x.tryBy) // fails when it is closed, as what follows does
	}
}

// tryEnds is when the time of a try that begins now is over; the zero time: never.
func (x *exchange) tryEnds() time.Time {
	if limit := x.verdict.timeouts().BackendRequest; limit > 0 {
		return earliest(x.requestBy, time.Now().Add(time.Duration(limit)))
	}
	return x.requestBy
}

// untimed lifts the limits from both connections (B-46). False: one of them is closed.
func (x *exchange) untimed() bool {
	if !x.tryBy.IsZero() && x.to.SetDeadline(time.Time{}) != nil {
		return false
	}
	x.tryBy = time.Time{}
	return x.requestBy.IsZero() || x.conn.SetWriteDeadline(time.Time{}) == nil
}

// timedOut notes that time is over, if it is. It tells whether that is so.
func (x *exchange) timedOut() bool {
	now := time.Now()
	switch {
	case due(x.requestBy, now):
		x.rec.Failure = requestTimeout
	case due(x.tryBy, now):
		x.rec.Failure = backendTimeout
	default:
		return false
	}
	return true
}

// interrupted notes why an endpoint's answer broke off.
func (x *exchange) interrupted() {
	if !x.timedOut() {
		x.fail(upstreamClosed)
	}
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
	if (isTimeout(err) || errors.Is(err, http1.ErrHeadTime)) && x.timedOut() || x.rec.Failure == clientGone {
		return nothing
	}
	if bad, ok := errors.AsType[*http1.Error](err); ok {
		x.rec.Failure = badResponse
		x.server.cfg.Log.Debug("a malformed answer", "endpoint", x.rec.Endpoint.String(), "reason", bad.Error())
		return nothing
	}
	if x.rec.Failure != badRequest {
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
	case x.rec.Failure == badRequest:
		x.last, x.unread = true, true
		x.answer(400, badRequest, "the request's body is malformed")
	default:
		a := answerTo(x.rec.Failure)
		x.answer(a.status, a.failure, a.reason)
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
