package forward

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// translation is a request of a client that speaks HTTP/1.1 to an endpoint that speaks HTTP/2.
type translation struct {
	*exchange
	block  []byte // the head
	data   []byte // of the body: what came with the head
	flow   *inflow
	timer  *time.Timer // ends what waits when its time is over; nil: never
	stream http2.Handle

	unheard bool // the answer is not passed on: the rule wants another try
}

// forwardHTTP2 is forward for endpoints that speak HTTP/2.
func (x *exchange) forwardHTTP2(set *upstream.Set) {
	if x.req.Method == "CONNECT" {
		x.last, x.unread = true, true
		x.answer(501, unsupported, "CONNECT is not supported where endpoints speak HTTP/2")
		return
	}
	x.head.Upgrade = "" // which is HTTP/1.1's: the request is served without (RFC 9110, 7.8)
	y := &translation{exchange: x}
	if err := y.begin(); err != nil { // which the first look at it has not seen
		x.last, x.unread = true, true
		x.answer(400, badRequest, err.Error())
		return
	}
	if err := y.gather(); err != nil {
		x.uncollected(err)
		return
	}
	refused := make([]*upstream.Endpoint, 0, maxAttempts)
	for {
		again := nothing
		if e := x.choose(set, refused, x.previous); e != nil {
			x.rec.Attempts++
			x.rec.Endpoint, x.previous = e.Address, e
			if again = y.attempt(e); again == elsewhere {
				refused = append(refused, e)
			}
		}
		switch {
		case again == answered && !y.unheard:
			return
		case x.goesOn(again):
			continue
		}
		if !x.tryAgain(again) {
			x.failed()
			return
		}
		y.unheard, refused = false, refused[:0]
	}
}

// begin takes what came of the body with the head.
func (y *translation) begin() error {
	y.req.Fields.Del("te")
	if y.exchange.head.Trailers {
		y.req.Fields.Add("te", "trailers")
	}
	y.block = http2.AppendRequest(nil, &y.req)
	var err error
	y.data, err = y.body.data(&y.in, nil)
	return err
}

// gather reads the rest of a body that may have to be sent again: collect for endpoints that speak HTTP/2.
func (y *translation) gather() error {
	x := y.exchange
	x.out = x.out[:0]
	if _, err := x.collect(nil); err != nil {
		return err
	}
	y.data = append(y.data, x.out...)
	return nil
}

// data is first without framing, and copies.
func (b *requestBody) data(in *http1.Reader, dst []byte) ([]byte, error) {
	if b.kind == http1.Chunked {
		w := chunkWriter{out: dst, gather: math.MaxInt, count: &b.sent, copies: b.copies}
		_, err := w.pass(&b.chunks, in)
		b.size = 0
		if b.complete {
			b.copied()
		}
		return w.out, err
	}
	_, rest, err := b.first(in, nil)
	return append(dst, rest...), err
}

// attempt asks an endpoint, and passes its answer on. It says whether another attempt makes sense; nothing also when
// this one was good.
func (y *translation) attempt(e *upstream.Endpoint) next {
	y.flow = newInflow(y.client, y.server.cfg.Limits.Buffered)
	y.inflow.Store(y.flow)
	defer y.leave()
	y.limit(y.requestBy)
	if err := y.open(e); err != nil {
		return y.notOpened(err)
	}
	y.limit(y.tryEnds())
	e.Acquire()
	defer e.Release()
	var t http2.Turn
	y.flow.queued(y.send(&t, y.data, y.body.complete))
	t.Flush()
	if !y.body.complete {
		y.body.pumping = true
		go y.pumpStream()
	}
	giveWay()
	return y.passAnswer()
}

// leave is the end of an attempt, however it came: the endpoint's stream does not outlive it.
func (y *translation) leave() {
	y.inflow.Store(nil)
	y.limit(time.Time{})
	y.flow.cut()
	y.resetStream()
	y.flow.close()
}

// open opens a stream on a connection with room.
func (y *translation) open(e *upstream.Endpoint) error {
	for range maxAsked {
		conn := y.client.Upstream.HTTP2(e, y.server.cfg.Limits.Connect, y.flow, 0)
		if conn == nil {
			var err error
			if conn, err = y.flow.connection(); err != nil {
				return err
			}
		}
		var t http2.Turn
		end := y.body.complete && len(y.data) == 0 && len(y.body.chunks.Trailers) == 0
		h, err := conn.Open(&t, y.block, end, y.flow, 0)
		if err == nil {
			y.stream = h
			t.Flush()
			return nil
		}
	}
	return upstream.ErrTooMany
}

func (y *translation) notOpened(err error) next {
	switch {
	case errors.Is(err, http2.ErrNotHTTP2):
		y.rec.Failure = notHTTP2
		return elsewhere
	case errors.Is(err, upstream.ErrTooMany):
		y.rec.Failure = overloaded
		return elsewhere
	case y.timedOut():
	case errors.Is(err, upstream.ErrClosed), errors.Is(err, errCancelled):
		y.rec.Failure = clientPodIsGone
	default:
		y.rec.Failure = connectFailed
		return elsewhere
	}
	return nothing
}

// limit ends what waits for the endpoint at a time; the zero time: never.
func (y *translation) limit(by time.Time) {
	y.tryBy = by
	if y.timer != nil {
		y.timer.Stop()
		y.timer = nil
	}
	if !by.IsZero() {
		flow := y.flow
		y.timer = time.AfterFunc(time.Until(by), func() { flow.Gone(nil, 0, errTimeIsOver) })
	}
}

// errTimeIsOver is how a stream ends whose time was over.
var errTimeIsOver = &http2.StreamError{Code: http2.Cancel, Connection: true, Reason: "its time is over"}

// send sends a part of the body, and its end with the trailers.
func (y *translation) send(t *http2.Turn, p []byte, last bool) (queued int) {
	trailers := y.body.chunks.Trailers
	end := last && len(trailers) == 0
	if len(p) > 0 || end && !y.emptyRequest() {
		queued, _ = y.stream.Data(t, p, end)
	}
	if last && len(trailers) > 0 {
		y.stream.Trailers(t, http2.AppendTrailers(nil, trailers))
	}
	return queued
}

// emptyRequest tells whether the stream was opened with its end.
func (y *translation) emptyRequest() bool { return y.body.complete && len(y.data) == 0 }

// pumpStream sends the rest of the body, beside the answer.
func (y *translation) pumpStream() {
	defer func() {
		if v := recover(); v != nil {
			y.server.panicked(v)
			y.pumpEnds(clientError{errPanicked})
		}
	}()
	y.pumpEnds(y.rest())
}

// pumpEnds tells how the pump ended. Where the client failed, nothing must look like the end of the body.
func (y *translation) pumpEnds(err error) {
	if _, ok := errors.AsType[clientError](err); ok {
		y.resetStream()
		y.flow.cut()
	}
	y.body.done <- err
	y.flow.change(func() { y.flow.pumped = true })
}

func (y *translation) rest() error {
	var t http2.Turn
	buf := make([]byte, 0, gatherUpTo)
	for last := false; !last; {
		if !y.flow.sendable() {
			return errCancelled
		}
		if err := y.in.Fill(); err != nil {
			return clientError{err}
		}
		var err error
		if buf, last, err = y.body.more(&y.in, buf[:0]); err != nil {
			return clientError{err}
		}
		if last {
			y.body.copied()
		}
		if len(buf) == 0 && !last {
			continue
		}
		queued := y.send(&t, buf, last)
		t.Flush()
		if !y.flow.queued(queued) {
			return errCancelled
		}
	}
	return nil
}

// more takes what is buffered of the body, without framing.
func (b *requestBody) more(in *http1.Reader, dst []byte) (_ []byte, last bool, err error) {
	if b.kind == http1.Chunked {
		w := chunkWriter{out: dst, gather: math.MaxInt, count: &b.sent, copies: b.copies}
		last, err = w.pass(&b.chunks, in)
		return w.out, last, err
	}
	part := in.Buffered()
	part = part[:min(int64(len(part)), b.left)]
	b.copies.data(part)
	in.Use(len(part))
	b.left -= int64(len(part))
	b.sent += int64(len(part))
	return append(dst, part...), b.left == 0, nil
}

// passAnswer passes the answer on.
func (y *translation) passAnswer() next {
	end, why := y.finalHead()
	if why != nil {
		return y.broken(why)
	}
	y.rec.Failure = ""
	if y.unheard = y.wanted(y.resp.Status); y.unheard {
		return answered
	}
	y.rec.Status = y.resp.Status
	y.verdict.edit(&y.resp, &y.filtered)
	if y.req.IsGRPC() {
		y.noteStatus(y.resp.Fields)
	}
	if y.body.pumping && y.exchange.head.Continue {
		y.last = true // nobody can tell whether a client that was not told to go on sends its body (RFC 9110, 10.1.1)
	}
	y.last = y.last || y.ending()
	y.frame(end)
	y.out = http1.AppendResponse(y.out[:0], &y.resp, &y.respHead, http1.ResponseTo{
		Minor: y.exchange.head.Minor, Close: y.last, KeepAlive: y.exchange.head.Minor == 0 && !y.last,
	})
	ok := y.write(nil)
	if ok && !end {
		ok = y.passBody()
	}
	y.settleStream(ok)
	return answered
}

// finalHead reads the head of the final answer, and passes interim ones on.
func (y *translation) finalHead() (end bool, why *http2.StreamError) {
	for {
		r, end, why := y.flow.head()
		if why != nil {
			return false, why
		}
		y.resp = r
		y.resp.Reason = http.StatusText(r.Status) // which HTTP/2 has not
		y.respHead = http1.Head{Minor: 1}
		if r.Status >= 200 {
			return end, nil
		}
		if r.Status == 100 {
			y.exchange.head.Continue = false // said
		}
		if y.exchange.head.Minor > 0 {
			y.out = http1.AppendResponse(y.out[:0], &y.resp, &y.respHead, http1.ResponseTo{Minor: 1})
			if !y.write(nil) {
				y.flow.cut()
				return false, &http2.StreamError{Connection: true}
			}
		}
	}
}

// frame says how the body of the answer is delimited (RFC 9112, 6.3). Trailers that are announced need chunks.
func (y *translation) frame(end bool) {
	if !end && y.exchange.head.Minor > 0 && !http1.Bodiless(y.req.Method, y.resp.Status) && announcesTrailers(y.resp.Fields) {
		y.resp.Fields.Del("content-length")
	}
	length, sized := y.resp.Fields.Get("content-length")
	switch n, err := strconv.ParseInt(length, 10, 64); {
	case http1.Bodiless(y.req.Method, y.resp.Status):
	case sized && err == nil:
		y.respHead.Body, y.respHead.Length = http1.Length, n
	case end:
		y.respHead.Body = http1.Length
		y.resp.Fields.Add("content-length", "0")
	case y.exchange.head.Minor == 0:
		y.respHead.Body, y.last = http1.UntilClose, true
	default:
		y.respHead.Body = http1.Chunked
	}
}

// announcesTrailers reads RFC 9110, 6.6.2.
func announcesTrailers(f message.Fields) bool {
	_, ok := f.Get("trailer")
	return ok
}

// passBody passes the body of the answer on.
func (y *translation) passBody() bool {
	var t http2.Turn
	for {
		p, end, why := y.flow.part()
		if why != nil {
			if !y.timedOut() {
				y.fail(y.failureOf(why))
			}
			return false
		}
		y.out = y.out[:0]
		chunked := y.respHead.Body == http1.Chunked
		if chunked && len(p) > 0 {
			y.out = http1.AppendChunk(y.out, int64(len(p)))
		}
		y.out = append(y.out, p...)
		if chunked && len(p) > 0 {
			y.out = append(y.out, "\r\n"...)
		}
		if chunked && end {
			y.out = http1.AppendLastChunk(y.out, y.flow.trailers)
		}
		if end && y.req.IsGRPC() {
			y.noteStatus(y.flow.trailers)
		}
		if len(y.out) > 0 && !y.write(nil) {
			return false
		}
		y.rec.ResponseBytes += int64(len(p))
		if end {
			return true
		}
		y.stream.Credit(&t, len(p))
		t.Flush()
	}
}

// settleStream ends the exchange after its answer. The rest of a request goes on after it, unless the endpoint does not
// want it, or the client was told that its connection ends.
func (y *translation) settleStream(ok bool) {
	failure := y.rec.Failure
	y.limit(time.Time{}) // the answer is complete, or there will be no more of it
	switch {
	case !y.body.pumping:
	case ok && !y.last && y.flow.settled():
		y.body.pumping = false
		y.pumped(<-y.body.done)
	default:
		y.flow.cut()
		y.last, y.unread = true, true
		y.stopPump()
		if ok {
			y.rec.Failure = failure // the client has an answer
		}
	}
	y.rec.RequestBytes = y.body.sent
	if !ok {
		y.last = true
		y.conn.Reset() // what was passed on must not look complete
		return
	}
	if !y.last {
		giveWay()
	}
}

func (y *translation) resetStream() {
	var t http2.Turn
	y.stream.Reset(&t, http2.Cancel) // does nothing to a stream that both sides have ended
	t.Flush()
}

// broken is for a stream that ended before its answer.
func (y *translation) broken(why *http2.StreamError) next {
	y.flow.cut()
	y.stopPump()
	switch {
	case y.rec.Failure == badRequest || y.rec.Failure == clientGone:
	case why.Unprocessed && !y.began && y.body.complete:
		y.rec.Failure = notProcessed
		return resend
	case !y.timedOut():
		y.rec.Failure = y.failureOf(why)
	}
	return nothing
}

func (y *translation) failureOf(why *http2.StreamError) string {
	if why == errBuffered {
		return overloaded
	}
	return failureOf(why)
}

// noteStatus notes the status of a gRPC call.
func (x *exchange) noteStatus(f message.Fields) {
	if v, ok := f.Get("grpc-status"); ok {
		x.rec.GRPC = observe.GRPC{Known: true, Code: parseGRPCStatus(v)}
	}
}
