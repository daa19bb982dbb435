package forward

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// RFC 9113, 8.7: REFUSED_STREAM says that nothing was done. The request is sent again, with its body, so often and no more.
func TestRFC9113Section8_7RefusedStreamIsSentAgain(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/x?y", false, "a=b")
	c.data(1, "the ", false)
	up := b.h2()
	up.want(asked(1, "POST", "/x?y", false, "a=b"), "DATA 1 the ")
	up.rst(1, http2.ErrCodeRefusedStream)
	up.want(asked(3, "POST", "/x?y", false, "a=b"), "DATA 3 the ")
	c.data(1, "body", false)
	up.want("DATA 3 body")
	up.rst(3, http2.ErrCodeRefusedStream)
	up.want(asked(5, "POST", "/x?y", false, "a=b"), "DATA 5 the body")
	c.head(1, true, "sum=8")
	up.want(headLine(5, true, "sum=8"))
	up.head(5, true, ok200)
	c.want(headLine(1, true, ok200))
	if r := l.record(); r.Attempts != 3 || r.Failure != "" || r.RequestBytes != 8 {
		t.Errorf("recorded %+v", r)
	}
	c.ask(3, "POST", "/", false)
	c.data(3, "x", false)
	c.head(3, true, "sum=1")
	for i := range uint32(maxAttempts) { // trailers are sent again as well
		up.want(asked(7+2*i, "POST", "/", false), "DATA "+string('7'+rune(2*i))+" x", headLine(7+2*i, true, "sum=1"))
		if i == 1 {
			break
		}
		up.rst(7+2*i, http2.ErrCodeRefusedStream)
	}
	c.rst(3, http2.ErrCodeCancel)
	up.want("RST_STREAM 9 CANCEL")
	if r := l.record(); r.Attempts != 2 || r.Failure != notProcessed {
		t.Errorf("recorded %+v", r)
	}
}

func TestRFC9113Section8_7SentAgainNoMoreThanMaxAttempts(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	for i := range uint32(maxAttempts) {
		up.want(asked(2*i+1, "GET", "/", true))
		up.rst(2*i+1, http2.ErrCodeRefusedStream)
	}
	c.want(refusal(1, 502, "the endpoint refused the request"))
	up.ping()
	if r := l.record(); r.Attempts != maxAttempts || r.Failure != notProcessed {
		t.Errorf("recorded %+v", r)
	}
}

// Once the endpoint has said anything it has the request.
func TestRFC9113Section8_7NotSentAgainAfterAHead(t *testing.T) {
	for status, end := range map[string]string{":status=100": "RST_STREAM 1 REFUSED_STREAM", ok200: "RST_STREAM 1 REFUSED_STREAM"} {
		l, b := h2lab(t)
		c := l.h2()
		c.ask(1, "GET", "/", true)
		up := b.h2()
		up.want(asked(1, "GET", "/", true))
		up.head(1, false, status)
		up.rst(1, http2.ErrCodeRefusedStream)
		c.want(headLine(1, false, status), end)
		up.ping()
		c.close()
	}
}

// A body of which too much has gone is not kept: the client hears that nothing was done.
func TestRFC9113Section8_7BodyTooLargeToSendAgain(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false))
	c.data(1, strings.Repeat("x", maxReplay), false)
	up.body(1, maxReplay)
	c.data(1, "x", false)
	up.want("DATA 1 x")
	up.rst(1, http2.ErrCodeRefusedStream)
	c.want("RST_STREAM 1 REFUSED_STREAM")
	up.ping()
}

// RFC 9113, 6.8: what is above the last stream of a GOAWAY was not looked at, and goes on a new connection. What is below
// is served to its end.
func TestRFC9113Section6_8GoAway(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/1", true)
	up := b.h2()
	up.want(asked(1, "GET", "/1", true))
	c.ask(3, "GET", "/3", true)
	c.ask(5, "GET", "/5", true)
	up.want(asked(3, "GET", "/3", true), asked(5, "GET", "/5", true))
	up.must(up.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
	next := b.h2()
	next.want(asked(1, "GET", "/5", true))
	c.ask(7, "GET", "/7", true)
	next.want(asked(3, "GET", "/7", true))
	up.head(1, true, ok200, "n=1")
	c.want(headLine(1, true, ok200, "n=1"))
	next.head(1, true, ok200, "n=5")
	c.want(headLine(5, true, ok200, "n=5"))
	up.head(3, true, ok200, "n=3")
	c.want(headLine(3, true, ok200, "n=3"))
	up.wantGone() // its last stream is over
	next.head(3, true, ok200, "n=7")
	c.want(headLine(7, true, ok200, "n=7"))
}

// A processed stream of a connection that is lost is not sent again.
func TestRFC9113Section6_8ProcessedIsNotSentAgain(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.must(up.framer.WriteGoAway(1, http2.ErrCodeNo, nil))
	up.close()
	c.want(refusal(1, 502, "the endpoint closed the connection before it answered"))
	b.untouched()
}

// An endpoint that cannot be connected to does not have the request: another one gets it, with what came of its body.
func TestConnectFailedGoesElsewhereOverHTTP2(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := newOrigin(t)
	for range 10 { // either may be picked first
		l.apply(webKey)
		l.apply(webKey, deadAddr(t), b.addr)
		c := l.h2()
		c.ask(1, "POST", "/", false)
		c.data(1, "body", true)
		up := b.h2()
		up.want(asked(1, "POST", "/", false), "DATA 1 body END")
		up.head(1, true, ok200)
		c.want(headLine(1, true, ok200))
		c.close()
		l.client.Upstream.Close()
		l.client.Upstream = upstream.NewClient(-1, l.pools)
		up.wantGone()
	}
	l.apply(webKey, deadAddr(t))
	c := l.h2()
	c.ask(1, "GET", "/", true)
	c.want(refusal(1, 503, "no endpoint of the backend could be connected to"))
}

// B-7: no endpoint.
func TestB7NoEndpointOverHTTP2(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	l.apply(webKey, []netip.AddrPort{}...)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	// The rest of the request is not wanted (RFC 9113, 8.1).
	c.want(refusal(1, 503, "the backend has no endpoint that is ready"), "RST_STREAM 1 NO_ERROR")
	c.ask(3, "HEAD", "/", true)
	c.want(headLine(3, true, ":status=503", "content-type=text/plain; charset=utf-8", "content-length=50"))
}
