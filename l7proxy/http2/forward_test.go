package http2

import (
	"bytes"
	"sync"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// forwarder passes what comes on a connection of a client on to one of an endpoint, and back.
type forwarder struct {
	up   *Conn
	mu   sync.Mutex
	free []*exchange
	gone int
}

// exchange is a request that is forwarded. Its memory is used again.
type exchange struct {
	f        *forwarder
	mu       sync.Mutex
	seq      uint64
	down, up Handle
	block    []byte
	ended    [2]bool
	queued   [2]int // toward the endpoint, toward the client
}

type (
	fromDown exchange
	fromUp   exchange
)

func (f *forwarder) take() *exchange {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.free); n > 0 {
		x := f.free[n-1]
		f.free = f.free[:n-1]
		return x
	}
	return &exchange{f: f, block: make([]byte, 0, 1024)}
}

func (f *forwarder) Request(t *Turn, h Handle, r *message.Request, end bool) {
	x := f.take()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seq++
	x.down, x.ended, x.queued = h, [2]bool{end, false}, [2]int{}
	h.Bind((*fromDown)(x), x.seq)
	x.block = AppendRequest(x.block[:0], r)
	var err error
	if x.up, err = f.up.Open(t, x.block, end, (*fromUp)(x), x.seq); err != nil {
		h.Reset(t, RefusedStream)
		x.release()
	}
}

func (f *forwarder) Refuse(t *Turn, h Handle, err *Error) { h.Reset(t, err.Code) }

// release ends the exchange; mu is held.
func (x *exchange) release() {
	x.seq++
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	x.f.free = append(x.f.free, x)
}

// over releases what both sides have ended.
func (x *exchange) over() {
	if x.ended == [2]bool{true, true} && x.queued == [2]int{} {
		x.release()
	}
}

// is locks x if it is still meant.
func (x *exchange) is(token uint64) bool {
	x.mu.Lock()
	if x.seq != token {
		x.mu.Unlock()
		return false
	}
	return true
}

func (x *exchange) data(t *Turn, token uint64, from *Handle, to *Handle, side int, p []byte, end bool) {
	if !x.is(token) {
		return
	}
	defer x.mu.Unlock()
	queued, _ := to.Data(t, p, end)
	from.Credit(t, len(p)-queued)
	x.queued[side] += queued
	x.ended[side] = end
	x.over()
}

func (x *exchange) sent(t *Turn, token uint64, from *Handle, side, n int) {
	if !x.is(token) {
		return
	}
	defer x.mu.Unlock()
	from.Credit(t, n)
	x.queued[side] -= n
	x.over()
}

func (x *exchange) trailers(t *Turn, token uint64, to *Handle, side int, f message.Fields) {
	if !x.is(token) {
		return
	}
	defer x.mu.Unlock()
	x.block = AppendTrailers(x.block[:0], f)
	to.Trailers(t, x.block)
	x.ended[side] = true
	x.over()
}

func (x *exchange) lost(t *Turn, token uint64, to *Handle, why *StreamError) {
	if !x.is(token) {
		return
	}
	defer x.mu.Unlock()
	to.Reset(t, why.Code)
	x.f.mu.Lock()
	x.f.gone++
	x.f.mu.Unlock()
	x.release()
}

func (d *fromDown) Response(*Turn, uint64, *message.Response, bool) {}
func (d *fromDown) Data(t *Turn, token uint64, p []byte, end bool) {
	(*exchange)(d).data(t, token, &d.down, &d.up, 0, p, end)
}
func (d *fromDown) Trailers(t *Turn, token uint64, f message.Fields) {
	(*exchange)(d).trailers(t, token, &d.up, 0, f)
}
func (d *fromDown) Sent(t *Turn, token uint64, n int) {
	(*exchange)(d).sent(t, token, &d.up, 1, n)
}
func (d *fromDown) Gone(t *Turn, token uint64, why *StreamError) {
	(*exchange)(d).lost(t, token, &d.up, why)
}

func (u *fromUp) Response(t *Turn, token uint64, r *message.Response, end bool) {
	x := (*exchange)(u)
	if !x.is(token) {
		return
	}
	defer x.mu.Unlock()
	x.block = AppendResponse(x.block[:0], r)
	x.down.Head(t, x.block, end)
	x.ended[1] = end
	x.over()
}
func (u *fromUp) Data(t *Turn, token uint64, p []byte, end bool) {
	(*exchange)(u).data(t, token, &u.up, &u.down, 1, p, end)
}
func (u *fromUp) Trailers(t *Turn, token uint64, f message.Fields) {
	(*exchange)(u).trailers(t, token, &u.down, 1, f)
}
func (u *fromUp) Sent(t *Turn, token uint64, n int) {
	(*exchange)(u).sent(t, token, &u.down, 0, n)
}
func (u *fromUp) Gone(t *Turn, token uint64, why *StreamError) {
	(*exchange)(u).lost(t, token, &u.down, why)
}

// between starts a forwarder between a client and an endpoint of our own.
func between(tb testing.TB, limits Limits, endpoint Acceptor) (client *served, f *forwarder) {
	tb.Helper()
	clientEnd, down := twoConns(tb)
	up, endpointEnd := twoConns(tb)
	client = start(tb, NewClient(clientEnd, config(tb, limits), nil))
	start(tb, NewServer(endpointEnd, config(tb, limits), endpoint))
	f = &forwarder{}
	f.up = NewClient(up, config(tb, limits), nil)
	start(tb, f.up)
	start(tb, NewServer(down, config(tb, limits), f))
	for _, c := range []*Conn{client.Conn, f.up} {
		if err := c.Await(patienceOfTests); err != nil {
			tb.Fatal(err)
		}
	}
	return client, f
}

// unary answers each request with its body and trailers.
type unary struct {
	head, trailers []byte
	hands          map[uint64]Handle
}

func newUnary() *unary {
	return &unary{
		head:     AppendResponse(nil, &message.Response{Status: 200, Fields: message.Fields{{Name: "content-type", Value: "application/grpc"}}}),
		trailers: AppendTrailers(nil, message.Fields{{Name: "grpc-status", Value: "0"}}),
		hands:    map[uint64]Handle{},
	}
}

func (u *unary) Request(t *Turn, h Handle, _ *message.Request, end bool) {
	h.Bind(u, uint64(h.id))
	h.Head(t, u.head, false)
	if end {
		h.Trailers(t, u.trailers)
		return
	}
	u.hands[uint64(h.id)] = h
}
func (u *unary) Refuse(*Turn, Handle, *Error)                     {}
func (u *unary) Response(*Turn, uint64, *message.Response, bool)  {}
func (u *unary) Sent(*Turn, uint64, int)                          {}
func (u *unary) Gone(_ *Turn, token uint64, _ *StreamError)       { delete(u.hands, token) }
func (u *unary) Trailers(t *Turn, token uint64, _ message.Fields) { u.finish(t, token) }
func (u *unary) finish(t *Turn, token uint64) {
	u.hands[token].Trailers(t, u.trailers)
	delete(u.hands, token)
}
func (u *unary) Data(t *Turn, token uint64, p []byte, end bool) {
	h := u.hands[token]
	h.Data(t, p, false)
	h.Credit(t, len(p))
	if end {
		u.finish(t, token)
	}
}

// caller hears the answer to one request after the other.
type caller struct {
	body   bytes.Buffer
	handle Handle
	status int
	done   chan string
}

func (c *caller) Response(_ *Turn, _ uint64, r *message.Response, end bool) {
	c.status = r.Status
	if end {
		c.done <- ""
	}
}
func (c *caller) Data(t *Turn, _ uint64, p []byte, end bool) {
	c.body.Write(p)
	c.handle.Credit(t, len(p))
	if end {
		c.done <- ""
	}
}
func (c *caller) Trailers(*Turn, uint64, message.Fields) { c.done <- "" }
func (c *caller) Sent(*Turn, uint64, int)                {}
func (c *caller) Gone(_ *Turn, _ uint64, why *StreamError) {
	c.done <- why.Reason
}

var grpcRequest = message.Request{Method: "POST", Authority: "echo:9000", Path: "/pkg.Echo/Call", Fields: message.Fields{
	{Name: "te", Value: "trailers"}, {Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "grpc-go/1.80.0"},
	{Name: "traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
}}

// call makes a request and waits for the answer.
func (c *caller) call(tb testing.TB, conn *Conn, t *Turn, block, body []byte) {
	c.body.Reset()
	var err error
	if c.handle, err = conn.Open(t, block, false, c, 1); err != nil {
		tb.Fatal(err)
	}
	c.handle.Data(t, body, true)
	t.Flush()
	if why := <-c.done; why != "" {
		tb.Fatal(why)
	}
}

func TestUnaryExchange(t *testing.T) {
	client, f := between(t, Limits{}, newUnary())
	c := &caller{done: make(chan string, 1)}
	var turn Turn
	block := AppendRequest(nil, &grpcRequest)
	for range 100 {
		c.call(t, client.Conn, &turn, block, []byte("hello"))
		if c.status != 200 || c.body.String() != "hello" {
			t.Fatalf("%d %q", c.status, c.body.String())
		}
	}
	if n := client.Streams() + f.up.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// Design: no allocation per request in the steady state.
func TestUnaryExchangeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	client, _ := between(t, Limits{}, newUnary())
	c := &caller{done: make(chan string, 1)}
	var turn Turn
	block, body := AppendRequest(nil, &grpcRequest), []byte("hello")
	if n := testing.AllocsPerRun(500, func() { c.call(t, client.Conn, &turn, block, body) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkUnaryExchange(b *testing.B) {
	client, _ := between(b, Limits{}, newUnary())
	c := &caller{done: make(chan string, 1)}
	var turn Turn
	block, body := AppendRequest(nil, &grpcRequest), []byte("hello")
	b.ReportAllocs()
	for b.Loop() {
		c.call(b, client.Conn, &turn, block, body)
	}
}
