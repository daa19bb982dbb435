package forward

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Limits.Requests counts streams as it counts requests. Another pod is not affected.
func TestLimitOfRequestsOverHTTP2(t *testing.T) {
	l, b := setup{table: everything(), limits: Limits{Requests: 2}}.lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	c.ask(3, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	c.ask(5, "GET", "/", true)
	c.want(refusal(5, 503, "the client pod has too many requests under way"))
	other := l.h2To(l.listen(l.newClient("shop", "other")))
	other.ask(1, "GET", "/", true)
	theirs := b.h2() // a connection is never shared by two pods
	theirs.want(asked(1, "GET", "/", true))
	theirs.head(1, true, ok200)
	other.want(headLine(1, true, ok200))
	up.head(1, true, ok200)
	c.want(headLine(1, true, ok200))
	c.ask(7, "GET", "/", true)
	up.want(asked(5, "GET", "/", true))
	up.head(3, true, ok200)
	up.head(5, true, ok200)
	c.want(headLine(3, true, ok200), headLine(7, true, ok200))
}

// Limits.Connections: over HTTP/2 the answer is HTTP/2's, and the connection ends.
func TestLimitOfConnectionsOverHTTP2(t *testing.T) {
	l, b := setup{table: everything(), limits: Limits{Connections: 1}}.lab(t)
	first := l.h2()
	first.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	c := l.h2()
	c.ask(1, "GET", "/", true)
	for want := range strings.SplitSeq(refusal(1, 503, "the client pod has too many connections open"), "\x00") {
		line, err := c.frame()
		for strings.HasPrefix(line, "GOAWAY") {
			line, err = c.frame()
		}
		if err != nil || line != want {
			t.Fatalf("%q, %v", line, err)
		}
	}
	c.wantGone()
	up.head(1, true, ok200)
	first.want(headLine(1, true, ok200))
}

// Limits.Buffered: a call that would take a pod beyond it ends; others go on.
func TestLimitOfBufferedOverHTTP2(t *testing.T) {
	l, b := setup{table: everything(), limits: Limits{Buffered: 20_000}}.lab(t)
	c := l.h2(setting(http2.SettingInitialWindowSize, 0))
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	c.ask(3, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	up.head(1, false, ok200)
	up.head(3, false, ok200)
	up.data(1, strings.Repeat("x", 12_000), false)
	up.data(3, strings.Repeat("x", 12_000), false)
	c.want(headLine(1, false, ok200), headLine(3, false, ok200), "RST_STREAM 3 ENHANCE_YOUR_CALM")
	up.want("RST_STREAM 3 CANCEL")
	c.must(c.framer.WriteWindowUpdate(1, 1<<20))
	if n, _ := c.body(1, 12_000); n != 12_000 {
		t.Errorf("%d bytes came", n)
	}
	if r := l.record(); r.Failure != overloaded {
		t.Errorf("recorded %+v", r)
	}
	up.head(1, true, "t=1")
	c.want(headLine(1, true, "t=1"))
}

// What comes before there is an endpoint counts as well.
func TestLimitOfBufferedBeforeThereIsAnEndpoint(t *testing.T) {
	l, b := setup{table: everything(), limits: Limits{Buffered: 20_000}}.lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	p := b.accept() // which says nothing for now
	c.data(1, strings.Repeat("x", 15_000), false)
	c.ping()
	if n := l.client.buffered.Load(); n != 15_000 {
		t.Errorf("%d bytes are buffered", n)
	}
	c.ask(3, "POST", "/", false)
	c.data(3, strings.Repeat("x", 6_000), false)
	c.want("RST_STREAM 3 ENHANCE_YOUR_CALM")
	up := p.h2()
	up.want(asked(1, "POST", "/", false))
	if n, _ := up.body(1, 15_000); n != 15_000 {
		t.Errorf("%d bytes came", n)
	}
	c.ping()
	if n := l.client.buffered.Load(); n != 0 {
		t.Errorf("%d bytes are buffered", n)
	}
	up.head(1, true, ok200)
	c.want(headLine(1, true, ok200))
	c.rst(1, http2.ErrCodeCancel)
	up.want("RST_STREAM 1 CANCEL")
}

// Limits.Head and Limits.Target hold for HTTP/2.
func TestLimitsOfHeadsOverHTTP2(t *testing.T) {
	l, b := setup{table: everything(), limits: Limits{Head: 4000, Target: 1000}}.lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true, "x="+strings.Repeat("y", 5000))
	if line, err := c.frame(); err != nil || !strings.Contains(line, ":status=431") {
		t.Fatalf("%.200q, %v", line, err)
	}
	if line, err := c.frame(); err != nil || !strings.HasPrefix(line, "DATA 1 sluice: ") || !strings.HasSuffix(line, " END") {
		t.Fatalf("%.200q, %v", line, err)
	}
	c.ask(3, "GET", "/"+strings.Repeat("y", 1000), false)
	if line, err := c.frame(); err != nil || !strings.Contains(line, ":status=414") {
		t.Fatalf("%.200q, %v", line, err)
	}
	if line, err := c.frame(); err != nil || !strings.HasPrefix(line, "DATA 3 sluice: ") {
		t.Fatalf("%.200q, %v", line, err)
	}
	c.want("RST_STREAM 3 NO_ERROR")
	b.untouched()
	for _, status := range []int{431, 414} {
		if r := l.record(); r.Status != status || r.Failure != badRequest {
			t.Errorf("recorded %+v", r)
		}
	}
	c.ask(5, "GET", "/", true) // the connection goes on
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.head(1, true, ok200)
	c.want(headLine(5, true, ok200))
}

// RFC 9113, 8.1.1: a malformed request is reset, and recorded.
func TestRFC9113Section8_1_1MalformedRequestIsRecorded(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true, "connection=close")
	c.want("RST_STREAM 1 PROTOCOL_ERROR")
	if r := l.record(); r.Failure != badRequest || r.Status != 0 {
		t.Errorf("recorded %+v", r)
	}
	b.untouched()
	c.ask(3, "POST", "/", false, "content-length=3") // and in the middle
	up := b.h2()
	up.want(asked(1, "POST", "/", false, "content-length=3"))
	c.data(3, "more", true)
	c.want("RST_STREAM 3 PROTOCOL_ERROR")
	up.want("RST_STREAM 1 CANCEL")
	if r := l.record(); r.Failure != badRequest {
		t.Errorf("recorded %+v", r)
	}
}

// Design, "proxy is replaced": GOAWAY, streams go on to their end, and so do requests that were on their way.
func TestDrainOverHTTP2(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false))
	unused := l.h2()
	unused.ping()
	done := make(chan error, 1)
	go func() { done <- l.server.Drain(t.Context()) }()
	c.want("GOAWAY 2147483647 NO_ERROR")
	c.ask(3, "GET", "/", true) // it was on its way
	up.want(asked(3, "GET", "/", true))
	up.head(3, true, ok200)
	for got := ""; got != headLine(3, true, ok200); {
		var err error
		if got, err = c.frame(); err != nil || !strings.HasPrefix(got, "GOAWAY 3") && got != headLine(3, true, ok200) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	unused.wantGone()
	c.data(1, "end", true)
	up.want("DATA 1 end END")
	up.head(1, true, ok200)
	for got := ""; got != headLine(1, true, ok200); {
		var err error
		if got, err = c.frame(); err != nil {
			t.Fatal(err)
		}
	}
	c.wantGone()
	if err := <-done; err != nil {
		t.Error(err)
	}
	late := l.h2() // who comes now is served, and told
	late.ask(1, "GET", "/", true)
	up.want(asked(5, "GET", "/", true))
	up.head(5, true, ok200)
	seen := false
	for {
		got, err := late.frame()
		if err != nil {
			break
		}
		seen = seen || got == headLine(1, true, ok200)
	}
	if !seen {
		t.Error("a request of a new connection was not served")
	}
}

// What does not end in time is reset on both sides.
func TestDrainOverHTTP2OutOfTime(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.server.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 connections") {
		t.Errorf("%v", err)
	}
	c.wantGone()
	up.want("RST_STREAM 1 CANCEL")
}

// A port that is not redirected any more, and a pod that has ended.
func TestRetireAndCutOverHTTP2(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	l.server.Retire(l.port)
	c.want("GOAWAY 2147483647 NO_ERROR")
	up.head(1, true, ok200)
	for {
		got, err := c.frame()
		if errors.Is(err, io.EOF) || isReset(err) {
			break
		}
		if err != nil || got != headLine(1, true, ok200) && !strings.HasPrefix(got, "GOAWAY 1") {
			t.Fatalf("%q, %v", got, err)
		}
	}
	l.port.Swap(l.compile(unitOf(everything())))
	c = l.h2()
	c.ask(1, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	old := l.dial() // of HTTP/1.1, to the same endpoint in HTTP/2
	l.appProtocol(webKey, "h2c", b.addr)
	old.send(get)
	up.want(asked(5, "GET", "/", true))
	l.server.Cut(l.client.Upstream)
	c.wantGone()
	old.wantReset()
	got := map[string]bool{}
	for range 2 {
		line, err := up.frame()
		if err != nil {
			t.Fatal(err)
		}
		got[line] = true
	}
	if !got["RST_STREAM 3 CANCEL"] || !got["RST_STREAM 5 CANCEL"] {
		t.Errorf("the endpoint got %v", got)
	}
}

// Each request takes the table that is in force then, also while streams of the connection are open.
func TestSwapBetweenStreams(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	l.port.Swap(l.compile(unitOf(routes(failing(501, "not any more")))))
	c.ask(3, "GET", "/", true)
	c.want(refusal(3, 501, "not any more"))
	l.port.Swap(l.compile(unitOf(everything())))
	c.ask(5, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	up.head(1, true, ok200)
	up.head(3, true, ok200)
	c.want(headLine(1, true, ok200), headLine(5, true, ok200))
}

// An endpoint that leaves: its streams finish, and its connection ends then.
func TestEndpointThatLeavesFinishesItsStreams(t *testing.T) {
	l, b := h2lab(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.pools.Run(ctx) }()
	defer func() { cancel(); <-done }()
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	next := newOrigin(t)
	l.apply(webKey, next.addr)
	c.ask(3, "GET", "/", true)
	other := next.h2()
	other.want(asked(1, "GET", "/", true))
	other.head(1, true, ok200)
	c.want(headLine(3, true, ok200))
	up.within(time.Second)
	up.head(1, false, ok200)
	up.data(1, "bye", true)
	c.want(headLine(1, false, ok200), "DATA 1 bye END")
	up.wantGone()
}

// A panic costs one connection.
func TestPanicOverHTTP2CostsItsConnectionOnly(t *testing.T) {
	var log lockedBuffer
	l, b := setup{table: everything(), log: &log}.lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	broken := l.compile(unitOf(everything()))
	broken.ports[80].producer.rules[0].model = nil // no unit compiles to this
	l.port.Swap(broken)
	c.ask(3, "GET", "/", true)
	c.wantGone()
	l.port.Swap(l.compile(unitOf(everything())))
	up.want("RST_STREAM 1 CANCEL")
	d := l.h2()
	d.ask(1, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	up.head(3, true, ok200)
	d.want(headLine(1, true, ok200))
	if !eventually(func() bool { return log.has("the proxy has a bug") }) {
		t.Error("the log does not say so")
	}
}
