package forward

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// flaky fails so often with a status, and then echoes.
type flaky struct {
	fails  int64
	status int
	tries  atomic.Int64
	want   string // the body of each try
	wrong  atomic.Pointer[string]
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got, err := io.ReadAll(r.Body)
	if err != nil || string(got) != f.want {
		wrong := fmt.Sprintf("%d bytes %.40q, %v", len(got), got, err)
		f.wrong.Store(&wrong)
	}
	if f.tries.Add(1) <= f.fails {
		w.Header().Set("X-Failed", "1")
		w.WriteHeader(f.status)
		_, _ = io.WriteString(w, "failed") // who has gone does not read it
		return
	}
	_, _ = w.Write(got)
}

func (f *flaky) check(t *testing.T, tries int64) {
	t.Helper()
	if wrong := f.wrong.Load(); wrong != nil {
		t.Errorf("a try had the body %s, want %d bytes", *wrong, len(f.want))
	}
	if n := f.tries.Load(); n != tries {
		t.Errorf("%d tries, want %d", n, tries)
	}
}

// B-51, B-52: after so many failures in a row the answer is that of the backend, good or bad, and each try has the body.
func TestB51AttemptsAreInAdditionToTheFirst(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for _, code := range []int{429, 500, 502, 503, 504} {
			for fails := range int64(5) {
				f := &flaky{fails: fails, status: code, want: "the body"}
				x := form.lab(t, policed(model.Timeouts{}, again(3, 500, code)), f.ServeHTTP)
				r := x.ask("POST", "/", f.want)
				if fails <= 3 {
					r.want(t, 200, f.want)
					x.wantRecord(200, "", int(fails)+1)
				} else {
					r.want(t, code, "failed")
					x.wantRecord(code, "", 4)
				}
				f.check(t, min(fails, 3)+1)
				x.ask("POST", "/", f.want).want(t, 200, f.want) // nothing of it is left
				x.http.CloseIdleConnections()
			}
		}
	})
}

// B-50: what is not listed is an answer like any other; B-56: without a policy everything is.
func TestB50OtherCodesAreNotTriedAgain(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for name, retry := range map[string]*model.Retry{"B-50": again(3, 500, 502), "B-54": again(3), "B-56": nil} {
			f := &flaky{fails: 1, status: 503, want: "x"}
			x := form.lab(t, policed(model.Timeouts{}, retry), f.ServeHTTP)
			x.ask("POST", "/", "x").want(t, 503, "failed")
			if f.check(t, 1); t.Failed() {
				t.Fatal(name)
			}
			x.http.CloseIdleConnections()
		}
	})
}

// B-58: up to 64 KiB of a body are kept, and no more.
func TestB58BodiesAreReplayed(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for size, tries := range map[int]int64{maxReplay + 1: 3, maxRetry: 3, maxRetry + 1: 1} {
			f := &flaky{fails: 2, status: 503, want: string(pattern(size))}
			x := form.lab(t, policed(model.Timeouts{}, again(2, 503)), f.ServeHTTP)
			r := x.ask("PUT", "/", f.want)
			if tries > 1 {
				r.want(t, 200, f.want)
			} else {
				r.want(t, 503, "failed")
			}
			f.check(t, tries)
			x.http.CloseIdleConnections()
		}
	})
}

// B-58: a chunked body that came with its head is sent again as it is, trailers included. For one that comes later nobody
// waits: its client may wait for the answer.
func TestB58ChunkedBodies(t *testing.T) {
	l := newLab(t, policed(model.Timeouts{}, again(1, 503)), Limits{})
	b := l.origin()
	c := l.dial()
	request := "PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1\r\n!\r\n0\r\nSum: 5\r\n\r\n"
	c.send(request)
	var p *peer
	for _, answer := range []string{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nlate", okay} {
		p = b.accept()
		p.want(request)
		p.send(answer)
		if answer != okay {
			p.wantGone()
		}
	}
	c.want(okay)
	l.wantRecord(200, "", 2)

	c = l.dial()
	part := request[:len(request)-len("0\r\nSum: 5\r\n\r\n")]
	c.send(part)
	p.want(part)
	p.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate")
	c.want("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate")
	c.wantEnd()
	l.wantRecord(503, "", 1)
	b.untouched()
}

// The same in HTTP/2: a body that is under way goes on to the next endpoint, from its beginning.
func TestB58BodyUnderWay(t *testing.T) {
	l := newLab(t, policed(model.Timeouts{}, again(1, 503)), Limits{})
	b := l.origin()
	c := l.h2()
	c.ask(1, "POST", "/", false)
	c.data(1, "the ", false)
	up := b.h2()
	up.want(asked(1, "POST", "/", false), "DATA 1 the ")
	up.head(1, false, ":status=503")
	up.want("RST_STREAM 1 CANCEL", asked(3, "POST", "/", false), "DATA 3 the ")
	c.data(1, "body", false)
	c.head(1, true, "sum=8")
	up.want("DATA 3 body", headLine(3, true, "sum=8"))
	up.head(3, true, ok200)
	c.want(headLine(1, true, ok200))
	if r := l.record(); r.Attempts != 2 || r.RequestBytes != 8 {
		t.Errorf("recorded %+v", r)
	}
}

// An answer that nobody gets is given up, and not read to its end.
func TestB52AnswerThatIsGivenUp(t *testing.T) {
	l := newLab(t, policed(model.Timeouts{}, again(1, 503)), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "h2c", b.addr)
	c := l.dial()
	c.send(get)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.head(1, false, ":status=503")
	up.want("RST_STREAM 1 CANCEL", asked(3, "GET", "/", true))
	up.head(3, true, ":status=204")
	c.want("HTTP/1.1 204 No Content\r\n\r\n")
	c.close()

	l.appProtocol(webKey, "ws", b.addr)
	h := l.h2()
	h.ask(1, "GET", "/", true)
	p := b.accept()
	p.want(get)
	p.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\n")
	p.wantReset()
	p = b.accept()
	p.want(get)
	p.send("HTTP/1.1 204 No Content\r\n\r\n")
	h.want(headLine(1, true, ":status=204"))
}

// B-54: whatever the codes, what the backend did not process is tried again: here there is nobody to connect to.
func TestB54ConnectFailed(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, policed(model.Timeouts{}, again(2)), echo)
		alive := x.backend.addr
		x.appProtocol(webKey, form.says, deadAddr(t))
		x.ask("POST", "/", "x").want(t, 503, "could be connected")
		x.wantRecord(503, connectFailed, 3)
		x.appProtocol(webKey, form.says, alive)
		x.ask("POST", "/", "x").want(t, 200, "x")
	})
}

// An endpoint that comes back between two tries.
func TestB54EndpointComesBack(t *testing.T) {
	retry := again(1)
	retry.Backoff = model.Duration(patience)
	l := newLab(t, policed(model.Timeouts{}, retry), Limits{})
	l.apply(webKey, deadAddr(t))
	b := newOrigin(t)
	c := l.dial()
	c.send(get)
	l.wake(func() { l.apply(webKey, b.addr) })
	p := b.accept()
	p.want(get)
	p.send(okay)
	c.want(okay)
	l.wantRecord(200, "", 2)
}

// wake ends the pause between two tries of the only client, after what is done in it.
func (l *lab) wake(meanwhile func()) {
	l.tb.Helper()
	n := l.paused()
	meanwhile()
	n.pausing.Load().Reset(0)
}

// paused waits until the newest client is between two tries.
func (l *lab) paused() *session {
	l.tb.Helper()
	if !eventually(func() bool { n := l.newest(); return n != nil && n.pausing.Load() != nil }) {
		l.tb.Fatal("there is no pause")
	}
	return l.newest()
}

// A pause holds nothing: neither the endpoint's connection nor its place among the outstanding. The pod's end ends it.
func TestPauseHoldsNothing(t *testing.T) {
	retry := again(1, 503)
	retry.Backoff = model.Duration(time.Hour)
	l := newLab(t, policed(model.Timeouts{}, retry), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
	p.wantGone()
	l.paused()
	if k := l.seen[0].Outstanding(); k != 0 {
		t.Errorf("%d outstanding in the pause", k)
	}
	l.server.Cut(l.client.Upstream)
	c.wantReset()
	l.wantRecord(0, clientGone, 1)
	b.untouched()

	// And over HTTP/2, where a call has no goroutine.
	l.appProtocol(webKey, "h2c", b.addr)
	h := l.h2()
	h.ask(1, "GET", "/", true)
	up := b.h2()
	up.want(asked(1, "GET", "/", true))
	up.head(1, true, ":status=503")
	if !eventually(func() bool { return l.seen[0].Outstanding() == 0 }) {
		t.Error("it is outstanding in the pause")
	}
	h.rst(1, http2.ErrCodeCancel)
	l.wantRecord(0, clientGone, 1)
}

// B-54: a stream that was refused was not processed. It is sent again at once so often, and then as the rule says.
func TestB54RefusedStream(t *testing.T) {
	l := newLab(t, policed(model.Timeouts{}, again(1)), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "h2c", b.addr)
	c, old := l.h2(), l.dial()
	var up *h2peer
	id := uint32(1)
	for range 2 { // clients
		if up == nil {
			c.ask(1, "POST", "/", false)
			c.data(1, "x", true)
			up = b.h2()
		} else {
			old.send(post("Content-Length: 1\r\n", "x"))
		}
		for range maxAttempts + 1 {
			line, err := up.frame()
			if err != nil || !strings.HasPrefix(line, fmt.Sprintf("HEADERS %d :method=POST", id)) {
				t.Fatalf("%q, %v", line, err)
			}
			up.want(fmt.Sprintf("DATA %d x END", id))
			up.rst(id, http2.ErrCodeRefusedStream)
			id += 2
		}
	}
	c.want(refusal(1, 502, "the endpoint refused the request"))
	old.wantRefusal(502, "refused the request", false)
	for range 2 {
		l.wantRecord(502, notProcessed, maxAttempts+1)
	}
}

// B-54: what an endpoint may have processed is tried again only when the status that it comes to is listed.
func TestB54BrokenConnections(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for _, c := range []struct {
			retry *model.Retry
			tries int64
		}{{nil, 1}, {again(3), 1}, {again(3, 503), 1}, {again(3, 502), 3}} {
			var tries atomic.Int64
			x := form.lab(t, policed(model.Timeouts{}, c.retry), func(w http.ResponseWriter, r *http.Request) {
				if tries.Add(1) < 3 {
					panic(http.ErrAbortHandler)
				}
				_, _ = io.WriteString(w, "third")
			})
			r := x.ask("POST", "/", "x")
			if n := tries.Load(); n != c.tries {
				t.Errorf("%+v: %d tries, want %d", c.retry, n, c.tries)
			}
			if c.tries == 3 {
				r.want(t, 200, "third")
			} else if r.status == 200 {
				t.Errorf("%+v: the answer is %+v", c.retry, r)
			}
			x.http.CloseIdleConnections()
		}
	})
}

// Once something of an answer went to the client there is no other one, interim answers included.
func TestNoRetryAfterBytesOfAnAnswer(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		var tries atomic.Int64
		for _, begin := range []func(w http.ResponseWriter){
			func(w http.ResponseWriter) { w.WriteHeader(103) },
			func(w http.ResponseWriter) {
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
			},
		} {
			tries.Store(0)
			x := form.lab(t, policed(model.Timeouts{}, again(3, 502)), func(w http.ResponseWriter, r *http.Request) {
				tries.Add(1)
				begin(w)
				panic(http.ErrAbortHandler)
			})
			if r := x.ask("POST", "/", "x"); r.err == nil && r.status == 200 {
				t.Errorf("the answer is %+v", r)
			}
			if n := tries.Load(); n != 1 {
				t.Errorf("%d tries", n)
			}
			x.http.CloseIdleConnections()
		}
	})
}

// B-57: the next try is another endpoint's.
func TestB57AnotherEndpointIsPreferred(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		bad := &flaky{fails: math.MaxInt64, status: 503}
		x := form.lab(t, policed(model.Timeouts{}, again(1, 503)), bad.ServeHTTP)
		good := newStdBackend(t, form.endpoint, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "good") })
		x.appProtocol(webKey, form.says, x.backend.addr, good.addr)
		for range 30 {
			x.ask("GET", "/", "").want(t, 200, "good")
		}
		if bad.tries.Load() == 0 {
			t.Error("the bad one was never asked: that says nothing")
		}
	})
}

// A switch of protocols is asked for once.
func TestNoRetryOfUpgradesAndTunnels(t *testing.T) {
	l := newLab(t, policed(model.Timeouts{}, again(3, 503)), Limits{})
	b := l.origin()
	l.appProtocol(webKey, "ws", b.addr)
	for _, request := range []string{asks, "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n"} {
		c := l.dial()
		c.send(request)
		p := b.accept()
		p.want(request)
		p.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		c.want("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		l.wantRecord(503, "", 1)
		c.close()
	}
	h := l.h2()
	h.head(1, false, ":method=CONNECT", ":authority=web:80")
	p := b.accept()
	p.until("\r\n\r\n")
	p.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	h.want(headLine(1, true, ":status=503", "content-length=0"))
	b.untouched()
}

// B-53: the time between two tries grows up to a bound, never below what the route says, and two are seldom the same.
func TestB53Backoff(t *testing.T) {
	for _, base := range []time.Duration{0, time.Millisecond, time.Second, 59 * time.Minute, 4 * 99999 * time.Hour} {
		p := &model.Retry{Backoff: model.Duration(base)}
		from := base
		if base == 0 {
			from = usualBackoff
		}
		most := from
		if from < longBackoff {
			most = maxBackoff * from
		}
		grown := from
		for n := 1; n <= 1000; n++ {
			seen := map[time.Duration]bool{}
			for range 20 {
				got := backoff(p, n)
				if got < grown || got > grown+grown/2 {
					t.Fatalf("%v before retry %d of a base of %v: want %v and up to a half more", got, n, base, grown)
				}
				seen[got] = true
			}
			if len(seen) < 10 {
				t.Fatalf("retry %d of a base of %v: %d different times of 20", n, base, len(seen))
			}
			grown = min(2*grown, most)
			if from >= longBackoff {
				grown = from
			}
		}
	}
}

// B-54 and B-55: which failures are tried again although no code is listed, and which are not although theirs is.
func TestB54FailuresThatAreTriedAgain(t *testing.T) {
	for failure, want := range map[string][2]bool{ // without codes, with the code that the client would get
		"": {false, true}, connectFailed: {true, true}, notProcessed: {true, true}, notHTTP2: {true, true}, backendTimeout: {true, true},
		upstreamClosed: {false, true}, upstreamReset: {false, true}, badResponse: {false, true}, overloaded: {false, true},
		requestTimeout: {false, false}, clientGone: {false, false}, clientPodIsGone: {false, false}, badRequest: {false, false},
	} {
		for i, retry := range []*model.Retry{again(1), again(1, answerTo(failure).status)} {
			x := &exchange{body: requestBody{complete: true}, verdict: verdict{rule: &rule{model: &model.Rule{Retry: retry}}}}
			x.rec.Failure = failure
			if got := x.wanted(answerTo(failure).status); got != want[i] {
				t.Errorf("%q with %+v: %v", failure, retry, got)
			}
		}
	}
}
