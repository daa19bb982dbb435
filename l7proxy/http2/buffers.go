package http2

import (
	"math/bits"
	"sync"
	"unsafe"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

const (
	smallBits = 11 // 2 KiB: the beginning of a frame, what one stream could not send
	largeBits = 15 // 32 KiB: a read, a write
	mostBits  = 21 // what is larger is not kept

	largeBuffer = 1 << largeBits
)

// Buffers lends buffers. It is safe for concurrent use; the zero value is ready.
type Buffers struct {
	sizes   [mostBits - smallBits + 1]sync.Pool // of *byte, the first one of a power of two
	scratch sync.Pool                           // of *scratch
}

// scratch is what a reader needs while it has a header block in its hands.
type scratch struct {
	fields   message.Fields
	request  message.Request
	response message.Response
	why      StreamError
}

// take lends an empty buffer with room for at least n bytes.
func (b *Buffers) take(n int) []byte {
	size := max(bits.Len(uint(max(n, 1)-1)), smallBits)
	if size > mostBits {
		return make([]byte, 0, 1<<size)
	}
	if p, ok := b.sizes[size-smallBits].Get().(*byte); ok {
		return unsafe.Slice(p, 1<<size)[:0]
	}
	return make([]byte, 0, 1<<size)
}

// give takes back a buffer that take lent, or none.
func (b *Buffers) give(p []byte) {
	size := bits.Len(uint(cap(p))) - 1
	if cap(p) == 0 || size > mostBits {
		return
	}
	b.sizes[size-smallBits].Put(unsafe.SliceData(p))
}

// grow makes room for n more bytes behind what p has.
func (b *Buffers) grow(p []byte, n int) []byte {
	if cap(p)-len(p) >= n {
		return p
	}
	larger := append(b.take(max(len(p)+n, 2*cap(p))), p...)
	b.give(p)
	return larger
}

func (b *Buffers) takeScratch() *scratch {
	if s, ok := b.scratch.Get().(*scratch); ok {
		return s
	}
	return &scratch{fields: make(message.Fields, 0, 32)}
}

// giveScratch forgets what the scratch shows of other buffers.
func (b *Buffers) giveScratch(s *scratch) {
	clear(s.fields[:cap(s.fields)])
	s.request, s.response, s.why = message.Request{}, message.Response{}, StreamError{}
	if cap(s.fields) <= 512 {
		b.scratch.Put(s)
	}
}
