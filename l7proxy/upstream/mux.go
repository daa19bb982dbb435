package upstream

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// streams is how many streams a connection to an endpoint gets before another one is made. Few connections share more
// of their reads and writes.
const streams = 128

// ErrTooMany is returned when a client pod has as many HTTP/2 connections to an endpoint as it may have, and all are full.
var ErrTooMany = errors.New("all connections to the endpoint are full")

// errEndedAtOnce is for a connection that takes no streams although it was just made.
var errEndedAtOnce = errors.New("the endpoint ended the connection as soon as it was made")

// Waiter is told of an HTTP/2 connection that it had to wait for.
type Waiter interface {
	// Connected is called once, by another goroutine: with a connection that may have room, or with why there is none.
	Connected(token uint64, conn *http2.Conn, err error)
}

// mux is the HTTP/2 connections of a client pod to an endpoint, which its requests share.
type mux struct {
	links   []*link
	dialing int
	room    int // of the last one that was made: how many streams the endpoint allows on it, but no more than streams
	waiting []waiting
}

// link is one of them.
type link struct {
	conn *http2.Conn
	over bool          // it takes no new streams
	idle time.Duration // since when it was seen without a stream; 0: it was not
}

type waiting struct {
	waiter Waiter
	token  uint64
}

// HTTP2 returns an HTTP/2 connection to the endpoint that has room for a stream. Nil: there is none yet, and w will be
// told. Timeout is the limit for connecting.
func (c *Client) HTTP2(e *Endpoint, timeout time.Duration, w Waiter, token uint64) *http2.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.muxes[e]
	if m == nil {
		m = &mux{room: streams}
		c.muxes[e] = m
	}
	more := len(m.links)+m.dialing < c.pools.limits.PerEndpoint
	if l := m.pick(more && m.dialing == 0); l != nil {
		l.idle = 0
		return l.conn
	}
	if !more && m.dialing == 0 {
		go c.tell([]waiting{{w, token}}, nil, ErrTooMany)
		return nil
	}
	m.waiting = append(m.waiting, waiting{w, token})
	c.dialMore(e, m, timeout)
	return nil
}

// pick returns a connection with room. Where another one can be made, those that have their streams get no more; rather
// than have somebody wait they do.
func (m *mux) pick(more bool) *link {
	for _, l := range m.links {
		if l.conn.Streams() < streams && l.conn.Room() > 0 {
			return l
		}
	}
	if more {
		return nil
	}
	for _, l := range m.links {
		if l.conn.Room() > 0 {
			return l
		}
	}
	return nil
}

// dialMore makes connections for those that wait, as far as they are not being made. It is called with mu held.
func (c *Client) dialMore(e *Endpoint, m *mux, timeout time.Duration) {
	for len(m.waiting) > m.dialing*m.room && len(m.links)+m.dialing < c.pools.limits.PerEndpoint {
		m.dialing++
		go c.dialMux(e, m, timeout)
	}
}

// dialMux makes a connection and hands it to those who wait.
func (c *Client) dialMux(e *Endpoint, m *mux, timeout time.Duration) {
	l, err := c.makeLink(e, m, timeout)
	told, err := c.muxDialed(e, m, l, err, timeout)
	if err == nil {
		c.tell(told, l.conn, nil)
		return
	}
	if l != nil {
		l.conn.Stop()
	}
	c.tell(told, nil, err)
}

// makeLink makes a connection, and waits until it is known to speak HTTP/2.
func (c *Client) makeLink(e *Endpoint, m *mux, timeout time.Duration) (*link, error) {
	began := time.Now()
	raw, err := c.Dial(e, timeout)
	if err != nil {
		return nil, err
	}
	l := &link{}
	l.conn = http2.NewClient(raw, c.pools.http2, func(*http2.Conn) { c.muxEnded(m, l) })
	go c.serveMux(e, l.conn)
	if err := l.conn.Await(max(timeout-time.Since(began), time.Second)); err != nil {
		l.conn.Stop()
		return nil, e.unspoken(err)
	}
	e.spoke()
	return l, nil
}

// serveMux reads the connection for as long as it lives. A panic costs this connection only.
func (c *Client) serveMux(e *Endpoint, conn *http2.Conn) {
	defer func() {
		if v := recover(); v != nil {
			c.pools.panicked(v)
			conn.Stop()
		}
	}()
	if err := conn.Serve(nil); err != nil {
		c.pools.log.Debug("an HTTP/2 connection ended", "endpoint", e.Address.String(), "reason", err.Error())
	}
}

// muxDialed is the end of a dial, and returns who is to be told of it: as many as the connection has room for, while
// others are being made for the rest.
func (c *Client) muxDialed(e *Endpoint, m *mux, l *link, err error, timeout time.Duration) ([]waiting, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.dialing--
	n := m.room
	switch {
	case err != nil:
	case c.closed:
		err = ErrClosed
	case l.over:
		err = errEndedAtOnce
	case l.conn.Room() == 0: // as an endpoint may say that is not ready (RFC 9113, 5.1.2)
		err = ErrTooMany
	default:
		m.links = append(m.links, l)
		n = l.conn.Room()
		m.room = max(1, min(streams, n))
	}
	n = min(n, len(m.waiting))
	told := slices.Clone(m.waiting[:n])
	m.waiting = slices.Delete(m.waiting, 0, n)
	if err == nil {
		c.dialMore(e, m, timeout)
	}
	if m.dialing == 0 { // nothing comes any more
		told = append(told, m.waiting...)
		m.waiting = nil
	}
	return told, err
}

// tell tells those who waited. Whom a connection has no room for after all asks again.
func (c *Client) tell(told []waiting, conn *http2.Conn, err error) {
	for _, w := range told {
		c.tellOne(w, conn, err)
	}
}

func (c *Client) tellOne(w waiting, conn *http2.Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			c.pools.panicked(v)
		}
	}()
	w.waiter.Connected(w.token, conn, err)
}

func (p *Pools) panicked(v any) {
	p.log.Error("a connection was dropped: the proxy has a bug; please report it", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// muxEnded forgets a connection that takes no new streams any more.
func (c *Client) muxEnded(m *mux, l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.over = true
	m.links = slices.DeleteFunc(m.links, func(o *link) bool { return o == l })
}

// reapMuxes drains the connections to endpoints that are gone, and those that were idle for too long.
func (c *Client) reapMuxes(now time.Duration, all bool) {
	for _, l := range c.expiredMuxes(now, all) {
		if all {
			l.conn.Stop()
		} else {
			l.conn.Drain()
		}
	}
}

func (c *Client) expiredMuxes(now time.Duration, all bool) (out []*link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e, m := range c.muxes {
		m.links = slices.DeleteFunc(m.links, func(l *link) bool {
			switch {
			case l.conn.Streams() > 0:
				l.idle = 0
			case l.idle == 0:
				l.idle = now
			}
			expired := all || e.Gone() || l.idle > 0 && now-l.idle >= c.pools.limits.HTTP2Life
			if expired {
				out = append(out, l)
			}
			return expired
		})
		if len(m.links) == 0 && m.dialing == 0 && len(m.waiting) == 0 {
			delete(c.muxes, e)
		}
	}
	return out
}
