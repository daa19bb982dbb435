package forward

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// One record for each exchange, with what became of it. Other tests look at those of their own subject.
func TestRecordOfAnExchange(t *testing.T) {
	second := ruleFor("/b", to(webKey))
	second.Name = "named"
	none := upstream.Limits{PerEndpoint: -1} // kept: each request has a connection of its own
	l := setup{table: routes(ruleFor("/a", to(webKey)), second), pools: none}.start(t)
	b := l.origin()
	c := l.dial()
	base := record{
		Service: "web", Port: 80, ClientPod: "client", Authority: "Web.Shop:80", Status: 200, Attempts: 1, Endpoint: b.addr.String(),
		Route: "HTTPRoute/shop/all", Rule: "0", Backend: "shop/web:80",
	}
	for _, x := range []struct {
		request, answer string
		want            func(*record)
	}{
		{"GET /a/x?y=z HTTP/1.1\r\nHost: Web.Shop:80\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
			func(r *record) { r.Method, r.Path, r.ResponseBytes = "GET", "/a/x", 3 }},
		{"PUT /b HTTP/1.1\r\nHost: Web.Shop:80\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
			func(r *record) { r.Method, r.Path, r.RequestBytes, r.Rule, r.Status = "PUT", "/b", 5, "named", 503 }},
		{"POST /a HTTP/1.1\r\nHost: Web.Shop:80\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n2\r\n!!\r\n0\r\nT: u\r\n\r\n",
			reply("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n"),
			func(r *record) { r.Method, r.Path, r.RequestBytes, r.ResponseBytes = "POST", "/a", 7, 4 }},
		{"HEAD /a HTTP/1.1\r\nHost: Web.Shop:80\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
			func(r *record) { r.Method, r.Path = "HEAD", "/a" }},
		{"GET /a HTTP/1.1\r\nHost: Web.Shop:80\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nto the end",
			func(r *record) { r.Method, r.Path, r.ResponseBytes = "GET", "/a", 10 }},
	} {
		c.send(x.request)
		p := b.accept()
		head, _, _ := strings.Cut(x.request, "\r\n\r\n")
		p.until("\r\n\r\n")
		p.send(x.answer)
		p.halfClose()
		c.until("\r\n\r\n")
		want := base
		x.want(&want)
		if got := l.record(); got != want {
			t.Errorf("%q was recorded as\n%+v\nwant\n%+v", head, got, want)
		}
		c.close()
		p.close()
		c = l.dial()
	}
}

// What is no request at all is recorded, too.
func TestRecordOfWhatIsNoRequest(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	base := record{Service: "web", Port: 80, ClientPod: "client"}
	for _, x := range []struct {
		sent    string
		failure string
		status  int
	}{
		{"GET / HTTP/1.1\r\n\r\n", badRequest, 400},
		{"\x00", badRequest, 400},
		{"GET / HTTP/1.1\r\nHost: we", clientGone, 0},
	} {
		c := l.dial()
		c.send(x.sent)
		c.halfClose()
		if x.status != 0 {
			c.wantRefusal(x.status, "", true)
		}
		c.wantEnd()
		want := base
		want.Failure, want.Status = x.failure, x.status
		if got := l.record(); got != want {
			t.Errorf("%q was recorded as\n%+v\nwant\n%+v", x.sent, got, want)
		}
	}
	c := l.dial() // a connection without a word is no exchange
	c.halfClose()
	c.wantEnd()
	if n := l.metric("sluice_requests_total"); n != 3 {
		t.Errorf("%v exchanges were counted, want 3", n)
	}
	if n := l.metric("sluice_connections_total"); n != 4 {
		t.Errorf("%v connections were counted, want 4", n)
	}
}

// A client that goes before it has its answer.
func TestRecordOfAClientThatGoes(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	c.reset()
	// The endpoint has it answered nevertheless; more than the socket of a client that is gone can take.
	p.send(reply("Content-Length: 20000000\r\n", ""))
	for {
		if _, err := p.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	if rec := l.record(); rec.Failure != clientGone || rec.Path != "/" || rec.Attempts != 1 {
		t.Errorf("recorded as %+v", rec)
	}
	if n := l.metric("sluice_requests_total"); n != 1 {
		t.Errorf("%v exchanges were counted, want 1", n)
	}
}

// While it runs an exchange is counted as active, and a connection as long as it is open.
func TestRecordOfWhatIsActive(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	if r, o := l.metric("sluice_active_requests"), l.metric("sluice_active_connections"); r != 1 || o != 1 {
		t.Errorf("active are %v requests and %v connections, want 1 and 1", r, o)
	}
	p.send(okay)
	c.want(okay)
	l.record()
	if !eventually(func() bool { return l.metric("sluice_active_requests") == 0 }) {
		t.Error("the request is still active")
	}
	if o := l.metric("sluice_active_connections"); o != 1 {
		t.Errorf("active are %v connections, want 1", o)
	}
}

// The views of a request do not outlive it: what is recorded is right although its memory is used again at once.
func TestRecordsOfPipelinedRequests(t *testing.T) {
	l := newLab(t, routes(ruleFor("/", model.Backend{Weight: 1, Invalid: "none"})), Limits{})
	c := l.dial()
	var all strings.Builder
	for i := range 200 {
		all.WriteString("GET /" + strings.Repeat(string(rune('a'+i%26)), 1+i%50) + " HTTP/1.1\r\nHost: web\r\n\r\n")
	}
	c.send(all.String())
	for i := range 200 {
		c.wantRefusal(500, "none", false)
		want := "/" + strings.Repeat(string(rune('a'+i%26)), 1+i%50)
		if rec := l.record(); rec.Path != want || rec.Failure != invalidBackend {
			t.Fatalf("exchange %d was recorded as %+v", i, rec)
		}
	}
}
