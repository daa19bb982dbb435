// Package sockdiag lists the TCP sockets of a network namespace, with what a BPF map keeps on each, and closes sockets.
// It speaks sock_diag(7), for which the kernel needs tcp_diag and INET_DIAG_DESTROY.
package sockdiag

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/within"
)

// bufferSize is more than the kernel puts into one datagram of a dump.
const bufferSize = 256 << 10

// ErrGone is returned for a socket that is closed already.
var ErrGone = errors.New("the socket is closed")

// Conn is a netlink socket in a network namespace. It is not for several goroutines.
type Conn struct {
	fd     int
	buffer []byte
}

// Open makes a Conn in the network namespace of the descriptor, which stays the caller's. It needs CAP_SYS_ADMIN, and
// CAP_NET_ADMIN in that namespace.
func Open(netns int) (*Conn, error) {
	var fd int
	err := within.Network(netns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG); err != nil {
			return fmt.Errorf("make a sock_diag socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Conn{fd: fd, buffer: make([]byte, bufferSize)}, nil
}

// Close closes the Conn.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// List returns the connected TCP sockets of both families, each with its value of the SK_STORAGE map of the
// descriptor. A socket may be gone when it is returned.
func (c *Conn) List(mapFD int) ([]Socket, error) {
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := c.ask(dumpRequest(family, mapFD))
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("the kernel lists no TCP sockets, load its module tcp_diag: %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("list the TCP sockets: %w", err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// Destroy closes a socket of the namespace: what its owner does with it fails with ECONNABORTED, and the peer gets a
// reset.
func (c *Conn) Destroy(s Socket) error {
	switch _, err := c.ask(destroyRequest(s)); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		return ErrGone
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("close a socket: the kernel was built without INET_DIAG_DESTROY: %w", err)
	default:
		return fmt.Errorf("close a socket: %w", err)
	}
}

// ask sends a request and reads its answer to the end.
func (c *Conn) ask(request []byte) ([]Socket, error) {
	if err := unix.Sendto(c.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	var all []Socket
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buffer, unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if n > len(c.buffer) {
			return nil, fmt.Errorf("an answer of %d bytes is longer than expected", n)
		}
		sockets, done, err := parse(c.buffer[:n])
		if err != nil {
			return nil, err
		}
		if all = append(all, sockets...); done {
			return all, nil
		}
	}
}
