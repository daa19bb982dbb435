// Package inbound accepts connections on the listeners of all pods, and says which frontend one was addressed to.
//
// One loop accepts for everybody, and the loop itself proves that it makes progress: a timer that fires while the loop
// is stuck would be no proof.
package inbound

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// beatEvery is how long the loop waits for a connection before it beats. The kernel's limit is 2 s.
	beatEvery = 100 * time.Millisecond
	// perTurn bounds what one listener gets accepted before the others have their turn, and listenersPerTurn how many
	// listeners have one. epoll hands out those that are ready in turn.
	perTurn          = 16
	listenersPerTurn = 64
	// maxDrain bounds the draining of one listener: no backlog is longer.
	maxDrain = 1 << 16
)

// Loop accepts connections. Run is the loop; the other methods may be called from any goroutine.
type Loop struct {
	beat func(accepting bool)
	log  *slog.Logger

	epoll *os.File // of our own, inside Go's: level-triggered, which Go's is not
	raw   syscall.RawConn
	wait  func(fd uintptr) bool // made once, so that a turn allocates nothing
	ready [listenersPerTurn]unix.EpollEvent
	n     int
	errno syscall.Errno

	lastWarning time.Time

	mu        sync.Mutex
	listeners map[int32]*Listener
	lastID    int32
}

// Listener is a listening socket in the loop.
type Listener struct {
	loop   *Loop
	id     int32
	accept func(fd int)

	mu sync.Mutex // held while connections are accepted
	fd int        // -1: closed
}

// New makes a Loop without listeners. Beat is called by Run on each turn, and at least every 100 ms as long as the
// loop is not stuck; accepting is false when connections wait that cannot be accepted, for lack of descriptors.
func New(beat func(accepting bool), log *slog.Logger) (*Loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile waits for those that do not block
		unix.Close(fd)
		return nil, fmt.Errorf("make the epoll descriptor non-blocking: %w", err)
	}
	l := &Loop{beat: beat, log: log, epoll: os.NewFile(uintptr(fd), "listeners"), listeners: map[int32]*Listener{}}
	l.wait = l.epollWait
	if l.raw, err = l.epoll.SyscallConn(); err == nil {
		err = l.epoll.SetReadDeadline(time.Now().Add(beatEvery)) // fails when Go's poller did not take it
	}
	if err != nil {
		l.epoll.Close()
		return nil, fmt.Errorf("wait for the epoll descriptor: %w", err)
	}
	return l, nil
}

// Add takes over a listening socket, and starts to accept on it. Accept is called with each connection, a non-blocking
// descriptor which it owns; it must not block, because the loop waits for it. After an error the socket is the
// caller's.
func (l *Loop) Add(fd int, accept func(fd int)) (*Listener, error) {
	// Accepting must not block, whoever made the socket.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("make a listener non-blocking: %w", err)
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return nil, errors.Join(errors.New("a descriptor that should be a listener is none"), err)
	}
	// A small write, such as the head of an answer, does not wait for the peer's ack. Connections inherit it, so it is
	// one system call for all of them. It fails on no TCP socket.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.lastID++; l.listeners[l.lastID] != nil; l.lastID++ {
	}
	s := &Listener{loop: l, id: l.lastID, accept: accept, fd: fd}
	err := l.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: s.id})
	if err != nil {
		return nil, fmt.Errorf("wait for a listener: %w", err)
	}
	l.listeners[s.id] = s
	return s, nil
}

func (l *Loop) control(op, fd int, event *unix.EpollEvent) (err error) {
	if ctlErr := l.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// Close takes a listener out of the loop, accepts what is queued on it, and closes it.
func (s *Listener) Close() error {
	l := s.loop
	l.mu.Lock()
	delete(l.listeners, s.id)
	l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	// The descriptor has copies elsewhere, so closing it would not end the waiting.
	err := l.control(unix.EPOLL_CTL_DEL, s.fd, nil)
	for range maxDrain {
		fd, errno := accept4(s.fd)
		if errno == unix.EINTR || errno == unix.ECONNABORTED {
			continue
		}
		if errno != 0 {
			break
		}
		s.accept(fd)
	}
	err = errors.Join(err, unix.Close(s.fd))
	s.fd = -1
	return err
}

// Run accepts until ctx is done. Listeners stay as they are.
func (l *Loop) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		l.n, l.errno = 0, 0
		err := l.raw.Read(l.wait)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := l.epoll.SetReadDeadline(time.Now().Add(beatEvery)); err != nil {
				return fmt.Errorf("wait for connections: %w", err)
			}
		case err != nil:
			return fmt.Errorf("wait for connections: %w", err)
		case l.errno != 0:
			return fmt.Errorf("wait for connections: %w", l.errno)
		}
		l.beat(l.turn())
	}
	return nil
}

// Free ends the Loop, which must not run any more. Its listeners are to be closed before.
func (l *Loop) Free() error { return l.epoll.Close() }

// epollWait asks which listeners are ready; false parks the loop until one is. The call never blocks, so the scheduler
// need not know of it.
func (l *Loop) epollWait(fd uintptr) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&l.ready[0])), listenersPerTurn, 0, 0, 0)
	if errno == unix.EINTR {
		return true
	}
	l.n, l.errno = int(n), errno
	if errno != 0 {
		l.n = 0
		return true
	}
	return n > 0
}

// turn accepts on the listeners that are ready. It tells whether accepting works.
func (l *Loop) turn() bool {
	works := true
	for i := range l.n {
		l.mu.Lock()
		s := l.listeners[l.ready[i].Fd]
		l.mu.Unlock()
		if s == nil { // removed since
			continue
		}
		if err := s.batch(); err != nil {
			works = false
			l.starved(err)
			break
		}
	}
	return works
}

// starved is called when a connection cannot be accepted, for lack of descriptors or memory. The listener stays ready,
// so the loop would spin.
func (l *Loop) starved(err error) {
	if now := time.Now(); now.Sub(l.lastWarning) > time.Second {
		l.lastWarning = now
		l.log.Error("connections wait that cannot be accepted: raise the limit of open files", "error", err)
	}
	time.Sleep(beatEvery / 2)
}

// batch accepts a bounded number of connections.
func (s *Listener) batch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; n < perTurn && s.fd >= 0; n++ {
		fd, errno := accept4(s.fd)
		switch errno {
		case 0:
			s.accept(fd)
		case unix.EAGAIN:
			return nil
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			return errno
		}
		// Whatever else there is concerns one connection, which is gone (accept(2)).
	}
	return nil
}

func accept4(listener int) (int, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(fd), errno
}
