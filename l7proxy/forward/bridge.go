package forward

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// bridge carries a call to an endpoint that speaks HTTP/1.1. It has goroutines of its own, one that reads the answer and
// one that writes the body of the request, because the connection is theirs alone. To the call it is what a stream is.
type bridge struct {
	*session
	call     *call
	token    uint64
	pool     *upstream.Client
	endpoint *upstream.Endpoint
	fresh    bool // no kept connection: one had just closed

	block []byte // the request's head, and what req has views of
	req   message.Request
	head  http1.Head
	key   string // of a WebSocket (RFC 6455, 4.1)
	to    *sock.Conn
	up    http1.Reader
	out   []byte

	mu         sync.Mutex // of what the call and the goroutines share
	wake       sync.Cond
	queue      []byte // of the body, to be written
	writing    []byte // the memory of the last queue
	ended      bool   // nothing follows the queue but trailers
	trailers   message.Fields
	done       bool // all of it was written
	room       int  // how much of the answer the client's side takes now, in bytes
	over       bool
	tunnelling bool       // both directions are bare bytes now
	cancels    *sock.Conn // what cancel resets
}

// bridgeWindow is how many bytes of an answer are on their way to the client at most.
const bridgeWindow = 64 << 10

// startBridge gives the request to an endpoint that speaks HTTP/1.1.
func (x *call) startBridge(t *http2.Turn) {
	b := &bridge{
		session: x.session, call: x, token: x.upToken, pool: x.client.Upstream, endpoint: x.endpoint, fresh: x.fresh,
		block: slices.Clone(x.block), room: bridgeWindow,
	}
	b.wake.L = &b.mu
	if err := parseBlock(b.block, &b.req); err != nil {
		x.release()
		x.answer(t, answer{status: 500, failure: proxyBug, reason: err.Error()})
		return
	}
	if !passable(b.req.Protocol) {
		x.release()
		x.answer(t, answer{status: 501, failure: unsupported, reason: "the protocol that is asked for is not passed on"})
		return
	}
	x.waiting = true
	go b.run()
}

// begin says how the request is written.
func (b *bridge) begin(noBody bool) {
	b.head = http1.Head{Minor: 1}
	if te, ok := b.req.Fields.Get("te"); ok {
		b.head.Trailers = strings.EqualFold(te, "trailers")
	}
	if !noBody && announcesTrailers(b.req.Fields) { // which need chunks
		b.req.Fields.Del("content-length")
	}
	_, sized := b.req.Fields.Get("content-length")
	switch {
	case b.req.Protocol != "": // RFC 8441, 4
		b.upgrade()
	case b.req.Method == "CONNECT" || noBody:
	case sized:
		b.head.Body = http1.Length
	default:
		b.head.Body = http1.Chunked
	}
	b.ended = noBody
	joinCookies(&b.req.Fields)
}

// tunnelled tells whether the request asks for both directions to be bare bytes after the head of the answer.
func (b *bridge) tunnelled() bool { return b.req.Method == "CONNECT" || b.head.Upgrade != "" }

// data queues a part of the body. All of it is queued: Sent tells when it was written.
func (b *bridge) data(p []byte, end bool) (queued int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0
	}
	b.queue = append(b.queue, p...)
	b.ended = end
	b.wake.Broadcast()
	return len(p)
}

// end ends the body with trailers.
func (b *bridge) end(block []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trailers, b.ended = parseTrailers(block), true
	b.wake.Broadcast()
}

// credit says that n bytes of the answer went on.
func (b *bridge) credit(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.room += n
	b.wake.Broadcast()
}

// cancel ends the bridge from outside. Closing is left to a goroutine of its own: it may wait for a system call.
func (b *bridge) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.wake.Broadcast()
	if b.cancels != nil {
		go b.cancels.Reset()
		b.cancels = nil
	}
}

// run is the life of a bridge.
func (b *bridge) run() {
	defer b.caught()
	reused, ok := b.connect()
	if !ok {
		return
	}
	b.up.Reset(b.to, &b.server.buffers)
	defer b.up.Reset(nil, &b.server.buffers)
	b.out = http1.AppendRequest(nil, &b.req, &b.head)
	var writer sync.WaitGroup
	resp := message.Response{Fields: make(message.Fields, 0, usualFields)}
	head, err := b.ask(&writer, &resp)
	if err == nil {
		err = b.answer(&writer, &resp, head)
	} else {
		err = b.unanswered(err, reused)
	}
	b.conclude(&writer, head, err)
}

// caught is for a bug in the bridge: it costs the request, whose call is told as of a connection that was lost.
func (b *bridge) caught() {
	v := recover()
	if v == nil {
		return
	}
	b.server.panicked(v)
	defer b.guard()
	b.mu.Lock()
	b.over, b.cancels = true, nil
	b.wake.Broadcast()
	b.mu.Unlock()
	if b.to != nil {
		b.to.Reset()
	}
	b.gone(&http2.StreamError{Code: http2.InternalError, Connection: true, Reason: "the proxy has a bug"})
}

// connect takes or makes a connection, and then the call from those that wait, if it still does.
func (b *bridge) connect() (reused, ok bool) {
	var err error
	limit := b.server.cfg.Limits.Connect
	if b.fresh {
		b.to, err = b.pool.Dial(b.endpoint, limit)
	} else {
		b.to, reused, err = b.pool.Get(b.endpoint, limit)
	}
	b.cancels = b.to
	b.say(func(t *http2.Turn, x *call) {
		x.waiting = false
		if err != nil {
			x.unconnected(t, err)
			return
		}
		ok = true
		x.bridge = b
		b.begin(x.ended && len(x.body) == 0 && len(x.trailers) == 0)
		x.opened(t)
	})
	if err == nil && !ok {
		b.pool.Put(b.endpoint, b.to)
	}
	return reused, ok
}

// ask writes the head of the request, has its body written, and reads the head of the final answer.
func (b *bridge) ask(writer *sync.WaitGroup, resp *message.Response) (http1.Head, error) {
	if _, err := b.to.Write(b.out); err != nil {
		return http1.Head{}, err
	}
	if b.head.Body != http1.NoBody {
		writer.Go(b.write)
	}
	for {
		head, err := b.up.Response(b.req.Method, resp, b.server.limits)
		if err != nil || resp.Status >= 200 || resp.Status == 101 {
			return head, err
		}
		b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Response(t, b.token, resp, false) })
	}
}

// answer passes the final answer on.
func (b *bridge) answer(writer *sync.WaitGroup, resp *message.Response, head http1.Head) error {
	switch {
	case b.head.Upgrade != "" && resp.Status < 300:
		if err := b.switched(resp, head); err != nil {
			return err
		}
		return b.tunnel(writer, resp)
	case resp.Status == 101:
		return errAnswer("the endpoint switched protocols unasked")
	case b.req.Method == "CONNECT" && resp.Status < 300:
		return b.tunnel(writer, resp)
	}
	empty := head.Body == http1.NoBody || head.Body == http1.Length && head.Length == 0
	b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Response(t, b.token, resp, empty) })
	switch {
	case empty:
		return nil
	case head.Body == http1.Chunked:
		return b.chunks()
	case head.Body == http1.Length:
		return b.bytes(head.Length)
	}
	return b.untilClose()
}

func errAnswer(reason string) error {
	return &http2.StreamError{Malformed: true, Code: http2.ProtocolError, Reason: reason}
}

// errCancelled is how a bridge ends whose client does not want the answer.
var errCancelled = errors.New("cancelled")

// pass passes on a part of the answer's body, when the client's side has room for it.
func (b *bridge) pass(p []byte, end bool) bool {
	b.mu.Lock()
	for b.room <= 0 && !b.over {
		b.wake.Wait()
	}
	b.room -= len(p)
	over := b.over
	b.mu.Unlock()
	if over {
		return false
	}
	b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Data(t, b.token, p, end) })
	return true
}

// tell tells the call of something, in a turn of its own.
func (b *bridge) tell(what func(*http2.Turn, *fromEndpoint)) {
	var t http2.Turn
	what(&t, (*fromEndpoint)(b.call))
	t.Flush()
}

// say is tell for what only a bridge has to say.
func (b *bridge) say(what func(*http2.Turn, *call)) {
	var t http2.Turn
	defer t.Flush()
	x := b.call
	x.mu.Lock()
	defer x.mu.Unlock()
	if b.token == x.upToken {
		what(&t, x)
	}
}

func (b *bridge) gone(why *http2.StreamError) {
	b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Gone(t, b.token, why) })
}

// write writes the body of the request as it comes. What goes wrong here, the goroutine that reads will notice.
func (b *bridge) write() {
	defer func() {
		if v := recover(); v != nil {
			b.server.panicked(v)
			b.to.Reset()
		}
	}()
	for {
		part, ended, ok := b.next()
		if !ok {
			return
		}
		if b.send(part, ended) != nil {
			return
		}
		if len(part) > 0 {
			b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Sent(t, b.token, len(part)) })
		}
		if ended {
			b.written()
			return
		}
	}
}

// next waits for more of the body. ok is false when the call is over.
func (b *bridge) next() (part []byte, ended, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) == 0 && !b.ended && !b.over {
		b.wake.Wait()
	}
	part = b.queue
	b.queue, b.writing = b.writing[:0], part
	return part, b.ended, !b.over
}

func (b *bridge) send(part []byte, ended bool) error {
	if b.head.Body != http1.Chunked {
		if len(part) > 0 {
			if _, err := b.to.Write(part); err != nil {
				return err
			}
		}
		if ended && b.tunnelled() {
			return b.to.CloseWrite()
		}
		return nil
	}
	out := b.out[:0]
	if len(part) > 0 {
		out = http1.AppendChunk(out, int64(len(part)))
		out = append(append(out, part...), "\r\n"...)
	}
	if ended {
		out = http1.AppendLastChunk(out, b.trailers)
	}
	b.out = out
	_, err := b.to.Write(out)
	return err
}

// written notes that all of the request was written.
func (b *bridge) written() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
}

// unanswered says what it means that no head of an answer came.
func (b *bridge) unanswered(err error, reused bool) error {
	if _, malformed := errors.AsType[*http1.Error](err); malformed {
		return err
	}
	return &http2.StreamError{
		Connection: true, Reason: err.Error(),
		Unprocessed: reused && len(b.up.Buffered()) == 0 && safeTwice(b.req.Method) && b.head.Upgrade == "",
	}
}

// conclude ends the bridge: the connection is kept for the next request if both sides have said all.
func (b *bridge) conclude(writer *sync.WaitGroup, head http1.Head, err error) {
	whole := err == nil && !b.tunnelled() && !head.Close
	if whole || err == nil && b.tunnelling {
		writer.Wait() // the client may still have something to say
	}
	b.mu.Lock()
	cancelled := b.over
	keep := whole && !cancelled && (b.done || b.head.Body == http1.NoBody) && len(b.up.Buffered()) == 0
	b.over, b.cancels = true, nil // the writer is to end, and the connection is ours
	b.wake.Broadcast()
	b.mu.Unlock()
	switch {
	case keep:
		b.pool.Put(b.endpoint, b.to)
		return
	case err != nil || cancelled:
		b.to.Reset()
	}
	b.gone(reasonOf(err))
	_ = b.to.Close() // nothing more is expected of it
	writer.Wait()
}

// reasonOf says to a call that still expects something why nothing comes. Without an error the answer is complete, and
// the rest of the request is not wanted.
func reasonOf(err error) *http2.StreamError {
	if own, ok := errors.AsType[*http2.StreamError](err); ok {
		return own
	}
	if err == nil {
		return &http2.StreamError{Code: http2.NoError}
	}
	_, malformed := errors.AsType[*http1.Error](err)
	return &http2.StreamError{Malformed: malformed, Connection: !malformed, Reason: err.Error()}
}
