package forward

import (
	"errors"
	"runtime"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// exchange is one request and what becomes of it. Its memory is used again.
type exchange struct {
	*session

	req  message.Request
	head http1.Head // of the request
	body requestBody

	verdict  verdict
	filtered filter.Scratch

	requestBy time.Time          // when the client's patience ends; the zero time: never
	tryBy     time.Time          // ... that with the endpoint
	retried   int                // tries after the first one, which the rule asked for
	previous  *upstream.Endpoint // of the last try, which another is preferred to (B-57)

	resp     message.Response
	respHead http1.Head
	up       http1.Reader // of the endpoint's connection

	endpoint *upstream.Endpoint // that has the request; nil: none
	to       *sock.Conn         // the connection to it
	out      []byte             // what is to be written
	last     bool               // the client's connection ends after this exchange
	unread   bool               // and some of its request was not read
	began    bool               // something of the answer went to the client
	rec      observe.Record
}

const (
	usualFields = 32
	usualHead   = 4 << 10
	maxKept     = 64 << 10 // bytes of out that are kept for the next exchange
)

func newExchange() *exchange {
	x := &exchange{out: make([]byte, 0, usualHead)}
	x.req.Fields = make(message.Fields, 0, usualFields)
	x.resp.Fields = make(message.Fields, 0, usualFields)
	x.body.done = make(chan error, 1)
	return x
}

// reset forgets the exchange and keeps its memory.
func (x *exchange) reset() {
	x.up.Reset(nil, &x.server.buffers)
	if cap(x.out) > maxKept {
		x.out = make([]byte, 0, usualHead)
	}
	x.session = nil
	x.filtered.Reset()
	x.verdict, x.requestBy, x.tryBy, x.retried, x.previous = verdict{}, time.Time{}, time.Time{}, 0, nil
	x.req, x.resp = message.Request{Fields: x.req.Fields[:0]}, message.Response{Fields: x.resp.Fields[:0]} // views go with their buffers
	x.last, x.unread, x.began = false, false, false
}

// abandon is for an exchange that a panic ended. Nothing of it is used again.
func (x *exchange) abandon() {
	if x == nil {
		return
	}
	if x.to != nil {
		x.to.Reset()
	}
	if x.body.pumping {
		x.pumped(<-x.body.done) // both connections are reset
	}
	x.rec.Failure = proxyBug
	if x.endpoint != nil {
		x.endpoint.Release()
	}
	x.finish()
}

// serve serves one request. It tells whether the connection goes on.
func (x *exchange) serve() bool {
	x.start()
	head, err := x.in.Request(&x.req, x.server.limits, x.server.cfg.Limits.HeadIn)
	if err != nil {
		return x.unreadable(err)
	}
	x.head = head
	x.last = head.Close
	x.rec.Method, x.rec.Authority, x.rec.Path = x.req.Method, x.req.Authority, x.req.Path
	if err := x.body.begin(x.in.Buffered(), &x.head); err != nil {
		return x.unreadable(err)
	}
	if !x.body.complete {
		x.head.Upgrade = "" // the new protocol could not begin before the body's end
	}
	switch {
	case x.client.requests.Load() > x.server.cfg.Limits.Requests:
		x.answer(503, overloaded, "the client pod has too many requests under way")
	case x.req.Method == "CONNECT" && head.Body != http1.NoBody: // it has no meaning (RFC 9110, 9.3.6), and a tunnel follows
		x.last, x.unread = true, true
		x.answer(400, badRequest, "a CONNECT request has a body")
	default:
		x.route()
	}
	x.finish()
	if x.last {
		x.end()
	}
	return !x.last
}

func (x *exchange) start() {
	x.client.requests.Add(1)
	x.server.cfg.Recorder.RequestStarted(x.client.Pod)
	p := x.port.current.Load()
	x.rec = observe.Record{Client: x.client.Pod, Service: p.service, Port: p.number, Start: time.Now()}
	x.head = http1.Head{Minor: 1}
	x.body.reset()
}

// finish records the exchange, whatever came of it.
func (x *exchange) finish() {
	if !x.requestBy.IsZero() {
		_ = x.conn.SetWriteDeadline(time.Time{}) // fails when it is closed
	}
	x.verdict.copies.drop() // does nothing to what was sent
	x.rec.Duration = time.Since(x.rec.Start)
	x.server.cfg.Recorder.Done(&x.rec)
	x.server.cfg.Recorder.RequestEnded(x.client.Pod)
	x.client.requests.Add(-1)
}

// unreadable is for what is no request. The rest of the connection is not read: nobody knows where a next request would
// begin.
func (x *exchange) unreadable(err error) bool {
	x.last, x.unread = true, true
	bad, ok := errors.AsType[*http1.Error](err)
	switch {
	case ok && bad == http1.ErrHeadTime:
		x.answer(bad.Status, headTimeout, bad.Error())
	case ok:
		x.answer(bad.Status, badRequest, bad.Error())
	default: // the client is gone
		x.rec.Failure = clientGone
	}
	x.finish()
	x.end()
	return false
}

// refuse is serve for a request that is not even looked at.
func (x *exchange) refuse(status int, failure, reason string) {
	x.start()
	x.last, x.unread = true, true
	x.answer(status, failure, reason)
	x.finish()
	x.end()
}

// route does what the rule says that the request belongs to.
func (x *exchange) route() {
	x.verdict = x.decide(x.port.current.Load(), &x.req, &x.rec, &x.filtered)
	v := &x.verdict
	x.body.copies = v.copies
	if limit := v.timeouts().Request; limit > 0 {
		x.requestBy = x.rec.Start.Add(time.Duration(limit))
		_ = x.conn.SetWriteDeadline(x.requestBy) // fails when it is closed, as the next write does
	}
	switch {
	case v.set == nil && v.answer.failure == "":
		x.reply(v.answer)
	case v.set == nil:
		x.answer(v.answer.status, v.answer.failure, v.answer.reason)
	case v.speaks == upstream.HTTP2Only:
		x.forwardHTTP2(v.set)
	default:
		x.forward(v.set)
	}
}

// smallBody is up to how many bytes a body is copied behind its head: cheaper than a system call that gathers two.
const smallBody = 1 << 10

// write sends x.out, and body after it, to the client.
func (x *exchange) write(body []byte) bool {
	x.began = true
	if len(body) <= smallBody {
		x.out, body = append(x.out, body...), nil
	}
	if err := x.conn.WriteTwo(x.out, body); err != nil {
		x.clientLost()
		return false
	}
	return true
}

// clientLost notes that the client does not take its answer.
func (x *exchange) clientLost() {
	x.last = true
	if due(x.requestBy, time.Now()) {
		x.fail(requestTimeout)
	}
	x.fail(clientGone)
}

// fail notes the first reason why the exchange failed.
func (x *exchange) fail(why string) {
	if x.rec.Failure == "" {
		x.rec.Failure = why
	}
}

const (
	lingerFor   = time.Second
	lingerBytes = 1 << 20
)

// end ends the client's connection in order. Where some of the request was not read, closing at once would make the
// kernel reset the connection, and the client might lose the answer: so the rest is read for a while (RFC 9112, 9.6).
func (x *exchange) end() {
	c := x.conn
	if !x.unread || !x.began || x.rec.Failure == clientGone {
		return // whoever serves the connection closes it
	}
	if c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	x.in.Use(len(x.in.Buffered()))
	for n := 0; n < lingerBytes; {
		err := x.in.Fill()
		if err != nil {
			return
		}
		n += len(x.in.Buffered())
		x.in.Use(len(x.in.Buffered()))
	}
}

// giveWay lets others run, so that what they wait for gathers and one look at the poller brings many (measured: a third
// more requests with one P).
func giveWay() { runtime.Gosched() }
