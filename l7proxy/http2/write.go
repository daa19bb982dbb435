package http2

import (
	"encoding/binary"
)

// mostUnwritten is how much may wait for a peer that does not read, beyond which the connection ends: header blocks are
// bound by no window. What answers the peer's own frames may be replyUnwritten beyond Limits.Unwritten.
const (
	mostUnwritten  = 8 << 20
	replyUnwritten = 64 << 10
)

// output is the write buffer of a connection. There are two: one gathers while the other one is written.
//
// What is in buf will be written: by whoever has it in a Turn (owed), or by the one who writes now (writing) and looks
// again when it is done.
type output struct {
	buf     []byte // lent while there is something
	flying  int    // bytes that are being written
	taken   uint64 // bytes that the kernel took
	owed    bool
	writing bool
	stalled bool // the socket took no more: a goroutine waits for the peer to read
	broken  bool // a write failed
	shut    bool // our half ends with the last byte
	err     error
}

func (o *output) unwritten() int { return len(o.buf) + o.flying }

// space makes room in the write buffer. Its methods here are called with mu held.
func (c *Conn) space(n int) {
	if c.out.buf == nil {
		c.out.buf = c.buffers.take(max(n, largeBuffer))
		return
	}
	c.out.buf = c.buffers.grow(c.out.buf, n)
}

// owe puts the connection into a Turn, unless it is in one.
func (c *Conn) owe(t *Turn) {
	if !c.out.owed && len(c.out.buf) > 0 {
		c.out.owed = true
		t.owed = append(t.owed, c)
	}
	if c.out.unwritten() > mostUnwritten && !c.out.broken {
		c.breaks(errUnread)
	}
}

// breaks is for when nothing more can be written.
func (c *Conn) breaks(err error) {
	if !c.out.broken {
		c.out.broken, c.out.err = true, err
		c.signal(signalBroken)
	}
	c.buffers.give(c.out.buf)
	c.out.buf = nil
}

// flush writes what has gathered, unless somebody does so already. What the socket does not take goes to a goroutine.
func (c *Conn) flush(t *Turn) {
	c.mu.Lock()
	c.out.owed = false
	if c.out.writing {
		c.mu.Unlock()
		return
	}
	c.out.writing = true
	for c.more() {
		b := c.takeOutput()
		c.mu.Unlock()
		n, err := c.conn.TryWrite(b)
		c.mu.Lock()
		if err == nil && n < len(b) {
			c.out.taken += uint64(n)
			c.out.flying -= n
			c.out.stalled = true
			c.mu.Unlock()
			go c.writeOut(b, n)
			t.tell()
			return
		}
		c.wrote(b, n, err)
		c.pump(t)
	}
	c.endWrite()
	t.tell()
}

// more tells whether the one who writes goes on. What is owed by somebody else's Turn may go on to gather there.
func (c *Conn) more() bool { return len(c.out.buf) > 0 && !c.out.owed && !c.out.broken }

// takeOutput takes what has gathered.
func (c *Conn) takeOutput() []byte {
	b := c.out.buf
	c.out.buf, c.out.flying = nil, len(b)
	return b
}

// wrote is for n bytes of b, all that were left of it unless there is an error.
func (c *Conn) wrote(b []byte, n int, err error) {
	c.out.taken += uint64(n)
	c.out.flying = 0
	c.buffers.give(b)
	if err != nil {
		c.breaks(err)
	}
}

// endWrite ends the turn of the one who writes; it unlocks.
func (c *Conn) endWrite() {
	c.out.writing, c.out.stalled = false, false
	shut := c.out.shut && !c.out.broken && len(c.out.buf) == 0
	broken := c.out.broken
	c.mu.Unlock()
	if shut {
		_ = c.conn.CloseWrite() // it fails when the peer is gone, which the reader learns
	}
	if broken {
		c.tellEnded()
	}
}

// writeOut writes what the socket did not take, and then what has gathered meanwhile. It waits for the peer to read: no
// reader does that, or two that wait for one another would wait for ever.
func (c *Conn) writeOut(b []byte, n int) {
	var t Turn
	for {
		m, err := c.conn.Write(b[n:])
		c.mu.Lock()
		c.wrote(b, m, err)
		c.pump(&t)
		if !c.more() {
			c.endWrite()
			t.tell()
			t.Flush()
			return
		}
		b, n = c.takeOutput(), 0
		c.mu.Unlock()
		t.tell()
		t.Flush()
	}
}

// shutAfterLast ends our half of the connection behind what is written.
func (c *Conn) shutAfterLast() {
	c.mu.Lock()
	c.out.shut = true
	if c.out.writing {
		c.mu.Unlock()
		return
	}
	c.endWrite()
}

// appendBlock appends a header block as HEADERS, and CONTINUATION where it is longer than a frame (RFC 9113, 4.3).
func (c *Conn) appendBlock(id uint32, block []byte, end bool) {
	c.space(len(block) + (len(block)/maxFrame+1)*frameHead + 1)
	first := min(len(block), maxFrame-1)
	extra := 0
	if c.tableUpdate {
		extra = 1
	}
	flags := endFlag(end)
	if first == len(block) {
		flags |= flagEndHeaders
	}
	c.out.buf = appendHead(c.out.buf, first+extra, frameHeaders, flags, id)
	if c.tableUpdate {
		c.tableUpdate = false
		c.out.buf = append(c.out.buf, tableSizeZero)
	}
	c.out.buf = append(c.out.buf, block[:first]...)
	for rest := block[first:]; len(rest) > 0; {
		n := min(len(rest), maxFrame)
		flags = 0
		if n == len(rest) {
			flags = flagEndHeaders
		}
		c.out.buf = appendHead(c.out.buf, n, frameContinuation, flags, id)
		c.out.buf = append(c.out.buf, rest[:n]...)
		rest = rest[n:]
	}
}

// tableSizeZero begins a header block with a table of size 0 (RFC 7541, 6.3): we use none, and say so when the peer makes
// its table smaller (RFC 9113, 4.3.1).
const tableSizeZero = 0x20

func (c *Conn) appendData(id uint32, p []byte, end bool) {
	c.space(frameHead + len(p))
	c.out.buf = appendHead(c.out.buf, len(p), frameData, endFlag(end), id)
	c.out.buf = append(c.out.buf, p...)
}

func (c *Conn) appendReset(id uint32, code Code) { c.appendWord(frameReset, id, uint32(code)) }

func (c *Conn) appendWindow(id uint32, n int) { c.appendWord(frameWindow, id, uint32(n)) }

func (c *Conn) appendWord(typ frameType, id, word uint32) {
	c.space(frameHead + 4)
	c.out.buf = appendHead(c.out.buf, 4, typ, 0, id)
	c.out.buf = binary.BigEndian.AppendUint32(c.out.buf, word)
}

func (c *Conn) appendPing(flags uint8, data uint64) {
	c.space(frameHead + 8)
	c.out.buf = appendHead(c.out.buf, 8, framePing, flags, 0)
	c.out.buf = binary.BigEndian.AppendUint64(c.out.buf, data)
}

func (c *Conn) appendGoAway(last uint32, code Code) {
	c.space(frameHead + 8)
	c.out.buf = appendHead(c.out.buf, 8, frameGoAway, 0, 0)
	c.out.buf = binary.BigEndian.AppendUint32(c.out.buf, last)
	c.out.buf = binary.BigEndian.AppendUint32(c.out.buf, uint32(code))
}

// reply bounds what is written only because the peer asks for it, and never reads it (RFC 9113, 10.5).
func (c *Conn) reply(t *Turn) {
	c.owe(t)
	if c.out.unwritten() > c.limits.Unwritten+replyUnwritten && !c.out.broken {
		c.breaks(errUnread)
	}
}
