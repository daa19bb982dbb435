package http2

import (
	"context"
	"sync"
	"time"
)

// Keeper looks after connections: about once a second it sees to those that parked after a short read whose FIN came with
// their last data, that wait for a SETTINGS ack, for the rest of a header block, or for an endpoint that has gone silent
// (PING).
type Keeper struct {
	mu    sync.Mutex
	conns map[*Conn]struct{}
	now   []*Conn // of this round
}

// All times are in rounds, of about a second.
const (
	round         = time.Second
	patience      = 10 // for what the peer has begun, or owes us
	silence       = 10 // of an endpoint that has requests, before it is asked
	silenceAnswer = 5  // for its answer
)

// watch is what the Keeper knows of a connection.
type watch struct {
	turns     uint32
	quiet     int // rounds without a turn
	waiting   uint32
	waited    int // rounds with the same waiting
	asked     int // rounds since a PING; 0: none
	draining  bool
	looked    bool // for an end that nobody told us of, since the last turn
	forgotten bool
}

// NewKeeper makes a Keeper.
func NewKeeper() *Keeper { return &Keeper{conns: map[*Conn]struct{}{}} }

// Run does so until ctx is done.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(round)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.look()
		}
	}
}

func (k *Keeper) add(c *Conn) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[c] = struct{}{}
}

func (k *Keeper) remove(c *Conn) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

// look is one round. Nothing is locked while it looks after a connection.
func (k *Keeper) look() {
	k.mu.Lock()
	for c := range k.conns {
		k.now = append(k.now, c)
	}
	k.mu.Unlock()
	var t Turn
	for _, c := range k.now {
		c.lookAfter(&t)
		t.Flush()
	}
	clear(k.now)
	k.now = k.now[:0]
}

// lookAfter is the Keeper's, and no one else's.
func (c *Conn) lookAfter(t *Turn) {
	w := &c.watch
	c.paid(paidPerSecond)
	if turns := c.turns.Load(); turns != w.turns {
		w.turns, w.quiet, w.asked, w.looked, w.forgotten = turns, 0, 0, false, false
	} else {
		w.quiet++
	}
	if w.quiet > 0 && !w.looked {
		w.looked = true
		if c.conn.Stale() {
			c.signal(0) // the reader finds out
		}
	}
	waiting := c.waiting.Load()
	if waiting == 0 || waiting != w.waiting {
		w.waiting, w.waited = waiting, 0
	} else {
		w.waited++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w.waited >= patience && waiting == waitsForAck:
		c.fail(t, errSettingsTime)
	case w.waited >= patience:
		c.fail(t, errHeadTime)
	}
	if c.drain == drainAsked && w.draining {
		c.drainOn(t)
	}
	w.draining = c.drain == drainAsked
	c.lookForSilence(t)
	if w.quiet > 1 && c.streams.n == 0 && !w.forgotten {
		w.forgotten = true
		c.shrink()
		c.trim.Store(true)
		c.signal(0)
	}
}

// lookForSilence asks an endpoint that has requests and says nothing whether it is there; mu is held.
func (c *Conn) lookForSilence(t *Turn) {
	w := &c.watch
	switch {
	case c.acceptor != nil || c.streams.n == 0 || w.quiet < silence:
		w.asked = 0
	case w.asked == 0:
		w.asked = 1
		c.appendPing(0, pingAlive)
		c.owe(t)
	case w.asked <= silenceAnswer:
		w.asked++
	default:
		c.breaks(errSilent)
	}
}

// shrink gives back what a connection without streams can do without; mu is held.
func (c *Conn) shrink() {
	c.free = nil
	if len(c.streams.slots) > 64 {
		c.streams = table{}
	}
}
