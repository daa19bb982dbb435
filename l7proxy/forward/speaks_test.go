package forward

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// grpcTable is a GRPCRoute's: everything under /shop.Cart/ goes to shop/web.
func grpcTable() *model.RouteTable {
	r := ruleFor("/", to(webKey))
	r.Route.Kind = "GRPCRoute"
	r.Matches = []model.Match{{RPC: &model.RPCMatch{Type: model.Exact, Service: "shop.Cart"}}}
	t := routes(r)
	t.GRPC = true
	return t
}

// appProtocol says what the endpoints are asked in, whatever the client speaks.
func TestA73AppProtocol(t *testing.T) {
	for _, protocol := range []string{"kubernetes.io/h2c", "h2c", "http2", "grpc"} {
		l, b := h2lab(t)
		l.appProtocol(webKey, protocol, b.addr)
		c := l.dial()
		c.send(get)
		up := b.h2()
		up.want(asked(1, "GET", "/", true))
		up.head(1, true, ":status=204")
		c.want("HTTP/1.1 204 No Content\r\n\r\n")
		d := l.h2()
		d.ask(1, "GET", "/", true)
		up.want(asked(3, "GET", "/", true)) // over the same connection: it is the same pod
		up.head(3, true, ":status=204")
		d.want(headLine(1, true, ":status=204"))
		c.close()
	}
	for _, protocol := range []string{"kubernetes.io/ws", "ws"} {
		l, b := h2lab(t)
		l.appProtocol(webKey, protocol, b.addr)
		c := l.h2()
		c.ask(1, "GET", "/", true)
		p := b.accept()
		p.want(get)
		p.send(okay)
		c.want(headLine(1, false, ok200, "content-length=2"), "DATA 1 ok END")
		c.close()
	}
}

// the endpoints of a GRPCRoute are asked in HTTP/2 although no appProtocol says so.
func TestA76GRPCRouteMeansHTTP2(t *testing.T) {
	l := newLab(t, grpcTable(), Limits{})
	b := l.origin()
	c := l.h2()
	c.ask(1, "POST", "/shop.Cart/Add", false, "content-type=application/grpc", "te=trailers")
	up := b.h2()
	up.want(asked(1, "POST", "/shop.Cart/Add", false, "content-type=application/grpc", "te=trailers"))
	up.head(1, true, ok200, "content-type=application/grpc", "grpc-status=0")
	c.want(headLine(1, true, ok200, "content-type=application/grpc", "grpc-status=0"))
	c.data(1, "", true)
	up.want("DATA 1  END")
	old := l.dial()
	old.send("POST /shop.Cart/Add HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 2\r\n\r\nhi")
	up.want(asked(3, "POST", "/shop.Cart/Add", false, "content-type=application/grpc", "content-length=2", "te=trailers"), "DATA 3 hi END")
	up.head(3, false, ok200, "content-type=application/grpc")
	up.data(3, "ho", false)
	up.head(3, true, "grpc-status=5")
	old.want("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\ngrpc-status: 5\r\n\r\n")
}

// an endpoint that has to speak HTTP/2, and does not.
func TestA76EndpointDoesNotSpeakHTTP2(t *testing.T) {
	l := newLab(t, grpcTable(), Limits{})
	b := l.origin()
	for range 2 { // it is asked again each time
		c := l.h2()
		c.ask(1, "POST", "/shop.Cart/Add", true, "content-type=application/grpc")
		p := b.accept()
		p.until("SM\r\n\r\n")
		p.send("HTTP/1.1 400 Bad Request\r\n\r\n")
		c.want(headLine(1, true, ok200, "content-type=application/grpc", "grpc-status=14", "grpc-message=sluice: the endpoint does not speak HTTP/2"))
		if r := l.record(); r.Failure != notHTTP2 || r.GRPC != "14" {
			t.Errorf("recorded %+v", r)
		}
		c.close()
	}
}

// clients of HTTP/1.1 and of HTTP/2 with prior knowledge on one port, also when the preface comes in pieces.
func TestA77PrefaceInPieces(t *testing.T) {
	l, b := h2lab(t)
	l.appProtocol(webKey, "h2c", b.addr)
	var up *h2peer
	for i, parts := range [][]string{
		{http2.ClientPreface}, {"P", "RI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, {"PRI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n"}, {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "\n"},
	} {
		c := newH2peer(l.dial())
		for _, part := range parts {
			c.peer.send(part)
			if part != parts[len(parts)-1] {
				session := l.newest
				if !eventually(func() bool { return session() != nil && session().state.Load() == busy }) {
					t.Fatal("the first part was not read")
				}
			}
		}
		c.must(c.framer.WriteSettings())
		c.ask(1, "GET", "/", true)
		if up == nil {
			up = b.h2()
		}
		id := uint32(2*i + 1)
		up.want(asked(id, "GET", "/", true))
		up.head(id, true, ok200)
		c.want(headLine(1, true, ok200))
	}
}

// an endpoint of which nothing is known is asked in HTTP/2 first. What it is instead of one is remembered.
func TestA77EndpointSaysOtherwise(t *testing.T) {
	for name, says := range map[string]func(p *peer){
		"http":   func(p *peer) { p.send("HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n") },
		"closes": func(p *peer) { p.halfClose() },
		"resets": func(p *peer) { p.reset() },
		"silent": func(*peer) {},
	} {
		t.Run(name, func(t *testing.T) {
			l, b := setup{table: everything(), limits: Limits{Connect: 100e6}}.lab(t) // the preface's answer has a second at least
			c := l.h2()
			c.ask(1, "POST", "/", false, "content-length=4")
			c.data(1, "body", true)
			first := b.accept()
			first.until("SM\r\n\r\n")
			says(first)
			p := b.accept()
			p.want("POST / HTTP/1.1\r\ncontent-length: 4\r\nHost: web\r\n\r\nbody")
			p.send(okay)
			c.want(headLine(1, false, ok200, "content-length=2"), "DATA 1 ok END")
			l.wantIdle(1)
			c.ask(3, "GET", "/", true)
			p.want(get)
			p.send(okay)
			c.want(headLine(3, false, ok200, "content-length=2"), "DATA 3 ok END")
			b.untouched()
			if r := l.record(); r.Failure != "" || r.Attempts != 1 || r.Status != 200 {
				t.Errorf("recorded %+v", r)
			}
		})
	}
}

func (s setup) lab(t *testing.T) (*lab, *origin) {
	t.Helper()
	l := s.start(t)
	return l, l.origin()
}

// An HTTP/1.1 client asks in HTTP/1.1 where nothing says that it is another one: without us it would not work either.
func TestA77EndpointOfHTTP2OnlyAskedInHTTP1(t *testing.T) {
	l, b := h2lab(t)
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	h := newH2peer(p)
	_ = h.framer.WriteSettings() // which is wrong already
	_ = h.framer.WriteGoAway(0, http2.ErrCodeProtocol, nil)
	c.wantRefusal(502, "malformed", false)
}

// Many requests at the time at which it turns out that the endpoint speaks HTTP/1.1: all are served, and one connection was
// made for nothing.
func TestA77ManyAtTheTimeOfTheFirst(t *testing.T) {
	const n = 30
	l, b := h2lab(t)
	c := l.h2()
	for i := range uint32(n) {
		c.ask(2*i+1, "GET", fmt.Sprint("/", i), true)
	}
	first := b.accept()
	first.until("SM\r\n\r\n")
	c.ping()
	first.send("HTTP/1.1 400 Bad Request\r\n\r\n")
	got := map[string]bool{}
	for range n {
		p := b.accept()
		head := p.until("\r\n\r\n")
		path, _, _ := strings.Cut(strings.TrimPrefix(head, "GET "), " ")
		got[path] = true
		p.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}
	for range n {
		if line, err := c.frame(); err != nil || !strings.Contains(line, ":status=204") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if len(got) != n {
		t.Errorf("%d different requests came, want %d", len(got), n)
	}
	if rest, err := io.ReadAll(first); err != nil && !isReset(err) {
		t.Errorf("the first connection brought %q, %v", rest, err)
	}
}
