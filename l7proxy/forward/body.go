package forward

import (
	"errors"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
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
	case http1.Chunked:
		out, _, err = b.recode(in, out)
	}
	b.size = 0 // nothing is left to discard
	return out, rest, err
}

// recode moves chunks from the buffer to out: their boundaries and the trailers stay, extensions do not.
func (b *requestBody) recode(in *http1.Reader, out []byte) (_ []byte, last bool, err error) {
	return recode(&b.chunks, in, out, true, &b.sent)
}

// recode decodes what is buffered of a chunked body and appends it to out, as chunks or without framing. It counts the
// bytes of data.
func recode(c *http1.Chunks, in *http1.Reader, out []byte, framed bool, count *int64) (_ []byte, last bool, err error) {
	for {
		p, n, bad := c.Next(in.Buffered())
		if bad != nil {
			return out, false, bad
		}
		in.Use(n)
		*count += int64(len(p.Data))
		if framed && p.Begins > 0 {
			out = http1.AppendChunk(out, p.Begins)
		}
		out = append(out, p.Data...)
		switch {
		case framed && p.Ends:
			out = append(out, "\r\n"...)
		case framed && p.Last:
			out = http1.AppendLastChunk(out, c.Trailers)
		}
		if p.Last || n == 0 {
			return out, p.Last, nil
		}
	}
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
	var out []byte
	for {
		if b.kind == http1.Length && b.left == 0 {
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
			b.left -= int64(len(part))
			b.sent += int64(len(part))
			continue
		}
		var last bool
		var err error
		if out, last, err = b.recode(in, out[:0]); err != nil {
			return clientError{err}
		}
		if _, err := to.Write(out); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}
