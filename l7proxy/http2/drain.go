package http2

import "encoding/binary"

// drain is how far a connection is on its way to an end in order.
type drain uint8

const (
	drainNot   drain = iota
	drainAsked       // a client was told not to open streams, but may have done so before it knows
	drainTold        // there are no new streams
)

// What our PINGs carry.
const (
	pingDrain = 0x736c7569_63650001 // its ack says that the client knows of the GOAWAY before it
	pingAlive = 0x736c7569_63650002
)

// Drain ends the connection in order: no new streams (a client is told by GOAWAY, in two steps, so that none is lost that
// is on its way; RFC 9113, 6.8), and the connection ends with its last stream.
func (c *Conn) Drain() {
	var t Turn
	c.mu.Lock()
	switch {
	case c.drain != drainNot || c.closed || c.failure != nil:
	case c.acceptor != nil:
		c.drain = drainAsked
		c.appendGoAway(maxStream, NoError)
		c.appendPing(0, pingDrain)
		c.owe(&t)
	default:
		c.drain = drainTold
		c.idle(&t)
	}
	c.mu.Unlock()
	c.tellEnded()
	t.Flush()
}

// drainOn is the second step; mu is held.
func (c *Conn) drainOn(t *Turn) {
	if c.drain != drainAsked || c.closed || c.failure != nil {
		return
	}
	c.drain, c.lastID = drainTold, c.peerID
	c.appendGoAway(c.lastID, NoError)
	c.owe(t)
	c.idle(t)
}

// idle ends a connection that takes no new streams and has none left; mu is held.
func (c *Conn) idle(t *Turn) {
	if c.streams.n > 0 || c.drain != drainTold || c.closed || c.failure != nil || c.signals.Load()&signalDone != 0 {
		return
	}
	if c.acceptor == nil {
		c.appendGoAway(0, NoError)
		c.owe(t)
	}
	c.signal(signalDone)
}

// handleGoAway: the peer takes no new streams, and did nothing with those above the last one that it names.
func (r *reader) handleGoAway(p []byte) *Error {
	if len(p) < 8 {
		return errFrameSize
	}
	last := binary.BigEndian.Uint32(p) & maxStream
	code := Code(binary.BigEndian.Uint32(p[4:]))
	c := r.conn
	var gone []sent
	c.mu.Lock()
	c.signals.Or(signalEnding)
	if c.acceptor == nil || c.drain == drainAsked {
		if c.drain == drainAsked {
			c.drainOn(&r.turn)
		}
		c.drain = drainTold
	} else if c.drain == drainNot { // a client that leaves
		c.drain, c.lastID = drainTold, maxStream
	}
	if c.acceptor == nil {
		c.streams.each(func(s *stream) {
			if s.id > last {
				gone = append(gone, sent{to: s.receiver, token: s.token})
				c.endStream(&r.turn, s, resetByPeer)
			}
		})
	}
	c.idle(&r.turn)
	c.mu.Unlock()
	c.tellEnded()
	for _, g := range gone {
		why := StreamError{Code: code, Unprocessed: true, Reason: "the endpoint ends the connection and did not see the request"}
		g.to.Gone(&r.turn, g.token, &why)
	}
	return nil
}
