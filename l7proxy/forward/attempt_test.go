package forward

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

func TestOneConnectionServesMany(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	var p *peer
	for range 3 { // one client's connection after another: the endpoint's stays
		c := l.dial()
		for range 3 {
			c.send(get)
			if p == nil {
				p = b.accept()
			}
			p.want(get)
			p.send(okay)
			c.want(okay)
			if rec := l.record(); rec.Attempts != 1 || rec.Endpoint != b.addr.String() {
				t.Errorf("recorded as %+v", rec)
			}
		}
		c.close()
	}
	b.untouched()
}

// Requests at the same time have connections of their own, and no more than that.
func TestConnectionsAreNotShared(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	var clients, peers []*peer
	for range 5 {
		c := l.dial()
		c.send(get)
		p := b.accept()
		p.want(get)
		clients, peers = append(clients, c), append(peers, p)
	}
	for i, p := range peers {
		p.send(okay)
		clients[i].want(okay)
	}
	b.untouched()
}

// A client pod's connections are its own: another pod's requests never use them.
func TestConnectionsAreNotLentToOtherPods(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(okay)
	c.want(okay)
	other := l.dialTo(l.listen(l.newClient("shop", "other")))
	other.send(get)
	q := b.accept()
	q.want(get)
	q.send(okay)
	other.want(okay)
}

// unseen keeps connections as if the endpoint had closed them an instant ago: nobody looks before they are used.
var unseen = upstream.Limits{CheckAfter: time.Hour, Life: time.Hour}

// keep makes an exchange, after which the pool has the connection that is returned.
func (l *lab) keep(b *origin, c *peer) *peer {
	l.tb.Helper()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(okay)
	c.want(okay)
	l.record()
	return p
}

// RFC 9110, 9.2.2: what a connection that was just being closed has not answered may be sent again when it is safe.
func TestKeptConnectionThatClosesAndASafeRequest(t *testing.T) {
	for how, leave := range map[string]func(*peer){"FIN": (*peer).close, "RST": (*peer).reset} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"} {
			t.Run(how+" "+method, func(t *testing.T) {
				l := setup{table: everything(), pools: unseen}.start(t)
				b := l.origin()
				c := l.dial()
				leave(l.keep(b, c))
				request := method + " /again HTTP/1.1\r\nHost: web\r\n\r\n"
				if method == "PUT" {
					request = "PUT /again HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello"
				}
				c.send(request)
				p := b.accept()
				p.want(request)
				p.send("HTTP/1.1 204 No Content\r\n\r\n")
				c.want("HTTP/1.1 204 No Content\r\n\r\n")
				b.untouched()
				if rec := l.record(); rec.Attempts != 2 || rec.Failure != "" || rec.Status != 204 {
					t.Errorf("recorded as %+v", rec)
				}
			})
		}
	}
}

// Several kept connections that have all closed: the second attempt does not use another one of them.
func TestKeptConnectionsThatAllClose(t *testing.T) {
	l := setup{table: everything(), pools: unseen}.start(t)
	b := l.origin()
	var clients, peers []*peer
	for range 5 {
		c := l.dial()
		c.send(get)
		p := b.accept()
		p.want(get)
		clients, peers = append(clients, c), append(peers, p)
	}
	for i, p := range peers {
		p.send(okay)
		clients[i].want(okay)
		l.record()
	}
	for _, p := range peers {
		p.close()
	}
	c := clients[0]
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(okay)
	c.want(okay)
	if rec := l.record(); rec.Attempts != 2 || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
}

// The endpoint may have done what the request asks for: it is not sent a second time.
func TestKeptConnectionThatClosesAndAnUnsafeRequest(t *testing.T) {
	for _, request := range []string{
		post("", ""), post("Content-Length: 5\r\n", "hello"), "PATCH / HTTP/1.1\r\nHost: web\r\n\r\n", "FROB / HTTP/1.1\r\nHost: web\r\n\r\n",
	} {
		t.Run("", func(t *testing.T) {
			l := setup{table: everything(), pools: unseen}.start(t)
			b := l.origin()
			c := l.dial()
			p := l.keep(b, c)
			c.send(request)
			p.want(request) // it was sent
			p.close()
			c.wantRefusal(502, "before it answered", false)
			b.untouched()
			if rec := l.record(); rec.Attempts != 1 || rec.Failure != upstreamClosed || rec.Status != 502 {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// A body that has not come in full cannot be sent again, whatever its method.
func TestKeptConnectionThatClosesAndABodyUnderWay(t *testing.T) {
	l := setup{table: everything(), pools: unseen}.start(t)
	b := l.origin()
	c := l.dial()
	p := l.keep(b, c)
	request := "PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nhello"
	c.send(request)
	p.want(request)
	p.close()
	c.wantRefusal(502, "before it answered", true)
	c.wantEnd()
	b.untouched()
}

// An endpoint that has begun to answer has got the request.
func TestKeptConnectionThatClosesAfterItSaidSomething(t *testing.T) {
	l := setup{table: everything(), pools: unseen}.start(t)
	b := l.origin()
	c := l.dial()
	p := l.keep(b, c)
	c.send(get)
	p.want(get)
	p.send("HTTP/1.1 2")
	p.close()
	c.wantRefusal(502, "before it answered", false)
	b.untouched()
}

// On a new connection there is no second attempt: an endpoint that dies of a request would die of it again.
func TestNewConnectionThatCloses(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.close()
	c.wantRefusal(502, "before it answered", false)
	b.untouched()
}

// A kept connection whose end can be seen is not used: so an unsafe request, which was never sent, is served.
func TestKeptConnectionIsLookedAtFirst(t *testing.T) {
	for _, request := range []string{get, post("Content-Length: 5\r\n", "hello")} {
		for how, leave := range map[string]func(*peer){"FIN": (*peer).close, "RST": (*peer).reset, "bytes": func(p *peer) { p.send("HTTP/1.1 408 x\r\n\r\n") }} {
			t.Run("", func(t *testing.T) {
				l := setup{table: everything(), pools: upstream.Limits{CheckAfter: 1, Life: time.Hour}}.start(t)
				b := l.origin()
				c := l.dial()
				leave(l.keep(b, c))
				c.send(request)
				p := b.accept()
				p.want(request)
				p.send(okay)
				c.want(okay)
				if rec := l.record(); rec.Attempts != 1 || rec.Failure != "" {
					t.Errorf("%s: recorded as %+v", how, rec)
				}
			})
		}
	}
}

// An endpoint that refuses connections: another one gets the request, whatever its method, as nothing was sent.
func TestRefusedConnectionAnotherEndpoint(t *testing.T) {
	for _, request := range []string{get, post("Content-Length: 5\r\n", "hello"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := newOrigin(t)
			l.apply(webKey, deadAddr(t), b.addr)
			c := l.dial()
			met := false
			for range 100 { // the choice is random: until the dead one was chosen first
				c.send(request)
				p := b.accept()
				p.want(request)
				p.send(bye)
				c.want(okay)
				rec := l.record()
				if rec.Status != 200 || rec.Failure != "" || rec.Endpoint != b.addr.String() || rec.Attempts > 2 {
					t.Fatalf("recorded as %+v", rec)
				}
				if met = met || rec.Attempts == 2; met {
					break
				}
			}
			if !met {
				t.Error("the dead endpoint was never chosen")
			}
		})
	}
}

// A body of which the beginning has come is sent in full to the endpoint that takes it.
func TestRefusedConnectionAndABodyUnderWay(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := newOrigin(t)
	l.apply(webKey, deadAddr(t), b.addr)
	for range 10 {
		c := l.dial()
		c.send(post("Content-Length: 10\r\nConnection: close\r\n", "hello"))
		p := b.accept()
		p.want(post("Content-Length: 10\r\n", "hello"))
		c.send("world")
		p.want("world")
		p.send(bye)
		c.want(bye)
	}
}

// Of three endpoints two are dead: the third one is found.
func TestTwoConnectionsRefused(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := newOrigin(t)
	l.apply(webKey, deadAddr(t), b.addr, deadAddr(t))
	for range 50 {
		l.serves(b)
	}
}

func TestAllConnectionsRefused(t *testing.T) {
	for dead := 1; dead <= 3; dead++ {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			var addrs []netip.AddrPort
			for range dead {
				addrs = append(addrs, deadAddr(t))
			}
			l.apply(webKey, addrs...)
			c := l.dial()
			for range 2 { // and the client's connection goes on
				c.send(post("Content-Length: 5\r\n", "hello"))
				c.wantRefusal(503, "could be connected to", false)
				if rec := l.record(); rec.Failure != connectFailed || rec.Status != 503 || rec.Attempts != dead || rec.Endpoint == "" {
					t.Errorf("of %d: recorded as %+v", dead, rec)
				}
			}
		})
	}
}

// refusals are the answers that need no endpoint.
var refusals = []struct {
	what    string
	table   *model.RouteTable
	status  int
	failure string
	says    string
}{
	{"A-41 no rule matches", routes(ruleFor("/other", to(webKey))), 404, noMatch, "no rule"},
	{"A-41 the table has no rule", routes(), 404, noMatch, "no rule"},
	{"B-7 no endpoint", everything(), 503, noEndpoint, "no endpoint"},
	{"B-7 a set that nobody told of", routes(ruleFor("/", to(model.EndpointsKey{Namespace: "shop", Name: "gone", Port: 80}))), 503, noEndpoint, "no endpoint"},
	{"B-2 invalid backend", routes(ruleFor("/", model.Backend{Weight: 1, Invalid: "the Service does not exist"})), 500, invalidBackend, "the Service does not exist"},
	{"B-4 no backend", routes(ruleFor("/")), 500, noBackend, "no backend"},
	{"B-5 weights add up to 0", routes(ruleFor("/", model.Backend{Endpoints: webKey}, model.Backend{Endpoints: webKey})), 500, noBackend, "no backend"},
	{"F-5 the rule fails", routes(failing(501, "the filter is not supported")), 501, ruleFails, "the filter is not supported"},
}

func failing(status int, reason string) model.Rule {
	r := ruleFor("/", to(webKey))
	r.Fail = &model.Failure{Status: status, Reason: reason}
	return r
}

func TestAnswersOfOurOwn(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.what, func(t *testing.T) {
			l := newLab(t, r.table, Limits{})
			var unused *origin
			if r.failure != noEndpoint {
				unused = l.origin()
			}
			c := l.dial()
			for _, request := range []string{
				get, post("Content-Length: 5\r\n", "hello"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
			} {
				c.send(request)
				c.wantRefusal(r.status, r.says, false) // the connection goes on
				if rec := l.record(); rec.Failure != r.failure || rec.Status != r.status || rec.Attempts != 0 || rec.Endpoint != "" {
					t.Errorf("recorded as %+v", rec)
				}
			}
			c.send(post("Content-Length: 5\r\n", "he")) // who knows whether the rest comes
			c.wantRefusal(r.status, r.says, true)
			c.wantEnd()
			if unused != nil {
				unused.untouched()
			}
		})
	}
}

// RFC 9110, 9.3.2: no body to HEAD, from us neither; and HTTP/1.0 is told of what it asked for.
func TestAnswersOfOurOwnKnowTheirRequest(t *testing.T) {
	l := newLab(t, routes(), Limits{})
	c := l.dial()
	c.send("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n" + get)
	head := c.until("\r\n\r\n")
	const want = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 65\r\n\r\n"
	if head != want {
		t.Errorf("to HEAD:\n%q\nwant\n%q", head, want)
	}
	c.wantRefusal(404, "no rule", false)
	c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	if head := c.until("\r\n\r\n"); head != want[:len(want)-2]+"Connection: keep-alive\r\n\r\n" {
		t.Errorf("to HTTP/1.0 that keeps its connection: %q", head)
	}
	c.until("\n")
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.wantRefusal(404, "no rule", true)
	c.wantEnd()
}

// B-2, B-1: an invalid backend keeps its share.
func TestInvalidBackendHasItsShare(t *testing.T) {
	l := newLab(t, routes(ruleFor("/", to(webKey), model.Backend{Weight: 1, Invalid: "no such Service"})), Limits{})
	b := l.origin()
	b.serve(func(w io.Writer, _ *http.Request) bool {
		_, err := io.WriteString(w, okay)
		return err == nil
	})
	c := l.dial()
	statuses := map[int]int{}
	for range 200 {
		c.send(get)
		if strings.HasPrefix(c.until("\r\n\r\n"), "HTTP/1.1 200 ") {
			c.want("ok")
			statuses[200]++
		} else {
			c.want("sluice: no such Service\n")
			statuses[500]++
		}
	}
	if statuses[200] < 50 || statuses[500] < 50 || statuses[200]+statuses[500] != 200 {
		t.Errorf("answers by status: %v, want about 100 each", statuses)
	}
}

func TestClientPodThatIsGone(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	p := l.keep(b, c)
	l.client.Upstream.Close()
	p.wantEnd() // what was kept is closed
	c.send(get)
	c.wantRefusal(503, "is being removed", false)
	if rec := l.record(); rec.Failure != clientPodIsGone || rec.Status != 503 {
		t.Errorf("recorded as %+v", rec)
	}
	b.untouched()
}

// An endpoint that has left gets no new request; what runs there finishes, and its connection is not kept.
func TestEndpointThatLeaves(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	old, fresh := newOrigin(t), newOrigin(t)
	l.apply(webKey, old.addr)
	kept := l.keep(old, l.dial())
	running := l.dial()
	running.send(get)
	kept.want(get)
	idle := l.keep(old, l.dial())
	ctx, stop := context.WithCancel(t.Context())
	var reaper sync.WaitGroup
	reaper.Go(func() { l.pools.Run(ctx) })

	l.apply(webKey, fresh.addr)
	for range 5 {
		c := l.dial()
		c.send(get)
		p := fresh.accept()
		p.want(get)
		p.send(bye)
		c.want(okay)
	}
	old.untouched()
	kept.send(okay)
	running.want(okay)
	kept.wantEnd()
	running.send(get) // the next one on the same client's connection
	p := fresh.accept()
	p.want(get)
	p.send(okay)
	running.want(okay)
	idle.wantEnd()
	stop()
	reaper.Wait()
}

// Requests go where fewer are outstanding: while one endpoint is busy the other one has what comes.
func TestRequestsGoWhereFewerAre(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	at := map[int64]*origin{0: l.origin(), 1: l.origin()}
	ends := l.registry.Set(webKey).Endpoints()
	stuck := l.dial()
	stuck.send(get)
	if !eventually(func() bool { return ends[0].Outstanding()+ends[1].Outstanding() == 1 }) {
		t.Fatal("the request is not outstanding")
	}
	busy := ends[1].Outstanding() // the index of the one that has it
	p := at[busy].accept()
	p.want(get)
	for range 10 {
		l.serves(at[1-busy])
		if !eventually(func() bool { return ends[1-busy].Outstanding() == 0 }) {
			t.Fatal("the exchange's end is not counted")
		}
	}
	p.send(bye)
	stuck.want(okay)
}
