package enroll

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// ErrReleased is returned for a pod whose descriptors are closed.
var ErrReleased = errors.New("the pod was released")

// Pod is an enrolled pod: its namespace, and our listeners in it.
type Pod struct {
	Wanted
	Cookie     uint64     // SO_NETNS_COOKIE of the namespace
	IPv4, IPv6 netip.Addr // its own addresses; the zero Addr where it has none
	Port       uint16     // of the listeners

	path string // names the namespace as long as the pod lives
	id   nsID
	undo func() error // what was changed in the namespace

	mu        sync.Mutex
	netns     int
	listeners []Listener // empty once closed
	closed    bool
}

// Listener is a listening socket in a pod.
type Listener struct {
	Family model.Family
	FD     int
}

// Families returns the families that the pod has listeners of.
func (p *Pod) Families() []model.Family {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []model.Family
	for _, l := range p.listeners {
		all = append(all, l.Family)
	}
	return all
}

// Descriptors returns duplicates, which the caller closes: of the namespace, then of each listener.
func (p *Pod) Descriptors() ([]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrReleased
	}
	var fds []int
	for _, fd := range p.all() {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("duplicate a descriptor: %w", err)
		}
		fds = append(fds, d)
	}
	return fds, nil
}

// Use lends the descriptors for the time of the call.
func (p *Pod) Use(f func(netns int, listeners []Listener) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrReleased
	}
	return f(p.netns, slices.Clone(p.listeners))
}

// Reset accepts whatever is queued on the listeners and resets it; it returns how many connections that were.
func (p *Pod) Reset() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.listeners {
		for {
			c, _, err := unix.Accept4(l.FD, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				break // nothing is queued
			}
			// With a linger time of 0 a close is a reset (tcp(7)). Should it not be set, the close is an ordinary one.
			_ = unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(c)
			n++
		}
	}
	return n
}

// release undoes what was done in the namespace and closes everything. Calling it again does nothing.
func (p *Pod) release() error {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil
	}
	err := p.undo()
	p.close()
	return err
}

// close closes our descriptors and leaves the namespace as it is: whoever else has the listeners goes on.
func (p *Pod) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	closeAll(p.all())
	p.listeners = nil
}

func (p *Pod) all() []int {
	fds := []int{p.netns}
	for _, l := range p.listeners {
		fds = append(fds, l.FD)
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
