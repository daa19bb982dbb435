package worker

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// beatEvery is how often the master hears of the loop, which may turn much more often.
	beatEvery = 100 * time.Millisecond
	// stuckAfter is how long the loop may be silent: the kernel's own limit.
	stuckAfter = 2 * time.Second
)

// pulse passes on the proof that the accept loop makes progress: to the kernel, which leaves new connections alone when
// the proof is old, and to the master, which kills a worker that hangs.
type pulse struct {
	start time.Time
	base  time.Duration // CLOCK_MONOTONIC at start, which is the clock of the programs in the kernel
	pipe  *os.File      // nil: no master
	fd    int           // of the pipe
	one   [1]byte
	told  time.Duration // when the master was told last; the loop's own

	turned atomic.Int64 // when the loop turned last, a time.Duration since start

	mu       sync.Mutex
	page     []byte        // the heartbeat, shared with the kernel; nil: there is none yet, or no more
	serving  bool          // connections may be steered to us
	closed   bool          // and never again
	accepted time.Duration // when the loop turned last and could accept
}

func newPulse(pipe *os.File) (*pulse, error) {
	p := &pulse{start: time.Now(), pipe: pipe, fd: -1, one: [1]byte{1}, told: -beatEvery}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("read the monotonic clock: %w", err)
	}
	p.base = time.Duration(now.Nano())
	if pipe == nil {
		return p, nil
	}
	p.fd = int(pipe.Fd())
	// A master that does not read must not stop the loop.
	if err := unix.SetNonblock(p.fd, true); err != nil {
		return nil, fmt.Errorf("make the master's pipe non-blocking: %w", err)
	}
	return p, nil
}

// beat is what the loop calls on each turn. The kernel hears of those only at which accepting works; the master, of
// all: a successor would have no more descriptors than we have.
func (p *pulse) beat(accepting bool) {
	now := time.Since(p.start)
	p.turned.Store(int64(now))
	if accepting {
		p.mu.Lock()
		p.accepted = now
		p.write()
		p.mu.Unlock()
	}
	if p.fd >= 0 && now-p.told >= beatEvery {
		p.told = now
		_, _ = unix.Write(p.fd, p.one[:]) // a full pipe holds beats enough, and a master that ended takes us along
	}
}

// write is called with mu held. It writes what was proved, not what time it is.
func (p *pulse) write() {
	if p.page != nil && p.serving && p.accepted > 0 {
		atomic.StoreUint64((*uint64)(unsafe.Pointer(&p.page[0])), uint64(p.base+p.accepted))
	}
}

// share maps the heartbeat, whose descriptor stays the caller's.
func (p *pulse) share(fd int) error {
	page, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the heartbeat: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	surplus := p.page
	if p.closed {
		surplus = page
	} else {
		p.page = page
		p.write()
	}
	return unmap(surplus)
}

// serve says that connections may be steered to us: the heartbeat is written from now on. It is written at once with
// the last proof that there is, so that nobody waits for the loop's next turn.
func (p *pulse) serve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = true
	p.write()
}

// close says that no connection is to be steered to us any more. The master is told of the loop's turns all the same.
func (p *pulse) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	page := p.page
	p.page, p.closed = nil, true
	return unmap(page)
}

func unmap(page []byte) error {
	if page == nil {
		return nil
	}
	if err := unix.Munmap(page); err != nil {
		return fmt.Errorf("unmap the heartbeat: %w", err)
	}
	return nil
}

// silent is how long the loop has not turned.
func (p *pulse) silent() time.Duration {
	return time.Since(p.start) - time.Duration(p.turned.Load())
}
