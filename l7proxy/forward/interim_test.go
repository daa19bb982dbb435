package forward

import (
	"strings"
	"testing"
)

const (
	goOn     = "HTTP/1.1 100 Continue\r\n\r\n"
	wait     = "HTTP/1.1 102 Processing\r\nX-Step: 1\r\n\r\n"
	hints    = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
	expects  = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	expects2 = "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// RFC 9110, 15.2: interim answers are passed on as they come.
func TestInterimAnswersAreBefore(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	for _, interim := range []string{wait, hints, wait} {
		p.send(interim)
		c.want(interim)
	}
	p.send(okay)
	c.want(okay)
	if rec := l.record(); rec.Status != 200 || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
	c.send(get)
	p.want(get)
	p.send(hints + wait + okay) // in one piece
	c.want(hints + wait + okay)
}

func TestInterimAnswersAreNotForHTTP10(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send("GET / HTTP/1.0\r\nHost: web\r\n\r\n")
	p := b.accept()
	p.want(get)
	p.send(goOn + hints)
	p.send(okay)
	c.want(bye)
	c.wantEnd()
}

// An interim answer says nothing of a body, whatever its fields say.
func TestInterimAnswersHaveNoBody(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + okay)
	c.want("HTTP/1.1 103 Early Hints\r\n\r\n" + okay)
}

// RFC 9110, 10.1.1: it is the endpoint that says whether the body is to come.
func TestExpectTheEndpointSaysGoOn(t *testing.T) {
	for _, x := range [][2]string{{expects, "hello"}, {expects2, "5\r\nhello\r\n0\r\n\r\n"}} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(x[0])
			p := b.accept()
			p.want(x[0])
			p.send(goOn)
			c.want(goOn)
			c.send(x[1])
			p.want(x[1])
			p.send(okay)
			c.want(okay)
			if rec := l.record(); rec.RequestBytes != 5 || rec.Failure != "" {
				t.Errorf("recorded as %+v", rec)
			}
			c.send(get) // both connections go on
			p.want(get)
			p.send(okay)
			c.want(okay)
		})
	}
}

// A client that was told to go on sends its body in any case, also when the answer comes early.
func TestExpectTheEndpointAnswersEarly(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(expects)
	p := b.accept()
	p.want(expects)
	p.send(goOn)
	c.want(goOn)
	c.send("he")
	p.want("he")
	p.send(okay)
	c.want(okay)
	c.send("llo" + get)
	p.want("llo" + get)
	p.send(okay)
	c.want(okay)
}

// The client may send its body, or not and then something else: nobody can tell, so the connection ends.
func TestExpectTheEndpointAnswersAtOnce(t *testing.T) {
	for _, request := range []string{expects, expects2} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(request)
			p := b.accept()
			p.want(request)
			p.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
			c.want("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			c.wantEnd()
			p.wantGone()
			c.close()
			if rec := l.record(); rec.Status != 417 || rec.Failure != "" {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

func TestExpectTheClientDoesNotWait(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(expects + "hello" + get)
	p := b.accept()
	p.want(expects + "hello")
	p.send(okay) // and no 100: RFC 9110 allows it once the body is there
	c.want(okay)
	p.want(get)
	p.send(goOn + okay) // a 100 that nobody asked for
	c.want(goOn + okay)
}

// The proxy answers a request that goes nowhere at once: the client is not asked for its body.
func TestExpectOurOwnAnswerComesAtOnce(t *testing.T) {
	l := newLab(t, routes(ruleFor("/none", to(webKey))), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(expects)
	c.wantRefusal(404, "no rule", true)
	c.wantEnd()
	b.untouched()
}

// An answer that is none, while the client has not sent its body yet: it is told at once.
func TestMalformedAnswersWhileTheBodyIsAwaited(t *testing.T) {
	for says, answer := range map[string]string{
		"malformed":                  reply("Transfer-Encoding: chunked\r\n", "X\r\n"),
		"malformed.":                 "hello\r\n",
		"switched protocols unasked": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(post("Content-Length: 5\r\n", "he"))
			p := b.accept()
			p.want(post("Content-Length: 5\r\n", "he"))
			p.send(answer)
			c.wantRefusal(502, strings.TrimSuffix(says, "."), true)
			c.wantEnd()
			p.wantGone()
			l.serves(b)
		})
	}
}

// An endpoint that gives up after an interim answer: the client gets no answer that the endpoint did not give.
func TestInterimAnswersThenTheEndpointGoes(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(hints)
	c.want(hints)
	p.close()
	c.wantReset()
	if rec := l.record(); rec.Failure != upstreamClosed || rec.Status != 0 {
		t.Errorf("recorded as %+v", rec)
	}
	b.untouched()
}
