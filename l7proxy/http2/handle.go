package http2

// get returns the stream while it is open; mu is held.
func (h Handle) get() *stream {
	if h.stream.id != h.id || h.conn.closed {
		return nil
	}
	return h.stream
}

// lock is get for a Handle that may be the zero one. It leaves mu locked, unless it returns nil.
func (h Handle) lock() *stream {
	if h.conn == nil {
		return nil
	}
	h.conn.mu.Lock()
	s := h.get()
	if s == nil {
		h.conn.mu.Unlock()
	}
	return s
}

// lockToSend is lock for what is sent: not behind an end.
func (h Handle) lockToSend() *stream {
	s := h.lock()
	if s != nil && (s.sentEnd || s.queuedEnd) {
		h.conn.mu.Unlock()
		return nil
	}
	return s
}

// Bind says who receives what comes on a stream of a client.
func (h Handle) Bind(r Receiver, token uint64) {
	if s := h.lock(); s != nil {
		s.receiver, s.token = r, token
		h.conn.mu.Unlock()
	}
}

// Head sends the head of a response: a header block as AppendResponse makes it. False: the stream is over.
func (h Handle) Head(t *Turn, block []byte, end bool) bool {
	s := h.lockToSend()
	if s == nil {
		return false
	}
	c := h.conn
	c.appendBlock(s.id, block, end)
	if !s.answered && !isInterim(block) {
		s.answered = true
		c.paid(paidForAnswer)
	}
	s.sentEnd = end
	c.owe(t)
	c.endIfOver(t, s)
	c.mu.Unlock()
	return true
}

// Data sends a part of a body. All of p is taken: what the windows do not let pass is copied and queued, and the Receiver
// learns by Sent when it has gone, which another goroutine may tell it before Data returns. Queued is how much that is.
// False: the stream is over.
func (h Handle) Data(t *Turn, p []byte, end bool) (queued int, ok bool) {
	s := h.lockToSend()
	if s == nil {
		return 0, false
	}
	c := h.conn
	n := 0
	if s.queue.len() == 0 {
		n = c.sendNow(s, p, end)
	}
	if n < len(p) {
		s.queue.add(c.buffers, p[n:])
		s.queuedEnd = end
		if s.sendWindow > 0 && !s.waits {
			c.blocked.add(s)
		}
	} else if len(p) == 0 && end && !s.sentEnd {
		s.queuedEnd = true
	}
	c.owe(t)
	c.endIfOver(t, s)
	c.mu.Unlock()
	return len(p) - n, true
}

// Trailers ends the body, behind what is queued. False: the stream is over.
func (h Handle) Trailers(t *Turn, block []byte) bool {
	s := h.lockToSend()
	if s == nil {
		return false
	}
	c := h.conn
	if s.queue.len() > 0 {
		s.trailers = append(c.buffers.take(len(block)), block...)
		s.queuedEnd = true
		c.mu.Unlock()
		return true
	}
	c.appendBlock(s.id, block, true)
	s.sentEnd = true
	c.owe(t)
	c.endIfOver(t, s)
	c.mu.Unlock()
	return true
}

// Reset ends the stream at once, in both directions. The Receiver hears no more of it.
func (h Handle) Reset(t *Turn, code Code) {
	s := h.lock()
	if s == nil {
		return
	}
	c := h.conn
	c.appendReset(s.id, code)
	c.owe(t)
	c.endStream(t, s, resetByUs)
	c.mu.Unlock()
}

// Credit gives n bytes that Receiver.Data was given back to the sender's windows.
func (h Handle) Credit(t *Turn, n int) {
	s := h.lock()
	if s == nil {
		return
	}
	c := h.conn
	n = min(n, s.uncredited)
	s.uncredited -= n
	c.credit(t, n)
	c.creditStream(t, s, n)
	c.mu.Unlock()
}
