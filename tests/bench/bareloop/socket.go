package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"unsafe"
)

const bufferSize = 16 << 10

// socket reads into a buffer of its own and writes, both without a lock or an allocation.
type socket struct {
	conn       *net.TCPConn
	raw        syscall.RawConn
	fd         uintptr
	buf        []byte
	start, end int // of what was read and not yet used

	onReadable func(fd uintptr) bool // made once: a closure for each read would be an allocation
	err        error                 // of the last read
}

func newSocket(c *net.TCPConn) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: c, raw: raw, buf: make([]byte, bufferSize)}
	if err := raw.Control(func(fd uintptr) { s.fd = fd }); err != nil {
		return nil, err
	}
	s.onReadable = s.read
	return s, nil
}

// read is called when there may be something; false parks the goroutine until there is more.
func (s *socket) read(fd uintptr) bool {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&s.buf[s.end])), uintptr(len(s.buf)-s.end))
	switch {
	case e == syscall.EAGAIN || e == syscall.EINTR:
		return false
	case e != 0:
		s.err = e
	case n == 0:
		s.err = io.EOF
	default:
		s.end += int(n)
	}
	return true
}

// fill reads at least one byte more.
func (s *socket) fill() error {
	if s.start == s.end {
		s.start, s.end = 0, 0
	} else if s.end == len(s.buf) {
		s.end = copy(s.buf, s.buf[s.start:s.end])
		s.start = 0
	}
	if s.end == len(s.buf) {
		return errors.New("a head larger than the buffer")
	}
	if err := s.raw.Read(s.onReadable); err != nil {
		return err
	}
	return s.err
}

// head reads up to an empty line. The view is valid until the next fill; the caller moves start.
func (s *socket) head() ([]byte, error) {
	for {
		if i := bytes.Index(s.buf[s.start:s.end], []byte("\r\n\r\n")); i >= 0 {
			return s.buf[s.start : s.start+i+4], nil
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// take uses up to n bytes of what was read. The view is valid until the next fill.
func (s *socket) take(n int) []byte {
	part := s.buf[s.start:min(s.start+n, s.end)]
	s.start += len(part)
	return part
}

// write sends all of b. Where the socket's buffer is full it leaves the rest to net.Conn, which waits.
func (s *socket) write(b []byte) error {
	for len(b) > 0 {
		n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, s.fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch e {
		case 0:
			b = b[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			_, err := s.conn.Write(b)
			return err
		default:
			return e
		}
	}
	return nil
}
