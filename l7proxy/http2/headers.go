package http2

import (
	"encoding/binary"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// maxPieces is how many frames a header block may come in (RFC 9113, 10.5.1): what is useful comes in few.
const maxPieces = 64

// handleHeaders begins a header block, which most often is complete.
func (r *reader) handleHeaders(flags uint8, id uint32, p []byte) *Error {
	p, err := unpad(flags, p)
	if err != nil {
		return err
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return errFrameSize
		}
		if binary.BigEndian.Uint32(p)&maxStream == id {
			return errPriority
		}
		p = p[5:]
	}
	if r.conn.acceptor != nil && id%2 == 0 {
		return errStreamID
	}
	r.first = blockHead{id, flags&flagEndStream != 0}
	if flags&flagEndHeaders != 0 {
		return r.handleBlock(p)
	}
	r.open, r.pieces = true, 1
	r.block = append(r.conn.buffers.take(max(len(p), maxFrame)), p...)
	return nil
}

// handleContinuation goes on with a header block (RFC 9113, 6.10). What is not whole cannot be decoded, so what is held of
// it is bounded: twice what the list of fields may have, for those that are answered 431.
func (r *reader) handleContinuation(flags uint8, p []byte) *Error {
	if !r.open {
		return errContinuation
	}
	r.pieces++
	if r.pieces > maxPieces || len(r.block)+len(p) > 2*r.conn.limits.HeaderList {
		return errBlockLong
	}
	r.block = append(r.conn.buffers.grow(r.block, len(p)), p...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	r.open = false
	err := r.handleBlock(r.block)
	r.conn.buffers.give(r.block)
	r.block = nil
	return err
}

// handleBlock does what a header block asks for. It is decoded in any case: the HPACK table has to stay right.
func (r *reader) handleBlock(block []byte) *Error {
	r.blocks++
	fields, large, err := r.fieldsOf(block)
	if err != nil {
		return err
	}
	c := r.conn
	id, end := r.first.id, r.first.end
	c.mu.Lock()
	s := c.streams.get(id)
	switch {
	case s != nil && s.recvEnd:
		return r.breakStream(s, errHalfClosed)
	case s != nil && s.head:
		return r.trailers(s, fields, large)
	case s != nil:
		asked, h := s.asked, Handle{c, s, id}
		c.mu.Unlock()
		return r.response(h, asked, fields, large)
	case c.acceptor != nil && id > c.peerID:
		return r.request(id, end, fields, large)
	}
	return r.blockAfterEnd(id)
}

// blockAfterEnd is for a header block on a stream that is not open; mu is held, and is unlocked.
func (r *reader) blockAfterEnd(id uint32) *Error {
	c := r.conn
	switch how := c.streams.ended(id); {
	case c.isIdle(id):
		c.mu.Unlock()
		return errIdle
	case how == completed:
		c.mu.Unlock()
		return errClosedHead
	case how == resetByPeer:
		return r.refuseFrame(id)
	case how == forgotten && c.acceptor != nil && id >= r.skipped && id < r.unskipped:
		c.mu.Unlock()
		return errStreamID // RFC 9113, 5.1.1: a higher one closed it
	}
	c.mu.Unlock()
	return r.glitch() // it was under way when we reset the stream
}

// request begins a stream of a client; mu is held, and is unlocked.
func (r *reader) request(id uint32, end bool, fields message.Fields, large bool) *Error {
	c := r.conn
	if c.ignores(id) {
		c.mu.Unlock()
		return r.glitch()
	}
	if id > c.peerID+2 {
		r.skipped, r.unskipped = c.peerID+1, id
	}
	c.peerID = id
	full := c.streams.n >= c.limits.Streams
	c.mu.Unlock()

	own := r.own()
	length, err := int64(-1), errListLarge
	switch {
	case full:
		err = errTooMany
	case !large:
		length, err = parseRequest(fields, &own.request, c.limits.Target)
		if err == nil && end && length > 0 {
			err = errLengthDiffers
		}
	}
	c.mu.Lock()
	if err != nil && err.Status == 0 {
		c.streams.note(id, resetByUs)
		c.appendReset(id, err.Code)
		c.reply(&r.turn)
		c.mu.Unlock()
		c.acceptor.Refuse(&r.turn, Handle{}, err)
		return r.glitch()
	}
	s := c.newStream(id)
	s.head, s.recvEnd = true, end
	if err == nil {
		s.left = length
	}
	h := Handle{c, s, id}
	c.mu.Unlock()
	if err != nil {
		c.acceptor.Refuse(&r.turn, h, err)
		return r.glitch()
	}
	c.acceptor.Request(&r.turn, h, &own.request, end)
	return nil
}

// response is the head of a response.
func (r *reader) response(h Handle, asked asked, fields message.Fields, large bool) *Error {
	c := r.conn
	own := r.own()
	end := r.first.end
	err := errListLarge
	var length int64
	if !large {
		length, err = parseResponse(fields, &own.response)
	}
	interim := own.response.Status < 200
	if err == nil && interim && end {
		err = errInterimEnd
	}
	if err == nil && end && bodyOf(asked, own.response.Status, length) > 0 {
		err = errLengthDiffers
	}
	s := h.lock() // somebody may have reset it
	if s == nil {
		return nil
	}
	if err != nil {
		return r.breakStream(s, err)
	}
	to := s.hears()
	if !interim {
		s.head, s.recvEnd = true, end
		s.left = bodyOf(asked, own.response.Status, length)
		c.paid(paidForAnswer)
	}
	if end {
		c.endIfOver(&r.turn, s)
	}
	c.mu.Unlock()
	to.to.Response(&r.turn, to.token, &own.response, end)
	if interim {
		return r.glitch()
	}
	return nil
}

// trailers end what the peer sends on a stream; mu is held, and is unlocked.
func (r *reader) trailers(s *stream, fields message.Fields, large bool) *Error {
	c := r.conn
	var err *Error
	switch {
	case !r.first.end:
		err = errTrailersEnd
	case large:
		err = errTrailersLarge
	case s.left > 0:
		err = errLengthDiffers
	default:
		fields, err = checkTrailers(fields)
	}
	if err != nil {
		return r.breakStream(s, err)
	}
	h := s.hears()
	s.recvEnd = true
	c.endIfOver(&r.turn, s)
	c.mu.Unlock()
	if h.to != nil {
		h.to.Trailers(&r.turn, h.token, fields)
	}
	return nil
}
