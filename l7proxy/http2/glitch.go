package http2

// A frame that does no work costs one glitch, and mostGlitches at a time end the connection (RFC 9113, 10.5): SETTINGS,
// PING, PRIORITY, WINDOW_UPDATE, empty DATA, interim responses, frames of unknown types or on streams that have ended,
// malformed or refused requests, and a request that its client takes back before it was answered. What was asked of us and
// done pays some back, and so does time. What the peer sends pays nothing: it can do that for nothing.
//
// A gRPC client sends a PING and a WINDOW_UPDATE for what it received, which we sent: it stays near zero.
const (
	mostGlitches  = 1000
	paidForAnswer = 2
	paidForData   = 4
	paidPerSecond = 100
	mostUpdates   = 1 << 16
	usefulData    = 256 // bytes of a frame that is worth a WINDOW_UPDATE
)

// glitch counts a frame that did no work.
func (r *reader) glitch() *Error {
	if r.conn.glitches.Add(1) > mostGlitches {
		return errFlood
	}
	return nil
}

// paidData pays for DATA that we sent. A WINDOW_UPDATE for the stream and one for the connection may follow it, at any time:
// a client may be slow, and give back what it has worked off message by message. The caller holds mu.
func (c *Conn) paidData() {
	c.updates = min(c.updates+2, mostUpdates)
	c.paid(paidForData)
}

// update counts a WINDOW_UPDATE; mu is held, and is unlocked.
func (r *reader) update() *Error {
	c := r.conn
	expected := c.updates > 0
	if expected {
		c.updates--
	}
	c.mu.Unlock()
	r.turn.tell()
	if expected {
		return nil
	}
	return r.glitch()
}

// paid pays back. Two at the same time may pay a little more than there is.
func (c *Conn) paid(n int32) {
	if owed := c.glitches.Load(); owed > 0 {
		c.glitches.Add(-min(n, owed))
	}
}
