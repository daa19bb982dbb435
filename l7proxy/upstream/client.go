package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// ErrClosed is returned for a client pod that has ended.
var ErrClosed = errors.New("the client pod is gone")

// Client makes and keeps the upstream connections of one client pod. Its lock is its own: pods do not wait for each
// other. It is safe for concurrent use.
type Client struct {
	pools *Pools
	netns int
	seed  uint64 // other pods choose other subsets

	mu      sync.Mutex
	closed  bool
	dialing int // the descriptor of the namespace is in use; whoever is last closes it after the end
	stacks  map[*Endpoint]*stack
	subsets map[*Set]subset
	muxes   map[*Endpoint]*mux // HTTP/2
	affine  map[*Set]affinity
	age     list // of all idle connections: the next one to close is the oldest
	count   int
	spare   *idle // recycled, linked by below
}

// stack holds the idle connections to one endpoint. The last one in is the first one out: the others grow old and go.
type stack struct {
	top   *idle
	count int
}

// idle is one connection that is kept.
type idle struct {
	conn  *sock.Conn
	to    *Endpoint
	since time.Duration

	above, below *idle // in its stack
	older, newer *idle // in age
}

// NewClient makes the Client of the pod whose network namespace netns is an open descriptor of, which the Client takes
// over; -1 is the process's own namespace.
func NewClient(netns int, pools *Pools) *Client {
	c := &Client{
		pools: pools, netns: netns, seed: rand.Uint64(),
		stacks: map[*Endpoint]*stack{}, subsets: map[*Set]subset{}, muxes: map[*Endpoint]*mux{}, affine: map[*Set]affinity{},
	}
	pools.add(c)
	return c
}

// Get returns a connection to the endpoint: one that was kept, or a new one for which timeout is the limit. The caller
// owns it, and gives it back with Put when another request can use it, else closes it. A reused connection may turn
// out to have been closed by the server.
func (c *Client) Get(e *Endpoint, timeout time.Duration) (conn *sock.Conn, reused bool, err error) {
	now := c.pools.now()
	for {
		conn, since := c.pop(e)
		if conn == nil {
			break
		}
		age := now - since
		if age < c.pools.limits.Life && (age < c.pools.limits.CheckAfter || !conn.Stale()) {
			return conn, true, nil
		}
		closeIdle(conn)
	}
	conn, err = c.Dial(e, timeout)
	return conn, false, err
}

// Dial returns a new connection to the endpoint, made in the pod's namespace. The caller owns it.
func (c *Client) Dial(e *Endpoint, timeout time.Duration) (*sock.Conn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.dialing++
	c.mu.Unlock()
	defer c.dialed()
	conn, err := sock.Dial(c.netns, e.Address, timeout)
	if err != nil {
		e.Failed()
		return nil, fmt.Errorf("connect to %s: %w", e.Address, err)
	}
	e.Connected()
	return conn, nil
}

func (c *Client) dialed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialing--
	c.closeNetNS()
}

// closeNetNS is called with mu held.
func (c *Client) closeNetNS() {
	if c.closed && c.dialing == 0 && c.netns >= 0 {
		syscall.Close(c.netns) // nothing was written to it
		c.netns = -1
	}
}

// Put gives back a connection on which nothing is under way. It is kept for the next Get, or closed where a limit, the
// endpoint or the pod's end says so.
func (c *Client) Put(e *Endpoint, conn *sock.Conn) {
	if surplus := c.push(e, conn, c.pools.now()); surplus != nil {
		closeIdle(surplus)
	}
}

// push keeps a connection and returns the one that has to go for it, if any.
func (c *Client) push(e *Endpoint, conn *sock.Conn, now time.Duration) (surplus *sock.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || e.Gone() {
		return conn
	}
	s := c.stacks[e]
	if s == nil {
		s = &stack{}
		c.stacks[e] = s
	}
	if s.count >= c.pools.limits.PerEndpoint {
		return conn
	}
	if c.count >= c.pools.limits.PerClient || c.count >= guaranteed && c.pools.idle.Load() >= int64(c.pools.limits.PerWorker) {
		surplus = c.take(c.age.oldest)
	}
	i := c.spare
	if i == nil {
		i = &idle{}
	}
	c.spare = i.below
	*i = idle{conn: conn, to: e, since: now, below: s.top}
	if s.top != nil {
		s.top.above = i
	}
	s.top = i
	s.count++
	c.age.add(i)
	c.count++
	c.pools.idle.Add(1)
	return surplus
}

func (c *Client) pop(e *Endpoint) (*sock.Conn, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stacks[e]
	if s == nil || s.top == nil {
		return nil, 0
	}
	since := s.top.since
	return c.take(s.top), since
}

// take takes a connection out of everything that holds it. It is called with mu held.
func (c *Client) take(i *idle) *sock.Conn {
	s := c.stacks[i.to]
	if i.above != nil {
		i.above.below = i.below
	} else {
		s.top = i.below
	}
	if i.below != nil {
		i.below.above = i.above
	}
	s.count--
	c.age.remove(i)
	c.count--
	c.pools.idle.Add(-1)
	conn := i.conn
	*i = idle{below: c.spare}
	c.spare = i
	return conn
}

// reap closes what was given back before oldest and what belongs to endpoints that are gone, and forgets what it knows
// of those.
func (c *Client) reap(oldest time.Duration) {
	for _, conn := range c.expired(oldest) {
		closeIdle(conn)
	}
}

func (c *Client) expired(oldest time.Duration) (out []*sock.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.age.oldest != nil && c.age.oldest.since <= oldest {
		out = append(out, c.take(c.age.oldest))
	}
	for e, s := range c.stacks {
		for e.Gone() && s.top != nil {
			out = append(out, c.take(s.top))
		}
		if s.top == nil && e.Gone() {
			delete(c.stacks, e)
		}
	}
	for s := range c.affine {
		if !s.Known() {
			delete(c.affine, s)
		}
	}
	for s := range c.subsets {
		if !s.Known() {
			delete(c.subsets, s)
		}
	}
	if c.count == 0 {
		c.spare = nil
	}
	return out
}

// Close ends the pod's part: what is kept is closed, and so is the descriptor of its namespace. Connections that are
// in use stay with those who use them.
func (c *Client) Close() {
	c.pools.remove(c)
	c.mu.Lock()
	c.closed = true
	c.closeNetNS()
	c.mu.Unlock()
	c.reap(c.pools.now())
	c.reapMuxes(c.pools.now(), true)
}

func closeIdle(conn *sock.Conn) {
	_ = conn.Close() // nothing is under way on it
}

// list is the idle connections of a client by the time at which they were given back.
type list struct{ oldest, newest *idle }

func (l *list) add(i *idle) {
	i.older = l.newest
	if l.newest != nil {
		l.newest.newer = i
	} else {
		l.oldest = i
	}
	l.newest = i
}

func (l *list) remove(i *idle) {
	if i.older != nil {
		i.older.newer = i.newer
	} else {
		l.oldest = i.newer
	}
	if i.newer != nil {
		i.newer.older = i.older
	} else {
		l.newest = i.older
	}
}
