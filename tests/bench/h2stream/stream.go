// Package h2stream is the load of the benchmark's streaming workload: gRPC streams that last as long as the measurement, on each
// of which a small message goes to the backend, comes back, and only then the next one goes. So a proxy has many frames of few
// bytes in both directions, and no requests.
package h2stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

// Load says what to send. It travels as JSON to the process that sends it.
type Load struct {
	Target      netip.AddrPort `json:"target"`
	Connections int            `json:"connections"`
	Streams     int            `json:"streams"` // on each connection
	Duration    time.Duration  `json:"duration"`
	Fields      [][2]string    `json:"fields"`  // of each request, in their order
	Message     int            `json:"message"` // its length without gRPC's prefix; at least 8
}

// Limit is how long after Duration the last answers may come.
const Limit = 5 * time.Second

// Result is what came of a load.
type Result struct {
	Messages int           `json:"messages"` // that came back
	Elapsed  time.Duration `json:"elapsed"`
	Failed   int           `json:"failed"` // streams that did not end with status 0, and messages that were not theirs
	First    string        `json:"first,omitempty"`
}

// Run opens all streams, sends messages until Duration is over, and closes the streams in order.
func (l *Load) Run(ctx context.Context) (Result, error) {
	if !l.Target.IsValid() || l.Connections < 1 || l.Streams < 1 || l.Duration <= 0 || l.Message < 8 || l.Message > 1024 {
		return Result{}, fmt.Errorf("%+v: want a target, connections, streams, a duration, and messages of 8 to 1024 bytes", *l)
	}
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(l.Duration+Limit))
	defer cancel()
	clients := make([]client, l.Connections)
	errs := make([]error, l.Connections)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { errs[i] = clients[i].run(ctx, l, start.Add(l.Duration)) })
	}
	all.Wait()
	r := Result{Elapsed: time.Since(start)}
	for i := range clients {
		c := &clients[i]
		r.Messages += c.messages
		r.Failed += c.failed
		if errs[i] != nil {
			r.Failed += max(1, c.open)
		}
		for _, err := range []error{c.first, errs[i]} {
			if err != nil && r.First == "" {
				r.First = fmt.Sprintf("connection %d: %v", i+1, err)
			}
		}
	}
	return r, nil
}

// client is one connection.
type client struct {
	load    *Load
	end     time.Time
	socket  *h2.Socket
	decoder *h2.Decoder
	fields  []*h2.Field
	streams []stream // by (id-1)/2
	out     []byte

	received int
	messages int
	failed   int
	open     int // streams
	first    error
}

// stream is one stream: the message that it waits for, and what came of it.
type stream struct {
	next                   uint64
	got                    []byte
	answered, closed, over bool
}

var errDone = errors.New("all streams have ended")

func (c *client) run(ctx context.Context, l *Load, end time.Time) error {
	c.load, c.end, c.decoder, c.open, c.streams = l, end, h2.NewDecoder(), l.Streams, make([]stream, l.Streams)
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", l.Target.String())
	if err != nil {
		return err
	}
	defer nc.Close()
	deadline, _ := ctx.Deadline()
	if err := nc.SetDeadline(deadline); err != nil {
		return err
	}
	if c.socket, err = h2.NewSocket(nc.(*net.TCPConn)); err != nil {
		return err
	}
	// Windows that never have to be renewed, so that the load does not send what is no message.
	c.out = append(c.out, h2.Preface...)
	c.out = h2.AppendSettings(c.out, h2.EnablePush, 0, h2.InitialWindowSize, 1<<31-1)
	c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, 1<<30)
	var block []byte
	for _, f := range l.Fields {
		block = h2.AppendField(block, f[0], f[1])
	}
	for i := range c.streams {
		id := uint32(2*i + 1)
		c.out = append(h2.Append(c.out, len(block), h2.Headers, h2.EndHeaders, id), block...)
		c.send(i)
	}
	c.flush()
	err = c.socket.Receive(make([]byte, 64<<10), c.use, c.flush)
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

func (c *client) use(b []byte) (used int, err error) {
	rest := b
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

func (c *client) frame(f *h2.Frame) error {
	i := int(f.Stream-1) / 2
	if f.Stream != 0 && (f.Stream%2 == 0 || i >= len(c.streams)) {
		return fmt.Errorf("a frame of stream %d, which is none of ours", f.Stream)
	}
	switch f.Type {
	case h2.Data:
		c.data(i, f)
	case h2.Headers:
		if err := c.headers(i, f); err != nil {
			return err
		}
	case h2.ResetStream:
		c.over(i, fmt.Errorf("stream %d was reset: % x", f.Stream, f.Payload))
	case h2.GoAway:
		return fmt.Errorf("GOAWAY: %.100q", f.Payload)
	case h2.Settings, h2.Ping:
		c.out = f.AppendAnswer(c.out)
	}
	if c.open == 0 {
		return errDone
	}
	return nil
}

// data takes a part of a message, and sends the next one when it is whole.
func (c *client) data(i int, f *h2.Frame) {
	const renewal = 1 << 28
	if c.received += f.Length; c.received > renewal {
		c.out = h2.AppendWord(c.out, h2.WindowUpdate, 0, uint32(c.received))
		c.received = 0
	}
	s := &c.streams[i]
	s.got = append(s.got, f.Payload...)
	switch want := c.load.message(s.next); {
	case len(s.got) < len(want):
	case bytes.Equal(s.got, want):
		c.messages++
		s.next, s.got = s.next+1, s.got[:0]
		c.send(i)
	default:
		c.over(i, fmt.Errorf("message %d of stream %d came back as % x", s.next, f.Stream, s.got))
	}
	if f.Has(h2.EndStream) {
		c.over(i, fmt.Errorf("stream %d ended without trailers", f.Stream))
	}
}

// headers takes an answer's header, or the trailers.
func (c *client) headers(i int, f *h2.Frame) error {
	var err error
	if c.fields, err = c.decoder.Decode(c.fields[:0], f.Payload); err != nil {
		return fmt.Errorf("fields of stream %d: %w", f.Stream, err)
	}
	if !f.Has(h2.EndHeaders) {
		return fmt.Errorf("fields of stream %d in more than one frame", f.Stream)
	}
	values := map[string]string{}
	for _, field := range c.fields {
		values[field.Name] = field.Value
	}
	s := &c.streams[i]
	switch {
	case !s.answered && values[":status"] != "200":
		c.over(i, fmt.Errorf("status %q", values[":status"]))
	case f.Has(h2.EndStream) && (values["grpc-status"] != "0" || !s.closed):
		c.over(i, fmt.Errorf("gRPC status %q, when we had ended the stream: %v", values["grpc-status"], s.closed))
	case f.Has(h2.EndStream):
		c.over(i, nil)
	}
	s.answered = true
	return nil
}

// over ends a stream, once.
func (c *client) over(i int, err error) {
	s := &c.streams[i]
	if s.over {
		return
	}
	s.over = true
	c.open--
	if err != nil {
		c.failed++
		if c.first == nil {
			c.first = err
		}
	}
}

// send sends the stream's next message, or its end when the time is over.
func (c *client) send(i int) {
	id := uint32(2*i + 1)
	if s := &c.streams[i]; !time.Now().Before(c.end) {
		s.closed = true
		c.out = h2.Append(c.out, 0, h2.Data, h2.EndStream, id)
		return
	}
	m := c.load.message(c.streams[i].next)
	c.out = append(h2.Append(c.out, len(m), h2.Data, 0, id), m...)
}

// message is a message with gRPC's prefix: its number, and as many zeros as it takes.
func (l *Load) message(number uint64) []byte {
	b := make([]byte, 5+l.Message)
	binary.BigEndian.PutUint32(b[1:], uint32(l.Message))
	binary.BigEndian.PutUint64(b[5:], number)
	return b
}

func (c *client) flush() {
	if n, err := c.socket.TryWrite(c.out); err == nil && n < len(c.out) {
		_, _ = c.socket.Write(c.out[n:]) // the reader sees a connection that ended
	}
	c.out = c.out[:0]
}
