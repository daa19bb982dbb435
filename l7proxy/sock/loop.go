package sock

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Next says how a ReadLoop goes on.
type Next int

// What may follow a read.
const (
	Park Next = iota // wait for more without another attempt: after a short read there is nothing
	On               // read again at once
	Stop             // ReadLoop returns
)

// Loop is told of what a ReadLoop reads. Its methods run inside the runtime's read of the descriptor: none of them may
// call Close or Reset of any Conn whose reader may be in such a method too (each would wait for the other).
type Loop interface {
	Room() []byte   // memory for the next read; not empty
	Got(n int) Next // n > 0 bytes are in what Room returned
	Idle() bool     // there is nothing to read; the goroutine parks unless it returns false, which ends the loop
}

// looping is the state of a ReadLoop, which its callback fills in.
type looping struct {
	on    Loop
	errno syscall.Errno
	ended bool
	ready func(fd uintptr) bool
}

// trying is the state of a TryWrite.
type trying struct {
	buf   []byte
	n     int
	errno syscall.Errno
	send  func(fd uintptr)
}

// ReadLoop reads until l says stop (nil), the peer has ended its half (io.EOF), or an error, of which
// os.ErrDeadlineExceeded is one: a read deadline in the past wakes the reader, also while it is not parked. A loop that is
// entered reads first. It must not run at the same time as another read.
//
// What came with the peer's end, or with its reset, is told; of the end itself a loop that parks after a short read
// learns only when it is entered anew (the kernel does not tell it twice): somebody has to look with Stale and wake it.
func (c *Conn) ReadLoop(l Loop) error {
	s := &c.looping
	s.on, s.errno, s.ended = l, 0, false
	err := c.raw.Read(s.ready)
	s.on = nil
	switch {
	case err != nil:
		return ended(err)
	case s.errno != 0:
		return s.errno
	case s.ended:
		return io.EOF
	}
	return nil
}

// loop reads as long as there is something; false parks the goroutine.
func (c *Conn) loop(fd uintptr) bool {
	s := &c.looping
	for {
		b := s.on.Room()
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return !s.on.Idle()
		case errno != 0:
			s.errno = errno
			return true
		case n == 0:
			s.ended = true
			return true
		}
		switch s.on.Got(int(n)) {
		case Stop:
			return true
		case Park:
			return !s.on.Idle()
		}
	}
}

// TryWrite sends what the socket takes of p without waiting, and returns how much that is: less than p, 0 included, when
// its buffer is full, which is no error. It must not run at the same time as another write.
func (c *Conn) TryWrite(p []byte) (int, error) {
	s := &c.trying
	s.buf, s.n, s.errno = p, 0, 0
	err := c.raw.Control(s.send)
	s.buf = nil
	switch {
	case err != nil:
		return 0, ended(err)
	case s.errno != 0:
		return s.n, s.errno
	}
	return s.n, nil
}

// attempt sends until the socket's buffer is full. A short write says so already.
func (c *Conn) attempt(fd uintptr) {
	s := &c.trying
	for len(s.buf) > 0 {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&s.buf[0])), uintptr(len(s.buf)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			s.n += int(n)
			if int(n) < len(s.buf) {
				return
			}
			s.buf = nil
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default:
			s.errno = errno
			return
		}
	}
}
