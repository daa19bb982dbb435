package http2

import "encoding/binary"

// settingID is a setting of RFC 9113, 6.5.2.
type settingID uint16

const (
	settingTable      settingID = 1
	settingPush       settingID = 2
	settingMaxStreams settingID = 3
	settingWindow     settingID = 4
	settingFrame      settingID = 5
	settingHeaderList settingID = 6
	settingConnect    settingID = 8 // RFC 8441
)

type setting struct {
	id    settingID
	value uint32
}

// handleSettings applies what the peer says, and acknowledges it.
func (r *reader) handleSettings(flags uint8, p []byte) *Error {
	c := r.conn
	switch {
	case flags&flagAck != 0 && len(p) > 0, len(p)%6 != 0:
		return errFrameSize
	case flags&flagAck != 0:
		r.acknowledged()
		return nil
	}
	c.mu.Lock()
	for ; len(p) > 0; p = p[6:] {
		s := setting{settingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])}
		if err := c.apply(s); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.space(frameHead)
	c.out.buf = appendHead(c.out.buf, 0, frameSettings, flagAck, 0)
	c.reply(&r.turn)
	c.pump(&r.turn)
	first := !c.settled
	c.settled = true
	acked := c.acked
	c.mu.Unlock()
	r.turn.tell()
	if first {
		if c.greeted != nil {
			close(c.greeted)
		}
		if acked {
			c.waiting.Store(0)
		} else {
			c.waiting.Store(waitsForAck)
		}
		return nil
	}
	return r.glitch()
}

// acknowledged: the peer knows our SETTINGS.
func (r *reader) acknowledged() {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acked {
		return
	}
	c.acked = true
	if c.settled {
		c.waiting.Store(0)
	}
	if less := int64(c.limits.StreamWindow) - c.recvInitial; less < 0 {
		c.recvInitial += less
		c.streams.each(func(s *stream) { s.recvWindow += less })
	}
}

// apply applies a setting; mu is held. Unknown ones mean nothing (RFC 9113, 6.5.2).
func (c *Conn) apply(s setting) *Error {
	switch s.id {
	case settingTable:
		if s.value < usualTable && c.table {
			c.table, c.tableUpdate = false, true
		}
	case settingPush:
		if s.value > 1 || s.value == 1 && c.acceptor == nil {
			return errSetPush
		}
	case settingMaxStreams:
		c.maxStreams = int(min(s.value, maxStream))
	case settingWindow:
		return c.applyWindow(s.value)
	case settingFrame:
		if s.value < maxFrame || s.value > 1<<24-1 {
			return errSetFrame
		}
	case settingConnect:
		if s.value > 1 || s.value == 0 && c.extended {
			return errSetConnect
		}
		c.extended = s.value == 1
	}
	return nil
}

// applyWindow changes the window of all streams, also below zero (RFC 9113, 6.9.2).
func (c *Conn) applyWindow(value uint32) *Error {
	if value > maxWindow {
		return errSetWindow
	}
	change := int64(value) - c.sendInitial
	c.sendInitial = int64(value)
	var err *Error
	c.streams.each(func(s *stream) {
		if s.sendWindow += change; s.sendWindow > maxWindow {
			err = errWindowOver
		}
		if s.sendWindow <= 0 && s.waits {
			c.blocked.remove(s)
		}
		c.opened(s)
	})
	return err
}
