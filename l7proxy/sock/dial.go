package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to an address with a socket of the network namespace that netns is an open descriptor of; -1 is the
// process's own. Timeout is the limit for the handshake; 0: the kernel's.
func Dial(netns int, to netip.AddrPort, timeout time.Duration) (*Conn, error) {
	fd, err := socketIn(netns, family(to.Addr()))
	if err != nil {
		return nil, err
	}
	nodelay(fd)
	if errno := connect(fd, to); errno != 0 && errno != unix.EINPROGRESS {
		unix.Close(fd) // nothing was written to it
		return nil, errno
	}
	c, err := New(fd) // now, so that the poller's first edge is that of the handshake's end
	if err != nil {
		return nil, err
	}
	if err := c.connected(timeout); err != nil {
		_ = c.Close() // nothing was written to it
		return nil, err
	}
	return c, nil
}

// nodelay: a small write, such as the head of an answer, does not wait for the peer's ack.
func nodelay(fd int) {
	// It fails on no TCP socket; without it things are slower.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

func family(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// socketIn makes a non-blocking TCP socket. Only socket() itself has to happen in the namespace: what is connected
// later belongs to where the socket was made.
func socketIn(netns, family int) (int, error) {
	if netns < 0 {
		return newSocket(family)
	}
	runtime.LockOSThread()
	home, err := homeNetNS()
	if err != nil {
		runtime.UnlockOSThread()
		return -1, err
	}
	defer unix.Close(home) // nothing was written to it
	if err := setns(netns); err != nil {
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("enter the pod's network namespace: %w", err)
	}
	fd, err := newSocket(family)
	if back := setns(home); back != nil {
		// The thread stays locked and ends with the goroutine: no other one may ever run in the pod's namespace.
		if err == nil {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("leave the pod's network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return fd, err
}

func homeNetNS() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open our own network namespace: %w", err)
	}
	return fd, nil
}

func setns(fd int) error {
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWNET, 0); errno != 0 {
		return errno
	}
	return nil
}

func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	// The port that the kernel chooses for us stays free for an application of the pod to listen on.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("let others use the socket's port: %w", err)
	}
	return fd, nil
}

func connect(fd int, to netip.AddrPort) syscall.Errno {
	a := to.Addr().Unmap()
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: a.As16()}
	if a.Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}
	}
	for {
		err := unix.Connect(fd, sa)
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EINVAL
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// connected waits for the end of the handshake.
func (c *Conn) connected(timeout time.Duration) error {
	if timeout > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
	}
	var errno syscall.Errno
	var optErr error
	err := c.raw.Write(func(fd uintptr) bool {
		var n int
		if n, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); optErr != nil || n != 0 {
			errno = syscall.Errno(n)
			return true
		}
		_, nameErr := unix.Getpeername(int(fd))
		return nameErr == nil // ENOTCONN: the handshake goes on
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer within %v: %w", timeout, err)
	case err != nil:
		return ended(err)
	case optErr != nil:
		return fmt.Errorf("look how the handshake ended: %w", optErr)
	case errno != 0:
		return errno
	}
	if timeout > 0 {
		return c.SetWriteDeadline(time.Time{})
	}
	return nil
}
