package http2

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// drainReads reads and drops what comes, so that the peer's writes do not wait, and returns the end it came to.
func (p *peer) drainReads() chan string {
	done := make(chan string, 1)
	go func() {
		for {
			got := p.next()
			if strings.HasPrefix(got, "GOAWAY") || got == "end" || got == "reset" || strings.Contains(got, "timeout") || strings.Contains(got, "closed") {
				done <- got
				return
			}
		}
	}()
	return done
}

// Floods of frames that do no work end the connection with ENHANCE_YOUR_CALM (RFC 9113, 10.5), after a bounded number.
func TestRFC9113Section10_5_Floods(t *testing.T) {
	raw := func(typ xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload string) func(*peer, uint32) error {
		return func(p *peer, _ uint32) error { return p.WriteRawFrame(typ, flags, id, []byte(payload)) }
	}
	for name, flood := range map[string]func(p *peer, i uint32) error{
		"SETTINGS":      raw(4, 0, 0, ""),
		"SETTINGS with": raw(4, 0, 0, "\x00\x04\x00\x00\xff\xff"),
		"PING":          raw(6, 0, 0, "12345678"),
		"PING acks":     raw(6, 1, 0, "12345678"),
		"PRIORITY":      raw(2, 0, 7, "\x00\x00\x00\x03\x00"),
		"unknown":       raw(0x42, 0, 0, "x"),
		"WINDOW_UPDATE": raw(8, 0, 0, "\x00\x00\x00\x01"),
		"of a stream":   raw(8, 0, 1, "\x00\x00\x00\x01"),
		"empty DATA":    raw(0, 0, 1, ""),
		"padding":       raw(0, 8, 1, "\x00"),
		"rapid reset (CVE-2023-44487)": func(p *peer, i uint32) error {
			p.fields(get("/")...)
			return errors.Join(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3 + 2*i, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: true}),
				p.WriteRSTStream(3+2*i, xhttp2.ErrCodeCancel))
		},
		"reset with data": func(p *peer, i uint32) error {
			p.fields(post()...)
			return errors.Join(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3 + 2*i, BlockFragment: p.block.Bytes(), EndHeaders: true}),
				p.WriteData(3+2*i, false, make([]byte, 300)), p.WriteRSTStream(3+2*i, xhttp2.ErrCodeCancel))
		},
		"made to reset (CVE-2025-8671)": func(p *peer, i uint32) error {
			p.fields(get("/")...)
			return errors.Join(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3 + 2*i, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: true}),
				p.WriteWindowUpdate(3+2*i, 0))
		},
		"malformed requests": func(p *peer, i uint32) error {
			p.fields("a b")
			return p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3 + 2*i, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: true})
		},
		"empty header blocks": func(p *peer, i uint32) error { return p.WriteRawFrame(1, 5, 3+2*i, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			quiet := &quietAcceptor{}
			s, p := serverPeer(t, Limits{}, quiet)
			p.head(1, false, post()...)
			end := p.drainReads()
			sent := uint32(0)
			for sent < 5*mostGlitches && flood(p, sent) == nil {
				sent++
			}
			if got := <-end; !strings.HasSuffix(got, "ENHANCE_YOUR_CALM") {
				t.Errorf("after %d: %s", sent, got)
			}
			p.Conn.Close()
			if err := s.wait(t); !errors.Is(err, errFlood) {
				t.Error(err)
			}
			if n := s.glitches.Load(); n != mostGlitches+1 {
				t.Errorf("%d glitches", n)
			}
		})
	}
}

// quietAcceptor does nothing for its requests.
type quietAcceptor struct{ log }

func (q *quietAcceptor) Request(_ *Turn, h Handle, _ *message.Request, _ bool) { h.Bind(q, 0) }
func (q *quietAcceptor) Refuse(*Turn, Handle, *Error)                          {}
func (q *quietAcceptor) Data(*Turn, uint64, []byte, bool)                      {}
func (q *quietAcceptor) Gone(*Turn, uint64, *StreamError)                      {}

// What a gRPC client does is no flood: a PING and WINDOW_UPDATEs for each message that it gets, and a call that is
// cancelled now and then.
func TestGRPCIsNoFlood(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	most := int32(0)
	for i := range uint32(1000) {
		id := 1 + 2*i
		if i%3 == 0 {
			p.head(id, false, post()...)
			p.must(p.WriteRSTStream(id, xhttp2.ErrCodeCancel))
			l.expect(t, "request "+itoa(id)+" POST http://a.example/", "gone "+itoa(id)+" code=8")
			continue
		}
		h := answered(t, l, p, id)
		data(h, "hello", false)
		p.until("DATA " + itoa(id) + ` "hello"`)
		p.must(p.WriteWindowUpdate(0, 5))
		p.must(p.WriteWindowUpdate(id, 5))
		p.alive()
		data(h, "", true)
		p.until("DATA " + itoa(id) + ` "" end`)
		most = max(most, s.glitches.Load())
	}
	if most > 20 {
		t.Errorf("%d glitches", most)
	}
}

func itoa(n uint32) string {
	var b [10]byte
	i := len(b)
	for {
		i--
		b[i] = '0' + byte(n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

func TestTimePaysGlitches(t *testing.T) {
	s, p := serverPeer(t, Limits{}, newLog())
	for range 3 {
		for range 200 {
			p.alive()
		}
		s.keeper.look()
		s.keeper.look()
	}
	if n := s.glitches.Load(); n != 0 {
		t.Errorf("%d glitches", n)
	}
}

// Answers that a peer asks for and does not read are bounded.
func TestRFC9113Section10_5_AnswersThatAreNotRead(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{Unwritten: 10 << 10}, l)
	for p.WritePing(false, [8]byte{}) == nil {
		s.glitches.Store(0) // time pays
	}
	if err := s.wait(t); !errors.Is(err, errUnread) {
		t.Error(err)
	}
}

// A small block that stands for many fields is cut short (HPACK bombs), and the stream alone pays for it.
func TestHPACKBomb(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.head(1, true, get("/", "a "+strings.Repeat("x", 3000))...)
	l.expect(t, "request 1 GET http://a.example/ a="+strings.Repeat("x", 3000)+" end")
	var before, after runtime.MemStats
	block := append(append([]byte(nil), p.fields(get("/")...)...), strings.Repeat("\xbe", 15<<10)...)
	runtime.ReadMemStats(&before)
	p.must(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true, EndStream: true}))
	p.expect("HEADERS 3 [:status 431] end")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes for 15 KiB that stand for 45 MiB", n)
	}
	p.alive()
}

// A client that is slow to work off many small messages gives each of them back at last.
func TestRFC9113Section6_9_UpdatesThatFollowOurDataAreNoFlood(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	h := answered(t, l, p, 1)
	for range 5 * mostGlitches {
		data(h, "hello", false)
		p.expect(`DATA 1 "hello"`)
	}
	for range 5 * mostGlitches {
		p.must(p.WriteWindowUpdate(0, 5))
		p.must(p.WriteWindowUpdate(1, 5))
	}
	p.alive()
	if n := s.glitches.Load(); n > 10 {
		t.Errorf("%d glitches", n)
	}
}

// A byte at a time is a flood (RFC 9113, 10.5: tiny windows).
func TestRFC9113Section10_5_TinyWindows(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}))
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	data(h, strings.Repeat("x", 100_000), true)
	end := p.drainReads()
	for range 5 * mostGlitches {
		if p.WriteWindowUpdate(1, 1) != nil {
			break
		}
	}
	if got := <-end; !strings.HasSuffix(got, "ENHANCE_YOUR_CALM") {
		t.Error(got)
	}
	p.Conn.Close()
	if err := s.wait(t); !errors.Is(err, errFlood) {
		t.Error(err)
	}
}
