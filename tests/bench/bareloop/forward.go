package main

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

type forwarder struct {
	name, value []byte     // of the field that a request must have
	choices     []*backend // each as often as it weighs
	turn        atomic.Uint32
}

// backend keeps its idle connections; the one used last is used next.
type backend struct {
	address *net.TCPAddr
	mu      sync.Mutex
	idle    []*socket
}

func (b *backend) get() (*socket, error) {
	b.mu.Lock()
	if n := len(b.idle); n > 0 {
		s := b.idle[n-1]
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		return s, nil
	}
	b.mu.Unlock()
	c, err := net.DialTCP("tcp", nil, b.address)
	if err != nil {
		return nil, err
	}
	return newSocket(c)
}

func (b *backend) put(s *socket) {
	b.mu.Lock()
	b.idle = append(b.idle, s)
	b.mu.Unlock()
}

var (
	notFound      = []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	connection    = []byte("connection")
	contentLength = []byte("content-length")
	closeOption   = []byte("close")
	colon         = []byte(":")
	closeField    = []byte("Connection: close\r\n\r\n")
)

// connection serves a client until it goes. There is nobody to tell of an error.
func (f *forwarder) connection(c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	client, err := newSocket(c)
	if err != nil {
		return
	}
	out := make([]byte, 0, bufferSize)
	for {
		last, err := f.exchange(client, &out)
		if err != nil || last {
			return
		}
	}
}

// exchange forwards one request without a body and its answer.
func (f *forwarder) exchange(client *socket, out *[]byte) (last bool, err error) {
	head, err := client.head()
	if err != nil {
		return true, err
	}
	var request facts
	*out = f.copyHead((*out)[:0], head, &request)
	*out = append(*out, '\r', '\n')
	client.start += len(head)
	if !request.matched {
		return request.last, client.write(notFound)
	}
	b := f.choices[int(f.turn.Add(1))%len(f.choices)]
	upstream, err := b.get()
	if err != nil {
		return true, err
	}
	if err := f.answer(client, upstream, request.last, out); err != nil {
		_ = upstream.conn.Close()
		return true, err
	}
	b.put(upstream)
	return request.last, nil
}

// answer sends the request in out and passes the answer on: the head and what came with it in one write.
func (f *forwarder) answer(client, upstream *socket, last bool, out *[]byte) error {
	if err := upstream.write(*out); err != nil {
		return err
	}
	runtime.Gosched()
	head, err := upstream.head()
	if err != nil {
		return err
	}
	var response facts
	*out = f.copyHead((*out)[:0], head, &response)
	if response.length < 0 {
		return errors.New("an answer without a length")
	}
	if last {
		*out = append(*out, closeField...)
	} else {
		*out = append(*out, '\r', '\n')
	}
	upstream.start += len(head)
	rest := response.length
	part := upstream.take(rest)
	*out = append(*out, part...)
	if err := client.write(*out); err != nil {
		return err
	}
	for rest -= len(part); rest > 0; rest -= len(part) {
		if err := upstream.fill(); err != nil {
			return err
		}
		part = upstream.take(rest)
		if err := client.write(part); err != nil {
			return err
		}
	}
	runtime.Gosched()
	return nil
}

// facts are all that is read of a head.
type facts struct {
	matched bool
	last    bool
	length  int // -1: bad; 0 where there is none
}

// copyHead appends the head to out, without its Connection field and the empty line at its end.
func (f *forwarder) copyHead(out, head []byte, facts *facts) []byte {
	i := bytes.IndexByte(head, '\n') + 1
	out, head = append(out, head[:i]...), head[i:]
	for len(head) > 2 {
		i := bytes.IndexByte(head, '\n') + 1
		line := head[:i]
		head = head[i:]
		name, value, ok := bytes.Cut(line, colon)
		if !ok {
			facts.length = -1
			return out
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, connection):
			facts.last = bytes.EqualFold(value, closeOption)
			continue
		case bytes.EqualFold(name, contentLength):
			n, err := strconv.Atoi(string(value))
			if err != nil {
				n = -1
			}
			facts.length = n
		case bytes.EqualFold(name, f.name):
			facts.matched = bytes.Equal(value, f.value)
		}
		out = append(out, line...)
	}
	return out
}
