package http2

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// linger is how long the peer has to read our last words before the connection is closed: what it sends meanwhile would
// make a close a reset, and the words be lost.
const linger = time.Second

// Serve reads the connection, from what was read already on, until it has ended, and closes it. The error says why,
// nil: it ended in order. Streams that are open then are told Gone.
//
// A Receiver or an Acceptor that panics costs the connection: it is reset and all streams are told, and the panic goes on.
func (c *Conn) Serve(early []byte) error {
	c.keeper.add(c)
	over := false
	defer func() {
		c.keeper.remove(c)
		if !over {
			c.abandon()
		}
	}()
	err := c.serve(early)
	over = true
	return err
}

// serve has a small frame: it is on the stack of every idle connection.
func (c *Conn) serve(early []byte) error { return c.conclude(c.read(early)) }

// conclude ends a connection whose reading ended with err.
func (c *Conn) conclude(err error) error {
	err = c.verdict(err)
	if own, ok := errors.AsType[*Error](err); ok && own != errStopped {
		c.mu.Lock()
		c.fail(&c.in.turn, own)
		c.mu.Unlock()
	}
	open := c.endStreams(err)
	c.tellEnded()
	c.in.turn.Flush()
	c.end()
	if err == nil || errors.Is(err, io.EOF) {
		if open == 0 {
			return nil
		}
		err = io.ErrUnexpectedEOF
	}
	if open > 0 {
		return &lost{open, err}
	}
	return err
}

// read reads until the connection ends. Nil: a signal says so.
func (c *Conn) read(early []byte) error {
	r := &c.in
	c.mu.Lock()
	c.owe(&r.turn)
	c.mu.Unlock()
	for len(early) > 0 {
		n := copy(r.Room(), early)
		early = early[n:]
		if r.Got(n) == sock.Stop {
			return nil
		}
	}
	if !r.Idle() && c.signals.Load()&signalBroken == 0 {
		return nil
	}
	for {
		err := c.conn.ReadLoop(r)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		// Who signals does so before it sets the deadline: what is set after this wakes us again.
		_ = c.conn.SetReadDeadline(time.Time{})
		if c.trim.Swap(false) && r.decoder != nil {
			r.decoder.Trim()
		}
		if c.signals.Load()&(signalStop|signalDone|signalFailed) != 0 {
			return nil
		}
	}
}

// verdict says why the connection ends, which read ended with err.
func (c *Conn) verdict(err error) error {
	signals := c.signals.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case signals&signalStop != 0:
		return errStopped
	case c.failure != nil:
		return c.failure
	case c.acceptor == nil && !c.settled && (err != nil || signals&signalDone == 0):
		return errNotHTTP2
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return fmt.Errorf("read an HTTP/2 connection: %w", err)
	case signals&signalDone != 0:
		return nil
	case c.out.err == nil:
		return nil
	}
	if own, ok := errors.AsType[*Error](c.out.err); ok { // it was our decision
		return own
	}
	return fmt.Errorf("write to an HTTP/2 connection: %w", c.out.err)
}

// abandon ends a connection whose reader panics. Where that was with mu held, nothing but the socket can be let go of.
func (c *Conn) abandon() {
	c.signals.Or(signalStop)
	if !c.mu.TryLock() {
		c.conn.Reset()
		return
	}
	c.mu.Unlock()
	defer c.end()
	c.endStreams(errStopped)
	c.tellEnded()
	c.in.turn.Flush()
}

// left is a stream that goes with its connection.
type left struct {
	hears
	untouched bool
}

// endStreams tells the streams that are open that the connection has ended. It returns how many there were.
func (c *Conn) endStreams(err error) int {
	var gone []left
	c.mu.Lock()
	foreign := c.acceptor == nil && !c.settled && !errors.Is(err, errStopped)
	if c.greeted != nil && !c.settled {
		close(c.greeted)
	}
	reached := c.out.taken + uint64(c.out.flying)
	c.closed = true
	c.streams.each(func(s *stream) {
		gone = append(gone, left{s.hears(), c.acceptor == nil && (foreign || s.at >= reached)})
		c.endStream(&c.in.turn, s, forgotten)
	})
	c.mu.Unlock()
	reason := "the connection was closed"
	if err != nil && !errors.Is(err, io.EOF) {
		reason = err.Error()
	}
	for _, l := range gone {
		why := StreamError{Code: InternalError, Unprocessed: l.untouched, NotHTTP2: foreign, Connection: true, Reason: reason}
		if own, ok := errors.AsType[*Error](err); ok {
			why.Code = own.Code
		}
		c.in.gone(l.hears, why)
	}
	return len(gone)
}

// end closes the connection: at once where there is nobody to read our last words, and so that they are read otherwise.
func (c *Conn) end() {
	const nobody = signalStop | signalBroken
	if c.signals.Load()&nobody == 0 {
		_ = c.conn.SetDeadline(time.Now().Add(linger))
		c.shutAfterLast()
		c.discard()
		_ = c.conn.Close() // nothing is left to be told
	} else {
		c.conn.Reset()
	}
	c.mu.Lock()
	c.breaks(os.ErrClosed)
	c.mu.Unlock()
	c.in.drop()
}

// discard reads until the peer has ended its half, or time is over.
func (c *Conn) discard() {
	b := c.buffers.take(1 << smallBits)
	for {
		if _, err := c.conn.Read(b[:cap(b)]); err != nil {
			break
		}
	}
	c.buffers.give(b)
}

// drop gives back all that the reader has.
func (r *reader) drop() {
	if r.scratch != nil {
		r.conn.buffers.giveScratch(r.scratch)
	}
	r.conn.buffers.give(r.buf)
	r.conn.buffers.give(r.block)
	r.scratch, r.buf, r.block, r.decoder = nil, nil, nil, nil
}
