package forward

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// short is the time that rules give in these tests. What is to come in time comes at once.
const short = 60 * time.Millisecond

// limits are the two time-outs, and what is recorded when they are over.
var limits = []struct {
	name     string
	timeouts model.Timeouts
	failure  string
}{
	{"B-41", within(short, 0), requestTimeout},
	{"B-42", within(0, short), backendTimeout},
}

// B-41, B-42: 504 when no answer comes in time, with and without retries of other things. The client's connection, and the
// rule, are as good as before.
func TestB41NoAnswerInTime(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for _, limit := range limits {
			for name, retry := range map[string]*model.Retry{"": nil, " with retries": again(3, 500)} {
				t.Run(limit.name+name, func(t *testing.T) {
					var silent atomic.Bool
					x := form.lab(t, policed(limit.timeouts, retry), func(w http.ResponseWriter, r *http.Request) {
						if silent.Load() {
							forever(r)
						}
						_, _ = io.Copy(w, r.Body)
					})
					x.ask("POST", "/", "first").want(t, 200, "first")
					silent.Store(true)
					attempts := 2
					if retry != nil && limit.failure == backendTimeout {
						attempts = 1 + retry.Attempts // B-55
					}
					for range 2 {
						x.ask("POST", "/", "x").want(t, 504, "sluice: the backend did not answer in the time")
					}
					silent.Store(false)
					r := x.ask("POST", "/", "last")
					if r.want(t, 200, "last"); !r.reused {
						t.Error("the client's connection was not kept")
					}
					x.wantRecord(200, "", 1)
					for range 2 {
						if retry == nil || limit.failure == requestTimeout {
							attempts = 1
						}
						x.wantRecord(504, limit.failure, attempts)
					}
					x.wantRecord(200, "", 1)
					x.http.CloseIdleConnections()
				})
			}
		}
	})
}

// B-23: for gRPC it is DEADLINE_EXCEEDED.
func TestB23TimeoutOfGRPC(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, policed(within(short, 0), nil), func(_ http.ResponseWriter, r *http.Request) { forever(r) })
		r := x.ask("POST", "/shop.Cart/Add", "", "Content-Type: application/grpc")
		if r.want(t, 200, ""); r.header.Get("Grpc-Status") != "4" {
			t.Errorf("%v", r.header)
		}
		x.http.CloseIdleConnections()
	})
}

// B-46: when the head went to the client the answer breaks off, however its body is delimited. It never looks whole.
func TestB46AnswerThatDoesNotEndInTime(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for _, limit := range limits {
			for _, length := range []string{"", "1000"} {
				x := form.lab(t, policed(limit.timeouts, again(3, 502, 504)), func(w http.ResponseWriter, r *http.Request) {
					if length != "" {
						w.Header().Set("Content-Length", length)
					}
					_, _ = io.WriteString(w, "half")
					_ = http.NewResponseController(w).Flush()
					forever(r)
				})
				if r := x.ask("GET", "/", ""); r.status != 200 || r.err == nil || !strings.HasPrefix("half", r.body) {
					t.Errorf("%s, length %q: the answer is %+v", limit.name, length, r)
				}
				x.wantRecord(200, limit.failure, 1)
				x.http.CloseIdleConnections()
			}
		}
	})
}

// ... and one that ends with its connection is reset, and not ended.
func TestB46AnswerUntilTheEndOfTheConnection(t *testing.T) {
	for _, limit := range limits {
		l := newLab(t, policed(limit.timeouts, nil), Limits{})
		b := l.origin()
		l.appProtocol(webKey, "ws", b.addr)
		c := l.dial()
		c.send(get)
		p := b.accept()
		p.want(get)
		p.send("HTTP/1.1 200 OK\r\n\r\nhalf")
		c.want("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
		c.wantReset()
		p.wantGone()
		h := l.h2()
		h.ask(1, "GET", "/", true)
		p = b.accept()
		p.want(get)
		p.send("HTTP/1.1 200 OK\r\n\r\nhalf")
		h.want(headLine(1, false, ok200), "DATA 1 half", "RST_STREAM 1 CANCEL")
		p.wantGone()
	}
}

// B-41: the time begins with the head of the request, also where its body comes slowly, or has to come first because it may
// have to be sent again.
func TestB41BodyThatDoesNotCome(t *testing.T) {
	for name, retry := range map[string]*model.Retry{"": nil, "retries ": again(3, 503)} {
		for _, says := range []string{"ws", "h2c"} {
			for _, head := range []string{"Content-Length: 8\r\n\r\nbo", "Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n"} {
				t.Run(name+says, func(t *testing.T) {
					l := newLab(t, policed(within(short, 0), retry), Limits{})
					b := l.origin()
					l.appProtocol(webKey, says, b.addr)
					c := l.dial()
					request := "POST / HTTP/1.1\r\nHost: web\r\n" + head
					c.send(request)
					collected := retry != nil && strings.HasPrefix(head, "Content-Length")
					switch {
					case collected:
						b.untouched()
					case says == "ws":
						p := b.accept()
						p.want(request)
						p.wantGone()
					default:
						up := b.h2()
						if line, err := up.frame(); err != nil || !strings.HasPrefix(line, "HEADERS 1") {
							t.Fatalf("%q, %v", line, err)
						}
						up.want("DATA 1 bo", "RST_STREAM 1 CANCEL")
					}
					c.wantRefusal(504, "in the time that the route gives", true)
					c.wantEnd()
					if r := l.record(); r.Failure != requestTimeout || r.Status != 504 {
						t.Errorf("recorded %+v", r)
					}
				})
			}
			l := newLab(t, policed(within(short, 0), retry), Limits{})
			b := l.origin()
			l.appProtocol(webKey, says, b.addr)
			h := l.h2()
			h.ask(1, "POST", "/", false)
			h.data(1, "bo", false)
			h.want(refusal(1, 504, "the backend did not answer in the time that the route gives it"), "RST_STREAM 1 NO_ERROR")
			h.close()
		}
	}
}

// A client that goes while its body is waited for is recorded as that.
func TestClientGoesWhileItsBodyIsCollected(t *testing.T) {
	for _, says := range []string{"ws", "h2c"} {
		l := newLab(t, policed(within(time.Hour, 0), again(3, 503)), Limits{})
		b := l.origin()
		l.appProtocol(webKey, says, b.addr)
		c := l.dial()
		c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 8\r\n\r\nbo")
		c.close()
		l.wantRecord(0, clientGone, 0)
		b.untouched()
	}
}

// RFC 9110, 10.1.1: a client that waits to be told to go on is not waited for.
func TestB58ExpectContinue(t *testing.T) {
	for _, says := range []string{"ws", "h2c"} {
		l := newLab(t, policed(within(time.Hour, time.Hour), again(3, 503)), Limits{})
		b := l.origin()
		l.appProtocol(webKey, says, b.addr)
		c := l.dial()
		request := "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
		c.send(request)
		p := b.accept()
		if says == "ws" {
			p.want(request)
			p.send("HTTP/1.1 100 Continue\r\n\r\n")
			c.want("HTTP/1.1 100 Continue\r\n\r\n")
			c.send("body")
			p.want("body")
			p.send(okay)
			c.want(okay)
			continue
		}
		up := p.h2()
		up.want(asked(1, "POST", "/", false, "expect=100-continue", "content-length=4"))
		up.head(1, false, ":status=100")
		c.want("HTTP/1.1 100 Continue\r\n\r\n")
		c.send("body")
		up.want("DATA 1 body END")
		up.head(1, true, ":status=204")
		c.want("HTTP/1.1 204 No Content\r\n\r\n")
	}
}

// B-55: a try that takes too long is followed by the next one, without a code for it.
func TestB55NextTryAfterABackendTimeout(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		f := &flaky{want: "the body"}
		var first atomic.Bool
		x := form.lab(t, policed(within(0, short), again(1)), func(w http.ResponseWriter, r *http.Request) {
			if first.CompareAndSwap(false, true) {
				forever(r)
				return
			}
			f.ServeHTTP(w, r)
		})
		x.ask("POST", "/", f.want).want(t, 200, f.want)
		x.wantRecord(200, "", 2)
		f.check(t, 1)
	})
}

// A try that took too long is over at the endpoint as well.
func TestB55TryThatTookTooLongIsGivenUp(t *testing.T) {
	l := newLab(t, policed(within(0, short), again(1)), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "h2c", b.addr)
	c, h := l.dial(), l.h2()
	h.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true), "RST_STREAM 1 CANCEL", asked(3, "GET", "/", true))
	up.head(3, true, ":status=204")
	h.want(headLine(1, true, ":status=204"))
	c.send(get)
	up.want(asked(5, "GET", "/", true), "RST_STREAM 5 CANCEL", asked(7, "GET", "/", true))
	up.head(7, true, ":status=204")
	c.want("HTTP/1.1 204 No Content\r\n\r\n")

	l.appProtocol(webKey, "ws", b.addr)
	h.ask(3, "GET", "/", true)
	p := b.accept()
	p.want(get)
	p.wantReset()
	p = b.accept()
	p.want(get)
	p.send("HTTP/1.1 204 No Content\r\n\r\n")
	h.want(headLine(3, true, ":status=204"))
}

// B-55: the time of the whole request covers its tries, and ends a pause between them at once.
func TestB55RequestTimeoutCoversRetries(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		long := again(100, 503)
		long.Backoff = model.Duration(time.Hour)
		for _, retry := range []*model.Retry{long, again(1000, 503, 504)} {
			f := &flaky{fails: 1 << 40, status: 503, want: "x"}
			x := form.lab(t, policed(within(3*short, 0), retry), f.ServeHTTP)
			x.ask("POST", "/", "x").want(t, 504, "in the time that the route gives")
			if r := x.record(); r.Failure != requestTimeout || retry == long && r.Attempts != 1 || retry != long && r.Attempts < 2 {
				t.Errorf("recorded %+v", r)
			}
			x.http.CloseIdleConnections()
		}
	})
}

// B-43: 0 is no time-out. Nor is one left on a connection for a request whose rule has none.
func TestB43NoTimeoutIsLeftBehind(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		timed, free := ruleFor("/timed", to(webKey)), ruleFor("/free", to(webKey))
		timed.Timeouts = within(2*short, short)
		gate := make(chan struct{})
		x := form.lab(t, routes(timed, free), func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/free" {
				_, _ = io.WriteString(w, "first ")
				_ = http.NewResponseController(w).Flush()
				<-gate
			}
			_, _ = io.WriteString(w, "last")
		})
		for range 2 {
			x.ask("GET", "/timed", "").want(t, 200, "last")
			time.AfterFunc(3*short, func() { gate <- struct{}{} }) // when what was left would ring
			r := x.ask("GET", "/free", "")
			if r.want(t, 200, "first last"); !r.reused {
				t.Error("the client's connection was not kept")
			}
		}
		// A client may have the end of an answer, and ask again, before the endpoint's connection is back among the idle ones.
		if n := x.backend.connections.Load(); n >= 4 {
			t.Errorf("%d connections to the endpoint for 4 requests: they were not used again", n)
		}
	})
}

// B-46: after a switch of protocols no time is given.
func TestB46NoTimeoutAfterASwitch(t *testing.T) {
	table := policed(within(2*short, short), again(3, 500))
	l := newLab(t, table, Limits{})
	b := l.origin()
	l.appProtocol(webKey, "ws", b.addr)
	c := l.dial()
	c.send(asks)
	p := b.accept()
	p.want(asks)
	p.send(switches)
	c.want(switches)

	tunnel := l.dial()
	const connect = "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n"
	tunnel.send(connect)
	q := b.accept()
	q.want(connect)
	q.send("HTTP/1.1 200 OK\r\n\r\n")
	tunnel.want("HTTP/1.1 200 OK\r\n\r\n")

	h := l.h2()
	h.head(1, false, ":method=CONNECT", ":protocol=websocket", ":scheme=http", ":authority=web", ":path=/chat", "sec-websocket-version=13")
	s := b.accept()
	_, key, _ := strings.Cut(s.until("\r\n\r\n"), "Sec-WebSocket-Key: ")
	key, _, _ = strings.Cut(key, "\r\n")
	s.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptOf(key) + "\r\n\r\n")
	h.want(headLine(1, false, ok200))

	<-time.After(3 * short) // both are over
	for range 2 {
		c.send("ping")
		p.want("ping")
		p.send("pong")
		c.want("pong")
		tunnel.send("ping")
		q.want("ping")
		q.send("pong")
		tunnel.want("pong")
		h.data(1, "ping", false)
		s.want("ping")
		s.send("pong")
		h.want("DATA 1 pong")
	}
}

// The same between HTTP/2 and HTTP/2.
func TestB46NoTimeoutAfterAnExtendedConnect(t *testing.T) {
	l := newLab(t, policed(within(2*short, short), nil), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "h2c", b.addr)
	h := l.h2()
	connect := []string{":method=CONNECT", ":scheme=http", ":authority=web", ":path=/chat", ":protocol=websocket"}
	h.head(1, false, connect...)
	up := b.h2(setting(http2.SettingEnableConnectProtocol, 1))
	up.want(headLine(1, false, connect...))
	up.head(1, false, ok200)
	h.want(headLine(1, false, ok200))
	<-time.After(3 * short)
	h.data(1, "ping", false)
	up.want("DATA 1 ping")
	up.data(1, "pong", false)
	h.want("DATA 1 pong")
	h.rst(1, http2.ErrCodeCancel)
	up.want("RST_STREAM 1 CANCEL")
}

// An answer that is complete before the request's body is in time: the rest may take as long as the client likes.
func TestB46BodyAfterACompleteAnswer(t *testing.T) {
	for _, says := range []string{"ws", "h2c"} {
		l := newLab(t, policed(within(2*short, short), nil), Limits{})
		b := l.origin()
		l.appProtocol(webKey, says, b.addr)
		c := l.dial()
		c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbo")
		p := b.accept()
		rest := func() { p.want("dy") }
		if says == "ws" {
			p.until("\r\n\r\nbo")
			p.send("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
			c.want("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
		} else {
			up := p.h2()
			up.want(asked(1, "POST", "/", false, "content-length=4"), "DATA 1 bo")
			up.head(1, true, ":status=202")
			c.want("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
			rest = func() { up.want("DATA 1 dy END") }
		}
		<-time.After(3 * short)
		c.send("dy")
		rest()
		l.wantRecord(202, "", 1)
		c.close()
	}
	l := newLab(t, policed(within(2*short, short), nil), Limits{})
	b := l.origin()
	h := l.h2()
	h.ask(1, "POST", "/", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false))
	up.head(1, true, ":status=202")
	h.want(headLine(1, true, ":status=202"))
	<-time.After(3 * short)
	h.data(1, "body", true)
	up.want("DATA 1 body END")
	l.wantRecord(202, "", 1)
}

// A client that does not take its answer has no more time than the others.
func TestB41AnswerThatIsNotTaken(t *testing.T) {
	l := newLab(t, policed(within(5*short, 0), nil), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "ws", b.addr)
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
	go func() { _, _ = io.Copy(p, zeros{}) }() // until it is reset
	l.wantRecord(200, requestTimeout, 1)
	h := l.h2()
	h.ask(1, "GET", "/", true)
	q := b.accept()
	q.want(get)
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
	go func() { _, _ = io.Copy(q, zeros{}) }()
	l.wantRecord(200, requestTimeout, 1)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
