// Package sock is the proxy's TCP connections: non-blocking sockets that read and write without allocating, without a
// lock, and without telling the scheduler of system calls that never block.
//
// Reads happen inside one RawConn.Read with a callback that is made once, writes by a system call of our own: what
// package net does around them costs a third of a forwarded request.
package sock

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection. One goroutine may read while another one writes; SetDeadline, Close and Reset may be called
// by any.
type Conn struct {
	file *os.File // owns the descriptor, and has it in the runtime's poller
	raw  syscall.RawConn

	reading reading
	writing writing
	peeking peeking
	trying  trying
	looping looping
}

// reading is the state of one read, which its callback fills in.
type reading struct {
	buf   []byte
	from  Buffer // where buf comes from, when the connection is idle
	n     int
	errno syscall.Errno
	ready func(fd uintptr) bool
}

type writing struct {
	buf   []byte
	more  []byte // follows buf
	errno syscall.Errno
	ready func(fd uintptr) bool
}

type peeking struct {
	byte  [1]byte
	stale bool
	look  func(fd uintptr)
}

// Buffer lends the memory of a read only while there is something to read.
type Buffer interface {
	Take() []byte // not empty
	Drop()        // the memory of the last Take is not needed: there was nothing to read
}

// New takes over fd, a connected non-blocking TCP socket, also when it fails.
func New(fd int) (*Conn, error) {
	c := &Conn{file: os.NewFile(uintptr(fd), "tcp")}
	if c.file == nil {
		return nil, fmt.Errorf("%d is no descriptor", fd)
	}
	var err error
	if c.raw, err = c.file.SyscallConn(); err == nil {
		err = c.file.SetDeadline(time.Time{}) // fails when the runtime's poller did not take it
	}
	if err != nil {
		c.file.Close()
		return nil, fmt.Errorf("wait for a socket: %w", err)
	}
	c.reading.ready, c.writing.ready, c.peeking.look = c.readable, c.writable, c.peek
	c.trying.send, c.looping.ready = c.attempt, c.loop
	return c, nil
}

// Local returns the address of our end.
func (c *Conn) Local() (netip.AddrPort, error) { return c.name(unix.SYS_GETSOCKNAME) }

// Remote returns the address of the peer's end.
func (c *Conn) Remote() (netip.AddrPort, error) { return c.name(unix.SYS_GETPEERNAME) }

// name avoids the allocations of unix.Getsockname.
func (c *Conn) name(call uintptr) (addr netip.AddrPort, err error) {
	var raw syscall.RawSockaddrAny
	var errno syscall.Errno
	size := uint32(unsafe.Sizeof(raw))
	err = c.raw.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)))
	})
	switch {
	case err != nil:
		return addr, ended(err)
	case errno != 0:
		return addr, errno
	}
	switch raw.Addr.Family {
	case unix.AF_INET:
		in := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&raw))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swap(in.Port)), nil
	case unix.AF_INET6:
		in := (*syscall.RawSockaddrInet6)(unsafe.Pointer(&raw))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr), swap(in.Port)), nil
	}
	return addr, fmt.Errorf("address family %d is not of TCP", raw.Addr.Family)
}

// swap turns a port in network order, read as a native number, into a port.
func swap(port uint16) uint16 {
	b := *(*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// Read reads at least one byte into p, which is not empty. It returns io.EOF when the peer has ended its half.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.buf = p
	return c.read()
}

// ReadIdle is Read into memory that from lends: between Take and Drop it is ours, after a read that brought something it
// stays with the caller.
func (c *Conn) ReadIdle(from Buffer) (int, error) {
	c.reading.from = from
	n, err := c.read()
	c.reading.from = nil
	return n, err
}

func (c *Conn) read() (int, error) {
	r := &c.reading
	r.n, r.errno = 0, 0
	err := c.raw.Read(r.ready)
	r.buf = nil
	switch {
	case err != nil:
		return 0, ended(err)
	case r.errno != 0:
		return 0, r.errno
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// readable is one attempt; false parks the goroutine until there is something.
func (c *Conn) readable(fd uintptr) bool {
	r := &c.reading
	if r.from != nil {
		r.buf = r.from.Take()
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&r.buf[0])), uintptr(len(r.buf)), 0, 0, 0)
		switch errno {
		case 0:
			r.n = int(n)
			if r.n == 0 && r.from != nil {
				r.from.Drop()
			}
			return true
		case unix.EINTR:
			continue
		}
		if r.from != nil {
			r.from.Drop()
		}
		if errno == unix.EAGAIN {
			return false
		}
		r.errno = errno
		return true
	}
}

// ended makes os.ErrClosed of what the runtime says of a closed connection. Of what it can say it is the only other
// thing than that time is over.
func ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return os.ErrClosed
}

// Write sends all of p. After an error it returns how much of it the socket took.
func (c *Conn) Write(p []byte) (int, error) {
	left, err := c.send(p, nil)
	return len(p) - left, err
}

// WriteTwo sends all of head and then all of body, in one system call where the socket takes it.
func (c *Conn) WriteTwo(head, body []byte) error {
	_, err := c.send(head, body)
	return err
}

// send tries without the poller first: mostly the socket's buffer has room. It returns how much is left.
func (c *Conn) send(head, body []byte) (left int, err error) {
	w := &c.writing
	w.buf, w.more, w.errno = head, body, 0
	err = c.raw.Write(w.ready)
	left = len(w.buf) + len(w.more)
	w.buf, w.more = nil, nil
	switch {
	case err != nil:
		return left, ended(err)
	case w.errno != 0:
		return left, w.errno
	}
	return left, nil
}

// writable sends what it can; false parks the goroutine until there is room.
func (c *Conn) writable(fd uintptr) bool {
	w := &c.writing
	for len(w.buf) > 0 || len(w.more) > 0 {
		if len(w.buf) == 0 {
			w.buf, w.more = w.more, nil
		}
		n, errno := w.once(fd)
		switch errno {
		case 0:
			w.advance(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			w.errno = errno
			return true
		}
	}
	return true
}

func (w *writing) once(fd uintptr) (int, syscall.Errno) {
	if len(w.more) == 0 {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&w.buf[0])), uintptr(len(w.buf)), unix.MSG_NOSIGNAL, 0, 0)
		return int(n), errno
	}
	iov := [2]unix.Iovec{{Base: &w.buf[0], Len: uint64(len(w.buf))}, {Base: &w.more[0], Len: uint64(len(w.more))}}
	msg := unix.Msghdr{Iov: &iov[0], Iovlen: 2}
	n, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&msg)), unix.MSG_NOSIGNAL)
	return int(n), errno
}

func (w *writing) advance(n int) {
	if n < len(w.buf) {
		w.buf = w.buf[n:]
		return
	}
	n -= len(w.buf)
	w.buf, w.more = w.more[n:], nil
}

// Stale tells whether a connection that should be silent is of no more use: the peer closed it, or said something that
// nobody asked for. It takes a system call.
func (c *Conn) Stale() bool {
	c.peeking.stale = true
	err := c.raw.Control(c.peeking.look)
	return err != nil || c.peeking.stale
}

func (c *Conn) peek(fd uintptr) {
	p := &c.peeking
	_, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p.byte[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	p.stale = errno != unix.EAGAIN && errno != unix.EINTR
}

// SetDeadline ends what waits at that time, with os.ErrDeadlineExceeded; the zero Time: never. It is the deadline of
// reads and writes.
func (c *Conn) SetDeadline(t time.Time) error { return c.file.SetDeadline(t) }

// SetReadDeadline is the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// SetWriteDeadline is the deadline of writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// CloseWrite ends our half: the peer reads the end.
func (c *Conn) CloseWrite() error {
	var err error
	if ctlErr := c.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); ctlErr != nil {
		return ended(ctlErr)
	}
	return err
}

// Close closes the connection. What waits on it ends with os.ErrClosed.
func (c *Conn) Close() error { return c.file.Close() }

// Reset closes the connection so that the peer learns that something went wrong: its next read fails.
func (c *Conn) Reset() {
	// With a linger time of 0 a close is a reset (tcp(7)). Should it not be set, the close is an ordinary one.
	_ = c.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	_ = c.file.Close()
}

// IsReset tells whether an error of a read or a write says that the peer reset the connection, or had closed it.
func IsReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
