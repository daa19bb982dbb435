// H2backend is the backend of the benchmark's gRPC workloads. It answers every call with the messages that it is sent, one by
// one, and with the trailers that a success has: to a unary call its own message, to a stream a stream. It speaks HTTP/2 and
// nothing else, so that a proxy that would speak HTTP/1.1 to it gets no answer.
//
// It has to be the same for all proxies, and cheap, so that the proxy is what two cores are short of: it decodes no fields and
// keeps nothing of a unary call. nginx, the backend of the other workloads, sends no trailers of its own.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("h2backend", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8081", "`address` to listen on")
	name := flags.String("name", "v1", "`text` of the field x-backend")
	if flags.Parse(args) != nil {
		return 2
	}
	l, err := net.Listen("tcp", *listen)
	if err == nil {
		err = serve(l, *name)
	}
	fmt.Fprintln(os.Stderr, "h2backend:", err)
	return 1
}

func serve(l net.Listener, name string) error {
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		c, err := newConn(nc.(*net.TCPConn), name)
		if err != nil { // it is gone already
			_ = nc.Close()
			continue
		}
		go c.serve()
	}
}

// Windows that we grant: a stream's never has to be renewed, the connection's is after so many bytes.
const (
	streamWindow = 1<<31 - 1
	connWindow   = 1 << 30
	renewal      = 1 << 28
)

// maxStreams is net/http's default.
const maxStreams = 250

type conn struct {
	socket  *h2.Socket
	fields  fields
	begun   map[uint32]int64 // streams whose answer has begun and not ended, with the bytes that were sent
	out     []byte
	greeted bool

	received int64 // not yet credited
	window   int64 // that the peer grants us
	initial  int64 // the same of each stream
}

func newConn(nc *net.TCPConn, name string) (*conn, error) {
	socket, err := h2.NewSocket(nc)
	c := &conn{
		socket: socket, fields: fields{name: name, table: true}, begun: map[uint32]int64{},
		window: h2.DefaultWindow, initial: h2.DefaultWindow,
	}
	c.out = h2.AppendSettings(c.out, h2.MaxConcurrentStreams, maxStreams, h2.InitialWindowSize, streamWindow)
	c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, connWindow)
	return c, err
}

func (c *conn) serve() {
	defer func() { _ = c.socket.Close() }()
	if err := c.socket.Receive(make([]byte, 64<<10), c.use, c.flush); err != nil && c.greeted {
		return // as connections end
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "h2backend:", err)
	}
}

func (c *conn) use(b []byte) (used int, err error) {
	rest := b
	if !c.greeted {
		if !bytes.HasPrefix([]byte(h2.Preface), b[:min(len(b), len(h2.Preface))]) {
			return 0, fmt.Errorf("no HTTP/2: %.20q", b)
		}
		if len(b) < len(h2.Preface) {
			return 0, nil
		}
		rest, c.greeted = b[len(h2.Preface):], true
	}
	var f h2.Frame
	for {
		next, ok, err := h2.Next(rest, &f)
		if err == nil && ok {
			err = c.frame(&f)
		}
		if err != nil || !ok {
			return len(b) - len(rest), err
		}
		rest = next
	}
}

func (c *conn) frame(f *h2.Frame) error {
	switch f.Type {
	case h2.Data:
		return c.data(f)
	case h2.Headers:
		if f.Has(h2.EndStream) { // a call without a message, or trailers
			return c.answer(f.Stream, nil, true)
		}
	case h2.ResetStream:
		delete(c.begun, f.Stream)
	case h2.Settings, h2.Ping:
		if f.Type == h2.Settings && !f.Has(h2.Ack) {
			f.EachSetting(c.setting)
		}
		c.out = f.AppendAnswer(c.out)
	case h2.WindowUpdate:
		n, err := f.Word()
		if err != nil {
			return err
		}
		if _, begun := c.begun[f.Stream]; begun {
			c.begun[f.Stream] -= int64(n)
		} else if f.Stream == 0 {
			c.window += int64(n)
		}
	}
	return nil
}

func (c *conn) setting(id uint16, value uint32) {
	switch id {
	case h2.InitialWindowSize:
		c.initial = int64(value)
	case h2.HeaderTableSize:
		c.fields.table = c.fields.table && value >= 4096
	}
}

func (c *conn) data(f *h2.Frame) error {
	if c.received += int64(f.Length); c.received > renewal {
		c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, uint32(c.received))
		c.received = 0
	}
	return c.answer(f.Stream, f.Payload, f.Has(h2.EndStream))
}

// answer sends a part of a message back. A peer that grants too little for what it has sent itself is an error, which shows:
// nothing is kept for it.
func (c *conn) answer(stream uint32, part []byte, last bool) error {
	sent, begun := c.begun[stream]
	if !begun {
		c.out = c.fields.header(c.out, stream)
	}
	if len(part) > 0 {
		c.window -= int64(len(part))
		if sent += int64(len(part)); c.window < 0 || sent > c.initial {
			return fmt.Errorf("stream %d: the peer granted too small a window", stream)
		}
		c.out = append(h2.Append(c.out, len(part), h2.Data, 0, stream), part...)
	}
	switch {
	case last:
		c.out = c.fields.trailers(c.out, stream)
		if begun {
			delete(c.begun, stream)
		}
	case !begun || len(part) > 0:
		c.begun[stream] = sent
	}
	return nil
}

// flush writes what there is. Where the kernel does not take all of it, it waits: nobody else needs this goroutine.
func (c *conn) flush() {
	if len(c.out) == 0 {
		return
	}
	if n, err := c.socket.TryWrite(c.out); err == nil && n < len(c.out) {
		_, _ = c.socket.Write(c.out[n:]) // the reader sees a connection that ended
	}
	c.out = c.out[:0]
}
