package forward

import (
	"errors"
	"io"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// bytes passes on a body of n bytes.
func (b *bridge) bytes(n int64) error {
	for {
		part := b.up.Buffered()
		part = part[:min(int64(len(part)), n)]
		n -= int64(len(part))
		if len(part) > 0 || n == 0 {
			if !b.pass(part, n == 0) {
				return errCancelled
			}
			b.up.Use(len(part))
		}
		if n == 0 {
			return nil
		}
		if err := b.up.Fill(); err != nil {
			return err
		}
	}
}

// chunks passes on a chunked body.
func (b *bridge) chunks() error {
	var c http1.Chunks
	for {
		p, n, bad := c.Next(b.up.Buffered())
		if bad != nil {
			return bad
		}
		if len(p.Data) > 0 && !b.pass(p.Data, false) {
			return errCancelled
		}
		b.up.Use(n)
		switch {
		case p.Last && len(c.Trailers) > 0:
			b.tell(func(t *http2.Turn, e *fromEndpoint) { e.Trailers(t, b.token, c.Trailers) })
			return nil
		case p.Last:
			b.pass(nil, true)
			return nil
		case n == 0:
			if err := b.up.Fill(); err != nil {
				return err
			}
		}
	}
}

// untilClose passes on a body that ends with its connection.
func (b *bridge) untilClose() error {
	for {
		if part := b.up.Buffered(); len(part) > 0 {
			if !b.pass(part, false) {
				return errCancelled
			}
			b.up.Use(len(part))
		}
		switch err := b.up.Fill(); {
		case errors.Is(err, io.EOF):
			b.pass(nil, true)
			return nil
		case err != nil:
			return err
		}
	}
}
