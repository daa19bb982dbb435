package http2

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

const (
	usualWindow  = 1<<16 - 1 // before anybody says something else (RFC 9113, 6.9.2)
	usualStreams = 100       // that an endpoint allows, as long as it has not said so
	usualTable   = 4096      // bytes of an HPACK table (RFC 9113, 6.5.2)
)

// What wakes a reader, apart from bytes.
const (
	signalStop   = 1 << iota // end at once
	signalDone               // there is nothing more to do
	signalBroken             // nothing can be written: what came is read, then it ends
	signalFailed             // a rule was broken, or time is over: the peer was told
	signalEnding             // the peer's end may come with its last frame: read on
)

// Conn is an HTTP/2 connection.
type Conn struct {
	conn     *sock.Conn
	buffers  *Buffers
	keeper   *Keeper
	limits   Limits
	acceptor Acceptor // nil: we are the client
	ended    func(*Conn)
	told     atomic.Bool   // ended was called
	greeted  chan struct{} // of a client: closed when the peer's SETTINGS came, or the connection ended before
	in       reader
	watch    watch // the Keeper's

	signals  atomic.Uint32
	glitches atomic.Int32  // frames that did no work, less what was paid back
	turns    atomic.Uint32 // of the reader
	trim     atomic.Bool   // the reader gives back what it does well without
	waiting  atomic.Uint32 // what the peer owes us, and will not owe us for long; 0: nothing

	mu      sync.Mutex
	out     output
	streams table
	free    *stream // to be used again
	blocked ring    // streams that could send if the connection could
	nextID  uint32  // of a stream that we open
	peerID  uint32  // the highest that the peer has opened
	closed  bool    // all streams are gone, and there will be no more
	failure *Error  // that ends the connection; what was lost on the way of a write is in out

	// What the peer said.
	settled     bool  // its SETTINGS came
	sendWindow  int64 // of the connection
	sendInitial int64 // of a new stream
	maxStreams  int
	extended    bool // RFC 8441
	tableUpdate bool // its next header block begins with the size of our HPACK table, which is 0
	table       bool // we may have one: it was not said yet

	// What we said.
	acked       bool  // the peer knows our SETTINGS
	recvWindow  int64 // what the peer may still send on the connection
	recvInitial int64 // on a new stream
	gathered    int   // credit of the connection that the peer has not been told of
	updates     int   // WINDOW_UPDATEs that may follow what we sent

	drain  drain
	lastID uint32 // with drainTold: the last stream that we serve
}

// NewServer makes the side of a connection that serves a client.
func NewServer(c *sock.Conn, cfg *Config, a Acceptor) *Conn {
	n := newConn(c, cfg)
	n.acceptor = a
	n.settings(
		setting{settingMaxStreams, uint32(n.limits.Streams)},
		setting{settingHeaderList, uint32(n.limits.HeaderList)},
		setting{settingWindow, uint32(n.limits.StreamWindow)},
		setting{settingConnect, 1},
	)
	return n
}

// NewClient makes the side of a connection that asks an endpoint. Its preface goes out with the first flush. Ended, which
// may be nil, is called once when the connection takes no new streams any more (GOAWAY, drained, stopped or lost), by any
// goroutine and without locks of the connection.
func NewClient(c *sock.Conn, cfg *Config, ended func(*Conn)) *Conn {
	n := newConn(c, cfg)
	n.ended = ended
	n.greeted = make(chan struct{})
	n.nextID = 1
	n.out.buf = append(n.buffers.take(largeBuffer), preface...)
	n.settings(
		setting{settingPush, 0},
		setting{settingHeaderList, uint32(n.limits.HeaderList)},
		setting{settingWindow, uint32(n.limits.StreamWindow)},
	)
	return n
}

func newConn(c *sock.Conn, cfg *Config) *Conn {
	n := &Conn{conn: c, buffers: cfg.Buffers, keeper: cfg.Keeper, limits: cfg.Limits.withDefaults()}
	n.in.conn = n
	n.waiting.Store(waitsForSettings)
	n.sendWindow, n.sendInitial, n.maxStreams = usualWindow, usualWindow, usualStreams
	n.table = true
	n.recvWindow = int64(max(n.limits.ConnectionWindow, usualWindow))
	n.recvInitial = int64(max(n.limits.StreamWindow, usualWindow)) // until our SETTINGS are acknowledged
	return n
}

// settings writes our SETTINGS, and opens the connection's window.
func (c *Conn) settings(list ...setting) {
	c.space(2*frameHead + 6*len(list) + 4)
	c.out.buf = appendHead(c.out.buf, 6*len(list), frameSettings, 0, 0)
	for _, s := range list {
		c.out.buf = binary.BigEndian.AppendUint16(c.out.buf, uint16(s.id))
		c.out.buf = binary.BigEndian.AppendUint32(c.out.buf, s.value)
	}
	if more := c.recvWindow - usualWindow; more > 0 {
		c.appendWindow(0, int(more))
	}
}

// Open opens a stream to an endpoint with a header block as AppendRequest makes it. It fails with ErrBusy when the peer
// allows no more streams now, and with ErrEnding when the connection takes no new ones any more.
func (c *Conn) Open(t *Turn, block []byte, end bool, r Receiver, token uint64) (Handle, error) {
	c.mu.Lock()
	switch {
	case c.ending():
		c.mu.Unlock()
		return Handle{}, ErrEnding
	case c.nextID > maxStream: // RFC 9113, 5.1.1
		c.mu.Unlock()
		c.Drain()
		return Handle{}, ErrEnding
	case c.room() <= 0:
		c.mu.Unlock()
		return Handle{}, ErrBusy
	}
	s := c.newStream(c.nextID)
	c.nextID += 2
	s.receiver, s.token = r, token
	s.sentEnd = end
	s.asked = methodOf(block)
	s.at = c.out.taken + uint64(c.out.unwritten())
	c.appendBlock(s.id, block, end)
	c.owe(t)
	h := Handle{c, s, s.id}
	c.mu.Unlock()
	return h, nil
}

// Streams is the number of open streams.
func (c *Conn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams.n
}

// Room is how many more streams the peer allows now; 0 also when the connection takes no new ones.
func (c *Conn) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending() || c.nextID > maxStream {
		return 0
	}
	return max(c.room(), 0)
}

// room is Room of a connection that is not ending. A peer that does not read gets no new work.
func (c *Conn) room() int {
	if c.out.stalled && c.out.unwritten() > c.limits.Unwritten {
		return 0
	}
	return c.maxStreams - c.streams.n
}

// ending: no new streams. The caller holds mu.
func (c *Conn) ending() bool {
	return c.closed || c.failure != nil || c.out.broken || c.drain != drainNot
}

// ExtendedConnect tells whether the peer has said that it knows RFC 8441's CONNECT.
func (c *Conn) ExtendedConnect() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.extended
}

// Await waits until the endpoint's SETTINGS have come, at most for the given time: only then it is known that it speaks
// HTTP/2 and how many streams it allows. ErrNotHTTP2: it does not (it answered with an HTTP/1 status line, or ended the
// connection, or said nothing in that time). It may be called by any goroutine but the reader's.
func (c *Conn) Await(within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c.greeted:
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.settled:
		return nil
	case c.signals.Load()&signalStop != 0:
		return ErrEnding
	}
	return ErrNotHTTP2
}

// Stop ends the connection at once: it is reset. It never blocks.
func (c *Conn) Stop() {
	c.signal(signalStop)
	c.tellEnded()
}

// signal tells the reader something, and wakes it by a deadline in the past.
func (c *Conn) signal(what uint32) {
	c.signals.Or(what)
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // it fails when the reader has closed the connection
}

// tellEnded tells once that there will be no new streams. No lock is held.
func (c *Conn) tellEnded() {
	if c.ended != nil && !c.told.Swap(true) {
		c.ended(c)
	}
}

// fail ends the connection because of what the peer did: it is told why, and the reader does the rest. The caller holds
// mu.
func (c *Conn) fail(t *Turn, err *Error) {
	if c.failure != nil || c.closed {
		return
	}
	c.failure = err
	c.appendGoAway(c.peerID, err.Code)
	c.owe(t)
	c.signal(signalFailed)
}
