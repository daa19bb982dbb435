package forward

import (
	"errors"
	"io"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
)

// answerHead reads the head of the final answer. Interim answers (1xx) are passed on as they come (RFC 9110, 15.2).
func (x *exchange) answerHead() error {
	for {
		var err error
		x.respHead, err = x.up.Response(x.req.Method, &x.resp, x.server.limits)
		if err != nil {
			return err
		}
		if x.resp.Status >= 200 || x.resp.Status == 101 {
			return nil
		}
		if x.resp.Status == 100 {
			x.head.Continue = false // said
		}
		if x.head.Minor > 0 { // HTTP/1.0 knows none
			x.out = http1.AppendResponse(x.out[:0], &x.resp, &x.respHead, http1.ResponseTo{Minor: 1})
			if !x.write(nil) {
				return errClientLost
			}
		}
	}
}

// errClientLost is noted where it happens.
var errClientLost = &http1.Error{Reason: "the client is gone"}

// pass passes the final answer on, whose head was read.
func (x *exchange) pass() {
	x.rec.Status = x.resp.Status
	if x.resp.Status == 101 || x.req.Method == "CONNECT" && x.resp.Status < 300 {
		x.tunnel()
		return
	}
	x.joinPump()
	x.verdict.edit(&x.resp, &x.filtered)
	chunked := x.respHead.Body == http1.Chunked
	if x.respHead.Body == http1.UntilClose || chunked && x.head.Minor == 0 {
		x.last = true // the end of the connection is the end of the body
	}
	if x.body.pumping && x.head.Continue {
		x.respHead.Close = true // nobody can tell whether a client that was not told to go on sends its body (RFC 9110, 10.1.1)
	}
	if x.body.pumping && x.respHead.Close {
		x.last = true // the endpoint does not wait for the rest of the request
	}
	x.last = x.last || x.ending()
	x.out = http1.AppendResponse(x.out[:0], &x.resp, &x.respHead, http1.ResponseTo{
		Minor: x.head.Minor, Close: x.last, KeepAlive: x.head.Minor == 0 && !x.last,
	})
	var ok bool
	switch x.respHead.Body {
	case http1.NoBody:
		x.keep()
		ok = x.write(nil)
	case http1.Length:
		ok = x.passLength(x.respHead.Length)
	case http1.Chunked:
		ok = x.passChunks()
	case http1.UntilClose:
		ok = x.passRest()
	}
	x.settle(ok)
}

// settle ends the exchange after its answer.
func (x *exchange) settle(ok bool) {
	if !ok {
		x.last = true
		x.stopPump()
		x.conn.Reset() // what was passed on must not look complete
		return
	}
	if x.body.pumping {
		if x.respHead.Close {
			failure := x.rec.Failure
			x.stopPump()
			x.rec.Failure = failure // the client has an answer
		} else {
			x.body.pumping = false
			if !x.untimed() { // the answer is complete, and the rest may take its time
				x.last = true
			}
			x.pumped(<-x.body.done)
			if x.rec.Failure == "" && !x.last {
				x.keep()
			}
		}
	}
	x.rec.RequestBytes = x.body.sent
	if !x.last {
		giveWay()
	}
}

// keep gives the endpoint's connection back for the next request. The answer was read to its end.
func (x *exchange) keep() {
	if x.respHead.Close || x.body.pumping || len(x.up.Buffered()) > 0 || x.to == nil {
		return // release closes it
	}
	if !x.tryBy.IsZero() && x.to.SetDeadline(time.Time{}) != nil {
		return // it is closed
	}
	x.tryBy = time.Time{}
	x.endpoint.Release()
	x.upstream.Store(nil)
	x.client.Upstream.Put(x.endpoint, x.to)
	x.endpoint, x.to = nil, nil
}

// passLength passes a body of n bytes on. Mostly it came with its head, and goes in one write.
func (x *exchange) passLength(n int64) bool {
	part := x.up.Buffered()
	part = part[:min(int64(len(part)), n)]
	x.up.Use(len(part))
	n -= int64(len(part))
	if n == 0 {
		x.keep()
	}
	if !x.write(part) {
		return false
	}
	x.rec.ResponseBytes += int64(len(part))
	for n > 0 {
		if err := x.up.Fill(); err != nil {
			x.interrupted()
			return false
		}
		part = x.up.Buffered()
		part = part[:min(int64(len(part)), n)]
		if !x.send(part) {
			return false
		}
		x.up.Use(len(part))
		n -= int64(len(part))
	}
	x.keep()
	return true
}

func (x *exchange) send(part []byte) bool {
	if _, err := x.conn.Write(part); err != nil {
		x.clientLost()
		return false
	}
	x.rec.ResponseBytes += int64(len(part))
	return true
}

// passRest passes a body on that ends with its connection.
func (x *exchange) passRest() bool {
	part := x.up.Buffered()
	if !x.write(part) {
		return false
	}
	x.rec.ResponseBytes += int64(len(part))
	x.up.Use(len(part))
	for {
		if err := x.up.Fill(); err != nil {
			if errors.Is(err, io.EOF) { // it has ended in order
				return true
			}
			x.interrupted()
			return false
		}
		part = x.up.Buffered()
		if !x.send(part) {
			return false
		}
		x.up.Use(len(part))
	}
}

// passChunks passes a chunked body on; a client of HTTP/1.0 gets it without chunks. What has come is sent at once.
func (x *exchange) passChunks() bool {
	var chunks http1.Chunks
	chunks.Trailers = x.resp.Fields[len(x.resp.Fields):]
	w := chunkWriter{to: x.conn, out: x.out, gather: gatherUpTo, framed: x.head.Minor > 0, count: &x.rec.ResponseBytes}
	defer func() { x.out = w.out[:0] }()
	for {
		last, err := w.pass(&chunks, &x.up)
		if err == nil {
			if last {
				x.keep()
			}
			err = w.flush()
		}
		x.began = x.began || w.wrote
		switch {
		case err != nil:
			return x.chunksFailed(err)
		case last:
			return true
		}
		if err := x.up.Fill(); err != nil {
			x.interrupted()
			return false
		}
	}
}

// chunksFailed ends a chunked answer that could not be passed on.
func (x *exchange) chunksFailed(err error) bool {
	if _, malformed := errors.AsType[*http1.Error](err); !malformed {
		x.clientLost()
		return false
	}
	if !x.began {
		x.respHead.Close = true
		x.answer(502, badResponse, "the endpoint's answer is malformed")
		return true
	}
	x.fail(badResponse)
	return false
}

// tunnel turns the exchange into a relay: the endpoint switched protocols.
func (x *exchange) tunnel() {
	x.last = true
	if x.resp.Status == 101 && (x.head.Upgrade == "" || x.respHead.Upgrade == "") {
		x.stopPump()
		x.answer(502, unexpectedSwitch, "the endpoint switched protocols unasked")
		return
	}
	x.out = http1.AppendResponse(x.out[:0], &x.resp, &x.respHead, http1.ResponseTo{Minor: 1})
	if !x.write(x.up.Buffered()) {
		return
	}
	x.up.Use(len(x.up.Buffered()))
	x.stopPump()
	if !x.untimed() {
		return
	}
	early := x.in.Buffered() // what the client sent after its head
	x.in.Use(len(early))
	if len(early) > 0 {
		if _, err := x.to.Write(early); err != nil {
			return
		}
	}
	sent, received := x.server.relay(x.conn, x.to)
	x.rec.RequestBytes += sent
	x.rec.ResponseBytes += received
}
