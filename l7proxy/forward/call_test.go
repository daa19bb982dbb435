package forward

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// RFC 9113, 8.1: bodies and trailers in every form in which END_STREAM can come.
func TestRFC9113Section8_1ExchangesInEveryForm(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/a?b", true, "x=1", "x=2")
	up := b.h2()
	up.want(asked(1, "GET", "/a?b", true, "x=1", "x=2"))
	up.head(1, true, ":status=204", "y=3")
	c.want(headLine(1, true, ":status=204", "y=3"))

	c.ask(3, "POST", "/", false)
	up.want(asked(3, "POST", "/", false))
	up.head(3, false, ok200) // both stream at the same time
	c.want(headLine(3, false, ok200))
	for i := range 3 {
		text := fmt.Sprint("part ", i)
		c.data(3, text, false)
		up.want("DATA 3 " + text)
		up.data(3, text, false)
		c.want("DATA 3 " + text)
	}
	c.data(3, "", true)
	up.want("DATA 3  END")
	up.data(3, "last", true)
	c.want("DATA 3 last END")

	c.ask(5, "POST", "/", false, "te=trailers")
	c.data(5, "body", false)
	c.head(5, true, "sum=4")
	up.want(asked(5, "POST", "/", false, "te=trailers"), "DATA 5 body", headLine(5, true, "sum=4"))
	up.head(5, false, ok200)
	up.data(5, "answer", false)
	up.head(5, true, "grpc-status=0")
	c.want(headLine(5, false, ok200), "DATA 5 answer", headLine(5, true, "grpc-status=0"))

	c.ask(7, "POST", "/", false)
	c.head(7, true, "only=trailers")
	up.want(asked(7, "POST", "/", false), headLine(7, true, "only=trailers"))
	up.head(7, false, ok200)
	up.head(7, true, "only=trailers")
	c.want(headLine(7, false, ok200), headLine(7, true, "only=trailers"))

	c.ask(9, "HEAD", "/", true)
	up.want(asked(9, "HEAD", "/", true))
	up.head(9, true, ok200, "content-length=1000")
	c.want(headLine(9, true, ok200, "content-length=1000"))

	c.ask(11, "GET", "/", true, "if-none-match=x")
	up.want(asked(11, "GET", "/", true, "if-none-match=x"))
	up.head(11, true, ":status=304", "content-length=7")
	c.want(headLine(11, true, ":status=304", "content-length=7"))
	for _, want := range []struct{ status, in, out int }{{204, 0, 0}, {200, 18, 22}, {200, 4, 6}, {200, 0, 0}, {200, 0, 0}, {304, 0, 0}} {
		if r := l.record(); r.Status != want.status || r.RequestBytes != want.in || r.ResponseBytes != want.out || r.Failure != "" {
			t.Errorf("recorded %+v, want %+v", r, want)
		}
	}
}

// RFC 9110, 15.2: interim answers are passed on as they come, and the request's body after them.
func TestRFC9110Section15_2InterimAnswersOverHTTP2(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false, "expect=100-continue")
	up := b.h2()
	up.want(asked(1, "POST", "/", false, "expect=100-continue"))
	up.head(1, false, ":status=100")
	c.want(headLine(1, false, ":status=100"))
	c.data(1, "body", true)
	up.want("DATA 1 body END")
	up.head(1, false, ":status=103", "link=</x>")
	up.head(1, true, ":status=201")
	c.want(headLine(1, false, ":status=103", "link=</x>"), headLine(1, true, ":status=201"))
}

// RFC 9113, 8.1: an endpoint may answer early, and say by NO_ERROR that it does not want the rest. The client has all of
// the answer before it hears that, also when it reads slowly.
func TestRFC9113Section8_1EarlyAnswer(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2(setting(http2.SettingInitialWindowSize, 10))
	c.credit = false
	c.ask(1, "POST", "/", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false))
	up.head(1, false, ":status=413")
	up.data(1, "more than ten bytes", true)
	up.rst(1, http2.ErrCodeNo)
	c.want(headLine(1, false, ":status=413"), "DATA 1 more than ")
	up.ping() // it was worked off
	c.ping()  // and nothing was told to the client yet
	c.data(1, "nobody reads this", false)
	c.must(c.framer.WriteWindowUpdate(1, 100))
	c.want("DATA 1 ten bytes END", "RST_STREAM 1 NO_ERROR")
	up.ping()
	if r := l.record(); r.Status != 413 || r.Failure != "" || r.ResponseBytes != 19 {
		t.Errorf("recorded %+v", r)
	}
}

// An endpoint that answered, and says nothing about the rest, gets it.
func TestRFC9113Section8_1EarlyAnswerWithoutReset(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false))
	up.head(1, true, ":status=202")
	c.want(headLine(1, true, ":status=202"))
	c.data(1, "the rest", true)
	up.want("DATA 1 the rest END")
}

// A request of which the endpoint does not take the rest, after its answer, ends with the client's connection, although the
// client's stream is over.
func TestRestOfARequestEndsWithTheConnection(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	up := b.h2(setting(http2.SettingInitialWindowSize, 0))
	up.want(asked(1, "POST", "/", false))
	up.head(1, true, ":status=202")
	c.want(headLine(1, true, ":status=202"))
	c.data(1, "x", true)
	c.ping()
	c.close()
	up.want("RST_STREAM 1 CANCEL")
	if r := l.record(); r.Status != 202 || r.Failure != "" {
		t.Errorf("recorded %+v", r)
	}
}

func TestRestOfARequestEndsWithTheConnectionOverHTTP1(t *testing.T) {
	l, b := h2lab(t)
	l.appProtocol(webKey, "kubernetes.io/ws", b.addr)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	p := b.accept()
	p.until("\r\n\r\n")
	p.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n") // and stops reading
	c.want(headLine(1, true, ":status=202", "content-length=0"))
	chunk := strings.Repeat("x", 16<<10)
	c.ping()
	window := int(c.settings[http2.SettingInitialWindowSize])
	stuck := 0 // looks at which so much was there: when nothing moves it stays
	for sent := 0; stuck < 20; c.ping() {
		if c.window[1]+window-sent >= len(chunk) {
			c.data(1, chunk, false)
			sent += len(chunk)
			continue
		}
		time.Sleep(5 * time.Millisecond) // between two looks: too many PINGs are not taken
		if stuck++; l.client.buffered.Load() < int64(window/2-2*len(chunk)) {
			stuck = 0
		}
	}
	c.data(1, "", true)
	c.ping()
	c.close()
	if r := l.record(); r.Status != 202 || r.Failure != "" {
		t.Errorf("recorded %+v", r)
	}
	if _, err := io.Copy(io.Discard, p); !isReset(err) {
		t.Errorf("the endpoint reads %v, want a reset", err)
	}
}

// RFC 9113, 5.4.2: what one side resets is reset on the other at once, with the same code.
func TestRFC9113Section5_4_2ResetsReachTheOtherSide(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	c.rst(1, http2.ErrCodeCancel) // before the answer
	up.want("RST_STREAM 1 CANCEL")
	if r := l.record(); r.Failure != clientGone || r.Status != 0 {
		t.Errorf("recorded %+v", r)
	}
	c.ask(3, "POST", "/", false)
	up.want(asked(3, "POST", "/", false))
	up.head(3, false, ok200)
	c.want(headLine(3, false, ok200))
	c.rst(3, http2.ErrCodeEnhanceYourCalm) // in the middle of both bodies
	up.want("RST_STREAM 3 ENHANCE_YOUR_CALM")

	c.ask(5, "GET", "/", true)
	up.want(asked(5, "GET", "/", true))
	up.rst(5, http2.ErrCodeEnhanceYourCalm)
	c.want("RST_STREAM 5 ENHANCE_YOUR_CALM")
	c.ask(7, "GET", "/", true)
	up.want(asked(7, "GET", "/", true))
	up.head(7, false, ok200)
	up.data(7, "half", false)
	c.want(headLine(7, false, ok200), "DATA 7 half")
	up.rst(7, http2.ErrCodeCancel)
	c.want("RST_STREAM 7 CANCEL")
	c.ask(9, "GET", "/", true)
	up.want(asked(9, "GET", "/", true))
	up.rst(9, http2.ErrCodeNo) // which must not look like success
	c.want("RST_STREAM 9 INTERNAL_ERROR")
	if r := l.record(); r.Failure != clientGone || r.Status != 200 {
		t.Errorf("recorded %+v", r)
	}
	for range 3 {
		if r := l.record(); r.Failure != upstreamReset {
			t.Errorf("recorded %+v", r)
		}
	}
}

// Connections that are lost with many streams on them.
func TestConnectionLostWithManyStreams(t *testing.T) {
	const n = 40
	t.Run("client", func(t *testing.T) {
		l, b := h2lab(t)
		c := l.h2()
		c.ask(1, "GET", "/", true)
		up := b.h2()
		up.want(asked(1, "GET", "/", true))
		for i := range uint32(n - 1) {
			c.ask(2*i+3, "GET", "/", true)
			up.want(asked(2*i+3, "GET", "/", true))
		}
		c.reset()
		ended := map[string]bool{}
		for range n {
			line, err := up.frame()
			if err != nil || !strings.HasSuffix(line, "CANCEL") {
				t.Fatalf("%q, %v", line, err)
			}
			ended[line] = true
		}
		if len(ended) != n {
			t.Errorf("%d streams were reset, want %d", len(ended), n)
		}
		other := l.h2() // whose connection to the endpoint is the same
		other.ask(1, "GET", "/", true)
		up.want(asked(2*n+1, "GET", "/", true))
		up.head(2*n+1, true, ok200)
		other.want(headLine(1, true, ok200))
	})
	t.Run("endpoint", func(t *testing.T) {
		l, b := h2lab(t)
		c := l.h2()
		c.ask(1, "GET", "/", true)
		up := b.h2()
		up.want(asked(1, "GET", "/", true))
		for i := range uint32(n - 1) {
			c.ask(2*i+3, "GET", "/", true)
			up.want(asked(2*i+3, "GET", "/", true))
			if i%2 == 0 {
				up.head(2*i+3, false, ok200)
				c.want(headLine(2*i+3, false, ok200))
			}
		}
		up.reset()
		answered, reset := 0, 0
		for answered+reset < n {
			line, err := c.frame()
			switch {
			case err != nil:
				t.Fatal(err)
			case strings.Contains(line, ":status=502"):
				answered++
			case strings.HasSuffix(line, "INTERNAL_ERROR"):
				reset++
			}
		}
		if answered != n/2 || reset != n/2 {
			t.Errorf("%d answered with 502 and %d reset, want half of each", answered, reset)
		}
	})
}

// A body's bytes are given back when they went on, and not before: an endpoint that does not read stops its client, and
// what is on the way is bounded by the stream's window.
func TestBackPressureFromEndpointToClient(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2()
	c.ask(1, "POST", "/", false)
	up := b.h2(setting(http2.SettingInitialWindowSize, 1000))
	up.credit = false
	up.want(asked(1, "POST", "/", false))
	c.ping()
	window := int(c.settings[http2.SettingInitialWindowSize])
	part := strings.Repeat("x", 10_000)
	sent := 0
	for ; sent+len(part) <= window; sent += len(part) {
		c.data(1, part, false)
	}
	if n, _ := up.body(1, 1000); n != 1000 {
		t.Errorf("%d bytes came through a window of 1000", n)
	}
	c.ping()
	if n := l.client.buffered.Load(); n != int64(sent-1000) {
		t.Errorf("%d bytes are buffered, want %d", n, sent-1000)
	}
	if c.window[1] > 1000 {
		t.Errorf("%d bytes were given back, of which the endpoint has 1000", c.window[1])
	}
	up.must(up.framer.WriteWindowUpdate(1, 1<<20))
	up.must(up.framer.WriteWindowUpdate(0, 1<<20))
	up.body(1, sent-1000)
	c.data(1, "end", true)
	up.want("DATA 1 end END")
	up.head(1, true, ok200)
	c.want(headLine(1, true, ok200))
}

func TestBackPressureFromClientToEndpoint(t *testing.T) {
	l, b := h2lab(t)
	c := l.h2(setting(http2.SettingInitialWindowSize, 1000))
	c.credit = false
	c.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.head(1, false, ok200)
	c.want(headLine(1, false, ok200))
	up.ping()
	part := strings.Repeat("x", 10_000)
	sent := 0
	for ; sent+len(part) <= int(up.settings[http2.SettingInitialWindowSize]); sent += len(part) {
		up.data(1, part, false)
	}
	up.ping()
	if n := l.client.buffered.Load(); n != int64(sent-1000) {
		t.Errorf("%d bytes are buffered, want %d", n, sent-1000)
	}
	if up.window[1] > 1000 {
		t.Errorf("%d bytes were given back, of which the client has 1000", up.window[1])
	}
	// Another stream of the same two connections is not in its way.
	c.ask(3, "GET", "/", true)
	up.want(asked(3, "GET", "/", true))
	up.head(3, true, ok200)
	if n, _ := c.body(1, 1000); n != 1000 {
		t.Errorf("%d bytes came through a window of 1000", n)
	}
	c.want(headLine(3, true, ok200))
	c.rst(1, http2.ErrCodeCancel)
	up.want("RST_STREAM 1 CANCEL")
}
