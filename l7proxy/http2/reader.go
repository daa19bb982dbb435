package http2

import (
	"encoding/binary"
	"runtime"

	"github.com/sluice-mesh/sluice/l7proxy/http2/hpack"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// reader reads a connection and does in its turn what follows from what came. Everything in it is its goroutine's own.
type reader struct {
	conn    *Conn
	turn    Turn
	buf     []byte // what came and is not worked off; lent while there is something
	scratch *scratch
	begun   bool           // the preface came
	framed  bool           // the first frame came
	decoder *hpack.Decoder // from the first block on

	open   bool // a header block is under way
	block  []byte
	first  blockHead
	pieces int
	blocks uint32 // that were complete

	skipped, unskipped uint32 // ids that a client left out last: from, to
}

// blockHead is what the HEADERS frame of a header block says.
type blockHead struct {
	id  uint32
	end bool
}

// What the peer owes us, in Conn.waiting.
const (
	waitsForSettings = 1
	waitsForAck      = 2
	waitsForBlock    = 3 // in the lowest two bits; above them is which block
)

// Room implements sock.Loop. A partial frame is mostly followed by its rest.
func (r *reader) Room() []byte {
	if cap(r.buf) < largeBuffer {
		large := append(r.conn.buffers.take(largeBuffer), r.buf...)
		r.conn.buffers.give(r.buf)
		r.buf = large
	}
	return r.buf[len(r.buf):cap(r.buf)]
}

// Got implements sock.Loop.
func (r *reader) Got(n int) sock.Next {
	full := len(r.buf)+n == cap(r.buf)
	r.buf = r.buf[:len(r.buf)+n]
	c := r.conn
	c.turns.Add(1)
	if err := r.process(); err != nil {
		c.mu.Lock()
		c.fail(&r.turn, err)
		c.mu.Unlock()
	}
	signals := c.signals.Load()
	switch {
	case signals&(signalStop|signalDone|signalFailed) != 0:
		return sock.Stop
	case full || signals != 0: // the peer's end may be there already
		r.turn.Flush()
		return sock.On
	}
	return sock.Park
}

// Idle implements sock.Loop. It gives way once, so that what others have to send meanwhile goes with it.
func (r *reader) Idle() bool {
	c := r.conn
	if len(r.turn.owed) > 0 {
		runtime.Gosched()
		r.turn.Flush()
	}
	r.release()
	return c.signals.Load()&^signalEnding == 0
}

// release gives back what an idle connection does not need, and notes what the peer has begun.
func (r *reader) release() {
	b := r.conn.buffers
	if r.scratch != nil {
		b.giveScratch(r.scratch)
		r.scratch = nil
	}
	switch {
	case len(r.buf) == 0:
		b.give(r.buf)
		r.buf = nil
	case len(r.buf) <= 1<<smallBits && cap(r.buf) > 1<<smallBits:
		small := append(b.take(len(r.buf)), r.buf...)
		b.give(r.buf)
		r.buf = small
	}
	waiting := &r.conn.waiting
	switch {
	case !r.begun || !r.framed:
	case r.open || len(r.buf) > 0 && (len(r.buf) < frameHead || frameType(r.buf[3]) == frameHeaders):
		waiting.Store(r.blocks<<2 | waitsForBlock)
	case waiting.Load()&3 == waitsForBlock:
		waiting.Store(0)
	}
}

// own lends the scratch for the turn.
func (r *reader) own() *scratch {
	if r.scratch == nil {
		r.scratch = r.conn.buffers.takeScratch()
	}
	return r.scratch
}

// process works off the whole frames that came.
func (r *reader) process() *Error {
	b := r.buf
	var err *Error
	if !r.framed {
		if b, err = r.begin(b); err != nil {
			return err
		}
		if !r.begun {
			return nil
		}
	}
	for len(b) >= frameHead {
		size := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if size > maxFrame {
			return errFrameSize
		}
		if len(b) < frameHead+size {
			break
		}
		id := binary.BigEndian.Uint32(b[5:]) & maxStream
		if err = r.frame(frameType(b[3]), b[4], id, b[frameHead:frameHead+size]); err != nil {
			return err
		}
		b = b[frameHead+size:]
	}
	if len(b) < len(r.buf) {
		r.buf = r.buf[:copy(r.buf, b)]
	}
	return nil
}

// begin looks at how the peer begins. Until it is known whether it does so as HTTP/2 wants it, begun stays false.
func (r *reader) begin(b []byte) ([]byte, *Error) {
	if r.begun {
		return b, nil
	}
	if r.conn.acceptor == nil {
		const http1 = "HTTP/"
		if n := min(len(b), len(http1)); string(b[:n]) != http1[:n] {
			r.begun = true
		} else if n == len(http1) {
			return nil, errNotHTTP2
		}
		return b, nil
	}
	n := min(len(b), len(preface))
	if string(b[:n]) != preface[:n] {
		return nil, errPreface
	}
	if n == len(preface) {
		r.begun = true
		return b[n:], nil
	}
	return b, nil
}

// frame does what a frame asks for. The error ends the connection.
func (r *reader) frame(typ frameType, flags uint8, id uint32, p []byte) *Error {
	switch {
	case !r.framed && (typ != frameSettings || flags&flagAck != 0):
		return errNotSettings
	case r.open && (typ != frameContinuation || id != r.first.id):
		return errInterleaved
	}
	r.framed = true
	switch typ {
	case frameData, frameHeaders, framePriority, frameReset, frameContinuation:
		if id == 0 {
			return errStreamZero
		}
	case frameSettings, framePing, frameGoAway:
		if id != 0 {
			return errStreamNamed
		}
	}
	switch typ {
	case frameData:
		return r.handleData(flags, id, p)
	case frameHeaders:
		return r.handleHeaders(flags, id, p)
	case framePriority:
		return r.handlePriority(id, p)
	case frameReset:
		return r.handleReset(id, p)
	case frameSettings:
		return r.handleSettings(flags, p)
	case framePush:
		return errPush
	case framePing:
		return r.handlePing(flags, p)
	case frameGoAway:
		return r.handleGoAway(p)
	case frameWindow:
		return r.handleWindow(id, p)
	case frameContinuation:
		return r.handleContinuation(flags, p)
	}
	return r.glitch() // RFC 9113, 5.5: unknown types are ignored
}

// is tells whether a stream was never opened; mu is held.
func (c *Conn) isIdle(id uint32) bool {
	if id%2 == 0 {
		return true
	}
	if c.acceptor == nil {
		return id >= c.nextID
	}
	return id > c.peerID && !c.ignores(id)
}

// hears is who has to be told of what came on a stream.
type hears struct {
	to    Receiver
	token uint64
}

func (s *stream) hears() hears { return hears{s.receiver, s.token} }

// gone tells that a stream has ended.
func (r *reader) gone(h hears, why StreamError) {
	if h.to == nil {
		return
	}
	own := r.own()
	own.why = why
	h.to.Gone(&r.turn, h.token, &own.why)
}

// breakStream resets a stream because of what came on it; mu is held, and is unlocked.
func (r *reader) breakStream(s *stream, err *Error) *Error {
	c := r.conn
	h := s.hears()
	c.appendReset(s.id, err.Code)
	c.reply(&r.turn)
	c.endStream(&r.turn, s, resetByUs)
	c.mu.Unlock()
	r.gone(h, StreamError{Code: err.Code, Malformed: true, Reason: err.Reason})
	return r.glitch()
}

// refuseFrame answers a frame on a stream that has ended; mu is held, and is unlocked.
func (r *reader) refuseFrame(id uint32) *Error {
	r.conn.appendReset(id, StreamClosed)
	r.conn.reply(&r.turn)
	r.conn.mu.Unlock()
	return r.glitch()
}

// fieldsOf decodes a header block.
func (r *reader) fieldsOf(block []byte) (message.Fields, bool, *Error) {
	if r.decoder == nil {
		r.decoder = hpack.NewDecoder(usualTable)
	}
	own := r.own()
	fields, large, err := r.decoder.Decode(own.fields[:0], block, r.conn.limits.HeaderList)
	if err != nil {
		return nil, false, errCompression
	}
	own.fields = fields
	return fields, large, nil
}
