package http1

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// BufferSize is what a connection reads into while it has something to say, in bytes. An idle one has no buffer.
const BufferSize = 16 << 10

// minRoom is how much of a buffer behind a head is still worth reading a body into.
const minRoom = 4 << 10

type buffer [BufferSize]byte

// Buffers lends buffers. It is safe for concurrent use; the zero value is ready.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get() *buffer {
	if got, ok := b.pool.Get().(*buffer); ok {
		return got
	}
	return new(buffer)
}

func (b *Buffers) put(lent *buffer) { b.pool.Put(lent) }

// Reader reads messages from a connection. What it returns are views of its buffer: a head stays where it is until
// Release, so that it can be read for as long as its exchange lasts; a body's bytes until the next Fill.
type Reader struct {
	conn    *sock.Conn
	buffers *Buffers
	lent    *buffer // of buffers; nil: none, or it was too small
	buf     []byte
	pinned  int // the head that is held is before it
	start   int // of what was read and not used yet
	end     int
}

// Reset makes the Reader read from another connection, or from none. It gives its buffer back.
func (r *Reader) Reset(c *sock.Conn, b *Buffers) {
	r.drop()
	r.conn, r.buffers = c, b
}

// Buffered is what was read and not used yet.
func (r *Reader) Buffered() []byte { return r.buf[r.start:r.end] }

// Use takes the first n bytes of Buffered.
func (r *Reader) Use(n int) { r.start += n }

// Release lets go of the head that was held. Without bytes of a next message the buffer is given back.
func (r *Reader) Release() {
	r.pinned = 0
	if r.start == r.end {
		r.drop()
	}
}

func (r *Reader) drop() {
	if r.lent != nil {
		r.buffers.put(r.lent)
	}
	r.lent, r.buf, r.pinned, r.start, r.end = nil, nil, 0, 0, 0
}

// Take and Drop lend the buffer to a read that may have to wait for long.
func (r *Reader) Take() []byte {
	if r.buf == nil {
		r.lent = r.buffers.get()
		r.buf = r.lent[:]
	}
	return r.buf
}

// Drop gives back what Take lent.
func (r *Reader) Drop() { r.drop() }

// Await waits until the connection, on which nothing is under way, has something to say. It holds no buffer meanwhile.
func (r *Reader) Await() error {
	if r.start < r.end {
		return nil
	}
	n, err := r.conn.ReadIdle(r)
	if err != nil {
		r.drop()
		return err
	}
	r.end = n
	return nil
}

// Fill reads more. What is buffered is kept; there has to be less of it than a buffer holds.
func (r *Reader) Fill() error {
	r.room()
	n, err := r.conn.Read(r.buf[r.end:])
	r.end += n
	return err
}

// room makes room behind what is buffered.
func (r *Reader) room() {
	if r.buf == nil {
		r.Take()
	}
	if r.start == r.end {
		r.start, r.end = r.pinned, r.pinned
	}
	if len(r.buf)-r.end >= minRoom || r.end < len(r.buf) && r.start == 0 {
		return
	}
	r.end = r.pinned + copy(r.buf[r.pinned:], r.buf[r.start:r.end])
	r.start = r.pinned
	if len(r.buf)-r.end < minRoom {
		r.grow(2 * len(r.buf))
	}
}

// grow is for heads that are larger than the buffer, and for bodies behind a large head. Such a buffer is not kept. The
// views of a head that is pinned keep the earlier buffer alive, which is why that one is not given back.
func (r *Reader) grow(size int) {
	grown := make([]byte, size)
	r.end = copy(grown, r.buf[:r.end])
	if r.lent != nil && r.pinned == 0 {
		r.buffers.put(r.lent)
	}
	r.buf, r.lent = grown, nil
}

// Request reads the head of a request into req. The time limit is for the rest of a head whose beginning has come. An
// *Error says that what came is no request; io.EOF that the client ended in between, io.ErrUnexpectedEOF in the middle.
func (r *Reader) Request(req *message.Request, limits Limits, within time.Duration) (Head, error) {
	timed := false
	for scanned := 0; ; {
		if found := r.ends(&scanned); found {
			n, h, err := ParseRequest(r.Buffered(), req, limits)
			if err != nil {
				return h, err
			}
			if n > 0 {
				r.hold(n)
				if timed {
					return h, r.conn.SetReadDeadline(time.Time{})
				}
				return h, nil
			}
		}
		if !timed {
			timed = true
			if err := r.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
				return Head{}, err
			}
		}
		if err := r.Fill(); err != nil {
			return Head{}, r.ended(err)
		}
	}
}

func (r *Reader) ended(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrHeadTime
	case errors.Is(err, io.EOF) && r.start < r.end:
		return io.ErrUnexpectedEOF
	}
	return err
}

// hold takes n bytes, which stay where they are.
func (r *Reader) hold(n int) {
	r.start += n
	r.pinned = r.start
}

// Response reads the head of a response to a request of the given method into resp. io.EOF says that not one byte of it
// came.
func (r *Reader) Response(method string, resp *message.Response, limits Limits) (Head, error) {
	r.pinned = 0
	for scanned := 0; ; {
		if r.start < r.end && r.ends(&scanned) {
			n, h, err := ParseResponse(r.Buffered(), method, resp, limits)
			if err != nil {
				return h, err
			}
			if n > 0 {
				r.hold(n)
				return h, nil
			}
		}
		if err := r.Fill(); err != nil {
			return Head{}, r.ended(err)
		}
	}
}

var emptyLine = []byte("\r\n\r\n")

// ends tells whether a parser should look: the first time in any case, then when the head's end has come or something
// can be said to be wrong. Looking at each byte that drips in would cost the square of the head's length.
func (r *Reader) ends(scanned *int) bool {
	b := r.Buffered()
	before := *scanned
	*scanned = len(b)
	if before == 0 || bytes.Contains(b[max(before-len(emptyLine)+1, 0):], emptyLine) {
		return true
	}
	for i := before; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			break
		}
		if i += n; i == 0 || b[i-1] != '\r' {
			return true
		}
	}
	// A head that is too large has to be noticed, and so has a target.
	return len(b)/minRoom != before/minRoom
}
