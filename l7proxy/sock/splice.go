package sock

import (
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipes lends the pipes that splice(2) needs between two sockets. An idle relay holds none. It is safe for concurrent
// use; the zero value is ready.
type Pipes struct {
	mu   sync.Mutex
	free []pipe
}

type pipe struct{ r, w int }

const (
	// maxFree is how many pipes are kept.
	maxFree = 64
	// perSplice is how many bytes are moved at most before the other side has to take them: what a pipe holds.
	perSplice = 64 << 10
)

func (p *Pipes) get() (pipe, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return got, nil
	}
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return pipe{}, fmt.Errorf("make a pipe: %w", err)
	}
	return pipe{fds[0], fds[1]}, nil
}

// put takes an empty pipe back.
func (p *Pipes) put(given pipe) {
	p.mu.Lock()
	keep := len(p.free) < maxFree
	if keep {
		p.free = append(p.free, given)
	}
	p.mu.Unlock()
	if !keep {
		given.close()
	}
}

func (p pipe) close() {
	unix.Close(p.r) // nothing that was written to it is lost by it
	unix.Close(p.w)
}

// Splice moves bytes from src to dst, without copying them to us, until src ends its half: then the error is nil. It
// returns how many bytes dst took.
func (p *Pipes) Splice(dst, src *Conn) (moved int64, err error) {
	s := splicing{pipes: p}
	in, out := s.fill, s.empty // made once, so that a turn allocates nothing
	for {
		s.errno, s.err = 0, nil
		if err := src.raw.Read(in); err != nil {
			return moved, ended(err)
		}
		if s.err != nil || s.errno != 0 {
			return moved, s.failed("splice from a socket")
		}
		if s.held == 0 { // the end
			p.put(s.pipe)
			return moved, nil
		}
		n := s.held
		if err := dst.raw.Write(out); err != nil {
			s.pipe.close()
			return moved, ended(err)
		}
		moved += int64(n - s.held)
		if s.errno != 0 {
			s.pipe.close()
			return moved, s.failed("splice to a socket")
		}
		p.put(s.pipe)
	}
}

// splicing is the state of one direction.
type splicing struct {
	pipes *Pipes
	pipe  pipe
	held  int // bytes in the pipe
	errno syscall.Errno
	err   error
}

func (s *splicing) failed(what string) error {
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%s: %w", what, s.errno)
}

// fill moves what there is into a pipe; false parks the goroutine, without a pipe, until there is something.
func (s *splicing) fill(fd uintptr) bool {
	if s.pipe, s.err = s.pipes.get(); s.err != nil {
		return true
	}
	n, errno := splice(int(fd), s.pipe.w, perSplice)
	switch errno {
	case 0:
		s.held = n
		return true
	case unix.EAGAIN:
		s.pipes.put(s.pipe)
		return false
	}
	s.pipes.put(s.pipe)
	s.errno = errno
	return true
}

// empty moves the pipe's bytes on; false parks the goroutine until there is room.
func (s *splicing) empty(fd uintptr) bool {
	for s.held > 0 {
		n, errno := splice(s.pipe.r, int(fd), s.held)
		switch {
		case errno == unix.EAGAIN:
			return false
		case errno != 0:
			s.errno = errno
			return true
		}
		s.held -= n
	}
	return true
}

func splice(from, to, n int) (int, syscall.Errno) {
	for {
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno != unix.EINTR {
			return int(moved), errno
		}
	}
}
