package openloop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// generator is one run: a single thread around epoll, because Go's own timers wait in whole milliseconds. A timerfd wakes
// it for each request that is due.
type generator struct {
	load    *Load
	start   time.Time
	epoll   int
	timer   int
	address unix.Sockaddr
	conns   []conn
	byFD    map[int]*conn
	buf     []byte

	next   int // of the requests: those before it have been handed to a line
	open   int // requests handed out and not ended
	times  []time.Duration
	late   []time.Duration
	result Result
}

// conn is a connection and its line. fd is -1 while there is none.
type conn struct {
	line
	answer
	fd      int
	dialing bool
}

// Run sends the load and waits for the answers. The end of ctx ends it early, with an error.
func (l *Load) Run(ctx context.Context) (*Result, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	g := &generator{load: l, byFD: map[int]*conn{}, buf: make([]byte, 64<<10), conns: make([]conn, l.Connections), epoll: -1, timer: -1}
	for i := range g.conns {
		g.conns[i].fd = -1
	}
	defer g.close()
	if err := g.prepare(); err != nil {
		return nil, err
	}
	if err := g.loop(ctx); err != nil {
		return nil, err
	}
	g.result.Latency = Distribution(g.times)
	g.result.LateP99 = Distribution(g.late).P99
	return &g.result, nil
}

func (g *generator) prepare() error {
	if a := g.load.Target.Addr().Unmap(); a.Is4() {
		g.address = &unix.SockaddrInet4{Port: int(g.load.Target.Port()), Addr: a.As4()}
	} else {
		g.address = &unix.SockaddrInet6{Port: int(g.load.Target.Port()), Addr: a.As16()}
	}
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if g.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(g.timer)}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, g.timer, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (g *generator) close() {
	for fd := range g.byFD {
		_ = unix.Close(fd)
	}
	for _, fd := range []int{g.timer, g.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (g *generator) loop(ctx context.Context) error {
	total := g.load.total()
	end := g.load.due(total) + Limit
	g.start = time.Now()
	var events [256]unix.EpollEvent
	for g.next < total || g.open > 0 {
		now := time.Since(g.start)
		if now > end {
			g.abandon()
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for g.next < total && g.load.due(g.next) <= now {
			g.release(now)
		}
		if err := g.arm(total, now); err != nil {
			return err
		}
		n, err := unix.EpollWait(g.epoll, events[:], 100) // ctx and end are looked at ten times a second at least
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == g.timer {
				_, _ = unix.Read(g.timer, g.buf[:8]) // it only wakes us
			} else if c := g.byFD[int(e.Fd)]; c != nil {
				g.ready(c)
			}
		}
	}
	return nil
}

// arm sets the timer to the next request. Zero would disarm it.
func (g *generator) arm(total int, now time.Duration) error {
	if g.next >= total {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, int64(g.load.due(g.next)-now)))}
	if err := unix.TimerfdSettime(g.timer, 0, &spec, nil); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	return nil
}

// release gives the next request to its line: connections take turns, whatever they wait for.
func (g *generator) release(now time.Duration) {
	due := g.load.due(g.next)
	c := &g.conns[g.next%len(g.conns)]
	if !c.busy && len(c.waiting) == 0 && g.recorded(due) {
		g.late = append(g.late, now-due)
	}
	g.next++
	g.open++
	c.add(due)
	g.send(c)
}

// recorded: the warm-up is over.
func (g *generator) recorded(due time.Duration) bool { return due >= g.load.WarmUp }

// send puts the next request of the line on the wire, if it is free.
func (g *generator) send(c *conn) {
	if c.busy || len(c.waiting) == 0 {
		return
	}
	if c.fd < 0 {
		if err := g.dial(c); err != nil {
			c.next()
			g.failed(c, err)
			return
		}
	}
	if c.dialing {
		return // ready comes back here
	}
	due, _ := c.next()
	request := g.load.Requests[int(due.Seconds()*g.load.Rate+0.5)%len(g.load.Requests)]
	if n, err := unix.Write(c.fd, []byte(request)); err != nil || n < len(request) {
		g.failed(c, fmt.Errorf("write %d of %d bytes: %w", n, len(request), err))
	}
}

func (g *generator) dial(c *conn) error {
	family := unix.AF_INET
	if _, six := g.address.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	// Both are best effort: without them the figures are worse, not wrong.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err = unix.Connect(fd, g.address)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return fmt.Errorf("connect: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("epoll: %w", err)
	}
	c.fd, c.dialing = fd, true
	c.reset()
	g.byFD[fd] = c
	return nil
}

func (g *generator) drop(c *conn) {
	if c.fd >= 0 {
		delete(g.byFD, c.fd)
		_ = unix.Close(c.fd)
		c.fd, c.dialing = -1, false
	}
}
