package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// patienceOfTests is how long a test waits for what has to happen.
const patienceOfTests = 10 * time.Second

// socketPair makes two ends of one connection.
func socketPair(tb testing.TB) (*sock.Conn, int) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := sock.New(fds[0])
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c, fds[1]
}

// twoConns are both ends as we use them.
func twoConns(tb testing.TB) (a, b *sock.Conn) {
	tb.Helper()
	a, fd := socketPair(tb)
	b, err := sock.New(fd)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return a, b
}

func config(tb testing.TB, limits Limits) *Config {
	tb.Helper()
	return &Config{Limits: limits, Buffers: &Buffers{}, Keeper: NewKeeper()}
}

// served is a Conn whose Serve runs.
type served struct {
	*Conn
	done chan struct{}
	err  error // once done is closed
}

// start runs Serve; the test ends when that has.
func start(tb testing.TB, c *Conn) *served {
	tb.Helper()
	s := &served{Conn: c, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = c.Serve(nil)
	}()
	tb.Cleanup(func() {
		c.Stop()
		_ = s.wait(tb)
	})
	return s
}

// wait waits for the end of Serve.
func (s *served) wait(tb testing.TB) error {
	tb.Helper()
	select {
	case <-s.done:
		return s.err
	case <-time.After(patienceOfTests):
		tb.Fatal("the connection does not end")
		return nil
	}
}

// peer is the other end, which speaks with x/net's Framer.
type peer struct {
	tb testing.TB
	net.Conn
	*xhttp2.Framer
	block bytes.Buffer
	enc   *xhpack.Encoder
}

func newPeer(tb testing.TB, fd int) *peer {
	tb.Helper()
	f := os.NewFile(uintptr(fd), "peer")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patienceOfTests)); err != nil {
		tb.Fatal(err)
	}
	p := &peer{tb: tb, Conn: c, Framer: xhttp2.NewFramer(c, c)}
	p.AllowIllegalWrites = true
	p.SetMaxReadFrameSize(maxFrame)
	p.ReadMetaHeaders = xhpack.NewDecoder(4096, nil)
	p.enc = xhpack.NewEncoder(&p.block)
	return p
}

// serverPeer is a client of a server with that acceptor; the greetings are over.
func serverPeer(tb testing.TB, limits Limits, a Acceptor) (*served, *peer) {
	tb.Helper()
	s, p := silentPeer(tb, limits, a)
	p.say(preface)
	p.must(p.WriteSettings())
	p.must(p.WriteSettingsAck())
	p.expect("SETTINGS")
	p.expect("WINDOW_UPDATE")
	p.expect("SETTINGS ack")
	return s, p
}

// silentPeer is serverPeer before anything was said.
func silentPeer(tb testing.TB, limits Limits, a Acceptor) (*served, *peer) {
	tb.Helper()
	c, fd := socketPair(tb)
	p := newPeer(tb, fd)
	return start(tb, NewServer(c, config(tb, limits), a)), p
}

// clientPeer is an endpoint that a client of ours is connected to; the greetings are over.
func clientPeer(tb testing.TB, limits Limits, settings ...xhttp2.Setting) (*served, *peer) {
	tb.Helper()
	c, fd := socketPair(tb)
	p := newPeer(tb, fd)
	s := start(tb, NewClient(c, config(tb, limits), nil))
	b := make([]byte, len(preface))
	if _, err := io.ReadFull(p, b); err != nil || string(b) != preface {
		tb.Fatalf("the connection begins with %q, %v", b, err)
	}
	p.must(p.WriteSettings(settings...))
	p.must(p.WriteSettingsAck())
	p.expect("SETTINGS")
	p.expect("WINDOW_UPDATE")
	p.expect("SETTINGS ack")
	if err := s.Await(patienceOfTests); err != nil {
		tb.Fatal(err)
	}
	return s, p
}

func (p *peer) must(err error) {
	p.tb.Helper()
	if err != nil {
		p.tb.Fatal(err)
	}
}

func (p *peer) say(b string) {
	p.tb.Helper()
	_, err := io.WriteString(p, b)
	p.must(err)
}

// fields encodes a header block; lines are like ":method GET".
func (p *peer) fields(lines ...string) []byte {
	p.block.Reset()
	for _, l := range lines {
		name, value, _ := strings.Cut(l, " ")
		p.must(p.enc.WriteField(xhpack.HeaderField{Name: name, Value: value}))
	}
	return p.block.Bytes()
}

// head sends a header block in one frame.
func (p *peer) head(id uint32, end bool, lines ...string) {
	p.tb.Helper()
	p.must(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(lines...), EndHeaders: true, EndStream: end}))
}

func get(path string, more ...string) []string {
	return append([]string{":method GET", ":scheme http", ":authority a.example", ":path " + path}, more...)
}

func post(more ...string) []string {
	return append([]string{":method POST", ":scheme http", ":authority a.example", ":path /"}, more...)
}

// next is the next frame in words, or the error; WINDOW_UPDATE is left out unless all is set.
func (p *peer) next() string {
	f, err := p.ReadFrame()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "end"
		}
		if errors.Is(err, unix.ECONNRESET) {
			return "reset"
		}
		return err.Error()
	}
	return describe(f)
}

func describe(f xhttp2.Frame) string {
	on := fmt.Sprintf(" %d", f.Header().StreamID)
	end := ""
	switch f := f.(type) {
	case *xhttp2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		return "SETTINGS"
	case *xhttp2.WindowUpdateFrame:
		if f.StreamID == 0 {
			return "WINDOW_UPDATE"
		}
		return fmt.Sprintf("WINDOW_UPDATE%s +%d", on, f.Increment)
	case *xhttp2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode)
	case *xhttp2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM%s %v", on, f.ErrCode)
	case *xhttp2.PingFrame:
		if f.IsAck() {
			return fmt.Sprintf("PING ack %x", f.Data)
		}
		return fmt.Sprintf("PING %x", f.Data)
	case *xhttp2.DataFrame:
		if f.StreamEnded() {
			end = " end"
		}
		return fmt.Sprintf("DATA%s %q%s", on, f.Data(), end)
	case *xhttp2.MetaHeadersFrame:
		if f.StreamEnded() {
			end = " end"
		}
		var lines []string
		for _, field := range f.Fields {
			lines = append(lines, field.Name+" "+field.Value)
		}
		return fmt.Sprintf("HEADERS%s [%s]%s", on, strings.Join(lines, ", "), end)
	}
	return fmt.Sprint(f)
}

// expect holds that the next frames are these.
func (p *peer) expect(want ...string) {
	p.tb.Helper()
	for _, w := range want {
		if got := p.next(); got != w {
			p.tb.Fatalf("got %s\nwant %s", got, w)
		}
	}
}

// until reads up to that frame, whatever comes before it.
func (p *peer) until(want string) {
	p.tb.Helper()
	for {
		got := p.next()
		if got == want {
			return
		}
		if got == "end" || got == "reset" || strings.Contains(got, "timeout") {
			p.tb.Fatalf("got %s\nwant %s", got, want)
		}
	}
}

// alive holds that the connection goes on.
func (p *peer) alive() {
	p.tb.Helper()
	p.must(p.WritePing(false, [8]byte{'a', 'l', 'i', 'v', 'e'}))
	p.expect("PING ack 616c697665000000")
}

// ends holds that the connection ends with that GOAWAY.
func (p *peer) ends(code xhttp2.ErrCode) {
	p.tb.Helper()
	for {
		got := p.next()
		if strings.HasPrefix(got, "GOAWAY") {
			if !strings.HasSuffix(got, code.String()) {
				p.tb.Fatalf("got %s\nwant %v", got, code)
			}
			break
		}
		if got == "end" || got == "reset" {
			p.tb.Fatalf("the connection ended without GOAWAY, want %v", code)
		}
	}
	p.expect("end")
}

// log is an Acceptor and a Receiver that notes what it is told.
type log struct {
	mu     sync.Mutex
	lines  []string
	more   chan struct{}
	hand   map[uint32]Handle
	hold   bool // gives no credit
	answer func(t *Turn, h Handle, r *message.Request)
}

func newLog() *log { return &log{more: make(chan struct{}, 1), hand: map[uint32]Handle{}} }

func (l *log) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *log) handle(id uint32) Handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hand[id]
}

func (l *log) Request(t *Turn, h Handle, r *message.Request, end bool) {
	l.mu.Lock()
	l.hand[h.id] = h
	l.mu.Unlock()
	h.Bind(l, uint64(h.id))
	l.note("request %d %s", h.id, aboutRequest(r, end))
	if l.answer != nil {
		l.answer(t, h, r)
	}
}

func aboutRequest(r *message.Request, end bool) string {
	s := r.Method + " "
	if r.Scheme != "" {
		s += r.Scheme + "://"
	}
	s += r.Authority + r.Path
	if r.HasQuery {
		s += "?" + r.Query
	}
	if r.Protocol != "" {
		s += " protocol=" + r.Protocol
	}
	return s + aboutFields(r.Fields) + aboutEnd(end)
}

func aboutFields(f message.Fields) (s string) {
	for i := range f {
		s += " " + f[i].Name + "=" + f[i].Value
	}
	return s
}

func aboutEnd(end bool) string {
	if end {
		return " end"
	}
	return ""
}

func (l *log) Refuse(t *Turn, h Handle, err *Error) {
	l.note("refused %d %v", err.Status, err)
	if err.Status > 0 {
		h.Head(t, AppendResponse(nil, &message.Response{Status: err.Status}), true)
	}
}

func (l *log) Response(_ *Turn, token uint64, r *message.Response, end bool) {
	l.note("response %d %d%s%s", token, r.Status, aboutFields(r.Fields), aboutEnd(end))
}

func (l *log) Data(t *Turn, token uint64, p []byte, end bool) {
	l.note("data %d %q%s", token, p, aboutEnd(end))
	l.mu.Lock()
	h, hold := l.hand[uint32(token)], l.hold
	l.mu.Unlock()
	if !hold {
		h.Credit(t, len(p))
	}
}

func (l *log) Trailers(_ *Turn, token uint64, f message.Fields) {
	l.note("trailers %d%s", token, aboutFields(f))
}

func (l *log) Sent(_ *Turn, token uint64, n int) { l.note("sent %d %d", token, n) }

func (l *log) Gone(_ *Turn, token uint64, why *StreamError) {
	s := fmt.Sprintf("gone %d code=%d", token, why.Code)
	for _, flag := range []struct {
		set  bool
		name string
	}{{why.Unprocessed, "unprocessed"}, {why.NotHTTP2, "not-http2"}, {why.Malformed, "malformed"}, {why.Connection, "connection"}} {
		if flag.set {
			s += " " + flag.name
		}
	}
	l.note("%s", s)
}

// expect waits for the next lines.
func (l *log) expect(tb testing.TB, want ...string) {
	tb.Helper()
	late := time.After(patienceOfTests)
	for _, w := range want {
		for {
			l.mu.Lock()
			var got string
			if len(l.lines) > 0 {
				got, l.lines = l.lines[0], l.lines[1:]
			}
			l.mu.Unlock()
			if got == w {
				break
			}
			if got != "" {
				tb.Fatalf("told %s\nwant %s", got, w)
			}
			select {
			case <-l.more:
			case <-late:
				tb.Fatalf("not told %s", w)
			}
		}
	}
}

// open opens a stream of a client that the log hears of.
func (l *log) open(tb testing.TB, c *Conn, end bool, r *message.Request) Handle {
	tb.Helper()
	var t Turn
	l.mu.Lock()
	id := c.nextID
	h, err := c.Open(&t, AppendRequest(nil, r), end, l, uint64(id))
	l.hand[id] = h
	l.mu.Unlock()
	if err != nil {
		tb.Fatal(err)
	}
	t.Flush()
	return h
}

// do does something in a Turn of its own.
func do(f func(t *Turn)) {
	var t Turn
	f(&t)
	t.Flush()
}
