package h2

import (
	"errors"
	"io"
	"net"
	"syscall"
	"unsafe"
)

// Socket reads and writes without blocking, a lock or an allocation.
type Socket struct {
	*net.TCPConn
	// Eager parks after a read that did not fill the buffer, which saves a read that would find nothing. The end of the
	// connection, when it came with the data, is then not seen.
	Eager bool

	fd  uintptr
	raw syscall.RawConn
}

// NewSocket takes the connection over.
func NewSocket(c *net.TCPConn) (*Socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{TCPConn: c, raw: raw}
	return s, raw.Control(func(fd uintptr) { s.fd = fd })
}

// Receive reads until the connection ends or use fails. use gets what there is and says how much of it is done; idle is called
// before each wait. Both are called from within one RawConn.Read, so that a wake-up costs a read and nothing else.
func (s *Socket) Receive(buf []byte, use func([]byte) (int, error), idle func()) error {
	have := 0
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[have])), uintptr(len(buf)-have))
			switch {
			case e == syscall.EINTR:
				continue
			case e == syscall.EAGAIN:
				idle()
				return false
			case e != 0:
				failed = e
				return true
			case n == 0:
				failed = io.EOF
				return true
			}
			full := int(n) == len(buf)-have
			have += int(n)
			used, err := use(buf[:have])
			if err != nil {
				failed = err
				return true
			}
			have = copy(buf, buf[used:have])
			if have == len(buf) {
				failed = errors.New("a frame longer than the buffer")
				return true
			}
			if s.Eager && !full {
				idle()
				return false
			}
		}
	})
	return errors.Join(err, failed)
}

// TryWrite writes what the kernel takes at once.
func (s *Socket) TryWrite(b []byte) (written int, err error) {
	for written < len(b) {
		n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, s.fd, uintptr(unsafe.Pointer(&b[written])), uintptr(len(b)-written))
		switch e {
		case 0:
			written += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return written, nil
		default:
			return written, e
		}
	}
	return written, nil
}
