package node

import (
	"context"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/enroll"
)

// closer closes connections that went past the proxy while it was away, so that they come back through it. It works
// one pod at a time in a goroutine of its own, because it takes its time on purpose.
type closer struct {
	kernel Kernel
	log    *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	queue []bypassed
}

type bypassed struct {
	pod   string
	netns int // ours to close
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
		c.queue = append(c.queue, bypassed{p.String(), fd})
		return nil
	})
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *closer) run(ctx context.Context) {
	for ctx.Err() == nil {
		b, ok := c.next()
		if !ok {
			select {
			case <-ctx.Done():
			case <-c.wake:
			}
			continue
		}
		closed, err := c.kernel.CloseBypassed(ctx, b.netns, bypassedRate)
		unix.Close(b.netns)
		if err != nil {
			c.log.Error("connections that went direct are not all closed", "pod", b.pod, "closed", closed, "error", err)
		} else if closed > 0 {
			c.log.Info("connections that went direct were closed", "pod", b.pod, "closed", closed)
		}
	}
	for b, ok := c.next(); ok; b, ok = c.next() {
		unix.Close(b.netns)
	}
}

func (c *closer) next() (bypassed, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return bypassed{}, false
	}
	b := c.queue[0]
	c.queue = c.queue[1:]
	return b, true
}
