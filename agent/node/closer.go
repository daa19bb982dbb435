package node

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/enroll"
)

// closer closes connections that went past the proxy while it was away, so that they come back through it. It works
// one pod at a time in a goroutine of its own, because it takes its time on purpose: a connection in the middle of an
// exchange is given a while to come to its end.
type closer struct {
	kernel Kernel
	log    *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	queue []bypassed
}

type bypassed struct {
	pod    string
	netns  int       // ours to close
	since  time.Time // when it was queued
	next   time.Time // when its turn is
	closed int
}

func newCloser(k Kernel, log *slog.Logger) *closer {
	return &closer{kernel: k, log: log, wake: make(chan struct{}, 1)}
}

// add queues a pod. One that was released meanwhile has no connections left.
func (c *closer) add(p *enroll.Pod) {
	_ = p.Use(func(netns int, _ []enroll.Listener) error {
		fd, err := unix.FcntlInt(uintptr(netns), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			c.log.Error("connections that went direct are not closed", "pod", p.String(), "error", err)
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.queue = append(c.queue, bypassed{pod: p.String(), netns: fd, since: time.Now()})
		return nil
	})
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *closer) run(ctx context.Context) {
	for ctx.Err() == nil {
		b, wait := c.next(time.Now())
		if b == nil {
			rest(ctx, c.wake, wait)
			continue
		}
		if !c.turn(ctx, b) {
			unix.Close(b.netns)
		}
	}
	for _, b := range c.queue {
		unix.Close(b.netns)
	}
}

// rest waits for a wake-up, for the next turn, if there is one, or for the end.
func rest(ctx context.Context, wake <-chan struct{}, next time.Duration) {
	var due <-chan time.Time
	if next > 0 {
		timer := time.NewTimer(next)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-wake:
	case <-due:
	}
}

// turn closes what can be closed in a pod by now. It tells whether another turn was queued.
func (c *closer) turn(ctx context.Context, b *bypassed) (again bool) {
	closed, busy, err := c.kernel.CloseBypassed(ctx, b.netns, bypassedRate, time.Since(b.since) >= busyPatience)
	b.closed += closed
	switch {
	case err != nil:
		c.log.Error("connections that went direct are not all closed", "pod", b.pod, "closed", b.closed, "error", err)
	case busy > 0:
		b.next = time.Now().Add(busyAgain)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.queue = append(c.queue, *b)
		return true
	case b.closed > 0:
		c.log.Info("connections that went direct were closed", "pod", b.pod, "closed", b.closed)
	}
	return false
}

// next takes the first pod out of the queue whose turn it is. Without one it tells how long that takes, 0: for ever.
func (c *closer) next(now time.Time) (b *bypassed, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, q := range c.queue {
		left := q.next.Sub(now)
		if left <= 0 {
			c.queue = slices.Delete(c.queue, i, i+1)
			return &q, 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}
