package forward

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// http1lab is a lab whose backend speaks HTTP/1.1, with a client's connection of HTTP/2.
func http1lab(t *testing.T, settings ...http2.Setting) (*lab, *origin, *h2peer) {
	t.Helper()
	l, b := h2lab(t)
	l.appProtocol(webKey, "kubernetes.io/ws", b.addr)
	return l, b, l.h2(settings...)
}

// RFC 9113, 8.2 and 8.3: what a request of HTTP/2 is in HTTP/1.1.
func TestRFC9113Section8_3RequestsInHTTP1(t *testing.T) {
	l, b, c := http1lab(t)
	var p *peer
	id := uint32(1)
	for _, x := range []struct {
		fields []string
		data   []string // the last ends the request; none: the head does
		want   string
	}{
		{[]string{":method=GET", ":scheme=http", ":authority=web.shop:80", ":path=/a%2fb?c=d&e"}, nil,
			"GET /a%2fb?c=d&e HTTP/1.1\r\nHost: web.shop:80\r\n\r\n"},
		{[]string{":method=GET", ":scheme=https", ":path=/?", "host=old", "x-y=1", "x-y=2"}, nil,
			"GET /? HTTP/1.1\r\nx-y: 1\r\nx-y: 2\r\nHost: old\r\n\r\n"},
		// 8.2.3: cookies are one line in HTTP/1.1.
		{[]string{":method=GET", ":scheme=http", ":authority=web", ":path=/", "cookie=a=b", "x=1", "cookie=c=d", "cookie=e=f"}, nil,
			"GET / HTTP/1.1\r\ncookie: a=b; c=d; e=f\r\nx: 1\r\nHost: web\r\n\r\n"},
		{[]string{":method=GET", ":scheme=http", ":authority=web", ":path=/", "te=trailers"}, nil,
			"GET / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nConnection: TE\r\n\r\n"},
		{[]string{":method=PUT", ":scheme=http", ":authority=web", ":path=/", "content-length=4"}, []string{"bo", "dy"},
			"PUT / HTTP/1.1\r\ncontent-length: 4\r\nHost: web\r\n\r\nbody"},
		{[]string{":method=PUT", ":scheme=http", ":authority=web", ":path=/", "content-length=0"}, nil,
			"PUT / HTTP/1.1\r\ncontent-length: 0\r\nHost: web\r\n\r\n"},
		{[]string{":method=PUT", ":scheme=http", ":authority=web", ":path=/"}, []string{"body", ""},
			"PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"},
		{[]string{":method=POST", ":scheme=http", ":authority=web", ":path=/"}, []string{""},
			"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{[]string{":method=POST", ":scheme=http", ":authority=web", ":path=/"}, []string{"x", "sum=1"},
			"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nsum: 1\r\n\r\n"},
		// RFC 9110, 6.6.2: trailers that are announced need chunks.
		{[]string{":method=POST", ":scheme=http", ":authority=web", ":path=/", "content-length=1", "trailer=sum"}, []string{"x", "sum=1"},
			"POST / HTTP/1.1\r\ntrailer: sum\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nsum: 1\r\n\r\n"},
	} {
		c.head(id, len(x.data) == 0, x.fields...)
		if p == nil {
			p = b.accept()
		}
		head, body, _ := strings.Cut(x.want, "\r\n\r\n")
		p.want(head + "\r\n\r\n")
		at := 0
		for i, d := range x.data {
			last := i == len(x.data)-1
			if strings.Contains(d, "=") {
				c.head(id, true, d)
			} else {
				c.data(id, d, last)
			}
			if !last { // so that chunks are not gathered
				n := strings.Index(body[at:], d) + len(d)
				if strings.Contains(head, "chunked") {
					n += len("\r\n")
				}
				p.want(body[at : at+n])
				at += n
			}
		}
		p.want(body[at:])
		p.send("HTTP/1.1 204 No Content\r\n\r\n")
		c.want(headLine(id, true, ":status=204"))
		l.wantIdle(1)
		id += 2
	}
}

// RFC 9113, 8.2.2 and 8.3.2: what an answer of HTTP/1.1 is in HTTP/2.
func TestRFC9113Section8_3AnswersOfHTTP1(t *testing.T) {
	l, b, c := http1lab(t)
	id := uint32(1)
	for _, x := range []struct {
		method, answer string
		want           []string // without the id
	}{
		{"GET", "HTTP/1.1 200 Fine\r\nX-Y: z\r\nContent-Length: 5\r\n\r\nhello", []string{"HEADERS :status=200 x-y=z content-length=5", "DATA hello END"}},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []string{"HEADERS :status=200 content-length=0 END"}},
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", []string{"HEADERS :status=200 content-length=5 END"}},
		{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", []string{"HEADERS :status=200 END"}},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", []string{"HEADERS :status=304 content-length=5 END"}},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n2\r\nab\r\n0\r\n\r\n",
			[]string{"HEADERS :status=200", "DATA ab", "DATA  END"}},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n2;ext\r\nab\r\n0\r\nSum: 2\r\n\r\n",
			[]string{"HEADERS :status=200 trailer=Sum", "DATA ab", "HEADERS sum=2 END"}},
		{"GET", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
			[]string{"HEADERS :status=103 link=</x>", "HEADERS :status=200 content-length=1", "DATA x END"}},
		{"GET", "HTTP/1.1 200 OK\r\n\r\nuntil the end", []string{"HEADERS :status=200", "DATA until the end", "DATA  END"}},
		{"GET", "HTTP/1.0 200 OK\r\nUpgrade: h2c\r\n\r\nold", []string{"HEADERS :status=200", "DATA old", "DATA  END"}},
	} {
		c.ask(id, x.method, "/", true)
		p := b.accept()
		p.until("\r\n\r\n")
		p.send(x.answer)
		p.halfClose()
		for _, want := range x.want {
			kind, rest, _ := strings.Cut(want, " ")
			c.want(fmt.Sprintf("%s %d %s", kind, id, rest))
		}
		if r := l.record(); r.Failure != "" {
			t.Errorf("%q was recorded as %+v", x.answer, r)
		}
		p.close()
		id += 2
	}
}

// What breaks HTTP's rules, or breaks off.
func TestMalformedAnswersOfHTTP1OverHTTP2(t *testing.T) {
	l, b, c := http1lab(t)
	id := uint32(1)
	for _, x := range []struct{ answer, want, failure string }{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", refusal(0, 502, "the endpoint's answer is malformed"), badResponse},
		{"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", refusal(0, 502, "the endpoint's answer is malformed"), badResponse},
		{"HTTP/1.1 200 OK\r\nConte", refusal(0, 502, "the endpoint closed the connection before it answered"), upstreamClosed},
		{"", refusal(0, 502, "the endpoint closed the connection before it answered"), upstreamClosed},
		{"HTTP/1.1 100 Continue\r\n\r\n", "HEADERS 0 :status=100\x00" + refusal(0, 502, "the endpoint closed the connection before it answered"), upstreamClosed},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "HEADERS 0 :status=200 content-length=5\x00DATA 0 hell\x00RST_STREAM 0 INTERNAL_ERROR", upstreamClosed},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", "HEADERS 0 :status=200\x00DATA 0 x\x00RST_STREAM 0 INTERNAL_ERROR", upstreamClosed},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nx\r\n", "HEADERS 0 :status=200\x00DATA 0 x\x00RST_STREAM 0 INTERNAL_ERROR", badResponse},
	} {
		c.ask(id, "POST", "/", true)
		p := b.accept()
		p.until("\r\n\r\n")
		p.send(x.answer)
		_ = p.CloseWrite() // it may have been reset
		for line := range strings.SplitSeq(x.want, "\x00") {
			kind, rest, _ := strings.Cut(line, " 0 ")
			c.want(fmt.Sprintf("%s %d %s", kind, id, rest))
		}
		if r := l.record(); r.Failure != x.failure {
			t.Errorf("%q was recorded as %+v", x.answer, r)
		}
		p.close()
		id += 2
	}
}

// A kept connection that had just closed: the request is sent again on a new one, if that is safe.
func TestStaleConnectionOverHTTP2(t *testing.T) {
	l, b, c := http1lab(t)
	for i, method := range []string{"GET", "PUT", "POST"} {
		id := uint32(4*i + 1)
		c.ask(id, "GET", "/", true)
		p := b.accept()
		p.until("\r\n\r\n")
		p.send(okay)
		c.want(headLine(id, false, ok200, "content-length=2"), fmt.Sprintf("DATA %d ok END", id))
		l.wantIdle(1)
		c.ask(id+2, method, "/x", false, "content-length=4")
		p.until("\r\n\r\n")
		p.reset()
		c.data(id+2, "body", true)
		if method != "POST" {
			p = b.accept()
			p.want(method + " /x HTTP/1.1\r\ncontent-length: 4\r\nHost: web\r\n\r\nbody")
			p.send(bye)
			c.want(headLine(id+2, false, ok200, "content-length=2"), fmt.Sprintf("DATA %d ok END", id+2))
			p.close()
		} else if line, err := c.frame(); err != nil || !strings.Contains(line, ":status=502") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	b.untouched()
	for range 6 {
		l.record()
	}
}

// wantIdle waits until connections were given back.
func (l *lab) wantIdle(n int64) {
	l.tb.Helper()
	if !eventually(func() bool { return l.pools.Idle() == n }) {
		l.tb.Fatalf("%d connections are kept, want %d", l.pools.Idle(), n)
	}
}

// A connection is kept after an exchange, unless something on it is not settled.
func TestBridgeKeepsConnections(t *testing.T) {
	l, b, c := http1lab(t)
	c.ask(1, "POST", "/", false)
	p := b.accept()
	p.until("\r\n\r\n")
	p.send(okay) // early
	c.want(headLine(1, false, ok200, "content-length=2"), "DATA 1 ok END")
	c.data(1, "the rest", true)
	p.want("8\r\nthe rest\r\n0\r\n\r\n")
	l.record()
	l.wantIdle(1)
	c.ask(3, "POST", "/", false)
	p.until("\r\n\r\n")
	p.send(bye) // early, and it is the end
	c.want(headLine(3, false, ok200, "content-length=2"), "DATA 3 ok END", "RST_STREAM 3 NO_ERROR")
	p.wantGone()
	c.ask(5, "GET", "/", true)
	p = b.accept()
	p.want(get)
	c.rst(5, http2.ErrCodeCancel)
	p.wantReset()
}

// A stalled client bounds what is read from an endpoint of HTTP/1.1.
func TestBridgeBoundsWhatASlowClientHolds(t *testing.T) {
	l, b, c := http1lab(t, setting(http2.SettingInitialWindowSize, 1000))
	c.credit = false
	c.ask(1, "GET", "/", true)
	p := b.accept()
	p.until("\r\n\r\n")
	const size = 32 << 20
	p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
	p.sendLong(strings.Repeat("x", size))
	c.want(headLine(1, false, ok200, fmt.Sprint("content-length=", size)))
	c.body(1, 1000)
	const most = bridgeWindow + 16<<10
	if !eventually(func() bool { return l.client.buffered.Load() >= bridgeWindow-1000 }) || l.client.buffered.Load() > most {
		t.Errorf("%d bytes are buffered, want about %d", l.client.buffered.Load(), bridgeWindow)
	}
	c.credit = true
	c.must(c.framer.WriteWindowUpdate(1, 1<<20))
	c.must(c.framer.WriteWindowUpdate(0, 1<<20))
	if n, end := c.body(1, size); n != size-1000 || !end {
		t.Errorf("%d bytes came, end %v", n, end)
	}
}

// RFC 8441: a WebSocket from a client of HTTP/2 to a server of HTTP/1.1.
func TestRFC8441WebSocketToHTTP1(t *testing.T) {
	l, b, c := http1lab(t)
	open := []string{":method=CONNECT", ":protocol=websocket", ":scheme=http", ":authority=web", ":path=/chat", "sec-websocket-version=13"}
	c.head(1, false, open...)
	p := b.accept()
	p.want("GET /chat HTTP/1.1\r\nsec-websocket-version: 13\r\nSec-WebSocket-Key: ")
	key := strings.TrimSuffix(p.until("\r\n"), "\r\n")
	p.want("Host: web\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	c.data(1, "early", false)
	p.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptOf(key) + "\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello")
	c.want(headLine(1, false, ok200, "sec-websocket-protocol=chat"), "DATA 1 hello")
	p.want("early")
	p.send("ping")
	c.want("DATA 1 ping")
	p.halfClose() // its end is passed on, and the other direction goes on
	c.want("DATA 1  END")
	c.data(1, "bye", true)
	p.want("bye")
	p.wantEnd()
	if r := l.record(); r.Status != 200 || r.RequestBytes != 8 || r.ResponseBytes != 9 || r.Failure != "" {
		t.Errorf("recorded %+v", r)
	}

	// RFC 8441, 5; RFC 6455, 4.1: what does not prove that it switched must not look as if it had.
	id := uint32(3)
	for _, answer := range []string{
		okay, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		c.head(id, false, open...)
		p := b.accept()
		p.until("\r\n\r\n")
		p.send(answer)
		c.want(refusal(id, 502, "the endpoint's answer is malformed"), fmt.Sprintf("RST_STREAM %d NO_ERROR", id))
		p.wantReset()
		id += 2
	}
	c.head(id, false, open...)
	p = b.accept()
	p.until("\r\n\r\n")
	p.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
	c.want(headLine(id, false, ":status=403", "content-length=2"), fmt.Sprintf("DATA %d no END", id), fmt.Sprintf("RST_STREAM %d NO_ERROR", id))
	p.wantGone()

	// After h2c nobody could route what follows.
	c.head(id+2, false, ":method=CONNECT", ":protocol=h2c", ":scheme=http", ":authority=web", ":path=/")
	c.want(refusal(id+2, 501, "the protocol that is asked for is not passed on"), fmt.Sprintf("RST_STREAM %d NO_ERROR", id+2))
	b.untouched()
}

// acceptOf of the example in RFC 6455, 1.3.
func TestRFC6455Section1_3Accept(t *testing.T) {
	if got := acceptOf("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("%q", got)
	}
}

// RFC 9113, 8.5: a tunnel.
func TestRFC9113Section8_5ConnectToHTTP1(t *testing.T) {
	_, b, c := http1lab(t)
	c.head(1, false, ":method=CONNECT", ":authority=db:5432")
	p := b.accept()
	p.want("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
	p.send("HTTP/1.1 200 OK\r\n\r\nhi")
	c.want(headLine(1, false, ok200), "DATA 1 hi")
	c.data(1, "ho", false)
	p.want("ho")
	c.rst(1, http2.ErrCodeConnect)
	p.wantReset()
}

// RFC 8441, 3: an endpoint of HTTP/2 gets an extended CONNECT if it has said that it knows it.
func TestRFC8441ExtendedConnectToHTTP2(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	fields := []string{":method=CONNECT", ":scheme=http", ":authority=web", ":path=/chat", ":protocol=websocket"}
	c.head(1, false, fields...)
	up := b.h2(setting(http2.SettingEnableConnectProtocol, 1))
	line, err := up.frame()
	for _, f := range fields {
		if err != nil || !strings.Contains(line, " "+f) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	up.head(1, false, ok200)
	c.want(headLine(1, false, ok200))
	c.data(1, "a", false)
	up.want("DATA 1 a")
	up.data(1, "b", true)
	c.want("DATA 1 b END")
	c.data(1, "c", true)
	up.want("DATA 1 c END")
}

func TestRFC8441EndpointDoesNotKnowIt(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.head(1, false, ":method=CONNECT", ":scheme=http", ":authority=web", ":path=/chat", ":protocol=websocket")
	up := b.h2()
	c.want(refusal(1, 501, "the endpoint does not support the extended CONNECT of RFC 8441"), "RST_STREAM 1 NO_ERROR")
	up.ping()
	if r := l.record(); r.Failure != unsupported {
		t.Errorf("recorded %+v", r)
	}
}

// A client that goes, or an endpoint that dies, in the middle of a body.
func TestBridgeEndsInTheMiddle(t *testing.T) {
	l, b, c := http1lab(t)
	c.ask(1, "POST", "/", false)
	p := b.accept()
	p.until("\r\n\r\n")
	c.data(1, "half", false)
	p.want("4\r\nhalf\r\n")
	c.reset()
	if _, err := io.ReadAll(p); !isReset(err) { // nothing must look like the end of the body
		t.Errorf("the endpoint reads %v, want a reset", err)
	}
	if r := l.record(); r.Failure != clientGone {
		t.Errorf("recorded %+v", r)
	}
	c = l.h2()
	c.ask(1, "POST", "/", false)
	p = b.accept()
	p.until("\r\n\r\n")
	c.data(1, "half", false)
	p.want("4\r\nhalf\r\n")
	p.reset()
	c.want(refusal(1, 502, "the endpoint closed the connection before it answered"), "RST_STREAM 1 NO_ERROR")
}
