package forward

import (
	"errors"
	"net/http"
	"strconv"
	"time"
	"unsafe"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// try gives the request to an endpoint of its backend, or answers that there is none.
func (x *call) try(t *http2.Turn) {
	for x.asked < maxAsked {
		if x.endpoint == nil {
			e := x.choose(x.verdict.set, x.refused[:x.refusals], x.previous)
			if e == nil {
				x.failed(t)
				return
			}
			x.endpoint = e
			x.rec.Attempts++
			x.rec.Endpoint = e.Address
		}
		x.asked++
		x.upToken = x.token()
		if !x.verdict.http2(x.endpoint) {
			x.startBridge(t)
			return
		}
		conn := x.client.Upstream.HTTP2(x.endpoint, x.server.cfg.Limits.Connect, (*fromPool)(x), x.upToken)
		if conn == nil {
			x.waiting = true // Connected comes
			return
		}
		if x.start(t, conn) {
			return
		}
	}
	x.fail(overloaded)
	x.failed(t)
}

// Connected is told of a connection that was waited for.
func (c *fromPool) Connected(token uint64, conn *http2.Conn, err error) {
	x := (*call)(c)
	var t http2.Turn
	defer t.Flush()
	x.mu.Lock()
	defer x.mu.Unlock()
	if token != x.upToken || !x.waiting {
		return
	}
	defer x.guard()
	x.waiting = false
	switch {
	case err == nil && x.start(&t, conn):
	case err == nil, errors.Is(err, http2.ErrNotHTTP2) && x.verdict.speaks != upstream.HTTP2Only: // HTTP/1.1, then
		x.try(&t)
	case errors.Is(err, http2.ErrNotHTTP2):
		x.rec.Failure = notHTTP2
		x.again(&t, true)
	case errors.Is(err, upstream.ErrTooMany):
		x.rec.Failure = overloaded
		x.again(&t, true)
	default:
		x.unconnected(&t, err)
	}
}

// unconnected is for an endpoint that could not be connected to: it does not have the request.
func (x *call) unconnected(t *http2.Turn, err error) {
	x.rec.Failure = connectFailed
	if errors.Is(err, upstream.ErrClosed) {
		x.rec.Failure = clientPodIsGone
		x.release()
		x.failed(t)
		return
	}
	x.again(t, true)
}

// again tries once more, if that is allowed.
func (x *call) again(t *http2.Turn, elsewhere bool) {
	if elsewhere && x.refusals < len(x.refused) {
		x.refused[x.refusals] = x.endpoint
		x.refusals++
	}
	x.release()
	if x.rec.Attempts-x.retried >= maxAttempts || !x.kept {
		x.failed(t)
		return
	}
	x.try(t)
}

// start opens a stream. False: the connection has no room for it after all.
func (x *call) start(t *http2.Turn, conn *http2.Conn) bool {
	if x.extends && !conn.ExtendedConnect() {
		x.release()
		x.answer(t, answer{status: 501, failure: unsupported, reason: "the endpoint does not support the extended CONNECT of RFC 8441"})
		return true
	}
	end := x.ended && len(x.body) == 0 && !x.trailed
	up, err := conn.Open(t, x.block, end, (*fromEndpoint)(x), x.upToken)
	if err != nil {
		return false
	}
	x.up = up
	x.opened(t)
	return true
}

// opened sends what has come of the body by now.
func (x *call) opened(t *http2.Turn) {
	x.open = true
	x.endpoint.Acquire()
	x.acquired = true
	x.passed = 0
	x.unstore()
	if limit := x.verdict.timeouts().BackendRequest; limit > 0 {
		x.tryBy = time.Now().Add(time.Duration(limit))
		x.arm()
	}
	if len(x.body) > 0 && !x.send(t, x.body, x.ended && !x.trailed) {
		return
	}
	if x.trailed {
		x.sendTrailers(t)
	}
	if len(x.body) > x.replay() {
		x.forget()
	}
}

// send gives a part of the body to the endpoint's connection. False: that was too much, and the call is over.
func (x *call) send(t *http2.Turn, p []byte, end bool) bool {
	var queued int
	if x.bridge != nil {
		queued = x.bridge.data(p, end)
	} else {
		queued, _ = x.up.Data(t, p, end)
	}
	x.queuedUp += queued
	if !x.hold(t, queued) {
		return false
	}
	x.passedOn(t, len(p)-queued)
	return true
}

func (x *call) sendTrailers(t *http2.Turn) {
	if x.bridge != nil {
		x.bridge.end(x.trailers)
		return
	}
	x.up.Trailers(t, x.trailers)
}

// passedOn gives n bytes of the body that went on back to the client's windows, once for each.
func (x *call) passedOn(t *http2.Turn, n int) {
	x.passed += n
	if more := x.passed - x.credited; more > 0 {
		x.down.Credit(t, more)
		x.credited += more
	}
}

// creditUp gives n bytes of the answer back to the endpoint's windows.
func (x *call) creditUp(t *http2.Turn, n int) {
	switch {
	case n == 0:
	case x.bridge != nil:
		x.bridge.credit(n)
	default:
		x.up.Credit(t, n)
	}
}

// cancel tells the endpoint that nobody wants its answer.
func (x *call) cancel(t *http2.Turn, code http2.Code) {
	switch {
	case !x.open:
	case x.bridge != nil:
		x.bridge.cancel()
	default:
		x.up.Reset(t, code)
	}
}

// release lets go of the endpoint. What it may still say is not heard any more.
func (x *call) release() {
	if x.acquired {
		x.endpoint.Release()
	}
	if x.endpoint != nil {
		x.previous = x.endpoint
	}
	x.client.buffered.Add(-int64(x.queuedUp))
	x.upToken = x.token()
	x.endpoint, x.acquired, x.open, x.waiting, x.queuedUp = nil, false, false, false, 0
	x.up, x.bridge, x.tryBy = http2.Handle{}, nil, time.Time{}
}

// lost is for an endpoint's stream that ended before its time. Only what certainly was not processed is sent again
// (RFC 9113, 8.7).
func (x *call) lost(t *http2.Turn, why *http2.StreamError) {
	switch {
	case x.complete: // and the endpoint does not want the rest of the request (RFC 9113, 8.1)
		x.release()
		x.unwanted = true
		x.settle(t)
	case x.began:
		x.fail(failureOf(why))
		x.release()
		x.down.Reset(t, codeFor(why))
		x.finish()
	case why.Unprocessed && x.kept:
		x.rec.Failure = notProcessed
		x.fresh = true
		x.again(t, false)
	case why.Malformed || why.Connection || x.bridge != nil:
		x.rec.Failure = failureOf(why)
		x.release()
		x.failed(t)
	default:
		x.rec.Failure = failureOf(why)
		if x.tryAgain(502) {
			return
		}
		x.release() // the endpoint has reset the stream: that is its answer
		x.down.Reset(t, codeFor(why))
		x.finish()
	}
}

func failureOf(why *http2.StreamError) string {
	switch {
	case why.Malformed:
		return badResponse
	case why.Connection:
		return upstreamClosed
	}
	return upstreamReset
}

// codeFor is what the client is told of an endpoint's stream that broke off.
func codeFor(why *http2.StreamError) http2.Code {
	switch {
	case why.Unprocessed:
		return http2.RefusedStream
	case why.Malformed || why.Connection || why.Code == http2.NoError: // which would be no error to a client that still waits
		return http2.InternalError
	}
	return why.Code
}

// cancelCode is what the endpoint is told of a client's stream that broke off.
func cancelCode(why *http2.StreamError) http2.Code {
	if why.Malformed || why.Connection || why.Code == http2.NoError {
		return http2.Cancel
	}
	return why.Code
}

// failed answers a request that no endpoint answered, unless it is tried again.
func (x *call) failed(t *http2.Turn) {
	if a := answerTo(x.rec.Failure); !x.tryAgain(a.status) {
		x.answer(t, a)
	}
}

// answerTo is what a client gets whose request failed in that way before it was answered.
func answerTo(failure string) answer {
	switch failure {
	case "":
		return answer{status: 503, failure: noEndpoint, reason: "the backend has no endpoint that is ready"}
	case connectFailed:
		return answer{status: 503, failure: failure, reason: "no endpoint of the backend could be connected to"}
	case clientPodIsGone:
		return answer{status: 503, failure: failure, reason: "the client pod is being removed"}
	case overloaded:
		return answer{status: 503, failure: failure, reason: "the endpoint has too many requests"}
	case badResponse:
		return answer{status: 502, failure: failure, reason: "the endpoint's answer is malformed"}
	case notHTTP2:
		return answer{status: 502, failure: failure, reason: "the endpoint does not speak HTTP/2"}
	case notProcessed:
		return answer{status: 502, failure: failure, reason: "the endpoint refused the request"}
	case upstreamReset:
		return answer{status: 502, failure: failure, reason: "the endpoint reset the request's stream"}
	case requestTimeout, backendTimeout:
		return answer{status: 504, failure: failure, reason: "the backend did not answer in the time that the route gives it"}
	}
	return answer{status: 502, failure: upstreamClosed, reason: "the endpoint closed the connection before it answered"}
}

// answer answers the client by ourselves: a gRPC client by trailers only (B-24), others in plain words, and as a filter
// says where one answers.
func (x *call) answer(t *http2.Turn, a answer) {
	if a.failure != "" {
		x.fail(a.failure)
	}
	x.forget()
	x.unwanted, x.began, x.complete = true, true, true
	x.rec.Status = a.status
	r := message.Response{Status: a.status}
	body := ""
	switch {
	case a.failure == "": // a filter's
		r.Fields = append(a.fields, message.Field{Name: "content-length", Value: "0"})
	case x.grpc:
		x.rec.Status, r.Status = http.StatusOK, http.StatusOK
		x.rec.GRPC, r.Fields = grpcAnswer(a.status, a.reason)
	default:
		body = "sluice: " + a.reason + "\n"
		r.Fields = message.Fields{
			{Name: "content-type", Value: "text/plain; charset=utf-8"},
			{Name: "content-length", Value: strconv.Itoa(len(body))},
		}
	}
	if a.failure != "" {
		x.verdict.share(&r.Fields, &x.filtered)
	}
	x.scratch = http2.AppendResponse(x.scratch[:0], &r)
	end := x.head || body == ""
	x.down.Head(t, x.scratch, end)
	if !end {
		queued, _ := x.down.Data(t, []byte(body), true)
		x.queuedDn += queued
		x.client.buffered.Add(int64(queued))
	}
	x.settle(t)
}

// view makes a string of bytes that are not edited while it is used.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
