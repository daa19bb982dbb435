package http2

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

const (
	wireDrain = "736c756963650001" // the data of our PINGs
	wireAlive = "736c756963650002"
)

// RFC 9113, 6.8: a client's requests that are on their way when we drain are served, later ones are ignored.
func TestRFC9113Section6_8_DrainLosesNoRequest(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	p.head(1, true, get("/")...)
	l.expect(t, "request 1 GET http://a.example/ end")
	s.Drain()
	s.Drain()
	p.expect("GOAWAY 2147483647 NO_ERROR", "PING "+wireDrain)
	p.head(3, true, get("/late")...)
	l.expect(t, "request 3 GET http://a.example/late end")
	p.must(p.WritePing(true, [8]byte([]byte("sluice\x00\x01"))))
	p.expect("GOAWAY 3 NO_ERROR")
	p.head(5, false, post()...)
	p.must(p.WriteData(5, true, []byte("x")))
	p.alive()
	answer := AppendResponse(nil, &message.Response{Status: 200})
	do(func(t *Turn) { l.handle(3).Head(t, answer, true) })
	p.expect("HEADERS 3 [:status 200] end")
	do(func(t *Turn) { l.handle(1).Head(t, answer, true) })
	p.expect("HEADERS 1 [:status 200] end", "end")
	p.Conn.Close()
	if err := s.wait(t); err != nil {
		t.Error(err)
	}
	if len(l.lines) > 0 {
		t.Errorf("told %q", l.lines)
	}
}

// The Keeper does the second step where the client does not answer the PING.
func TestRFC9113Section6_8_DrainWithoutAnAck(t *testing.T) {
	s, p := serverPeer(t, Limits{}, newLog())
	s.Drain()
	p.expect("GOAWAY 2147483647 NO_ERROR", "PING "+wireDrain)
	s.keeper.look()
	s.keeper.look()
	p.expect("GOAWAY 0 NO_ERROR", "end")
}

// RFC 9113, 6.8: streams above the last one were not processed, the others go on.
func TestRFC9113Section6_8_GoAway(t *testing.T) {
	l := newLog()
	c, fd := socketPair(t)
	p := newPeer(t, fd)
	ended := make(chan *Conn, 2)
	s := start(t, NewClient(c, config(t, Limits{}), func(c *Conn) { ended <- c }))
	b := make([]byte, len(preface))
	if _, err := io.ReadFull(p, b); err != nil {
		t.Fatal(err)
	}
	p.must(p.WriteSettings())
	p.expect("SETTINGS", "WINDOW_UPDATE", "SETTINGS ack")
	r := &message.Request{Method: "GET", Authority: "a", Path: "/"}
	for range 3 {
		l.open(t, s.Conn, true, r)
	}
	p.until("HEADERS 5 [:method GET, :scheme http, :authority a, :path /] end")
	p.must(p.WriteGoAway(3, xhttp2.ErrCodeNo, nil))
	l.expect(t, "gone 5 code=0 unprocessed")
	if <-ended != s.Conn {
		t.Error("another connection")
	}
	if _, err := s.Open(&Turn{}, AppendRequest(nil, r), true, l, 9); !errors.Is(err, ErrEnding) || s.Room() != 0 {
		t.Errorf("%v, room %d", err, s.Room())
	}
	p.must(p.WriteGoAway(1, xhttp2.ErrCodeNo, nil))
	l.expect(t, "gone 3 code=0 unprocessed")
	p.head(1, true, ":status 200")
	l.expect(t, "response 1 200 end")
	p.expect("GOAWAY 0 NO_ERROR", "end")
	p.Conn.Close()
	if err := s.wait(t); err != nil {
		t.Error(err)
	}
	if len(ended) > 0 {
		t.Error("the end was told twice")
	}
}

func TestGoAwayWithTheEndBehindIt(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	l.open(t, s.Conn, true, &message.Request{Method: "GET", Authority: "a", Path: "/"})
	p.until("HEADERS 1 [:method GET, :scheme http, :authority a, :path /] end")
	p.must(p.WriteGoAway(1, xhttp2.ErrCodeEnhanceYourCalm, nil))
	p.Conn.Close()
	l.expect(t, "gone 1 code=2 connection")
	if err := s.wait(t); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func TestClientDrains(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	l.open(t, s.Conn, true, &message.Request{Method: "GET", Authority: "a", Path: "/"})
	s.Drain()
	if _, err := s.Open(&Turn{}, nil, true, l, 9); !errors.Is(err, ErrEnding) {
		t.Error(err)
	}
	p.until("HEADERS 1 [:method GET, :scheme http, :authority a, :path /] end")
	p.head(1, true, ":status 200")
	l.expect(t, "response 1 200 end")
	p.expect("GOAWAY 0 NO_ERROR", "end")
}

func TestStopResets(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	h := l.open(t, s.Conn, false, &message.Request{Method: "GET", Authority: "a", Path: "/"})
	s.Stop()
	if err := s.wait(t); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Error(err)
	}
	l.expect(t, "gone 1 code=0 connection")
	if _, ok := h.Data(&Turn{}, []byte("x"), true); ok {
		t.Error("the stream goes on")
	}
	if _, err := s.Open(&Turn{}, nil, true, l, 9); !errors.Is(err, ErrEnding) || s.Streams() != 0 {
		t.Errorf("%v, %d streams", err, s.Streams())
	}
	p.until("HEADERS 1 [:method GET, :scheme http, :authority a, :path /]")
	if got := p.next(); got != "reset" && got != "end" { // socket pairs have no resets
		t.Error(got)
	}
}

// A request nothing of which was written may be sent again.
func TestLostConnectionTellsWhatWasNotWritten(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	r := &message.Request{Method: "GET", Authority: "a", Path: "/"}
	l.open(t, s.Conn, true, r)
	p.until("HEADERS 1 [:method GET, :scheme http, :authority a, :path /] end")
	l.mu.Lock()
	_, err := s.Open(&Turn{}, AppendRequest(nil, r), true, l, 3) // nobody flushes it
	l.mu.Unlock()
	p.must(err)
	p.Conn.Close()
	l.expect(t, "gone 1 code=2 connection", "gone 3 code=2 unprocessed connection")
	if err := s.wait(t); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// The peer's end that comes with its last frame is not told by the poller: the Keeper looks once after the last turn.
func TestEndWithTheLastData(t *testing.T) {
	a, fd := socketPair(t)
	p := newPeer(t, fd)
	l := newLog()
	p.say(preface)
	p.must(p.WriteSettings())
	p.must(p.WriteSettingsAck())
	p.head(1, true, get("/")...)
	p.must(p.Conn.(interface{ CloseWrite() error }).CloseWrite())
	s := start(t, NewServer(a, config(t, Limits{}), l))
	l.expect(t, "request 1 GET http://a.example/ end")
	late := time.After(patienceOfTests)
	for {
		s.keeper.look()
		select {
		case <-s.done:
		case <-late:
			t.Fatal("the end is not seen")
		default:
			continue
		}
		break
	}
	l.expect(t, "gone 1 code=2 connection")
}

// An idle connection is looked at once, not again and again.
func TestKeeperLooksOnce(t *testing.T) {
	s, p := serverPeer(t, Limits{}, newLog())
	p.alive()
	for range 5 {
		s.keeper.look()
	}
	if w := &s.watch; !w.looked || w.quiet == 0 {
		t.Errorf("%+v", w)
	}
	p.alive()
}

func TestRFC9113Section6_7_SilentEndpoint(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	for range 30 { // without requests it may be silent
		s.keeper.look()
	}
	l.open(t, s.Conn, true, &message.Request{Method: "GET", Authority: "a", Path: "/"})
	p.until("HEADERS 1 [:method GET, :scheme http, :authority a, :path /] end")
	s.keeper.look()
	p.expect("PING " + wireAlive)
	turns := s.turns.Load()
	p.must(p.WritePing(true, [8]byte{}))
	for s.turns.Load() == turns {
	}
	for range silence + silenceAnswer {
		s.keeper.look()
	}
	p.expect("PING " + wireAlive)
	s.keeper.look()
	s.keeper.look()
	s.keeper.look()
	l.expect(t, "gone 1 code=2 connection")
	if err := s.wait(t); err == nil || !strings.Contains(err.Error(), errSilent.Error()) {
		t.Error(err)
	}
}

func TestKeeperEndsWhatDoesNotComeInTime(t *testing.T) {
	for name, c := range map[string]struct {
		say   func(p *peer)
		want  xhttp2.ErrCode
		waits uint32
	}{
		"no preface":         {func(*peer) {}, xhttp2.ErrCodeProtocol, waitsForSettings},
		"half a preface":     {func(p *peer) { p.say(preface[:10]) }, xhttp2.ErrCodeProtocol, waitsForSettings},
		"no SETTINGS":        {func(p *peer) { p.say(preface) }, xhttp2.ErrCodeProtocol, waitsForSettings},
		"no ack of SETTINGS": {func(p *peer) { p.say(preface); p.must(p.WriteSettings()) }, xhttp2.ErrCodeSettingsTimeout, waitsForAck},
		"half a header block": {func(p *peer) {
			p.greet()
			p.must(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(get("/")...)}))
		}, xhttp2.ErrCodeProtocol, waitsForBlock},
		"half a frame of a header block": {func(p *peer) { p.greet(); p.say("\x00\x00\x10\x01\x04\x00\x00\x00\x01\x82") }, xhttp2.ErrCodeProtocol, waitsForBlock},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := silentPeer(t, Limits{}, newLog())
			before := s.turns.Load()
			c.say(p)
			if name != "no preface" {
				for s.turns.Load() == before || s.waiting.Load()&3 != c.waits {
				}
			}
			go func() {
				for {
					select {
					case <-s.done:
						return
					default:
						s.keeper.look()
					}
				}
			}()
			p.ends(c.want)
		})
	}
}

func (p *peer) greet() {
	p.say(preface)
	p.must(p.WriteSettings())
	p.must(p.WriteSettingsAck())
}

// What is in order is not ended, however long it takes.
func TestKeeperLeavesAlone(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	p.head(1, false, post()...)
	p.say("\x00\x00\x10\x00\x00\x00\x00\x00\x01half")
	l.expect(t, "request 1 POST http://a.example/")
	for range 50 {
		s.keeper.look()
	}
	p.say(" of a frame.")
	l.expect(t, `data 1 "half of a frame."`)
	p.alive()
}

// An idle connection holds no buffers (design).
func TestIdleConnectionHoldsNoBuffer(t *testing.T) {
	l := newLog()
	l.answer = func(t *Turn, h Handle, _ *message.Request) {
		h.Head(t, AppendResponse(nil, &message.Response{Status: 200}), true)
	}
	a, b := tcpPair(t)
	s := start(t, NewServer(a, config(t, Limits{}), l))
	cl := start(t, NewClient(b, config(t, Limits{}), nil))
	heard := newLog()
	heard.open(t, cl.Conn, true, &message.Request{Method: "GET", Authority: "a", Path: "/"})
	heard.expect(t, "response 1 200 end")
	s.Stop()
	cl.Stop()
	_, _ = s.wait(t), cl.wait(t)
	for _, c := range []*Conn{s.Conn, cl.Conn} {
		if c.in.buf != nil || c.in.block != nil || c.out.buf != nil || c.in.scratch != nil {
			t.Errorf("%+v", &c.in)
		}
	}
	r := &reader{conn: &Conn{buffers: &Buffers{}}, begun: true, framed: true}
	r.buf = r.Room()[:0]
	r.release()
	if r.buf != nil {
		t.Error("a connection without anything holds a buffer")
	}
	r.buf = append(r.buf, r.Room()[:100]...)
	r.release()
	if cap(r.buf) != 1<<smallBits || len(r.buf) != 100 {
		t.Errorf("a partial frame holds %d bytes", cap(r.buf))
	}
}

// tcpPair are two ends of a connection over loopback.
func tcpPair(tb testing.TB) (a, b *sock.Conn) {
	tb.Helper()
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l, 1)); err != nil {
		tb.Fatal(err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Connect(c, at); err != nil {
		tb.Fatal(err)
	}
	s, _, err := unix.Accept(l)
	if err != nil {
		tb.Fatal(err)
	}
	return fromFD(tb, s), fromFD(tb, c)
}

func fromFD(tb testing.TB, fd int) *sock.Conn {
	tb.Helper()
	err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err != nil {
		tb.Fatal(err)
	}
	c, err := sock.New(fd)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// A panic of an Acceptor costs the connection: the other streams are told, the socket is closed, and the panic goes on.
func TestPanicCostsTheConnection(t *testing.T) {
	a, fd := socketPair(t)
	p := newPeer(t, fd)
	l := newLog()
	l.answer = func(_ *Turn, h Handle, _ *message.Request) {
		if h.id == 3 {
			panic("a bug")
		}
	}
	c := NewServer(a, config(t, Limits{}), l)
	panicked := make(chan any, 1)
	go func() {
		defer func() { panicked <- recover() }()
		_ = c.Serve(nil) // it does not return
	}()
	p.greet()
	p.head(1, true, get("/")...)
	p.head(3, true, get("/")...)
	if got := <-panicked; got != "a bug" {
		t.Error(got)
	}
	l.expect(t, "request 1 GET http://a.example/ end", "request 3 GET http://a.example/ end", "gone 1 code=0 connection", "gone 3 code=0 connection")
	if len(c.keeper.conns) != 0 {
		t.Error("the Keeper still has it")
	}
	if _, err := a.TryWrite([]byte("x")); err == nil {
		t.Error("the socket is open")
	}
}
