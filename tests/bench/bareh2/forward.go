package main

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

type forwarder struct {
	name, value string     // of the field that a request must have
	backends    []*backend // by upTo
	total       int        // of the weights
}

// backend has as few connections as its streams fit in.
type backend struct {
	address *net.TCPAddr
	upTo    int // this weight and those of the backends before it
	mu      sync.Mutex
	conns   []*conn
}

func (f *forwarder) pick() *backend {
	n := rand.IntN(f.total)
	for _, b := range f.backends {
		if n < b.upTo {
			return b
		}
	}
	return f.backends[0]
}

func (b *backend) get(f *forwarder) (*conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		if c.active.Load() < c.limit.Load() {
			return c, nil
		}
	}
	nc, err := net.DialTCP("tcp", nil, b.address)
	if err != nil {
		return nil, err
	}
	c, err := f.newConn(nc, b)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	b.conns = append(b.conns, c)
	go c.serve()
	return c, nil
}

func (b *backend) remove(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.conns {
		if other == c {
			b.conns = append(b.conns[:i:i], b.conns[i+1:]...)
			return
		}
	}
}

// stream is a request and its answer: an end on the client's connection and one on a backend's.
type stream struct {
	client, server end
	open           atomic.Int32 // directions whose end was not sent on yet
}

// end is what of a stream goes to one of its connections, whose mutex guards it.
type end struct {
	c      *conn
	id     uint32
	window int64
	queue  []byte // that no window let through yet
	fin    bool   // the stream's end follows the queue,
	tail   []byte // or these trailers, a whole frame
	gone   bool

	uncredited atomic.Int32 // of what came from c and went on
}

// from and to are the stream's ends as the reader of c sees them.
func (s *stream) from(c *conn) *end {
	if c == s.client.c {
		return &s.client
	}
	return &s.server
}

func (s *stream) to(c *conn) *end {
	if c == s.client.c {
		return &s.server
	}
	return &s.client
}

// sentEnd says whether both directions are over now.
func (s *stream) sentEnd() bool { return s.open.Add(-1) == 0 }

// remove takes the stream out of both connections. Their mutexes are not held.
func (s *stream) remove() {
	for _, e := range []*end{&s.client, &s.server} {
		c := e.c
		c.mu.Lock()
		if !e.gone {
			e.gone, e.queue, e.tail = true, nil, nil
			delete(c.streams, e.id)
			c.active.Add(-1)
		}
		c.mu.Unlock()
	}
}

// headers forwards a request, an answer's header or trailers, and answers 404 itself.
func (c *conn) headers(f *h2.Frame) error {
	if !f.Has(h2.EndHeaders) {
		return errLong
	}
	var err error
	if c.fields, err = c.decoder.Decode(c.fields[:0], f.Payload); err != nil {
		return err
	}
	last := f.Has(h2.EndStream)
	if s := c.stream(f.Stream); s != nil {
		c.following(s, last)
		return nil
	}
	if c.backend != nil || f.Stream <= c.lastID {
		return nil // of a stream that was reset
	}
	c.lastID = f.Stream
	if !c.matches() {
		c.mu.Lock()
		c.out = c.appendFields(c.out, []*h2.Field{c.f404}, f.Stream, true)
		c.owe(c)
		c.mu.Unlock()
		return nil
	}
	c.open(f.Stream, last)
	return nil
}

func (c *conn) matches() bool {
	for _, f := range c.fields {
		if f == c.matched {
			return true
		}
		if f.Name == c.forwarder.name && f.Value == c.forwarder.value {
			c.matched = f
			return true
		}
	}
	return false
}

// open begins a stream to a backend. One without a backend is reset: there is nobody to tell why.
func (c *conn) open(id uint32, last bool) {
	up, err := c.forwarder.pick().get(c.forwarder)
	if err != nil {
		c.mu.Lock()
		c.out = h2.AppendWord(c.out, h2.ResetStream, id, refused)
		c.owe(c)
		c.mu.Unlock()
		return
	}
	s := new(stream)
	s.open.Store(2)
	s.client.c, s.client.id, s.server.c = c, id, up
	c.mu.Lock()
	s.client.window = c.initial
	c.streams[id] = s
	c.active.Add(1)
	c.mu.Unlock()
	up.mu.Lock()
	s.server.id, s.server.window = up.nextID, up.initial
	up.nextID += 2
	up.streams[s.server.id] = s
	up.active.Add(1)
	up.out = c.appendFields(up.out, c.fields, s.server.id, last)
	c.owe(up)
	up.mu.Unlock()
	if last {
		s.sentEnd()
	}
}

// following forwards an answer's header, or trailers: behind what is queued.
func (c *conn) following(s *stream, last bool) {
	to := s.to(c)
	over := false
	to.c.mu.Lock()
	switch {
	case to.gone:
	case len(to.queue) > 0:
		to.tail = c.appendFields(nil, c.fields, to.id, true)
	default:
		to.c.out = c.appendFields(to.c.out, c.fields, to.id, last)
		c.owe(to.c)
		over = last && s.sentEnd()
	}
	to.c.mu.Unlock()
	if over {
		s.remove()
	}
}

// appendFields appends a HEADERS frame. Blocks are short: the benchmark sends no others.
func (c *conn) appendFields(b []byte, fields []*h2.Field, id uint32, last bool) []byte {
	flags := byte(h2.EndHeaders)
	if last {
		flags |= h2.EndStream
	}
	start := len(b)
	b = h2.Append(b, 0, h2.Headers, flags, id)
	body := len(b)
	for _, f := range fields {
		b = append(b, f.Wire...)
	}
	n := len(b) - body
	b[start], b[start+1], b[start+2] = byte(n>>16), byte(n>>8), byte(n)
	return b
}

// data forwards at once what the windows let through, and queues the rest.
func (c *conn) data(f *h2.Frame) {
	s := c.stream(f.Stream)
	if s == nil {
		c.credited(c, nil, f.Length)
		return
	}
	to, last := s.to(c), f.Has(h2.EndStream)
	t, n := to.c, int64(len(f.Payload))
	went, over := len(f.Payload), false
	t.mu.Lock()
	switch {
	case to.gone:
	case len(to.queue) == 0 && (n == 0 || n <= to.window && n <= t.window):
		to.window -= n
		t.window -= n
		t.out = append(h2.Append(t.out, len(f.Payload), h2.Data, f.Flags&h2.EndStream, to.id), f.Payload...)
		c.owe(t)
		over = last && s.sentEnd()
	default:
		to.queue, to.fin = append(to.queue, f.Payload...), last
		went, over = c.drain(s, to)
	}
	t.mu.Unlock()
	c.credited(c, s.from(c), went+f.Length-len(f.Payload))
	if over {
		s.remove()
	}
}

// drain sends of the queue what the windows let through now. The mutex of the end's connection is held.
func (c *conn) drain(s *stream, to *end) (went int, over bool) {
	t := to.c
	for len(to.queue) > 0 && to.window > 0 && t.window > 0 && !to.gone {
		n := min(int64(len(to.queue)), h2.MaxFrame, to.window, t.window)
		flags := byte(0)
		if to.fin && n == int64(len(to.queue)) {
			flags, over = h2.EndStream, s.sentEnd()
		}
		t.out = append(h2.Append(t.out, int(n), h2.Data, flags, to.id), to.queue[:n]...)
		to.queue = to.queue[n:]
		to.window -= n
		t.window -= n
		went += int(n)
		c.owe(t)
	}
	if len(to.queue) == 0 && to.tail != nil {
		t.out, to.tail = append(t.out, to.tail...), nil
		over = s.sentEnd()
		c.owe(t)
	}
	if len(to.queue) > 0 && t.window <= 0 {
		t.blocked = append(t.blocked, s)
	}
	return went, over
}

// resume drains what waited for a window of c's. c is what the data goes to, and its reader is who calls.
func (c *conn) resume(s *stream) {
	to := s.from(c)
	c.mu.Lock()
	went, over := c.drain(s, to)
	c.mu.Unlock()
	source := s.to(c)
	source.c.credited(c, source, went)
	if over {
		s.remove()
	}
}

// reset forwards the end of a stream.
func (c *conn) reset(id, code uint32) {
	s := c.stream(id)
	if s == nil {
		return
	}
	to := s.to(c)
	to.c.mu.Lock()
	if !to.gone {
		to.c.out = h2.AppendWord(to.c.out, h2.ResetStream, to.id, code)
		c.owe(to.c)
	}
	to.c.mu.Unlock()
	s.remove()
}
