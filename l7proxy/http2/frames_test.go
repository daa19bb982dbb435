package http2

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// What a client may not send ends the connection with that code.
func TestConnectionErrors(t *testing.T) {
	raw := func(typ xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload string) func(*peer) {
		return func(p *peer) { _ = p.WriteRawFrame(typ, flags, id, []byte(payload)) } // it fails when the connection has ended
	}
	setting := func(id xhttp2.SettingID, value uint32) func(*peer) {
		return func(p *peer) { p.must(p.WriteSettings(xhttp2.Setting{ID: id, Val: value})) }
	}
	window := strings.Repeat("\x7f\xff\xff\xff", 1)
	open := func(after func(*peer)) func(*peer) {
		return func(p *peer) {
			p.head(1, false, post()...)
			after(p)
		}
	}
	for name, c := range map[string]struct {
		say  func(*peer)
		want xhttp2.ErrCode
	}{
		"4.2 a frame above 16,384 bytes":       {raw(0, 0, 1, strings.Repeat("x", 16385)), xhttp2.ErrCodeFrameSize},
		"4.2 PING of 7 bytes":                  {raw(6, 0, 0, "1234567"), xhttp2.ErrCodeFrameSize},
		"4.3 COMPRESSION_ERROR":                {raw(1, 5, 1, "\x80"), xhttp2.ErrCodeCompression},
		"5.1 DATA on an idle stream":           {raw(0, 0, 1, "x"), xhttp2.ErrCodeProtocol},
		"5.1 RST_STREAM on an idle stream":     {raw(3, 0, 1, "\x00\x00\x00\x08"), xhttp2.ErrCodeProtocol},
		"5.1 WINDOW_UPDATE on an idle stream":  {raw(8, 0, 1, "\x00\x00\x00\x08"), xhttp2.ErrCodeProtocol},
		"5.1 WINDOW_UPDATE on an even stream":  {raw(8, 0, 2, "\x00\x00\x00\x08"), xhttp2.ErrCodeProtocol},
		"5.1.1 HEADERS on an even stream":      {func(p *peer) { p.head(2, true, get("/")...) }, xhttp2.ErrCodeProtocol},
		"5.1.1 HEADERS on stream 0":            {raw(1, 5, 0, "\x82"), xhttp2.ErrCodeProtocol},
		"6.1 DATA on stream 0":                 {raw(0, 0, 0, "x"), xhttp2.ErrCodeProtocol},
		"6.1 padding":                          {open(raw(0, 8, 1, "\x05abcd")), xhttp2.ErrCodeProtocol},
		"6.1 padding without its length":       {open(raw(0, 8, 1, "")), xhttp2.ErrCodeFrameSize},
		"6.2 padding":                          {raw(1, 0xc, 1, "\x05abcd"), xhttp2.ErrCodeProtocol},
		"6.2 priority cut":                     {raw(1, 0x24, 1, "abcd"), xhttp2.ErrCodeFrameSize},
		"RFC 7540, 5.3.1 HEADERS":              {raw(1, 0x25, 1, "\x00\x00\x00\x01\x00\x82"), xhttp2.ErrCodeProtocol},
		"RFC 7540, 5.3.1 PRIORITY":             {raw(2, 0, 3, "\x00\x00\x00\x03\x00"), xhttp2.ErrCodeProtocol},
		"6.3 PRIORITY on stream 0":             {raw(2, 0, 0, "\x00\x00\x00\x03\x00"), xhttp2.ErrCodeProtocol},
		"6.3 PRIORITY of 4 bytes":              {raw(2, 0, 1, "1234"), xhttp2.ErrCodeFrameSize},
		"6.4 RST_STREAM on stream 0":           {raw(3, 0, 0, "1234"), xhttp2.ErrCodeProtocol},
		"6.4 RST_STREAM of 3 bytes":            {open(raw(3, 0, 1, "123")), xhttp2.ErrCodeFrameSize},
		"6.5 SETTINGS on a stream":             {raw(4, 0, 1, ""), xhttp2.ErrCodeProtocol},
		"6.5 SETTINGS of 5 bytes":              {raw(4, 0, 0, "12345"), xhttp2.ErrCodeFrameSize},
		"6.5 an ack with settings":             {raw(4, 1, 0, "123456"), xhttp2.ErrCodeFrameSize},
		"6.5.2 ENABLE_PUSH 2":                  {setting(2, 2), xhttp2.ErrCodeProtocol},
		"6.5.2 INITIAL_WINDOW_SIZE":            {setting(4, 1<<31), xhttp2.ErrCodeFlowControl},
		"6.5.2 MAX_FRAME_SIZE too small":       {setting(5, 16383), xhttp2.ErrCodeProtocol},
		"6.5.2 MAX_FRAME_SIZE too large":       {setting(5, 1<<24), xhttp2.ErrCodeProtocol},
		"RFC 8441, 3":                          {setting(8, 2), xhttp2.ErrCodeProtocol},
		"8.4 PUSH_PROMISE":                     {raw(5, 4, 1, "\x00\x00\x00\x02\x82"), xhttp2.ErrCodeProtocol},
		"6.7 PING on a stream":                 {raw(6, 0, 1, "12345678"), xhttp2.ErrCodeProtocol},
		"6.8 GOAWAY on a stream":               {raw(7, 0, 1, "12345678"), xhttp2.ErrCodeProtocol},
		"6.8 GOAWAY of 7 bytes":                {raw(7, 0, 0, "1234567"), xhttp2.ErrCodeFrameSize},
		"6.9 WINDOW_UPDATE of 3 bytes":         {raw(8, 0, 0, "123"), xhttp2.ErrCodeFrameSize},
		"6.9 WINDOW_UPDATE by 0":               {raw(8, 0, 0, "\x00\x00\x00\x00"), xhttp2.ErrCodeProtocol},
		"6.9.1 the connection's window":        {raw(8, 0, 0, window), xhttp2.ErrCodeFlowControl},
		"6.10 CONTINUATION alone":              {raw(9, 4, 1, "\x82"), xhttp2.ErrCodeProtocol},
		"6.10 CONTINUATION on stream 0":        {raw(9, 4, 0, "\x82"), xhttp2.ErrCodeProtocol},
		"6.10 a block interrupted":             {func(p *peer) { raw(1, 0, 1, "\x82")(p); raw(6, 0, 0, "12345678")(p) }, xhttp2.ErrCodeProtocol},
		"6.10 a block interrupted by a stream": {func(p *peer) { raw(1, 0, 1, "\x82")(p); raw(9, 4, 3, "\x82")(p) }, xhttp2.ErrCodeProtocol},
		"6.9.2 a window above its maximum":     {open(func(p *peer) { raw(8, 0, 1, "\x00\x01\x00\x00")(p); setting(4, 1<<31-1)(p) }), xhttp2.ErrCodeFlowControl},
		"5.1.1 an id that was left out":        {func(p *peer) { p.head(5, true, get("/")...); p.head(3, true, get("/")...) }, xhttp2.ErrCodeProtocol},
		"10.5.1 a block in very many pieces":   {func(p *peer) { raw(1, 0, 1, "")(p); p.many(100, raw(9, 0, 1, "")) }, xhttp2.ErrCodeEnhanceYourCalm},
		"10.5.1 a block of very many bytes":    {func(p *peer) { raw(1, 0, 1, "")(p); p.many(20, raw(9, 0, 1, strings.Repeat("x", 1<<14))) }, xhttp2.ErrCodeEnhanceYourCalm},
		"RFC 7541, 4.2 a table above ours":     {raw(1, 5, 1, "\x3f\xe2\x1f\x82"), xhttp2.ErrCodeCompression},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := serverPeer(t, Limits{}, newLog())
			go c.say(p)
			p.ends(c.want)
			p.Conn.Close()
			if err := s.wait(t); err == nil {
				t.Error("the connection ended in order")
			}
		})
	}
}

// many does something often, as far as the connection lasts.
func (p *peer) many(n int, f func(*peer)) {
	for range n {
		f(p)
	}
}

func TestRFC9113Section3_4_Preface(t *testing.T) {
	for name, c := range map[string]struct {
		say  string
		want xhttp2.ErrCode
	}{
		"HTTP/1.1":           {"GET / HTTP/1.1\r\n\r\n", xhttp2.ErrCodeProtocol},
		"almost":             {preface[:20] + "XX\r\n", xhttp2.ErrCodeProtocol},
		"no SETTINGS":        {preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", xhttp2.ErrCodeProtocol},
		"an ack is no such":  {preface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00", xhttp2.ErrCodeProtocol},
		"a wrong first byte": {"x", xhttp2.ErrCodeProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := silentPeer(t, Limits{}, newLog())
			p.say(c.say)
			p.ends(c.want)
		})
	}
	t.Run("byte by byte", func(t *testing.T) {
		_, p := silentPeer(t, Limits{}, newLog())
		for _, b := range preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" {
			p.say(string(b))
		}
		p.expect("SETTINGS", "WINDOW_UPDATE", "SETTINGS ack")
		p.alive()
	})
}

// A client that answers the preface with something else, or not at all, does not speak HTTP/2.
func TestClientOfSomethingElse(t *testing.T) {
	for name, say := range map[string]string{
		"HTTP/1.1": "HTTP/1.1 400 Bad Request\r\n\r\n", "nothing": "", "a beginning": "HTTP", "no SETTINGS": "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
	} {
		t.Run(name, func(t *testing.T) {
			c, fd := socketPair(t)
			p := newPeer(t, fd)
			s := start(t, NewClient(c, config(t, Limits{}), nil))
			l := newLog()
			l.open(t, s.Conn, true, &message.Request{Method: "GET", Path: "/"})
			p.say(say)
			p.Conn.Close()
			if err := s.Await(patienceOfTests); !errors.Is(err, ErrNotHTTP2) {
				t.Error(err)
			}
			if err := s.wait(t); err == nil {
				t.Error("the connection ended in order")
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.lines) != 1 || !strings.Contains(l.lines[0], "unprocessed not-http2 connection") {
				t.Errorf("told %q", l.lines)
			}
		})
	}
}

func TestRFC9113Section5_1_FramesAfterTheEnd(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	answer := AppendResponse(nil, &message.Response{Status: 200})

	p.head(1, true, get("/")...) // half-closed (remote)
	l.expect(t, "request 1 GET http://a.example/ end")
	p.must(p.WriteData(1, true, []byte("x")))
	p.expect("RST_STREAM 1 STREAM_CLOSED")
	l.expect(t, "gone 1 code=5 malformed")
	p.must(p.WriteData(1, true, []byte("x"))) // it was reset by us: ignored
	p.head(1, true, "a b")
	p.must(p.WriteWindowUpdate(1, 1))
	p.must(p.WriteRSTStream(1, xhttp2.ErrCodeCancel))
	p.alive()

	p.head(3, false, post()...) // reset by the peer
	p.must(p.WriteRSTStream(3, xhttp2.ErrCodeCancel))
	l.expect(t, "request 3 POST http://a.example/", "gone 3 code=8")
	p.must(p.WriteData(3, true, []byte("x")))
	p.expect("RST_STREAM 3 STREAM_CLOSED")
	p.head(3, true, "a b")
	p.expect("RST_STREAM 3 STREAM_CLOSED")

	p.head(5, true, get("/")...) // closed
	l.expect(t, "request 5 GET http://a.example/ end")
	do(func(t *Turn) { l.handle(5).Head(t, answer, true) })
	p.expect("HEADERS 5 [:status 200] end")
	p.must(p.WriteWindowUpdate(5, 1))
	p.must(p.WriteRSTStream(5, xhttp2.ErrCodeCancel))
	p.must(p.WriteData(5, true, []byte("x")))
	p.expect("RST_STREAM 5 STREAM_CLOSED")
	p.alive()
	p.head(5, true, get("/")...)
	p.ends(xhttp2.ErrCodeStreamClosed)
}

func TestRFC9113Section5_1_2_Refused(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{Streams: 2}, l)
	p.head(1, true, get("/")...)
	p.head(3, false, post()...)
	p.head(5, true, get("/")...)
	p.expect("RST_STREAM 5 REFUSED_STREAM")
	l.expect(t, "request 1 GET http://a.example/ end", "request 3 POST http://a.example/", "refused 0 "+errTooMany.Error())
	do(func(t *Turn) { l.handle(1).Reset(t, Cancel) })
	p.expect("RST_STREAM 1 CANCEL")
	p.head(7, true, get("/")...)
	l.expect(t, "request 7 GET http://a.example/ end")
}

// 5.5, 5.3.2, 6.1: what means nothing is ignored; padding is no data.
func TestRFC9113Section5_5_UnknownFramesAreIgnored(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteRawFrame(0x42, 0xff, 77, []byte("x")))
	p.must(p.WriteSettings(xhttp2.Setting{ID: 0x4242, Val: 1}))
	p.expect("SETTINGS ack")
	p.must(p.WritePriority(9, xhttp2.PriorityParam{StreamDep: 3}))
	p.must(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 11, BlockFragment: p.fields(post()...), EndHeaders: true, PadLength: 200, Priority: xhttp2.PriorityParam{Weight: 3}}))
	p.must(p.WriteDataPadded(11, true, []byte("ab"), make([]byte, 100)))
	l.expect(t, "request 11 POST http://a.example/", `data 11 "ab" end`)
	p.alive()
}

func TestRFC9113Section6_7_PingIsAnswered(t *testing.T) {
	_, p := serverPeer(t, Limits{}, newLog())
	p.must(p.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}))
	p.expect("PING ack 0102030405060708")
	p.must(p.WritePing(true, [8]byte{1}))
	p.alive()
}

// RFC 9113, 4.3.1: who makes the HPACK table smaller is told that it is. RFC 7541, 4.2.
func TestRFC9113Section4_3_1_TableSize(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 0}))
	p.expect("SETTINGS ack")
	p.ReadMetaHeaders = nil
	for id, want := range map[uint32]string{1: "\x20\x88"} {
		p.head(id, true, get("/")...)
		l.expect(t, fmt.Sprintf("request %d GET http://a.example/ end", id))
		do(func(t *Turn) { l.handle(id).Head(t, AppendResponse(nil, &message.Response{Status: 200}), true) })
		f, err := p.ReadFrame()
		p.must(err)
		if got := string(f.(*xhttp2.HeadersFrame).HeaderBlockFragment()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	p.head(3, true, get("/")...)
	l.expect(t, "request 3 GET http://a.example/ end")
	do(func(t *Turn) { l.handle(3).Head(t, AppendResponse(nil, &message.Response{Status: 200}), true) })
	f, err := p.ReadFrame()
	p.must(err)
	if got := string(f.(*xhttp2.HeadersFrame).HeaderBlockFragment()); got != "\x88" {
		t.Errorf("%q the second time", got)
	}
}

// A block that is longer than a frame goes on in CONTINUATION (RFC 9113, 6.10), at every length around that of a frame.
func TestRFC9113Section6_10_LongBlocksAreContinued(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.MaxHeaderListSize = 1 << 20
	p.ReadMetaHeaders.SetMaxStringLength(1 << 20)
	id := uint32(1)
	for _, size := range []int{16370, 16376, 16377, 16378, 16379, 16380, 16381, 16382, 16383, 16384, 16385, 40000} {
		p.head(id, true, get("/")...)
		l.expect(t, fmt.Sprintf("request %d GET http://a.example/ end", id))
		long := strings.Repeat("x", size)
		do(func(t *Turn) {
			l.handle(id).Head(t, AppendResponse(nil, &message.Response{Status: 200, Fields: fieldsFrom("a " + long)}), true)
		})
		p.expect(fmt.Sprintf("HEADERS %d [:status 200, a %s] end", id, long))
		id += 2
	}
}

// A reset by the peer says whether the request may be sent again (RFC 9113, 8.7).
func TestRFC9113Section8_7_Reset(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	for id, c := range map[uint32]struct {
		code xhttp2.ErrCode
		want string
	}{1: {xhttp2.ErrCodeRefusedStream, "code=7 unprocessed"}, 3: {xhttp2.ErrCodeCancel, "code=8"}} {
		h := l.open(t, s.Conn, false, &message.Request{Method: "POST", Authority: "a", Path: "/"})
		p.until(fmt.Sprintf("HEADERS %d [:method POST, :scheme http, :authority a, :path /]", h.id))
		p.must(p.WriteRSTStream(h.id, c.code))
		l.expect(t, fmt.Sprintf("gone %d %s", h.id, c.want))
		if ok := h.Head(&Turn{}, nil, true); ok {
			t.Errorf("stream %d goes on (%d)", h.id, id)
		}
	}
}

func TestRFC9113Section5_1_2_ClientKeepsToTheLimit(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{}, xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 2}, xhttp2.Setting{ID: 8, Val: 1})
	if !s.ExtendedConnect() {
		t.Error("extended CONNECT is not known")
	}
	r := &message.Request{Method: "GET", Authority: "a", Path: "/"}
	l.open(t, s.Conn, true, r)
	if s.Room() != 1 || s.Streams() != 1 {
		t.Errorf("room %d, streams %d", s.Room(), s.Streams())
	}
	l.open(t, s.Conn, true, r)
	if _, err := s.Open(&Turn{}, AppendRequest(nil, r), true, l, 9); !errors.Is(err, ErrBusy) || s.Room() != 0 {
		t.Errorf("%v, room %d", err, s.Room())
	}
	p.until("HEADERS 3 [:method GET, :scheme http, :authority a, :path /] end")
	p.head(1, true, ":status 200")
	l.expect(t, "response 1 200 end")
	l.open(t, s.Conn, true, r)
	p.expect("HEADERS 5 [:method GET, :scheme http, :authority a, :path /] end")
}

// RFC 9113, 5.1.1: a client whose ids are used up takes no new streams.
func TestRFC9113Section5_1_1_IDsAreUsedUp(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{})
	s.mu.Lock()
	s.nextID = maxStream
	s.mu.Unlock()
	r := &message.Request{Method: "GET", Authority: "a", Path: "/"}
	l.open(t, s.Conn, true, r)
	if s.Room() != 0 {
		t.Errorf("room %d", s.Room())
	}
	if _, err := s.Open(&Turn{}, AppendRequest(nil, r), true, l, 9); !errors.Is(err, ErrEnding) {
		t.Error(err)
	}
	p.expect("HEADERS 2147483647 [:method GET, :scheme http, :authority a, :path /] end")
	p.head(maxStream, true, ":status 200")
	l.expect(t, "response 2147483647 200 end")
	p.expect("GOAWAY 0 NO_ERROR", "end")
	p.Conn.Close()
	if err := s.wait(t); err != nil {
		t.Error(err)
	}
}
