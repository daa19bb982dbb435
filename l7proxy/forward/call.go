package forward

import (
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// call is one request of a client that speaks HTTP/2, and what becomes of it. No goroutine belongs to it: it does what
// the readers of the two connections tell it, each in its Turn. Its memory is used again, which is why whoever speaks to
// it has a token.
type call struct {
	mu  sync.Mutex // over all of it; a connection's own may be taken while it is held, never the other way round
	seq uint64     // of the last token that was given out

	*session
	grpc    bool // its failures are answered as gRPC's
	head    bool // HEAD: its answer has no body
	extends bool // it is an extended CONNECT (RFC 8441)
	rec     observe.Record
	text    []byte // what rec's strings are views of
	scratch []byte // for blocks of the answer

	filtered filter.Scratch

	// The client's side.
	down      http2.Handle
	downToken uint64
	block     []byte // the head of the request, which may have to be sent again
	body      []byte // what came of its body, while it may have to be sent again or there is no endpoint yet
	stored    int    // bytes of it that count as buffered: those for which there is no endpoint yet
	kept      bool   // body is all that came
	trailers  []byte // the block of the request's trailers
	trailed   bool   // they have come
	ended     bool   // the client has ended the request

	// The endpoint's side.
	verdict  verdict
	endpoint *upstream.Endpoint // that has the request, or is connected to; nil: none
	acquired bool
	refused  [maxAttempts]*upstream.Endpoint
	refusals int
	asked    int // for connections, which may be full when they are ready
	waiting  bool
	fresh    bool               // a kept connection had just closed
	previous *upstream.Endpoint // of the last try, which another is preferred to (B-57)
	retried  int
	open     bool // up or bridge has the request
	up       http2.Handle
	bridge   *bridge // instead of up, where the endpoint speaks HTTP/1.1
	upToken  uint64

	// How far the bodies are, in bytes.
	passed, credited   int // of the request: taken by the endpoint's connection; given back to the client's windows
	queuedUp, queuedDn int // taken, but not sent yet

	timer     *time.Timer // nil: it was never needed
	requestBy time.Time   // when the client's patience ends; the zero time: never
	tryBy     time.Time   // ... that with the endpoint
	retryAt   time.Time   // when the next try is

	copied   bool // nobody waits for the answer: it is of a copy
	began    bool // the final answer went to the client
	complete bool // all of it
	unwanted bool // nobody wants what has not come of the request yet
	lingers  bool // the session knows of it
}

const (
	maxReplay    = 16 << 10 // bytes of a request's body that are kept to be sent again
	maxRetry     = 64 << 10 // ... where the rule asks for retries (B-58)
	maxAsked     = 64
	usualRequest = 512
)

// fromClient and fromEndpoint are how the call hears its two sides.
type (
	fromClient   call
	fromEndpoint call
	fromPool     call
)

func newCall() *call {
	return &call{block: make([]byte, 0, usualRequest), body: make([]byte, 0, usualRequest), text: make([]byte, 0, usualRequest), scratch: make([]byte, 0, usualRequest)}
}

func (s *Server) takeCall() *call {
	if x, ok := s.calls.Get().(*call); ok {
		return x
	}
	return newCall()
}

func (x *call) token() uint64 {
	x.seq++
	return x.seq
}

// Request begins a call.
func (n *session) Request(t *http2.Turn, h http2.Handle, r *message.Request, end bool) {
	x := n.server.takeCall()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.begin(n, h, r, end)
	switch {
	case n.full:
		x.answer(t, answer{status: 503, failure: overloaded, reason: "the client pod has too many connections open"})
		return
	case x.client.requests.Load() > x.server.cfg.Limits.Requests:
		x.answer(t, answer{status: 503, failure: overloaded, reason: "the client pod has too many requests under way"})
		return
	}
	x.verdict = n.decide(x.port.current.Load(), r, &x.rec, &x.filtered)
	if end {
		x.verdict.copies.end(t)
	}
	if x.verdict.set == nil {
		x.answer(t, x.verdict.answer)
		return
	}
	if limit := x.verdict.timeouts().Request; limit > 0 {
		x.requestBy = x.rec.Start.Add(time.Duration(limit))
		x.arm()
	}
	x.block = http2.AppendRequest(x.block[:0], r)
	x.try(t)
}

// Refuse is Request for what is not served.
func (n *session) Refuse(t *http2.Turn, h http2.Handle, err *http2.Error) {
	x := n.server.takeCall()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.begin(n, h, &message.Request{}, false)
	if err.Status > 0 {
		x.answer(t, answer{status: err.Status, failure: badRequest, reason: err.Error()})
		return
	}
	x.fail(badRequest)
	x.finish()
}

func (x *call) begin(n *session, h http2.Handle, r *message.Request, end bool) {
	x.session = n
	x.client.requests.Add(1)
	x.server.cfg.Recorder.RequestStarted(x.client.Pod)
	p := x.port.current.Load()
	x.rec = observe.Record{Client: x.client.Pod, Service: p.service, Port: p.number, Start: time.Now()}
	x.text = x.text[:0]
	x.rec.Method, x.rec.Authority, x.rec.Path = x.keep(r.Method), x.keep(r.Authority), x.keep(r.Path)
	x.grpc, x.head, x.extends = r.IsGRPC(), r.Method == "HEAD", r.Protocol != ""
	x.down, x.downToken = h, x.token()
	h.Bind((*fromClient)(x), x.downToken)
	x.ended, x.kept = end, true
}

// keep copies a view for the record.
func (x *call) keep(s string) string {
	at := len(x.text)
	x.text = append(x.text, s...)
	return view(x.text[at:])
}

// Response does not come from a client.
func (c *fromClient) Response(*http2.Turn, uint64, *message.Response, bool) {}

// Data is a part of the request's body.
func (c *fromClient) Data(t *http2.Turn, token uint64, p []byte, end bool) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.downToken {
		return
	}
	x.rec.RequestBytes += int64(len(p))
	x.ended = end
	x.verdict.copies.data(p)
	if end {
		x.verdict.copies.end(t)
	}
	switch {
	case x.unwanted:
	case !x.open:
		x.body = append(x.body, p...)
		x.stored += len(p)
		if !x.hold(t, len(p)) {
			return
		}
	default:
		if x.kept && len(x.body)+len(p) <= x.replay() {
			x.body = append(x.body, p...)
		} else {
			x.forget()
		}
		if !x.send(t, p, end) {
			return
		}
	}
	x.settle(t)
}

// Trailers are the end of a request.
func (c *fromClient) Trailers(t *http2.Turn, token uint64, f message.Fields) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.downToken {
		return
	}
	x.ended = true
	x.verdict.copies.end(t)
	if !x.unwanted {
		x.trailers, x.trailed = http2.AppendTrailers(x.trailers[:0], f), true
	}
	if x.open {
		x.sendTrailers(t)
	}
	x.settle(t)
}

// Sent tells that a part of the answer went on.
func (c *fromClient) Sent(t *http2.Turn, token uint64, n int) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.downToken {
		return
	}
	x.queuedDn -= n
	x.client.buffered.Add(-int64(n))
	x.creditUp(t, n)
	x.settle(t)
}

// Gone tells that the client has cancelled the call, or is gone: the endpoint is told at once.
func (c *fromClient) Gone(t *http2.Turn, token uint64, why *http2.StreamError) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.downToken {
		return
	}
	switch {
	case why.Malformed:
		x.fail(badRequest)
	case !x.complete:
		x.fail(clientGone)
	}
	x.cancel(t, cancelCode(why))
	x.finish()
}

// Response is the head of an answer.
func (c *fromEndpoint) Response(t *http2.Turn, token uint64, r *message.Response, end bool) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken {
		return
	}
	if r.Status < 200 { // RFC 9110, 15.2
		x.forget() // it is not sent again: the client has heard of the endpoint
		x.scratch = http2.AppendResponse(x.scratch[:0], r)
		x.down.Head(t, x.scratch, false)
		return
	}
	x.rec.Failure = "" // of an earlier attempt
	if x.retriesAnswer(t, r.Status) {
		return
	}
	x.forget()
	if x.rec.Method == "CONNECT" && r.Status < 300 {
		x.untimed()
	}
	x.verdict.edit(r, &x.filtered)
	x.scratch = http2.AppendResponse(x.scratch[:0], r)
	x.began, x.complete = true, end
	x.rec.Status = r.Status
	if x.grpc {
		x.noteStatus(r.Fields)
	}
	x.down.Head(t, x.scratch, end)
	x.settle(t)
}

// Data is a part of the answer's body.
func (c *fromEndpoint) Data(t *http2.Turn, token uint64, p []byte, end bool) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken {
		return
	}
	x.rec.ResponseBytes += int64(len(p))
	x.complete = end
	queued, _ := x.down.Data(t, p, end)
	x.creditUp(t, len(p)-queued)
	x.queuedDn += queued
	if x.hold(t, queued) {
		x.settle(t)
	}
}

// Trailers are the end of an answer, and have the status of a call.
func (c *fromEndpoint) Trailers(t *http2.Turn, token uint64, f message.Fields) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken {
		return
	}
	x.complete = true
	if x.grpc {
		x.noteStatus(f)
	}
	x.scratch = http2.AppendTrailers(x.scratch[:0], f)
	x.down.Trailers(t, x.scratch)
	x.settle(t)
}

// Sent tells that a part of the request went on.
func (c *fromEndpoint) Sent(t *http2.Turn, token uint64, n int) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken {
		return
	}
	x.queuedUp -= n
	x.client.buffered.Add(-int64(n))
	x.passedOn(t, n)
	x.settle(t)
}

// Gone tells that the endpoint ended the call, or is gone.
func (c *fromEndpoint) Gone(t *http2.Turn, token uint64, why *http2.StreamError) {
	x := (*call)(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken {
		return
	}
	x.lost(t, why)
}

// retriesAnswer gives up an answer that the rule wants to be tried again.
func (x *call) retriesAnswer(t *http2.Turn, status int) bool {
	up, b := x.up, x.bridge
	if !x.tryAgain(status) {
		return false
	}
	if b != nil {
		b.cancel()
	}
	up.Reset(t, http2.Cancel) // a bridge has none
	return true
}

// replay is how many bytes of a request's body are kept to be sent again.
func (x *call) replay() int {
	if x.verdict.retry() != nil {
		return maxRetry
	}
	return maxReplay
}

// noteStatus notes the status of a gRPC call.
func (x *call) noteStatus(f message.Fields) {
	if v, ok := f.Get("grpc-status"); ok {
		x.rec.GRPC = observe.GRPC{Known: true, Code: parseGRPCStatus(v)}
	}
}

// fail notes the first reason why the call failed.
func (x *call) fail(why string) {
	if x.rec.Failure == "" {
		x.rec.Failure = why
	}
}

// forget gives up what is kept of the body: it is not sent again.
func (x *call) forget() {
	x.unstore()
	x.kept, x.body = false, x.body[:0]
}

// unstore is for a body that does not wait for an endpoint any more.
func (x *call) unstore() {
	x.client.buffered.Add(-int64(x.stored))
	x.stored = 0
}

// hold counts what is queued against what the pod may have buffered. False: that is too much, and the call is over.
func (x *call) hold(t *http2.Turn, queued int) bool {
	if queued == 0 || x.client.buffered.Add(int64(queued)) <= x.server.cfg.Limits.Buffered {
		return true
	}
	x.fail(overloaded)
	x.down.Reset(t, http2.EnhanceYourCalm)
	x.cancel(t, http2.Cancel)
	x.finish()
	return false
}

// settle ends the call when there is nothing more to do. An answer that came before the end of a request that nobody wants
// ends that too (RFC 9113, 8.1).
func (x *call) settle(t *http2.Turn) {
	if !x.complete || x.queuedDn > 0 {
		return
	}
	switch {
	case x.unwanted && !x.ended:
		x.down.Reset(t, http2.NoError)
	case x.open && !x.ended:
		return
	case x.open && x.queuedUp > 0: // the endpoint may want it all the same
		if !x.copied && x.linger(x, x.downToken) {
			x.lingers = true
			return
		}
		x.cancel(t, http2.Cancel)
	}
	x.finish()
}

// finish records the call, whatever came of it, and gives its memory back. The caller holds mu and does nothing more.
func (x *call) finish() {
	x.release()
	x.forget()
	x.verdict.copies.drop() // does nothing to what was sent
	x.client.buffered.Add(-int64(x.queuedDn))
	if x.lingers {
		x.unlinger(x)
	}
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.copied {
		x.copyEnded()
	} else {
		x.rec.Duration = time.Since(x.rec.Start)
		x.server.cfg.Recorder.Done(&x.rec)
		x.server.cfg.Recorder.RequestEnded(x.client.Pod)
		x.client.requests.Add(-1)
	}
	server := x.server
	x.reset()
	server.calls.Put(x)
}

// reset forgets the call and keeps its memory, unless that is a lot.
func (x *call) reset() {
	x.downToken, x.upToken = x.token(), x.token() // nobody has these
	x.session, x.bridge = nil, nil
	x.down, x.up = http2.Handle{}, http2.Handle{}
	x.block, x.body, x.text = spare(x.block), spare(x.body), spare(x.text)
	x.scratch, x.trailers = spare(x.scratch), spare(x.trailers)
	x.rec, x.verdict = observe.Record{}, verdict{}
	x.filtered.Reset()
	x.requestBy, x.tryBy, x.retryAt = time.Time{}, time.Time{}, time.Time{}
	x.previous, x.retried, x.copied = nil, 0, false
	x.refused, x.refusals, x.asked = [maxAttempts]*upstream.Endpoint{}, 0, 0
	x.passed, x.credited, x.queuedUp, x.queuedDn = 0, 0, 0, 0
	x.kept, x.ended, x.trailed, x.waiting, x.open, x.fresh = false, false, false, false, false, false
	x.began, x.complete, x.unwanted, x.lingers = false, false, false, false
}

// spare keeps the memory of b for the next one.
func spare(b []byte) []byte {
	if cap(b) > maxReplay {
		return nil
	}
	return b[:0]
}
