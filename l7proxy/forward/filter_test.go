package forward

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func filtered(filters ...model.Filter) model.Rule {
	r := ruleFor("/", to(webKey))
	r.Filters = filters
	return r
}

func redirectTo(r model.Redirect) model.Filter { return model.Filter{Redirect: &r} }

// F-10, F-13, F-6, F-2: edits of a request and of its answer, the rule's and the backend's, on the wire.
func TestF10Edits(t *testing.T) {
	edit := func(set, add, remove string) *model.HeaderEdit {
		return &model.HeaderEdit{Set: []model.Header{{Name: "X-Set", Value: set}}, Add: []model.Header{{Name: "X-Add", Value: add}}, Remove: []string{remove}}
	}
	inAllForms(t, func(t *testing.T, form form) {
		r := filtered(model.Filter{RequestHeaders: edit("rule", "rule", "X-Gone")}, model.Filter{ResponseHeaders: edit("rule", "rule", "X-Gone")})
		r.Backends[0].Filters = []model.Filter{{RequestHeaders: edit("backend", "backend", "X-Left")}, {ResponseHeaders: edit("backend", "backend", "X-Left")}}
		x := form.lab(t, routes(r), func(w http.ResponseWriter, r *http.Request) {
			for _, name := range []string{"X-Set", "X-Add", "X-Gone", "X-Left"} {
				w.Header()["Got-"+name] = r.Header[name]
				w.Header().Set(name, "endpoint")
			}
		})
		got := x.ask("GET", "/", "", "X-Set: client", "X-Add: client", "X-Gone: client", "X-Left: client")
		got.want(t, 200, "")
		for name, want := range map[string]string{
			"Got-X-Set": "backend", "Got-X-Add": "client,rule,backend", "Got-X-Gone": "", "Got-X-Left": "",
			"X-Set": "rule", "X-Add": "endpoint,backend,rule", "X-Gone": "", "X-Left": "", // the rule has the last word
		} {
			if v := strings.Join(got.header[name], ","); v != want {
				t.Errorf("%s is %q, want %q", name, v, want)
			}
		}
		if r := x.record(); r.Path != "/" || r.Status != 200 {
			t.Errorf("recorded %+v", r)
		}
	})
}

// F-14, F-40, F-41: what the endpoint sees of the target. The record is of what the client asked for.
func TestF41Rewrite(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		r := ruleFor("/a", to(webKey))
		r.Filters = []model.Filter{{Rewrite: &model.Rewrite{Host: "other.shop", Path: &model.PathEdit{Prefix: "/a", Value: "/b"}}}}
		x := form.lab(t, routes(r), echo)
		for _, path := range []string{"/c%2fd", "/e", "/longer/than/those/before"} { // one leaves nothing to the next
			got := x.ask("GET", "/a"+path+"?q", "")
			if got.want(t, 200, ""); got.header.Get("X-Path") != "/b"+path+"?q" || got.header.Get("X-Host") != "other.shop" {
				t.Errorf("the endpoint saw %q of %q", got.header.Get("X-Path"), got.header.Get("X-Host"))
			}
			if r := x.record(); r.Path != "/a"+path || r.Authority != "web" {
				t.Errorf("recorded %+v", r)
			}
		}
	})
}

// F-15: interim answers, trailers and answers of our own are not edited.
func TestF15WhatIsNotEdited(t *testing.T) {
	all := model.Filter{ResponseHeaders: &model.HeaderEdit{Set: []model.Header{{Name: "x-edit", Value: "1"}}, Remove: []string{"x-sum"}}}
	for _, says := range []string{"ws", "h2c"} {
		l := newLab(t, routes(filtered(all)), Limits{})
		b := l.origin()
		l.appProtocol(webKey, says, b.addr)
		for _, client := range []string{"1", "2"} {
			c, h := l.dial(), (*h2peer)(nil)
			if client == "2" {
				h = l.h2()
				h.ask(1, "GET", "/", true)
			} else {
				c.send(get)
			}
			p := b.accept()
			if says == "ws" {
				p.want(get)
				p.send("HTTP/1.1 103 Early Hints\r\nx-sum: 0\r\n\r\nHTTP/1.1 200 OK\r\nx-sum: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nx-sum: 2\r\n\r\n")
			} else {
				up := p.h2()
				up.want(asked(1, "GET", "/", true))
				up.head(1, false, ":status=103", "x-sum=0")
				up.head(1, false, ok200, "x-sum=1")
				up.data(1, "a", false)
				up.head(1, true, "x-sum=2")
			}
			if h == nil {
				c.want("HTTP/1.1 103 Early Hints\r\nx-sum: 0\r\n\r\nHTTP/1.1 200 OK\r\nx-edit: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 2\r\n\r\n")
			} else {
				h.want(headLine(1, false, ":status=103", "x-sum=0"), headLine(1, false, ok200, "x-edit=1"), "DATA 1 a", headLine(1, true, "x-sum=2"))
				h.close()
			}
			p.close()
			l.client.Upstream.Close()
			c.close()
			if client == "1" { // a new pool for the next client
				l.client = l.newClient("shop", "next")
				l.addr = l.listen(l.client)
			}
		}
	}
	l := newLab(t, routes(filtered(all)), Limits{})
	l.dial().close()
	c, h := l.dial(), l.h2()
	c.send(get)
	c.wantRefusal(503, "no endpoint", false)
	h.ask(1, "GET", "/", true)
	h.want(refusal(1, 503, "the backend has no endpoint that is ready"))
}

// F-15: of gRPC, a head that is all of an answer is edited, and its trailers are in it.
func TestF15TrailersOnly(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		x := form.lab(t, routes(filtered(model.Filter{ResponseHeaders: &model.HeaderEdit{Set: []model.Header{{Name: "X-Edit", Value: "1"}}}})),
			func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", "5") })
		got := x.ask("POST", "/", "", "Content-Type: application/grpc")
		if got.want(t, 200, ""); got.header.Get("X-Edit") != "1" || got.header.Get("Grpc-Status") != "5" {
			t.Errorf("%v", got.header)
		}
	})
}

// F-20 to F-29: redirects on the wire. They have no body, and the endpoint hears of nothing.
func TestF29RedirectsOnTheWire(t *testing.T) {
	for _, c := range []struct {
		redirect model.Redirect
		location string
	}{
		{model.Redirect{Status: 301, Scheme: "https"}, "https://web/a?b"},
		{model.Redirect{Status: 302}, "http://web/a?b"},
		{model.Redirect{Status: 303, Host: "other", Port: 8080}, "http://other:8080/a?b"},
		{model.Redirect{Status: 307, Path: &model.PathEdit{Value: "/full"}}, "http://web/full?b"},
		{model.Redirect{Status: 308, Path: &model.PathEdit{Prefix: "/a", Value: ""}}, "http://web/?b"},
	} {
		r := ruleFor("/a")
		r.Filters = []model.Filter{setHeader("Host", "edited"), redirectTo(c.redirect)}
		l := newLab(t, routes(r), Limits{})
		b := l.origin()
		p, h := l.dial(), l.h2()
		text := fmt.Sprintf("HTTP/1.1 %d %s\r\nLocation: %s\r\nContent-Length: 0\r\n", c.redirect.Status, http.StatusText(c.redirect.Status), c.location)
		for range 2 { // the connection goes on
			p.send("POST /a?b HTTP/1.1\r\nHost: web:99\r\nContent-Length: 4\r\n\r\nbody")
			p.want(text + "\r\n")
			l.wantRecord(c.redirect.Status, "", 0)
		}
		p.send("HEAD /a?b HTTP/1.1\r\nHost: web\r\n\r\n")
		p.want(text + "\r\n")
		h.ask(1, "GET", "/a?b", true)
		h.want(headLine(1, true, fmt.Sprint(":status=", c.redirect.Status), "location="+c.location, "content-length=0"))
		// A body that has not come is not wanted.
		h.ask(3, "POST", "/a?b", false)
		h.want(headLine(3, true, fmt.Sprint(":status=", c.redirect.Status), "location="+c.location, "content-length=0"), "RST_STREAM 3 NO_ERROR")
		p.send("POST /a?b HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		p.want(text + "Connection: close\r\n\r\n")
		p.send("body") // which is read, so that the client is not reset before it has its answer
		p.wantEnd()
		b.untouched()
	}
}

// F-22: who names no host is sent to the Service's; RFC 9112, 9.3: and HTTP/1.0 has one request, unless it says otherwise.
func TestF22RedirectWithoutHost(t *testing.T) {
	l := newLab(t, routes(filtered(redirectTo(model.Redirect{Status: 302, Path: &model.PathEdit{Value: "/x"}}))), Limits{})
	c := l.dial()
	c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	c.want("HTTP/1.1 302 Found\r\nLocation: http://web.shop/x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n")
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.want("HTTP/1.1 302 Found\r\nLocation: http://web.shop/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	c.wantEnd()
	h := l.h2()
	h.head(1, true, ":method=GET", ":scheme=https", ":path=/", "host=old")
	h.want(headLine(1, true, ":status=302", "location=https://old:80/x", "content-length=0"))
}

// F-61, F-65: a preflight is answered, and goes no further.
func TestF61PreflightOnTheWire(t *testing.T) {
	cors := model.Filter{CORS: &model.CORS{Origins: []string{"https://a.shop"}, Methods: []string{"PUT"}, Headers: []string{"X-A"}, Expose: []string{"X-B"}, Credentials: true, MaxAge: 7}}
	l := newLab(t, routes(filtered(cors)), Limits{})
	b := l.origin()
	c, h := l.dial(), l.h2()
	for range 2 {
		c.send("OPTIONS / HTTP/1.1\r\nHost: web\r\nOrigin: https://a.shop\r\nAccess-Control-Request-Method: PUT\r\n\r\n")
		c.want("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Methods: PUT\r\nAccess-Control-Allow-Headers: X-A\r\nAccess-Control-Max-Age: 7\r\n" +
			"Access-Control-Allow-Origin: https://a.shop\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-B\r\nVary: Origin\r\nContent-Length: 0\r\n\r\n")
		l.wantRecord(200, "", 0)
	}
	c.send("OPTIONS / HTTP/1.1\r\nHost: web\r\nOrigin: https://b.shop\r\nAccess-Control-Request-Method: PUT\r\n\r\n") // F-64
	c.want("HTTP/1.1 200 OK\r\nVary: Origin\r\nContent-Length: 0\r\n\r\n")
	h.ask(1, "OPTIONS", "/", true, "origin=https://a.shop", "access-control-request-method=PUT")
	h.want(headLine(1, true, ok200, "access-control-allow-methods=PUT", "access-control-allow-headers=X-A", "access-control-max-age=7",
		"access-control-allow-origin=https://a.shop", "access-control-allow-credentials=true", "access-control-expose-headers=X-B", "vary=Origin", "content-length=0"))
	b.untouched()
}

// F-66: who may read an answer is in all of them, in the place of what the endpoint says, and also in our own. One exchange
// leaves nothing to the next one.
func TestF66AnswersSayWhoMayReadThem(t *testing.T) {
	inAllForms(t, func(t *testing.T, form form) {
		cors := model.Filter{CORS: &model.CORS{Origins: []string{"https://a.shop"}, MaxAge: 7}}
		missing := ruleFor("/missing", to(model.EndpointsKey{Namespace: "shop", Name: "none", Port: 80}))
		missing.Filters = []model.Filter{cors}
		x := form.lab(t, routes(filtered(cors), missing), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			_, _ = io.WriteString(w, r.Method)
		})
		for path, status := range map[string]int{"/": 200, "/missing": 503} {
			for _, origin := range []string{"https://a.shop", "https://b.shop", "https://A.shop"} {
				want := origin
				if strings.Contains(origin, "b.") {
					want = ""
				}
				got := x.ask("OPTIONS", path, "", "Origin: "+origin)
				if got.want(t, status, ""); got.header.Get("Access-Control-Allow-Origin") != want || got.header.Get("Vary") != "Origin" {
					t.Errorf("%s for %s: %v", path, origin, got.header)
				}
			}
			if got := x.ask("GET", path, ""); got.header.Get("Access-Control-Allow-Origin") != "" || got.header.Get("Vary") != "Origin" {
				t.Errorf("%s without an origin: %v", path, got.header)
			}
		}
		got := x.ask("POST", "/missing", "", "Origin: https://a.shop", "Content-Type: application/grpc")
		if got.want(t, 200, ""); got.header.Get("Grpc-Status") != "14" || got.header.Get("Access-Control-Allow-Origin") != "https://a.shop" {
			t.Errorf("of gRPC: %v", got.header)
		}
	})
}
