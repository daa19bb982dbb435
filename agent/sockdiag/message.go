package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes and numbers of <linux/inet_diag.h> that package unix does not have.
const (
	idSize      = 48 // struct inet_diag_sockid
	requestSize = 8 + idSize
	messageSize = 4 + idSize + 20 // struct inet_diag_msg

	reqStorages = 2  // INET_DIAG_REQ_SK_BPF_STORAGES
	tcpInfo     = 2  // INET_DIAG_INFO
	storages    = 20 // INET_DIAG_SK_BPF_STORAGES

	// In struct tcp_info of <linux/tcp.h>, milliseconds.
	lastSentAt, lastReceivedAt = 44, 52

	typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// connected are the states of a socket that has a peer, or is about to; neither LISTEN nor TIME_WAIT, which is no
// socket any more (enum in <net/tcp_states.h>).
const connected = 1<<established | 1<<synSent | 1<<finWait1 | 1<<finWait2 | 1<<closeWait | 1<<lastAck | 1<<closing

const (
	established = 1
	synSent     = 2
	finWait1    = 4
	finWait2    = 5
	closeWait   = 8
	lastAck     = 9
	closing     = 11
)

// Socket is a TCP socket, as the kernel names it.
type Socket struct {
	Family uint8
	State  uint8
	// Storage is the value that the map keeps on the socket; nil: it keeps none.
	Storage []byte
	// Queued are bytes that the application has not read, and that the peer has not acknowledged.
	Queued uint64
	// SinceSent and SinceReceived are how long ago data last went out and came; of a connection that has had none, its age.
	SinceSent, SinceReceived time.Duration

	id [idSize]byte // with the socket's cookie, so that it never names another one
}

var errShort = errors.New("a netlink message ends too early")

// Established tells whether the connection is open in both directions.
func (s Socket) Established() bool { return s.State == established }

// dumpRequest asks for all connected sockets of a family, each with its value of the map and its tcp_info.
func dumpRequest(family uint8, mapFD int) []byte {
	storage := attribute(reqStorages|unix.NLA_F_NESTED,
		attribute(unix.SK_DIAG_BPF_STORAGE_REQ_MAP_FD, binary.NativeEndian.AppendUint32(nil, uint32(mapFD))))
	b := request(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family, [idSize]byte{})
	b[unix.NLMSG_HDRLEN+2] = 1 << (tcpInfo - 1) // idiag_ext
	return finish(append(b, storage...))
}

// destroyRequest asks for a socket to be closed, and for an answer.
func destroyRequest(s Socket) []byte {
	return finish(request(unix.SOCK_DESTROY, unix.NLM_F_REQUEST|unix.NLM_F_ACK, s.Family, s.id))
}

// request is a netlink header, whose length is still to be filled in, and a struct inet_diag_req_v2.
func request(kind, flags uint16, family uint8, id [idSize]byte) []byte {
	b := make([]byte, 4, unix.NLMSG_HDRLEN+requestSize)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, make([]byte, 8)...) // sequence and port
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, connected)
	return append(b, id[:]...)
}

func finish(b []byte) []byte {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// attribute encodes one whose value's length is a multiple of four.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.NLA_HDRLEN+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

// parse takes one datagram of an answer. It returns the sockets in it, and whether the answer is complete: at its end,
// an acknowledgement, or an error, which is a unix.Errno.
func parse(datagram []byte) (all []Socket, done bool, err error) {
	for b := datagram; len(b) > 0; {
		if len(b) < unix.NLMSG_HDRLEN {
			return all, true, errShort
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return all, true, errShort
		}
		payload := b[unix.NLMSG_HDRLEN:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both begin with a negated errno, or 0
			if len(payload) < 4 {
				return all, true, errShort
			}
			if e := int32(binary.NativeEndian.Uint32(payload)); e != 0 {
				return all, true, unix.Errno(-e)
			}
			return all, true, nil
		case unix.SOCK_DIAG_BY_FAMILY:
			s, err := socket(payload)
			if err != nil {
				return all, true, err
			}
			all = append(all, s)
		}
		b = b[min(align(size), len(b)):]
	}
	return all, false, nil
}

// socket decodes a struct inet_diag_msg and what follows it.
func socket(b []byte) (Socket, error) {
	if len(b) < messageSize {
		return Socket{}, errShort
	}
	s := Socket{Family: b[0], State: b[1]}
	copy(s.id[:], b[4:])
	queues := b[4+idSize+4:] // idiag_rqueue, idiag_wqueue
	s.Queued = uint64(binary.NativeEndian.Uint32(queues)) + uint64(binary.NativeEndian.Uint32(queues[4:]))
	err := attributes(b[messageSize:], func(kind uint16, value []byte) (err error) {
		switch {
		case kind == storages:
			s.Storage, err = storage(value)
		case kind == tcpInfo && len(value) >= lastReceivedAt+4:
			s.SinceSent = milliseconds(value[lastSentAt:])
			s.SinceReceived = milliseconds(value[lastReceivedAt:])
		}
		return err
	})
	return s, err
}

func milliseconds(b []byte) time.Duration {
	return time.Duration(binary.NativeEndian.Uint32(b)) * time.Millisecond
}

// storage returns the value of the one map that was asked for: storages { storage { id, value } }.
func storage(b []byte) ([]byte, error) {
	var found []byte
	err := attributes(b, func(kind uint16, value []byte) error {
		if kind != unix.SK_DIAG_BPF_STORAGE {
			return nil
		}
		return attributes(value, func(kind uint16, value []byte) error {
			if kind == unix.SK_DIAG_BPF_STORAGE_MAP_VALUE {
				found = append([]byte{}, value...)
			}
			return nil
		})
	})
	return found, err
}

func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.NLA_HDRLEN {
			return errShort
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.NLA_HDRLEN || size > len(b) {
			return fmt.Errorf("an attribute of %d bytes: %w", size, errShort)
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.NLA_HDRLEN:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// align rounds up to what follows the next: netlink messages and attributes begin at multiples of four.
func align(n int) int { return (n + 3) &^ 3 }
