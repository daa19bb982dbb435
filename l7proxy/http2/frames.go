package http2

import "encoding/binary"

// handleData passes a part of a body on. Padding is given back at once: it goes nowhere (RFC 9113, 6.9.1).
func (r *reader) handleData(flags uint8, id uint32, p []byte) *Error {
	body, err := unpad(flags, p)
	if err != nil {
		return err
	}
	c := r.conn
	end := flags&flagEndStream != 0
	c.mu.Lock()
	if c.recvWindow -= int64(len(p)); c.recvWindow < 0 {
		c.mu.Unlock()
		return errConnWindow
	}
	s := c.streams.get(id)
	if s == nil {
		return r.dataAfterEnd(id, len(p))
	}
	if err := s.admit(len(p), len(body), end); err != nil {
		c.credit(&r.turn, len(p))
		return r.breakStream(s, err)
	}
	h := s.hears()
	back := len(p) - len(body)
	if h.to == nil {
		back = len(p)
	} else {
		s.uncredited += len(body)
	}
	if back > 0 {
		c.credit(&r.turn, back)
		c.creditStream(&r.turn, s, back)
	}
	if end {
		c.endIfOver(&r.turn, s)
	}
	c.mu.Unlock()
	if len(body) == 0 && !end {
		return r.glitch()
	}
	if h.to != nil {
		h.to.Data(&r.turn, h.token, body, end)
	}
	return nil
}

// admit takes DATA of a size, of which body is no padding, into account.
func (s *stream) admit(size, body int, end bool) *Error {
	if s.recvEnd {
		return errHalfClosed
	}
	if s.recvWindow -= int64(size); s.recvWindow < 0 {
		return errStreamWindow
	}
	if !s.head {
		return errNoHead
	}
	if s.left >= 0 {
		if s.left -= int64(body); s.left < 0 || end && s.left > 0 {
			return errLengthDiffers
		}
	}
	s.recvEnd = end
	return nil
}

// dataAfterEnd is for DATA on a stream that is not open; mu is held, and is unlocked. What was under way when we reset the
// stream is as it should be.
func (r *reader) dataAfterEnd(id uint32, size int) *Error {
	c := r.conn
	c.credit(&r.turn, size)
	switch {
	case c.isIdle(id):
		c.mu.Unlock()
		return errIdle
	case c.streams.ended(id) == resetByUs && size > 0:
		c.mu.Unlock()
		return nil
	case c.streams.ended(id) == resetByUs || c.ignores(id):
		c.mu.Unlock()
		return r.glitch()
	}
	return r.refuseFrame(id)
}

// ignores tells whether a stream is one that we said we would not serve (RFC 9113, 6.8).
func (c *Conn) ignores(id uint32) bool {
	return c.acceptor != nil && c.drain == drainTold && id > c.lastID
}

// handlePriority checks a frame that means nothing (RFC 9113, 5.3.2).
func (r *reader) handlePriority(id uint32, p []byte) *Error {
	if len(p) != 5 {
		return errFrameSize
	}
	if binary.BigEndian.Uint32(p)&maxStream == id {
		return errPriority
	}
	return r.glitch()
}

func (r *reader) handleReset(id uint32, p []byte) *Error {
	if len(p) != 4 {
		return errFrameSize
	}
	c := r.conn
	c.mu.Lock()
	s := c.streams.get(id)
	if s == nil {
		idle := c.isIdle(id)
		c.mu.Unlock()
		if idle {
			return errIdle
		}
		return r.glitch()
	}
	h := s.hears()
	wasted := c.acceptor != nil && !s.answered
	c.endStream(&r.turn, s, resetByPeer)
	c.mu.Unlock()
	code := Code(binary.BigEndian.Uint32(p))
	r.gone(h, StreamError{Code: code, Unprocessed: code == RefusedStream, Reason: "the peer reset the stream"})
	if wasted {
		return r.glitch()
	}
	return nil
}

func (r *reader) handlePing(flags uint8, p []byte) *Error {
	if len(p) != 8 {
		return errFrameSize
	}
	c := r.conn
	data := binary.BigEndian.Uint64(p)
	c.mu.Lock()
	if flags&flagAck != 0 {
		if data == pingDrain {
			c.drainOn(&r.turn)
		}
	} else {
		c.appendPing(flagAck, data)
		c.reply(&r.turn)
	}
	c.mu.Unlock()
	return r.glitch()
}

func (r *reader) handleWindow(id uint32, p []byte) *Error {
	if len(p) != 4 {
		return errFrameSize
	}
	by := int64(binary.BigEndian.Uint32(p) & maxWindow)
	c := r.conn
	c.mu.Lock()
	if id == 0 {
		if c.sendWindow += by; by == 0 || c.sendWindow > maxWindow {
			c.mu.Unlock()
			if by == 0 {
				return errWindowZero
			}
			return errWindowOver
		}
		c.pump(&r.turn)
		c.owe(&r.turn)
		return r.update()
	}
	s := c.streams.get(id)
	if s == nil {
		if c.isIdle(id) {
			c.mu.Unlock()
			return errIdle
		}
		return r.update()
	}
	s.sendWindow += by
	switch {
	case by == 0:
		return r.breakStream(s, errWindowZero)
	case s.sendWindow > maxWindow:
		return r.breakStream(s, errWindowOver)
	}
	c.opened(s)
	c.pump(&r.turn)
	c.owe(&r.turn)
	return r.update()
}
