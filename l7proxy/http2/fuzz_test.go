package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// echo answers each request, and its body with itself.
type echo struct{ hands map[uint64]Handle }

func (e *echo) Request(t *Turn, h Handle, _ *message.Request, end bool) {
	h.Bind(e, uint64(h.id))
	e.hands[uint64(h.id)] = h
	h.Head(t, AppendResponse(nil, &message.Response{Status: 200}), end)
}
func (e *echo) Refuse(t *Turn, h Handle, err *Error) {
	if err.Status > 0 {
		h.Head(t, AppendResponse(nil, &message.Response{Status: err.Status}), true)
	}
}
func (e *echo) Response(*Turn, uint64, *message.Response, bool) {}
func (e *echo) Trailers(t *Turn, token uint64, f message.Fields) {
	e.hands[token].Trailers(t, AppendTrailers(nil, f))
}
func (e *echo) Sent(t *Turn, token uint64, n int)      { e.hands[token].Credit(t, n) }
func (e *echo) Gone(_ *Turn, t uint64, _ *StreamError) { delete(e.hands, t) }
func (e *echo) Data(t *Turn, token uint64, p []byte, end bool) {
	h := e.hands[token]
	queued, _ := h.Data(t, p, end)
	h.Credit(t, len(p)-queued)
}

// feed gives a connection of a server what a client sends, in pieces, without a socket that reads; what it writes goes to
// one that is as good as infinite. It returns the connection after that, and all that was written.
func feed(tb testing.TB, a Acceptor, in []byte, piece int) (*Conn, []byte) {
	tb.Helper()
	conn, fd := socketPair(tb)
	other := os.NewFile(uintptr(fd), "peer")
	peerConn, err := net.FileConn(other)
	other.Close()
	if err != nil {
		tb.Fatal(err)
	}
	written := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(peerConn) // it ends when we close
		written <- b
	}()
	c := NewServer(conn, &Config{Buffers: &Buffers{}, Limits: Limits{StreamWindow: 20_000, ConnectionWindow: 100_000, HeaderList: 8 << 10, Target: 100, Streams: 10}}, a)
	c.mu.Lock()
	c.owe(&c.in.turn)
	c.mu.Unlock()
	for len(in) > 0 {
		n := copy(c.in.Room()[:min(piece, len(c.in.Room()))], in)
		in = in[n:]
		if c.in.Got(n) == sock.Stop {
			break
		}
		c.in.Idle()
	}
	c.in.turn.Flush()
	for deadline := time.Now().Add(patienceOfTests); ; {
		c.mu.Lock()
		busy := c.out.writing
		c.mu.Unlock()
		if !busy {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatal("a write does not end")
		}
		runtime.Gosched()
	}
	conn.Close()
	b := <-written
	peerConn.Close()
	return c, b
}

// consistent holds what is true of a connection at any time.
func consistent(tb testing.TB, c *Conn) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n, uncredited := 0, 0
	c.streams.each(func(s *stream) {
		n++
		uncredited += s.uncredited
		if s.id == 0 || c.streams.get(s.id) != s || s.recvEnd && s.sentEnd {
			tb.Errorf("stream %+v", s)
		}
		if s.waits && (s.queue.len() == 0 || s.sendWindow <= 0) || !s.waits && s.queue.len() > 0 && s.sendWindow > 0 {
			tb.Errorf("stream %d waits: %v, %d queued, window %d", s.id, s.waits, s.queue.len(), s.sendWindow)
		}
	})
	if n != c.streams.n || n > c.limits.Streams {
		tb.Errorf("%d streams, counted %d", n, c.streams.n)
	}
	if c.failure == nil && c.recvWindow+int64(c.gathered+uncredited) != int64(c.limits.ConnectionWindow) {
		tb.Errorf("the connection's window: %d + %d + %d", c.recvWindow, c.gathered, uncredited)
	}
	if c.blocked.first != nil && c.canSend() {
		tb.Error("streams wait although the connection can send")
	}
	if g := c.glitches.Load(); g < 0 || g > mostGlitches+1 {
		tb.Errorf("%d glitches", g)
	}
}

func seeds() [][]byte {
	var all [][]byte
	seed := func(f func(fr *xhttp2.Framer, block func(lines ...string) []byte)) {
		var b, blk bytes.Buffer
		fr := xhttp2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		enc := xhpack.NewEncoder(&blk)
		f(fr, func(lines ...string) []byte {
			blk.Reset()
			for _, l := range fieldsFrom(lines...) {
				_ = enc.WriteField(xhpack.HeaderField{Name: l.Name, Value: l.Value}) // it goes to memory, as do all these
			}
			return bytes.Clone(blk.Bytes())
		})
		all = append(all, b.Bytes())
	}
	type blocks = func(lines ...string) []byte
	seed(func(fr *xhttp2.Framer, block blocks) {
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block(get("/")...), EndHeaders: true, EndStream: true})
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: block(post("content-length 5")...), EndHeaders: true, PadLength: 3})
		_ = fr.WriteDataPadded(3, false, []byte("he"), make([]byte, 3))
		_ = fr.WriteData(3, true, []byte("llo"))
		_ = fr.WriteWindowUpdate(0, 100)
		_ = fr.WritePing(false, [8]byte{1})
	})
	seed(func(fr *xhttp2.Framer, block blocks) {
		b := block(post("a b", "c d")...)
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 5, BlockFragment: b[:4]})
		_ = fr.WriteContinuation(5, false, b[4:6])
		_ = fr.WriteContinuation(5, true, b[6:])
		_ = fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 0}, xhttp2.Setting{ID: 1, Val: 0})
		_ = fr.WriteData(5, false, []byte("hello"))
		_ = fr.WriteWindowUpdate(5, 2)
		_ = fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 1})
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 5, BlockFragment: block("t u"), EndHeaders: true, EndStream: true})
		_ = fr.WriteRSTStream(5, 8)
		_ = fr.WriteData(5, false, []byte("late"))
	})
	seed(func(fr *xhttp2.Framer, block blocks) {
		_ = fr.WriteSettingsAck()
		_ = fr.WritePriority(3, xhttp2.PriorityParam{StreamDep: 1, Weight: 2})
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 7, BlockFragment: block(get("/" + string(make([]byte, 3)))...), EndHeaders: true})
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 9, BlockFragment: block(get("/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890")...), EndHeaders: true})
		_ = fr.WriteRawFrame(0x20, 1, 3, []byte("x"))
		_ = fr.WriteGoAway(0, 0, []byte("bye"))
		_ = fr.WritePushPromise(xhttp2.PushPromiseParam{StreamID: 9, PromiseID: 2, BlockFragment: block(get("/")...), EndHeaders: true})
	})
	return all
}

// FuzzServe: whatever a client sends, and however it is cut into reads, a connection goes on or ends with GOAWAY, and what is
// true of it stays true.
func FuzzServe(f *testing.F) {
	greeting := preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, s := range seeds() {
		f.Add(append([]byte(greeting), s...), 1<<15)
		f.Add(append([]byte(greeting), s...), 1)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 7)
	f.Add([]byte(preface), 100)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece <= 0 || piece > 1<<15 {
			piece = 1 << 15
		}
		if len(in) > 100*piece {
			in = in[:100*piece]
		}
		c, out := feed(t, &echo{hands: map[uint64]Handle{}}, in, piece)
		consistent(t, c)
		goAway := xhttp2.ErrCode(0)
		fr := xhttp2.NewFramer(nil, bytes.NewReader(out))
		for {
			frame, err := fr.ReadFrame()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("what we wrote is not in order: %v", err)
			}
			if g, ok := frame.(*xhttp2.GoAwayFrame); ok && g.ErrCode != 0 {
				goAway = g.ErrCode
			}
		}
		if failed := c.failure != nil; failed != (goAway != 0) {
			t.Errorf("the connection failed: %v, GOAWAY %v", c.failure, goAway)
		}
	})
}

// FuzzFrames compares what we take for a frame in order with x/net's Framer, frame by frame, as long as both say yes. What
// x/net refuses we refuse too, or it is listed here.
func FuzzFrames(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<14 {
			return
		}
		l := &requests{}
		c, _ := feed(t, l, append([]byte(preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), in...), 1<<15)
		want, broken := oracle(whole(in)) // we judge no frame before it is complete
		if broken && c.failure == nil {
			t.Fatalf("x/net refuses %x, we do not", in)
		}
		for i, got := range l.data { // what is on streams that we refuse is left out
			at := slices.Index(want, got)
			if at < 0 {
				t.Fatalf("data %d is %q, of %q", i, got, want)
			}
			want = want[at+1:]
		}
	})
}

// requests notes the data of its requests.
type requests struct {
	echo
	data []string
}

func (r *requests) Request(_ *Turn, h Handle, _ *message.Request, _ bool) { h.Bind(r, uint64(h.id)) }
func (r *requests) Refuse(t *Turn, h Handle, err *Error)                  {}
func (r *requests) Trailers(*Turn, uint64, message.Fields)                {}
func (r *requests) Gone(*Turn, uint64, *StreamError)                      {}
func (r *requests) Data(_ *Turn, token uint64, p []byte, _ bool) {
	if len(p) > 0 {
		r.data = append(r.data, fmt.Sprintf("%d %x", token, p))
	}
}

// whole cuts off a frame that is not complete, unless it is too large. x/net knows types beyond RFC 9113, such as
// PRIORITY_UPDATE (RFC 9218), which we ignore: they become one that nobody knows.
func whole(in []byte) []byte {
	in = slices.Clone(in)
	for at := 0; ; {
		if len(in)-at < frameHead {
			return in[:at]
		}
		size := int(in[at])<<16 | int(in[at+1])<<8 | int(in[at+2])
		switch {
		case size > maxFrame:
			return in
		case len(in)-at < frameHead+size:
			return in[:at]
		case in[at+3] > byte(frameContinuation):
			in[at+3] = 0x42
		}
		at += frameHead + size
	}
}

// oracle is the data that x/net's Framer reads on streams, and whether it refuses a frame for the connection's sake.
func oracle(in []byte) (data []string, broken bool) {
	fr := xhttp2.NewFramer(nil, bytes.NewReader(in))
	fr.SetMaxReadFrameSize(maxFrame)
	for {
		frame, err := fr.ReadFrame()
		if _, stream := errors.AsType[xhttp2.StreamError](err); stream {
			continue
		}
		if err != nil {
			_, conn := errors.AsType[xhttp2.ConnectionError](err)
			return data, conn || errors.Is(err, xhttp2.ErrFrameTooLarge)
		}
		if d, ok := frame.(*xhttp2.DataFrame); ok && len(d.Data()) > 0 {
			data = append(data, fmt.Sprintf("%d %x", d.StreamID, d.Data()))
		}
	}
}
