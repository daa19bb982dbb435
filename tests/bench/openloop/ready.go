package openloop

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// ready goes on with a connection that something happened to.
func (g *generator) ready(c *conn) {
	if c.dialing {
		code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			c.next()
			g.failed(c, fmt.Errorf("connect: %w", err))
			return
		}
		c.dialing = false
		g.send(c)
	}
	g.read(c)
}

// read takes what has come; events are edge-triggered, so all of it.
func (g *generator) read(c *conn) {
	for c.fd >= 0 {
		n, err := unix.Read(c.fd, g.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			err = io.EOF
		}
		if err != nil || !c.busy {
			g.broken(c, n, err)
			return
		}
		done, err := c.feed(g.buf[:n])
		if err != nil {
			g.failed(c, err)
			return
		}
		if done {
			g.done(c)
		}
	}
}

// broken is the end of a connection, or bytes that nobody asked for. Between two requests the other side may close.
func (g *generator) broken(c *conn, n int, err error) {
	if c.busy {
		g.failed(c, fmt.Errorf("read: %w", err))
		return
	}
	if err == nil {
		g.fail(fmt.Errorf("%d bytes without a request", n))
	}
	g.drop(c)
	g.send(c)
}

func (g *generator) done(c *conn) {
	due := c.sent
	latency := c.answered(time.Since(g.start))
	g.open--
	if g.recorded(due) {
		g.result.Sent++
		g.times = append(g.times, latency)
	}
	if g.load.Fresh || c.Close {
		g.drop(c)
	}
	c.reset()
	g.send(c)
}

// failed ends the request on the wire, and its connection. A failure counts, but has no latency.
func (g *generator) failed(c *conn, err error) {
	due := c.sent
	c.answered(0)
	g.open--
	if g.recorded(due) {
		g.result.Sent++
	}
	g.fail(err)
	g.drop(c)
	// What waits goes out when the next request of the line is due, or is abandoned: a target that refuses everything must
	// not become a loop of connects.
}

func (g *generator) fail(err error) {
	g.result.Failed++
	if g.result.FirstFailure == "" {
		g.result.FirstFailure = err.Error()
	}
}

// abandon counts what has no answer when the time is over.
func (g *generator) abandon() {
	g.result.Sent += g.open
	g.result.Failed += g.open
	if g.result.FirstFailure == "" {
		g.result.FirstFailure = fmt.Sprintf("no answer within %v after the end", Limit)
	}
}
