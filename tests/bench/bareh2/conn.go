package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

const (
	bufferSize   = 64 << 10
	streamWindow = 1 << 20  // that we grant
	connWindow   = 16 << 20 // that we grant
	refused      = 7        // REFUSED_STREAM
	cancelled    = 8        // CANCEL
)

var errLong = errors.New("a field block in more than one frame: the benchmark sends none")

// conn is a client's connection, or one to a backend.
type conn struct {
	forwarder *forwarder
	backend   *backend // nil: it is a client's
	socket    *h2.Socket
	active    atomic.Int64 // streams
	limit     atomic.Int64 // of streams, that the peer grants; 0: it begins no more

	// The reader's own.
	decoder *h2.Decoder
	fields  []*h2.Field
	f404    *h2.Field
	matched *h2.Field // the field that was matched last
	greeted bool      // the preface was read
	lastID  uint32
	owing   []*conn // that the reader has to flush

	uncredited atomic.Int64

	mu         sync.Mutex
	out, spare []byte
	owed       bool // somebody flushes
	writing    bool
	dead       bool
	window     int64 // that the peer grants
	initial    int64 // the same of a new stream
	nextID     uint32
	streams    map[uint32]*stream
	blocked    []*stream // that wait for window
}

func (f *forwarder) newConn(nc *net.TCPConn, b *backend) (*conn, error) {
	socket, err := h2.NewSocket(nc)
	if err != nil {
		return nil, err
	}
	socket.Eager = true
	c := &conn{
		forwarder: f, backend: b, socket: socket, decoder: h2.NewDecoder(), greeted: b != nil, nextID: 1,
		window: h2.DefaultWindow, initial: h2.DefaultWindow, streams: map[uint32]*stream{},
		f404: &h2.Field{Wire: h2.AppendField(nil, ":status", "404")},
	}
	c.limit.Store(100) // until the peer says more: RFC 9113 section 6.5.2
	if b != nil {
		c.out = append(c.out, h2.Preface...)
	}
	c.out = h2.AppendSettings(c.out, h2.MaxConcurrentStreams, 1000, h2.InitialWindowSize, streamWindow, h2.EnablePush, 0)
	c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, connWindow-h2.DefaultWindow)
	return c, nil
}

// serve reads until the connection ends.
func (c *conn) serve() {
	c.flush()
	// The peer is gone, or did what we do not understand: there is nobody to tell.
	_ = c.socket.Receive(make([]byte, bufferSize), c.use, c.pay)
	c.close()
}

// use forwards the frames that were read.
func (c *conn) use(b []byte) (used int, err error) {
	rest := b
	if !c.greeted {
		if len(b) < len(h2.Preface) {
			return 0, nil
		}
		if !bytes.HasPrefix(b, []byte(h2.Preface)) {
			return 0, fmt.Errorf("no HTTP/2: %.20q", b)
		}
		rest, c.greeted = b[len(h2.Preface):], true
	}
	var f h2.Frame
	for {
		next, ok, err := h2.Next(rest, &f)
		if err == nil && ok {
			err = c.frame(&f)
		}
		if err != nil || !ok {
			return len(b) - len(rest), err
		}
		rest = next
	}
}

func (c *conn) frame(f *h2.Frame) error {
	switch f.Type {
	case h2.Data:
		c.data(f)
	case h2.Headers:
		return c.headers(f)
	case h2.Continuation:
		return errLong
	case h2.ResetStream:
		code, err := f.Word()
		if err == nil {
			c.reset(f.Stream, code)
		}
		return err
	case h2.Settings, h2.Ping:
		if f.Type == h2.Settings && !f.Has(h2.Ack) {
			f.EachSetting(c.setting)
		}
		c.mu.Lock()
		if c.out = f.AppendAnswer(c.out); len(c.out) > 0 {
			c.owe(c)
		}
		c.mu.Unlock()
	case h2.GoAway:
		c.limit.Store(0)
		c.socket.Eager = false // it may end with what was just read
	case h2.WindowUpdate:
		n, err := f.Word()
		if err == nil {
			c.grant(f.Stream, int64(n))
		}
		return err
	}
	return nil
}

func (c *conn) setting(id uint16, value uint32) {
	switch id {
	case h2.MaxConcurrentStreams:
		c.limit.Store(int64(value))
	case h2.InitialWindowSize: // 6.9.2: it changes the windows of open streams too
		var all []*stream
		c.mu.Lock()
		change := int64(value) - c.initial
		c.initial = int64(value)
		for _, s := range c.streams {
			s.from(c).window += change
			all = append(all, s)
		}
		c.mu.Unlock()
		for _, s := range all {
			c.resume(s)
		}
	}
}

// grant takes a WINDOW_UPDATE.
func (c *conn) grant(id uint32, n int64) {
	if id != 0 {
		if s := c.stream(id); s != nil {
			c.mu.Lock()
			s.from(c).window += n
			c.mu.Unlock()
			c.resume(s)
		}
		return
	}
	c.mu.Lock()
	c.window += n
	waiting := c.blocked
	c.blocked = nil
	c.mu.Unlock()
	for _, s := range waiting {
		c.resume(s)
	}
}

func (c *conn) stream(id uint32) *stream {
	c.mu.Lock()
	s := c.streams[id]
	c.mu.Unlock()
	return s
}

// credited gives windows back to c's peer for what of it went on. from is nil where the stream is gone; payer is whose reader
// this is, which flushes.
func (c *conn) credited(payer *conn, from *end, n int) {
	if n == 0 {
		return
	}
	if all := c.uncredited.Add(int64(n)); all > connWindow/4 && c.uncredited.CompareAndSwap(all, 0) {
		c.mu.Lock()
		c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, uint32(all))
		payer.owe(c)
		c.mu.Unlock()
	}
	if from == nil {
		return
	}
	if all := from.uncredited.Add(int32(n)); all > streamWindow/4 && from.uncredited.CompareAndSwap(all, 0) {
		c.mu.Lock()
		if !from.gone {
			c.out = h2.AppendWord(c.out, h2.WindowUpdate, from.id, uint32(all))
			payer.owe(c)
		}
		c.mu.Unlock()
	}
}

// owe promises a flush of t, whose mutex is held, unless somebody has.
func (c *conn) owe(t *conn) {
	if !t.owed {
		t.owed = true
		c.owing = append(c.owing, t)
	}
}

// pay flushes what is owed. Others run first: what they have for the same connections goes with it.
func (c *conn) pay() {
	if len(c.owing) == 0 {
		return
	}
	runtime.Gosched()
	for _, t := range c.owing {
		t.flush()
	}
	c.owing = c.owing[:0]
}

// flush writes what there is, unless somebody is at it, who then writes this too.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed = false
	if c.writing {
		return
	}
	for len(c.out) > 0 && !c.dead {
		b := c.out
		c.out, c.writing = c.spare[:0], true
		c.mu.Unlock()
		n, err := c.socket.TryWrite(b)
		var rest []byte
		if err == nil && n < len(b) {
			rest = bytes.Clone(b[n:])
		}
		c.mu.Lock()
		c.spare, c.writing = b[:0], rest != nil
		if err != nil {
			c.dead = true
		}
		if rest != nil {
			go c.finish(rest)
			return
		}
	}
	if c.dead {
		_ = c.socket.Close() // the reader sees it, or has gone
	}
}

// finish writes what the kernel did not take at once. A reader must not wait for that: it might wait for its peer, and that
// for us.
func (c *conn) finish(rest []byte) {
	_, err := c.socket.Write(rest)
	c.mu.Lock()
	c.writing = false
	if err != nil {
		c.dead = true
	}
	c.mu.Unlock()
	c.flush()
}

// close ends what is left of the connection's streams.
func (c *conn) close() {
	if c.backend != nil {
		c.backend.remove(c)
	}
	c.mu.Lock()
	c.dead = true
	writing := c.writing
	var left []*stream
	for _, s := range c.streams {
		left = append(left, s)
	}
	c.mu.Unlock()
	for _, s := range left {
		c.reset(s.from(c).id, cancelled)
	}
	c.pay()
	if !writing { // else flush closes it
		_ = c.socket.Close()
	}
}
