package forward

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
)

// shadowKey are the endpoints that get copies.
var shadowKey = model.EndpointsKey{Namespace: "shop", Name: "shadow", Port: 80}

func mirrorTo(key model.EndpointsKey, numerator, denominator uint32) model.Filter {
	return model.Filter{Mirror: &model.Mirror{Endpoints: key, Share: model.Fraction{Numerator: numerator, Denominator: denominator}}}
}

func setHeader(name, value string) model.Filter {
	return model.Filter{RequestHeaders: &model.HeaderEdit{Set: []model.Header{{Name: name, Value: value}}}}
}

// mirrored is a lab whose requests are all mirrored, and the endpoints of both.
func mirrored(t *testing.T, filters ...model.Filter) (l *lab, b, shadow *origin) {
	t.Helper()
	l = newLab(t, policed(model.Timeouts{}, nil, append(filters, mirrorTo(shadowKey, 1, 1))...), Limits{})
	return l, l.origin(), l.originOf(shadowKey)
}

// wantMirrored: so many copies came to that, and no others to anything.
func (l *lab) wantMirrored(n float64, result string) {
	l.tb.Helper()
	const name = "sluice_mirrored_requests_total"
	if !eventually(func() bool { return l.metric(name, "web", "shop", "80", result) == n }) || l.metric(name) != n {
		l.tb.Errorf("%v copies were %s, of %v; want %v", l.metric(name, result), result, l.metric(name), n)
	}
}

// F-50, F-54: the copy is of the request between the rule's filters and the backend's, with all of its body. The client has
// its answer before the copy's endpoint has said anything, and hears nothing of what it says.
func TestF54CopyOfARequest(t *testing.T) {
	for _, client := range []string{"1", "2"} {
		for _, speaks := range []string{"ws", "h2c"} {
			t.Run(client+" to "+speaks, func(t *testing.T) {
				r := ruleFor("/a", to(webKey))
				r.Filters = []model.Filter{
					setHeader("X-Rule", "1"), mirrorTo(shadowKey, 1, 1),
					{Rewrite: &model.Rewrite{Path: &model.PathEdit{Prefix: "/a", Value: "/b"}}}, setHeader("X-Late", "1"),
				}
				r.Backends[0].Filters = []model.Filter{setHeader("X-Backend", "1"), {Rewrite: &model.Rewrite{Host: "other"}}}
				l := newLab(t, routes(r), Limits{})
				b, shadow := l.origin(), l.originOf(shadowKey)
				l.appProtocol(webKey, "ws", b.addr)
				l.appProtocol(shadowKey, speaks, shadow.addr)
				var h *h2peer
				c := l.dial()
				length, spelled := "Content-Length", "X-Rule: 1\r\nX-Late: 1\r\n"
				if client == "1" {
					c.send("POST /a/x?y HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbo")
				} else {
					h = l.h2()
					length, spelled = "content-length", "x-rule: 1\r\nx-late: 1\r\n"
					h.ask(1, "POST", "/a/x?y", false, "content-length=4")
					h.data(1, "bo", false)
				}
				p := b.accept()
				primary := p.until("\r\n\r\nbo")
				shadow.untouched() // the whole body has to come first
				if h == nil {
					c.send("dy")
				} else {
					h.data(1, "dy", true)
				}
				p.want("dy")
				p.send(okay)
				if h == nil {
					c.want(okay)
				} else {
					h.want(headLine(1, false, ok200, "content-length=2"), "DATA 1 ok END")
				}
				l.wantRecord(200, "", 1)
				if !strings.HasPrefix(primary, "POST /b/x?y HTTP/1.1\r\n") || !strings.Contains(primary, "ost: other\r\n") || !strings.Contains(strings.ToLower(primary), "x-backend: 1") {
					t.Errorf("the backend got %q", primary)
				}
				if speaks == "ws" {
					s := shadow.accept()
					names := strings.ToLower(length) + ": 4\r\n" + strings.ToLower(spelled)
					s.want("POST /b/x?y HTTP/1.1\r\n" + names + "Host: web\r\n\r\nbody")
					s.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops")
				} else {
					up := shadow.h2()
					up.want(headLine(1, false, ":method=POST", ":scheme=http", ":authority=web", ":path=/b/x?y", "content-length=4", "x-rule=1", "x-late=1"), "DATA 1 body END")
					up.head(1, false, ":status=500")
					up.data(1, "oops", true)
				}
				l.wantMirrored(1, observe.MirrorSent)
				if h == nil {
					c.close()
				} else {
					h.ping() // nothing came
				}
			})
		}
	}
}

// F-54: every form in which a body comes is one of a copy; the form of a copy is its own.
func TestF54BodiesOfCopies(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		for _, body := range []string{"", "x", string(pattern(maxCopy))} {
			for _, chunked := range []bool{false, true} {
				got := make(chan string, 1)
				x := form.lab(t, policed(model.Timeouts{}, nil, mirrorTo(shadowKey, 1, 1)), echo)
				shadow := newStdBackend(t, form.endpoint, func(_ http.ResponseWriter, r *http.Request) {
					b, err := io.ReadAll(r.Body)
					got <- fmt.Sprint(string(b), err)
				})
				x.apply(shadowKey, shadow.addr)
				x.appProtocol(shadowKey, form.says, shadow.addr)
				var send io.Reader = strings.NewReader(body)
				if chunked {
					send = struct{ io.Reader }{send}
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://web/", send)
				if err != nil {
					t.Fatal(err)
				}
				x.do(req).want(t, 200, body)
				if b := <-got; b != body+"<nil>" {
					t.Errorf("a body of %d bytes is %.100q in the copy", len(body), b)
				}
				x.wantMirrored(1, observe.MirrorSent)
				x.http.CloseIdleConnections()
			}
		}
	})
}

// F-54: a larger body is the request's, and not the copy's.
func TestF54BodyThatIsTooLarge(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, policed(model.Timeouts{}, nil, mirrorTo(shadowKey, 1, 1)), echo)
		shadow := x.originOf(shadowKey)
		body := string(pattern(maxCopy + 1))
		x.ask("POST", "/", body).want(t, 200, body)
		x.wantMirrored(1, observe.MirrorDropped)
		shadow.untouched()
	})
}

// The bodies that are gathered for copies are bounded for all of a pod's requests together.
func TestF54BodiesThatAreGathered(t *testing.T) {
	l, b, shadow := mirrored(t)
	l.appProtocol(webKey, "ws", b.addr)
	l.client.gathered.Add(maxGathered - 3)
	defer l.client.gathered.Add(-(maxGathered - 3))
	c := l.dial()
	c.send(post("Content-Length: 4\r\n", "body"))
	p := b.accept()
	p.until("body")
	p.send(okay)
	c.want(okay)
	l.wantMirrored(1, observe.MirrorDropped)
	shadow.untouched()
}

// F-52: several get their copies, each by itself: one that is down is nothing to the others.
func TestF52SeveralMirrors(t *testing.T) {
	other := model.EndpointsKey{Namespace: "shop", Name: "other", Port: 80}
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, policed(model.Timeouts{}, nil, mirrorTo(shadowKey, 1, 1), mirrorTo(other, 1, 1), mirrorTo(shadowKey, 1, 1)), echo)
		var copies atomic.Int64
		shadow := newStdBackend(t, form.endpoint, func(http.ResponseWriter, *http.Request) { copies.Add(1) })
		x.appProtocol(shadowKey, form.says, shadow.addr)
		x.appProtocol(other, form.says, deadAddr(t))
		x.ask("POST", "/", "x").want(t, 200, "x")
		for result, n := range map[string]float64{observe.MirrorSent: 2, observe.MirrorFailed: 1} {
			if !eventually(func() bool { return x.metric("sluice_mirrored_requests_total", result) == n }) {
				t.Errorf("%v copies were %s, want %v", x.metric("sluice_mirrored_requests_total", result), result, n)
			}
		}
		if n := copies.Load(); n != 2 {
			t.Errorf("%d copies, want 2", n)
		}
	})
}

// F-51, F-55: a share of the requests, within five standard deviations.
func TestF51ShareOfRequests(t *testing.T) {
	const n = 500
	for _, share := range []model.Fraction{{Numerator: 20, Denominator: 100}, {Numerator: 25, Denominator: 50}} {
		l := newLab(t, policed(model.Timeouts{}, nil, mirrorTo(shadowKey, share.Numerator, share.Denominator)), Limits{})
		b := newStdBackend(t, onlyHTTP1, echo)
		l.appProtocol(webKey, "ws", b.addr)
		client := l.httpClient(onlyHTTP2)
		for range n {
			resp, err := client.Get("http://web/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		client.CloseIdleConnections()
		// No endpoint: each has failed by now.
		got, p := l.metric("sluice_mirrored_requests_total", observe.MirrorFailed), float64(share.Numerator)/float64(share.Denominator)
		if d := got - n*p; d*d > 25*n*p*(1-p) {
			t.Errorf("%v of %d requests were mirrored, want about %v", got, n, n*p)
		}
	}
}

// F-50: whatever becomes of a copy, the client has its answer.
func TestF50MirrorsThatAreNoGood(t *testing.T) {
	for name, bad := range map[string]func(s *peer){
		"closes":        func(s *peer) { s.close() },
		"resets":        func(s *peer) { s.reset() },
		"is malformed":  func(s *peer) { s.send("what?\r\n\r\n") },
		"breaks off":    func(s *peer) { s.until("\r\n\r\n"); s.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"); s.close() },
		"no HTTP/2 ...": func(s *peer) { s.send("HTTP/1.1 400 Bad Request\r\n\r\n"); s.close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, b, shadow := mirrored(t)
			says := "ws"
			if strings.Contains(name, "HTTP/2") {
				says = "h2c"
			}
			l.appProtocol(shadowKey, says, shadow.addr)
			c := l.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			bad(shadow.accept())
			l.wantMirrored(1, observe.MirrorFailed)
			p.send(okay)
			c.want(okay)
			l.wantRecord(200, "", 1)
		})
	}
}

// An HTTP/1.1 client's copies are in HTTP/1.1, where nothing says that the endpoints speak another one.
func TestF54CopyInWhatTheClientSpeaks(t *testing.T) {
	l, b, shadow := mirrored(t)
	c := l.dial()
	c.send(get)
	s := shadow.accept()
	s.want(get)
	s.send(okay)
	p := b.accept()
	p.want(get)
	p.send(okay)
	c.want(okay)
	h := l.h2()
	h.ask(1, "GET", "/", true)
	shadow.h2().want(asked(1, "GET", "/", true))
	b.h2().want(asked(1, "GET", "/", true))
	h.close()
}

// No more than so many copies are under way for a pod, however slow their endpoints are.
func TestF50MaxCopies(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, policed(model.Timeouts{}, nil, mirrorTo(shadowKey, 1, 1)), echo)
		release := make(chan struct{})
		shadow := newStdBackend(t, form.endpoint, func(http.ResponseWriter, *http.Request) { <-release })
		x.appProtocol(shadowKey, form.says, shadow.addr)
		for range maxCopies + 2 {
			x.ask("POST", "/", "x").want(t, 200, "x")
		}
		x.wantMirrored(2, observe.MirrorDropped)
		if n := x.lab.client.copies.Load(); n != maxCopies {
			t.Errorf("%d copies are under way, want %d", n, maxCopies)
		}
		close(release)
		if !eventually(func() bool { return x.metric("sluice_mirrored_requests_total", observe.MirrorSent) == maxCopies }) {
			t.Error("not all of them were sent")
		}
	})
}

// A request that breaks off has no copy.
func TestF54ClientBreaksOff(t *testing.T) {
	for _, says := range []string{"ws", "h2c"} {
		l, b, shadow := mirrored(t)
		l.appProtocol(webKey, says, b.addr)
		c := l.dial()
		c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbo")
		p := b.accept()
		if says == "h2c" {
			p.h2()
		}
		c.close()
		l.wantMirrored(1, observe.MirrorDropped)
		h := l.h2()
		h.ask(1, "POST", "/", false)
		h.data(1, "bo", false)
		h.ping()
		h.rst(1, http2.ErrCodeCancel)
		l.wantMirrored(2, observe.MirrorDropped)
		shadow.untouched()
		p.close()
	}
}

// Nor has one that we answer ourselves, or of which nobody wants the rest.
func TestF50AnswersOfOurOwnHaveNoCopies(t *testing.T) {
	invalid := ruleFor("/invalid", model.Backend{Weight: 1, Endpoints: webKey, Invalid: "no such Service"})
	invalid.Filters = []model.Filter{mirrorTo(shadowKey, 1, 1)}
	redirect := ruleFor("/redirect")
	redirect.Filters = []model.Filter{mirrorTo(shadowKey, 1, 1), {Redirect: &model.Redirect{Status: 302, Scheme: "https"}}}
	nowhere := ruleFor("/nowhere", to(model.EndpointsKey{Namespace: "shop", Name: "none", Port: 80}))
	nowhere.Filters = invalid.Filters
	l := newLab(t, routes(invalid, redirect, nowhere), Limits{})
	shadow := l.originOf(shadowKey)
	c, h := l.dial(), l.h2()
	for i, path := range []string{"/invalid", "/redirect"} {
		c.send("GET " + path + " HTTP/1.1\r\nHost: web\r\n\r\n")
		head := c.until("\r\n\r\n")
		if strings.HasPrefix(head, "HTTP/1.1 500") {
			c.want("sluice: no such Service\n")
		}
		h.ask(uint32(2*i+1), "GET", path, true)
		if line, err := h.frame(); err != nil || !strings.HasSuffix(line, " END") {
			if _, err := h.frame(); err != nil {
				t.Fatal(err)
			}
		}
		l.record()
		l.record()
	}
	shadow.untouched()
	if n := l.metric("sluice_mirrored_requests_total"); n != 0 {
		t.Errorf("%v copies", n)
	}
	h.ask(5, "POST", "/nowhere", false)
	h.want(refusal(5, 503, "the backend has no endpoint that is ready"), "RST_STREAM 5 NO_ERROR")
	l.wantMirrored(1, observe.MirrorDropped)
	shadow.untouched()
}

// A copy outlives its client's connection, and not the client's pod.
func TestCutEndsCopies(t *testing.T) {
	for _, says := range []string{"ws", "h2c"} {
		l, b, shadow := mirrored(t)
		l.appProtocol(webKey, "ws", b.addr)
		l.appProtocol(shadowKey, says, shadow.addr)
		c := l.dial()
		c.send(get)
		p := b.accept()
		p.want(get)
		p.send(okay)
		c.want(okay)
		c.close()
		s := shadow.accept()
		gone := s.wantGone
		if says == "ws" {
			s.want(get)
		} else {
			up := s.h2()
			up.want(asked(1, "GET", "/", true))
			gone = func() { up.want("RST_STREAM 1 CANCEL") }
		}
		if !eventually(func() bool { return l.server.Open() == 0 }) {
			t.Error("the client's connection is still open")
		}
		other := l.newClient("shop", "other")
		l.server.Cut(other.Upstream) // another pod's end is nothing to it
		if n := l.client.copies.Load(); n != 1 {
			t.Errorf("%d copies are under way, want 1", n)
		}
		l.server.Cut(l.client.Upstream)
		gone()
		l.wantMirrored(1, observe.MirrorFailed)
	}
}

// A copy whose endpoint answers without taking all of it is over with the answer: nobody else would end it.
func TestF50MirrorAnswersEarly(t *testing.T) {
	l, b, shadow := mirrored(t)
	l.appProtocol(webKey, "ws", b.addr)
	l.appProtocol(shadowKey, "h2c", shadow.addr)
	c := l.dial()
	c.send(post("Content-Length: 4\r\n", "body"))
	up := shadow.h2(setting(http2.SettingInitialWindowSize, 0))
	if line, err := up.frame(); err != nil || !strings.HasPrefix(line, "HEADERS 1") {
		t.Fatalf("%q, %v", line, err)
	}
	up.ping()
	up.head(1, true, ":status=413")
	up.want("RST_STREAM 1 CANCEL")
	l.wantMirrored(1, observe.MirrorSent)
	p := b.accept()
	p.until("body")
	p.send(okay)
	c.want(okay)
}
