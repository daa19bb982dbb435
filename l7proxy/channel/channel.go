// Package channel carries the messages of package model, with descriptors, over a unix stream socket: the push socket
// between agent and proxy.
//
// A frame is 4 bytes of length, big-endian, and as many bytes of JSON: {"type": ..., "fds": n, "body": ...}. Its
// descriptors travel with its first byte (SCM_RIGHTS). A stream that breaks these rules is not read on: nobody knows
// where its next frame begins.
package channel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// MaxDescriptors is the most that one message carries. The kernel takes 253 in one sendmsg (SCM_MAX_FD): more pods
	// are more messages.
	MaxDescriptors = 250
	// MaxFrame is the largest frame in bytes, its length not counted.
	MaxFrame = 64 << 20

	headerSize = 4
	firstRead  = 64 << 10 // a frame's buffer grows as its bytes come: a length alone costs no memory
)

// Conn sends and receives messages. One goroutine receives, any number send. It keeps the *net.UnixConn, which the
// caller closes: one that nobody refers to is closed by the collector, which looks like the end of a peer.
type Conn struct {
	c *net.UnixConn

	sending sync.Mutex
	sendErr error // a frame was cut off: nothing can follow it

	receiveErr error
	header     [headerSize]byte
	control    []byte
}

// New makes a Conn of a unix stream socket.
func New(c *net.UnixConn) *Conn {
	return &Conn{c: c, control: make([]byte, unix.CmsgSpace((MaxDescriptors+1)*4))}
}

// envelope is the JSON of a frame.
type envelope struct {
	Type string          `json:"type"`
	FDs  int             `json:"fds"`
	Body json.RawMessage `json:"body"`
}

// Send sends a message, which is a value of one of the message types of package model or a pointer to one, and the
// descriptors that belong to it. The descriptors stay the caller's. A message that is not one, is too large or has the
// wrong number of descriptors is an error of which nothing was sent; after any other error the Conn sends no more.
func (c *Conn) Send(msg any, fds ...int) error {
	frame, err := encode(msg, len(fds))
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.sendErr != nil {
		return c.sendErr
	}
	n, _, err := c.c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.c.Write(frame[n:])
	}
	if err != nil {
		c.sendErr = fmt.Errorf("send %s: %w", nameOf(msg), err)
	}
	return c.sendErr
}

func encode(msg any, fds int) ([]byte, error) {
	name := nameOf(msg)
	if name == "" {
		return nil, fmt.Errorf("%T is no message of the push socket", msg)
	}
	if err := checkDescriptors(msg, name, fds); err != nil {
		return nil, err
	}
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	frame, err := json.Marshal(envelope{Type: name, FDs: fds, Body: body})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	if len(frame) > MaxFrame {
		return nil, fmt.Errorf("%s has %d bytes, of which at most %d are allowed: split it", name, len(frame), MaxFrame)
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, headerSize+len(frame)), uint32(len(frame))), frame...), nil
}

// Receive returns a pointer to the next message and its descriptors, which are close-on-exec and the caller's to close.
// It returns io.EOF when the peer closed the socket between two messages. A message that breaks the rules is an error,
// its descriptors are closed, and every later Receive returns that error; only a read deadline that passes between two
// messages leaves the Conn usable.
func (c *Conn) Receive() (msg any, fds []int, err error) {
	if c.receiveErr != nil {
		return nil, nil, c.receiveErr
	}
	frame, fds, err := c.frame()
	if err == nil {
		if msg, err = decode(frame, len(fds)); err == nil {
			return msg, fds, nil
		}
	}
	closeAll(fds)
	if !errors.Is(err, errIdle) {
		c.receiveErr = err
		return nil, nil, err
	}
	return nil, nil, os.ErrDeadlineExceeded
}

// errIdle says that the deadline passed before a frame began.
var errIdle = errors.New("no message within the deadline")

// frame reads one frame and the descriptors that came with it. It never reads beyond the frame, so that descriptors
// belong to the frame during which they come.
func (c *Conn) frame() (_ []byte, fds []int, err error) {
	n, fds, err := c.read(c.header[:], nil)
	switch {
	case n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && len(fds) == 0:
		return nil, nil, errIdle
	case n == 0 && err != nil:
		return nil, fds, err
	case err == nil && n < headerSize:
		fds, err = c.readFull(c.header[n:], fds)
	}
	if err != nil {
		return nil, fds, fmt.Errorf("receive the length of a message: %w", err)
	}
	length := int(binary.BigEndian.Uint32(c.header[:]))
	if length > MaxFrame {
		return nil, fds, fmt.Errorf("receive a message: it claims %d bytes, of which at most %d are allowed", length, MaxFrame)
	}
	var frame []byte
	for len(frame) < length {
		have := len(frame)
		want := min(length, max(firstRead, 2*have))
		grown := make([]byte, want)
		copy(grown, frame)
		frame = grown
		if fds, err = c.readFull(frame[have:], fds); err != nil {
			return nil, fds, fmt.Errorf("receive a message of %d bytes: %w", length, err)
		}
	}
	return frame, fds, nil
}

func (c *Conn) readFull(p []byte, fds []int) ([]int, error) {
	for len(p) > 0 {
		var n int
		var err error
		n, fds, err = c.read(p, fds)
		if errors.Is(err, io.EOF) {
			return fds, io.ErrUnexpectedEOF
		}
		if err != nil {
			return fds, err
		}
		p = p[n:]
	}
	return fds, nil
}

// read is one recvmsg. ReadMsgUnix passes MSG_CMSG_CLOEXEC. The descriptors that come are appended to fds, whatever
// else happens: they are open.
func (c *Conn) read(p []byte, fds []int) (int, []int, error) {
	n, controlLen, flags, _, err := c.c.ReadMsgUnix(p, c.control)
	if controlLen > 0 {
		messages, parseErr := unix.ParseSocketControlMessage(c.control[:controlLen])
		err = errors.Join(err, parseErr)
		for i := range messages {
			if rights, rightsErr := unix.ParseUnixRights(&messages[i]); rightsErr == nil {
				fds = append(fds, rights...)
			}
		}
	}
	switch {
	case err != nil:
		return n, fds, err
	case flags&unix.MSG_CTRUNC != 0:
		return n, fds, errors.New("descriptors were lost on the way: too many in one message, or the limit of open files is reached")
	case len(fds) > MaxDescriptors:
		return n, fds, fmt.Errorf("more than %d descriptors came with one message", MaxDescriptors)
	case n == 0:
		return 0, fds, io.EOF
	}
	return n, fds, nil
}

func decode(frame []byte, fds int) (any, error) {
	var e envelope
	if err := json.Unmarshal(frame, &e); err != nil {
		return nil, fmt.Errorf("decode a message: %w", err)
	}
	msg := empty(e.Type)
	if msg == nil {
		return nil, fmt.Errorf("decode a message: its type %.40q is unknown: run agent and proxy of the same release", e.Type)
	}
	if e.FDs != fds {
		return nil, fmt.Errorf("decode %s: it announces %d descriptors, %d came", e.Type, e.FDs, fds)
	}
	if len(e.Body) == 0 || string(e.Body) == "null" {
		return nil, fmt.Errorf("decode %s: it has no body", e.Type)
	}
	if err := json.Unmarshal(e.Body, msg); err != nil {
		return nil, fmt.Errorf("decode %s: %w", e.Type, err)
	}
	if err := checkDescriptors(msg, e.Type, fds); err != nil {
		return nil, fmt.Errorf("decode a message: %w", err)
	}
	return msg, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd) // nothing was written to it
	}
}
