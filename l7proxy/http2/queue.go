package http2

// queue holds what a stream could not send yet, in one buffer that is lent while there is something.
type queue struct {
	buf  []byte
	from int // what is before has gone
}

func (q *queue) len() int { return len(q.buf) - q.from }

func (q *queue) add(b *Buffers, p []byte) {
	if q.from > 0 && cap(q.buf)-len(q.buf) < len(p) && q.from >= len(q.buf)-q.from {
		q.buf = q.buf[:copy(q.buf, q.buf[q.from:])] // no more is moved than has gone
		q.from = 0
	}
	q.buf = append(b.grow(q.buf, len(p)), p...)
}

// next is what is in front, at most n bytes.
func (q *queue) next(n int) []byte { return q.buf[q.from:min(q.from+n, len(q.buf))] }

func (q *queue) drop(b *Buffers, n int) {
	if q.from += n; q.from == len(q.buf) {
		q.clear(b)
	}
}

func (q *queue) clear(b *Buffers) {
	b.give(q.buf)
	*q = queue{}
}
