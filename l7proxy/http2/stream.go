package http2

// asked is what a request asked for, as far as it says something about the answer.
type asked uint8

const (
	askedUsual asked = iota
	askedHead
	askedConnect
)

// stream is one side of a connection's stream. Its connection's mutex is over all of it; recvEnd, head, asked and left are
// changed by the reader only. Its memory is used again, on the same connection.
type stream struct {
	id       uint32 // 0: not in use
	receiver Receiver
	token    uint64

	// What we send.
	sentEnd    bool  // END_STREAM is in the write buffer
	queuedEnd  bool  // it follows what is queued
	answered   bool  // of a client's: the final head went
	sendWindow int64 // may be negative (RFC 9113, 6.9.2)
	queue      queue
	trailers   []byte // a block that follows the queue; lent
	at         uint64 // of ours: where in all that was written its request begins

	// What we receive.
	recvEnd    bool
	head       bool // the final head came
	asked      asked
	left       int64 // of the body, as Content-Length says; -1: it does not
	recvWindow int64
	uncredited int // bytes that the Receiver has and has not given back
	gathered   int // credit that the peer has not been told of

	prev, next *stream // in the ring of those that wait for the connection; next also in the list of free ones
	waits      bool    // it is in the ring
}

// newStream opens a stream.
func (c *Conn) newStream(id uint32) *stream {
	s := c.free
	if s == nil {
		s = &stream{}
	} else {
		c.free = s.next
	}
	*s = stream{id: id, left: -1, sendWindow: c.sendInitial, recvWindow: c.recvInitial}
	c.streams.put(s)
	return s
}

// endStream takes a stream out of the table. What of its data was not given back is the connection's again: nobody will
// give it back (RFC 9113, 6.9: the connection's window counts also what is dropped).
func (c *Conn) endStream(t *Turn, s *stream, how ending) {
	c.streams.remove(s, how)
	if s.waits {
		c.blocked.remove(s)
	}
	s.queue.clear(c.buffers)
	c.buffers.give(s.trailers)
	uncredited := s.uncredited
	*s = stream{next: c.free}
	c.free = s
	c.credit(t, uncredited)
	if c.streams.n == 0 {
		c.idle(t)
	}
}

// endIfOver ends a stream that both sides have ended.
func (c *Conn) endIfOver(t *Turn, s *stream) {
	if s.recvEnd && s.sentEnd {
		c.endStream(t, s, completed)
	}
}

// ring is the streams that wait for their turn.
type ring struct{ first, last *stream }

func (r *ring) add(s *stream) {
	s.waits = true
	s.prev, s.next = r.last, nil
	if r.last == nil {
		r.first = s
	} else {
		r.last.next = s
	}
	r.last = s
}

func (r *ring) remove(s *stream) {
	if s.prev == nil {
		r.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		r.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.waits = nil, nil, false
}
