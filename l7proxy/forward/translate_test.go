package forward

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// http2lab is a lab whose backend speaks HTTP/2, with a client's connection of HTTP/1.1.
func http2lab(t *testing.T) (*lab, *origin, *peer) {
	t.Helper()
	l, b := h2lab(t)
	l.appProtocol(webKey, "kubernetes.io/h2c", b.addr)
	return l, b, l.dial()
}

// RFC 9113, 8.2 and 8.3: what a request of HTTP/1.1 is in HTTP/2.
func TestRFC9113Section8_3RequestsFromHTTP1(t *testing.T) {
	_, b, c := http2lab(t)
	var up *h2peer
	id := uint32(1)
	for _, x := range []struct {
		request string
		want    []string // without the id
	}{
		{"GET /a%2fb?c=d HTTP/1.1\r\nHost: Web.Shop:80\r\nX-Y: z\r\n\r\n", []string{"HEADERS :method=GET :scheme=http :authority=Web.Shop:80 :path=/a%2fb?c=d x-y=z END"}},
		{"GET http://other/x HTTP/1.1\r\nHost: web\r\n\r\n", []string{"HEADERS :method=GET :scheme=http :authority=other :path=/x END"}},
		{"GET / HTTP/1.1\r\nHost: web\r\nConnection: X-Hop, TE\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers, deflate\r\nCookie: a=b; c=d\r\n\r\n",
			[]string{"HEADERS :method=GET :scheme=http :authority=web :path=/ cookie=a=b; c=d te=trailers END"}},
		// RFC 9110, 7.8: Upgrade is HTTP/1.1's, and the request is served without.
		{"GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
			[]string{"HEADERS :method=GET :scheme=http :authority=web :path=/ sec-websocket-version=13 END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/ content-length=4", "DATA body END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/ content-length=0 END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/", "DATA body END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/ END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nSum: 1\r\n\r\n", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/", "DATA x", "HEADERS sum=1 END"}},
		{"PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSum: 0\r\n\r\n", []string{"HEADERS :method=PUT :scheme=http :authority=web :path=/", "HEADERS sum=0 END"}},
	} {
		c.send(x.request)
		if up == nil {
			up = b.h2()
		}
		for _, want := range x.want {
			kind, rest, _ := strings.Cut(want, " ")
			up.want(fmt.Sprintf("%s %d %s", kind, id, rest))
		}
		up.head(id, true, ":status=204")
		c.want("HTTP/1.1 204 No Content\r\n\r\n")
		id += 2
	}
	c.send("CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\n\r\n")
	c.wantRefusal(501, "CONNECT", true)
	c.wantEnd()
}

// RFC 9112, 6.3: what an answer of HTTP/2 is in HTTP/1.1.
func TestRFC9112Section6_3AnswersOfHTTP2(t *testing.T) {
	l, b, c := http2lab(t)
	var up *h2peer
	id := uint32(1)
	for _, x := range []struct {
		request string
		answer  func(id uint32)
		want    string
		closes  bool
	}{
		{get, func(id uint32) { up.head(id, false, ok200, "content-length=2", "x=y"); up.data(id, "ok", true) }, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok", false},
		{get, func(id uint32) { up.head(id, false, ok200); up.data(id, "ok", false); up.data(id, "", true) }, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false},
		{get, func(id uint32) { up.head(id, true, ok200) }, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false},
		{get, func(id uint32) { up.head(id, true, ":status=304", "content-length=9") }, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", false},
		{"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n", func(id uint32) { up.head(id, true, ok200, "content-length=9") }, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", false},
		{get, func(id uint32) { up.head(id, false, ok200); up.head(id, true, "sum=0") }, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nsum: 0\r\n\r\n", false},
		{get, func(id uint32) {
			up.head(id, false, ok200, "content-length=1", "trailer=sum")
			up.data(id, "x", false)
			up.head(id, true, "sum=1")
		},
			"HTTP/1.1 200 OK\r\ntrailer: sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nsum: 1\r\n\r\n", false},
		{get, func(id uint32) { up.head(id, false, ":status=103", "link=x"); up.head(id, true, ":status=299") }, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n", false},
		// An early answer, while the request is still being sent: the rest goes on.
		{"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbo", func(id uint32) {
			up.head(id, true, ":status=202")
			c.send("dy")
			up.want(fmt.Sprintf("DATA %d bo", id), fmt.Sprintf("DATA %d dy END", id))
		},
			"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", false},
		// ... unless the endpoint does not want it.
		{"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbo", func(id uint32) {
			up.head(id, true, ":status=413")
			up.rst(id, http2.ErrCodeNo)
			up.want(fmt.Sprintf("DATA %d bo", id))
		},
			"HTTP/1.1 413 Request Entity Too Large\r\ncontent-length: 0\r\n\r\n", true},
		// RFC 9110, 10.1.1: who was not told to go on may not send the body at all.
		{"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", func(id uint32) { up.head(id, true, ":status=417") },
			"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", true},
		{"GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n", func(id uint32) { up.head(id, false, ok200, "content-length=2"); up.data(id, "ok", true) },
			"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: keep-alive\r\n\r\nok", false},
		{"GET / HTTP/1.0\r\nHost: web\r\n\r\n", func(id uint32) {
			up.head(id, false, ":status=103")
			up.head(id, false, ok200)
			up.data(id, "ok", false)
			up.head(id, true, "sum=1")
		},
			"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", true},
	} {
		c.send(x.request)
		if up == nil {
			up = b.h2()
		}
		line, err := up.frame()
		if line == fmt.Sprintf("RST_STREAM %d CANCEL", id-2) { // of a body that did not come
			line, err = up.frame()
		}
		if err != nil || !strings.HasPrefix(line, fmt.Sprintf("HEADERS %d ", id)) {
			t.Fatalf("%q, %v", line, err)
		}
		x.answer(id)
		c.want(x.want)
		if x.closes {
			c.wantEnd()
			c = l.dial()
		}
		if r := l.record(); r.Failure != "" {
			t.Errorf("%q was recorded as %+v", x.request, r)
		}
		id += 2
	}
}

// Expect: 100-continue from end to end.
func TestRFC9110Section10_1_1ExpectToHTTP2(t *testing.T) {
	_, b, c := http2lab(t)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	up := b.h2()
	up.want(asked(1, "POST", "/", false, "content-length=4", "expect=100-continue"))
	up.head(1, false, ":status=100")
	c.want("HTTP/1.1 100 Continue\r\n\r\n")
	c.send("body")
	up.want("DATA 1 body END")
	up.head(1, true, ":status=204")
	c.want("HTTP/1.1 204 No Content\r\n\r\n")
}

// Streams that break off: before the head of the answer, and behind it.
func TestStreamsThatBreakOffToHTTP1(t *testing.T) {
	l, b, c := http2lab(t)
	c.send(get)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.rst(1, http2.ErrCodeInternal)
	c.wantRefusal(502, "reset", false)
	c.send(get)
	up.want(asked(3, "GET", "/", true))
	up.rst(3, http2.ErrCodeRefusedStream) // nothing was done: it is sent again
	up.want(asked(5, "GET", "/", true))
	up.must(up.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
	up.close()
	up = b.h2()
	up.want(asked(1, "GET", "/", true))
	up.head(1, false, ok200)
	up.data(1, "half", false)
	c.want("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	up.rst(1, http2.ErrCodeCancel)
	c.wantReset()
	for _, want := range []record{{Failure: upstreamReset, Status: 502, Attempts: 1}, {Failure: upstreamReset, Status: 200, Attempts: 3}} {
		if r := l.record(); r.Failure != want.Failure || r.Status != want.Status || r.Attempts != want.Attempts {
			t.Errorf("recorded %+v, want %+v", r, want)
		}
	}
}

// A client that dies in the middle of its body: nothing must look like the end of it. One whose chunks are malformed.
func TestClientOfHTTP1DiesInTheMiddle(t *testing.T) {
	l, b, c := http2lab(t)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nhalf")
	up := b.h2()
	up.want(asked(1, "POST", "/", false, "content-length=10"), "DATA 1 half")
	c.reset()
	up.want("RST_STREAM 1 CANCEL")
	if r := l.record(); r.Failure != clientGone {
		t.Errorf("recorded %+v", r)
	}
	c = l.dial()
	c.send("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
	up.want(asked(3, "POST", "/", false), "DATA 3 x")
	c.send("nonsense\r\n")
	up.want("RST_STREAM 3 CANCEL")
	c.wantRefusal(400, "malformed", true)
	c = l.dial()
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nhalf")
	up.want(asked(5, "POST", "/", false, "content-length=10"), "DATA 5 half")
	up.head(5, false, ok200)
	c.want("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	l.record()
	c.reset()
	up.want("RST_STREAM 5 CANCEL")
	if r := l.record(); r.Failure != clientGone || r.Status != 200 {
		t.Errorf("recorded %+v", r)
	}
}

// Slow readers on both sides bound what is buffered.
func TestBackPressureFromHTTP1ToHTTP2AndBack(t *testing.T) {
	l, b, c := http2lab(t)
	const size = 24 << 20
	c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n", size))
	c.sendLong(strings.Repeat("x", size))
	up := b.h2(setting(http2.SettingInitialWindowSize, 0))
	up.want(asked(1, "POST", "/", false, fmt.Sprint("content-length=", size)))
	const most = maxUnsent + gatherUpTo + 16<<10
	if !eventually(func() bool { return l.client.buffered.Load() >= maxUnsent }) {
		t.Errorf("%d bytes are buffered, want at least %d", l.client.buffered.Load(), maxUnsent)
	}
	up.ping()
	if n := l.client.buffered.Load(); n > most {
		t.Errorf("%d bytes are buffered, want no more than %d", n, most)
	}
	up.must(up.framer.WriteWindowUpdate(1, 1<<20))
	up.must(up.framer.WriteWindowUpdate(0, 1<<20))
	if n, end := up.body(1, size); n != size || !end {
		t.Errorf("%d bytes came, end %v", n, end)
	}
	up.head(1, false, ok200, fmt.Sprint("content-length=", size))
	up.ping()
	window := int(up.settings[http2.SettingInitialWindowSize])
	part := strings.Repeat("y", 16<<10)
	sent := 0
	send := func() { // as far as the windows let it
		for sent+len(part) <= size && window+up.window[1]-sent >= len(part) {
			up.data(1, part, sent+len(part) == size)
			sent += len(part)
			up.ping()
		}
	}
	for send(); l.client.buffered.Load() < int64(window)/4; send() {
	}
	if n := l.client.buffered.Load(); n > int64(window) {
		t.Errorf("%d bytes are buffered, more than the window of %d", n, window)
	}
	c.reset() // what it has not read is lost with it
	for {
		line, err := up.frame()
		if err != nil {
			t.Fatal(err)
		}
		if line == "RST_STREAM 1 CANCEL" {
			return
		}
	}
}
