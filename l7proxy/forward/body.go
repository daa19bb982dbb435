package forward

import (
	"errors"
	"math"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// requestBody is the body of a request on its way to an endpoint. What came with the head goes with the head; the rest,
// if there is any, is pumped by a goroutine of its own, because the endpoint may answer meanwhile.
type requestBody struct {
	kind     http1.Body
	left     int64 // with Length: what has not been taken yet
	chunks   http1.Chunks
	complete bool // all of it came with the head: it can be sent again
	size     int  // of it in the buffer, framing included

	copies *copies // who else gets it

	pumping bool
	done    chan error // of the pump; has room for one
	sent    int64      // bytes of it without framing; the pump's while it runs
}

// reset forgets the last exchange's body, and keeps the memory.
func (b *requestBody) reset() {
	*b = requestBody{done: b.done, chunks: http1.Chunks{Trailers: b.chunks.Trailers[:0]}}
}

// begin looks at what came with the head. A body that breaks the rules right there is refused before anything is sent.
func (b *requestBody) begin(buffered []byte, h *http1.Head) error {
	b.kind, b.left = h.Body, h.Length
	switch h.Body {
	case http1.NoBody:
		b.complete = true
	case http1.Length:
		b.size = int(min(h.Length, int64(len(buffered))))
		b.complete = int64(b.size) == h.Length
	case http1.Chunked:
		look := http1.Chunks{}
		for {
			p, n, err := look.Next(buffered[b.size:])
			if err != nil {
				return err
			}
			b.size += n
			if p.Last || n == 0 {
				b.complete = p.Last
				return nil
			}
		}
	}
	return nil
}

// discard takes a body that nobody wants. False: it has not come yet.
func (b *requestBody) discard(in *http1.Reader) bool {
	if b.complete {
		in.Use(b.size)
		b.size = 0
	}
	return b.complete
}

// first takes what came with the head. It goes into out, after the head, or is returned as a view.
func (b *requestBody) first(in *http1.Reader, out []byte) (_, rest []byte, err error) {
	switch b.kind {
	case http1.Length:
		rest = in.Buffered()[:b.size]
		in.Use(b.size)
		b.left -= int64(b.size)
		b.sent = int64(b.size)
		b.copies.data(rest)
	case http1.Chunked:
		w := chunkWriter{out: out, gather: math.MaxInt, framed: true, count: &b.sent, copies: b.copies} // it may have to be sent again
		_, err = w.pass(&b.chunks, in)
		out = w.out
	}
	b.size = 0 // nothing is left to discard
	if b.complete {
		b.copied()
	}
	return out, rest, err
}

// chunkWriter passes a chunked body on: the boundaries of chunks and the trailers stay, extensions do not. What is small
// is gathered, what is large goes straight from the buffer that it was read into.
type chunkWriter struct {
	to     *sock.Conn
	out    []byte // gathered and not written yet
	gather int    // how much is gathered at most
	framed bool   // as chunks, or without framing
	count  *int64 // of the bytes of data
	copies *copies
	wrote  bool // something was written
}

// gatherUpTo is what is gathered of chunks before it is written, in bytes.
const gatherUpTo = 8 << 10

// pass passes on what is buffered. It tells whether that was the end of the body. An *http1.Error says that the body is
// malformed; any other error is that of a write.
func (w *chunkWriter) pass(c *http1.Chunks, in *http1.Reader) (last bool, err error) {
	for {
		p, n, bad := c.Next(in.Buffered())
		if bad != nil {
			return false, bad
		}
		in.Use(n)
		if w.framed && p.Begins > 0 {
			w.out = http1.AppendChunk(w.out, p.Begins)
		}
		if err := w.data(p.Data); err != nil {
			return false, err
		}
		switch {
		case w.framed && p.Ends:
			w.out = append(w.out, "\r\n"...)
		case w.framed && p.Last:
			w.out = http1.AppendLastChunk(w.out, c.Trailers)
		}
		if p.Last || n == 0 {
			return p.Last, nil
		}
	}
}

func (w *chunkWriter) data(part []byte) error {
	*w.count += int64(len(part))
	w.copies.data(part)
	if len(part) <= w.gather-len(w.out) {
		w.out = append(w.out, part...)
		return nil
	}
	return w.write(part)
}

// flush writes what is gathered.
func (w *chunkWriter) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	return w.write(nil)
}

func (w *chunkWriter) write(part []byte) error {
	w.wrote = true
	err := w.to.WriteTwo(w.out, part)
	w.out = w.out[:0]
	return err
}

// clientError is an error at the client's side of a body.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// pump sends the rest of a body. Where the client fails, the endpoint's connection is reset: nothing must look like the
// end of the body.
func (b *requestBody) pump(in *http1.Reader, to *sock.Conn) {
	err := b.rest(in, to)
	if _, ok := errors.AsType[clientError](err); ok {
		to.Reset()
	}
	b.done <- err
}

func (b *requestBody) rest(in *http1.Reader, to *sock.Conn) error {
	w := chunkWriter{to: to, gather: gatherUpTo, framed: true, count: &b.sent, copies: b.copies}
	for {
		if b.kind == http1.Length && b.left == 0 {
			b.copied()
			return nil
		}
		if err := in.Fill(); err != nil {
			return clientError{err}
		}
		if b.kind == http1.Length {
			part := in.Buffered()
			part = part[:min(int64(len(part)), b.left)]
			if _, err := to.Write(part); err != nil {
				return err
			}
			in.Use(len(part))
			b.copies.data(part)
			b.left -= int64(len(part))
			b.sent += int64(len(part))
			continue
		}
		last, err := w.pass(&b.chunks, in)
		if bad, ok := errors.AsType[*http1.Error](err); ok {
			return clientError{bad}
		}
		if err == nil {
			err = w.flush()
		}
		if err == nil && last {
			b.copied()
		}
		if err != nil || last {
			return err
		}
	}
}

// copied sends the copies of the request: all of it has come.
func (b *requestBody) copied() {
	if b.copies == nil {
		return
	}
	var t http2.Turn
	b.copies.end(&t)
	t.Flush()
}
