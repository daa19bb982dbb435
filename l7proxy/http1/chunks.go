package http1

import (
	"bytes"
	"math"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// Chunks decodes a chunked body (RFC 9112, 7.1). The zero value is at its beginning.
type Chunks struct {
	state chunkState
	left  int64 // of the chunk's data

	// Trailers are the trailer fields, once the body is over: views of what was decoded.
	Trailers message.Fields
}

type chunkState int

const (
	atSize chunkState = iota
	inData
	atEnd // of a chunk
	atTrailers
	over
)

// Piece is what was decoded: the beginning of a chunk, with the size of its data; a part of the data; or the end of the
// body.
type Piece struct {
	Begins int64 // > 0: a chunk of that many bytes begins
	Data   []byte
	Ends   bool // of the chunk: its data is complete
	Last   bool // the body is complete
}

// Limits of what has to be in the buffer in one piece, in bytes.
const (
	maxChunkLine = 4 << 10
	maxTrailers  = 8 << 10
)

// Next decodes the next piece at the beginning of b, and returns how much of b it took: 0 when more is needed first.
func (c *Chunks) Next(b []byte) (Piece, int, *Error) {
	switch c.state {
	case atSize:
		return c.size(b)
	case inData:
		n := int(min(int64(len(b)), c.left))
		c.left -= int64(n)
		p := Piece{Data: b[:n]}
		if c.left == 0 {
			c.state = atEnd
			p.Ends = n > 0
		}
		return p, n, nil
	case atEnd:
		if len(b) > 0 && b[0] != '\r' || len(b) > 1 && b[1] != '\n' {
			return Piece{}, 0, errChunkEnd
		}
		if len(b) < 2 {
			return Piece{}, 0, nil
		}
		c.state = atSize
		p, n, err := c.size(b[2:])
		if n == 0 && err == nil {
			return Piece{}, 2, nil
		}
		return p, n + 2, err
	case atTrailers:
		return c.trailers(b)
	}
	return Piece{Last: true}, 0, nil
}

// size reads a chunk's first line.
func (c *Chunks) size(b []byte) (Piece, int, *Error) {
	if len(b) == 0 {
		return Piece{}, 0, nil
	}
	n, digits, err := parseSize(b)
	if err != nil {
		return Piece{}, 0, err
	}
	end := bytes.IndexByte(b, '\n')
	switch {
	case end > maxChunkLine || end < 0 && len(b) > maxChunkLine:
		return Piece{}, 0, errChunkLine
	case end < 0:
		return Piece{}, 0, nil
	case b[end-1] != '\r':
		return Piece{}, 0, errLineEnd
	}
	if err := extensions(b[digits : end-1]); err != nil {
		return Piece{}, 0, err
	}
	if n == 0 {
		c.state = atTrailers
		p, m, err := c.trailers(b[end+1:])
		return p, m + end + 1, err
	}
	c.state, c.left = inData, n
	return Piece{Begins: n}, end + 1, nil
}

// parseSize reads the digits at the beginning. What it refuses does not get better by what follows.
func parseSize(b []byte) (n int64, digits int, err *Error) {
	for digits < len(b) && syntax.Unhex(b[digits]) < 16 {
		if digits == 16 || n > math.MaxInt64>>4 {
			return 0, 0, errChunkSize
		}
		n = n<<4 | int64(syntax.Unhex(b[digits]))
		digits++
	}
	if digits == 0 {
		return 0, 0, errChunkSize
	}
	return n, digits, nil
}

// extensions checks what follows the size.
func extensions(b []byte) *Error {
	switch {
	case len(b) == 0 || validExtensions(b):
		return nil
	case bytes.HasPrefix(trimLeft(b), []byte(";")):
		return errChunkExt
	}
	return errChunkSize
}

// validExtensions checks *( BWS ";" BWS name [ BWS "=" BWS value ] ). Extensions are not passed on: no recipient has to
// know them, and what is not passed on cannot be read in two ways.
func validExtensions(b []byte) bool {
	for len(b) > 0 {
		b = trimLeft(b)
		if len(b) == 0 || b[0] != ';' {
			return false
		}
		n := syntax.Span(trimLeft(b[1:]), syntax.TokenByte)
		b = trimLeft(b[1:])
		if n == 0 {
			return false
		}
		b = b[n:]
		if next := trimLeft(b); len(next) > 0 && next[0] == '=' {
			b = trimLeft(next[1:])
			if n = syntax.Span(b, syntax.TokenByte); n == 0 {
				n = quoted(b)
			}
			if n == 0 {
				return false
			}
			b = b[n:]
		}
	}
	return true
}

func trimLeft(b []byte) []byte {
	for len(b) > 0 && syntax.IsSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// quoted is the length of the quoted string at the beginning of b (RFC 9110, 5.6.4), or 0.
func quoted(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			i++
			if i == len(b) || isControl(b[i]) {
				return 0
			}
		case isControl(c):
			return 0
		}
	}
	return 0
}

// trailers reads the trailer section, all of which has to be there. Fields that frame or route a message have no place
// in it (RFC 9110, 6.5.1): they are left out.
func (c *Chunks) trailers(b []byte) (Piece, int, *Error) {
	c.Trailers = c.Trailers[:0]
	for size := 0; ; {
		name, value, n, err := field(b[size:])
		size += n
		switch {
		case err != nil:
			return Piece{}, 0, err
		case n == 0 && len(b) > maxTrailers || size > maxTrailers:
			return Piece{}, 0, errTrailersLarge
		case n == 0:
			return Piece{}, 0, nil
		case name == "":
			c.state = over
			return Piece{Last: true}, size, nil
		case kindOf(name) == endToEnd && !message.EqualName(name, "trailer"):
			c.Trailers.Add(name, value)
		}
	}
}
