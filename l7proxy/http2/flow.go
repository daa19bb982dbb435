package http2

// sendNow sends of p what the windows let pass, if nothing is queued before it. It returns how much that was. The
// functions here are called with mu held.
func (c *Conn) sendNow(s *stream, p []byte, end bool) (n int) {
	if len(p) == 0 {
		if end {
			c.appendData(s.id, nil, true)
			s.sentEnd = true
		}
		return 0
	}
	for n < len(p) && s.sendWindow > 0 && c.canSend() {
		part := p[n:min(len(p), n+maxFrame)]
		part = part[:min(int64(len(part)), s.sendWindow, c.sendWindow)]
		n += len(part)
		s.sentEnd = end && n == len(p)
		c.appendData(s.id, part, s.sentEnd)
		s.sendWindow -= int64(len(part))
		c.sendWindow -= int64(len(part))
	}
	if n == len(p) {
		c.paidData()
	}
	return n
}

// canSend tells whether the connection lets data pass. A peer that does not read has, in effect, no window.
func (c *Conn) canSend() bool { return c.sendWindow > 0 && c.out.unwritten() < c.limits.Unwritten }

// pump sends what is queued as far as the connection lets it pass: a frame of each stream in turn. It costs what it sends,
// however many streams there are. Turn.tell has to follow when mu is unlocked, and flush, or owe.
func (c *Conn) pump(t *Turn) {
	for c.blocked.first != nil && c.canSend() {
		s := c.blocked.first
		c.blocked.remove(s)
		c.sendQueued(t, s)
	}
}

// sendQueued sends a frame of what is queued. There is some, and the windows are open.
func (c *Conn) sendQueued(t *Turn, s *stream) {
	p := s.queue.next(int(min(maxFrame, s.sendWindow, c.sendWindow)))
	last := len(p) == s.queue.len()
	s.sentEnd = last && s.queuedEnd && s.trailers == nil
	c.appendData(s.id, p, s.sentEnd)
	s.sendWindow -= int64(len(p))
	c.sendWindow -= int64(len(p))
	if last || len(p) >= usefulData {
		c.paidData()
	}
	if s.receiver != nil {
		t.sent = append(t.sent, sent{s.receiver, s.token, len(p)})
	}
	s.queue.drop(c.buffers, len(p))
	switch {
	case !last && s.sendWindow > 0:
		c.blocked.add(s)
	case last && s.trailers != nil:
		c.appendBlock(s.id, s.trailers, true)
		s.sentEnd = true
	}
	c.endIfOver(t, s)
}

// opened is for a stream whose window was opened.
func (c *Conn) opened(s *stream) {
	if s.queue.len() > 0 && s.sendWindow > 0 && !s.waits {
		c.blocked.add(s)
	}
}

// credit gives bytes back to the connection's window. The peer is told when half of it has gathered.
func (c *Conn) credit(t *Turn, n int) {
	c.gathered += n
	if c.gathered < max(c.limits.ConnectionWindow, usualWindow)/2 || c.closed || c.failure != nil {
		return
	}
	c.recvWindow += int64(c.gathered)
	c.appendWindow(0, c.gathered)
	c.gathered = 0
	c.owe(t)
}

// creditStream gives bytes back to the stream's window. Once the peer has ended the stream it needs none.
func (c *Conn) creditStream(t *Turn, s *stream, n int) {
	if s.recvEnd {
		return
	}
	s.gathered += n
	if s.gathered < max(c.limits.StreamWindow/2, 1) {
		return
	}
	s.recvWindow += int64(s.gathered)
	c.appendWindow(s.id, s.gathered)
	s.gathered = 0
	c.owe(t)
}
