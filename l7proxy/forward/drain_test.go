package forward

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// drain drains in the background, and returns what Drain will.
func (l *lab) drain(ctx context.Context) <-chan error {
	l.tb.Helper()
	ended := make(chan error, 1)
	go func() { ended <- l.server.Drain(ctx) }()
	if !eventually(l.server.draining.Load) {
		l.tb.Fatal("the server does not drain")
	}
	return ended
}

func TestDrainOfNothing(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	if err := l.server.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// Idle connections end after the grace, those that have had a request and those that have not.
func TestDrainEndsIdleConnections(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	used, fresh := l.dial(), l.dial()
	p := l.keep(b, used)
	if !eventually(func() bool { return l.server.Open() == 2 }) {
		t.Fatal("the connections are not open")
	}
	ended := l.drain(t.Context())
	used.wantEnd()
	fresh.wantEnd()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.close()
}

// In its grace a connection still has its request served, and its client is told that it closes.
func TestDrainSaysClose(t *testing.T) {
	l := newLab(t, routes(ruleFor("/a", to(webKey))), Limits{})
	b := l.origin()
	clients := []*peer{l.dial(), l.dial(), l.dial(), l.dial()}
	if !eventually(func() bool { return l.server.Open() == 4 }) {
		t.Fatal("the connections are not open")
	}
	ended := l.drain(t.Context())
	const a = "GET /a HTTP/1.1\r\nHost: web\r\n\r\n"
	for i, answer := range []string{okay, reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), "HTTP/1.1 204 No Content\r\n\r\n"} {
		clients[i].send(a)
		p := b.accept()
		p.want(a)
		p.send(answer)
		p.close()
		clients[i].want(strings.Replace(answer, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		clients[i].wantEnd()
	}
	clients[3].send(get)
	clients[3].wantRefusal(404, "no rule", true)
	clients[3].wantEnd()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Who was accepted last is served as well.
	late := l.dial()
	late.send(get)
	late.wantRefusal(404, "no rule", true)
	late.wantEnd()
}

// What runs finishes, however long it takes, and its answer says close although its request came before the drain.
func TestDrainLetsExchangesFinish(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c, idle := l.dial(), l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	if !eventually(func() bool { return l.server.Open() == 2 }) {
		t.Fatal("the connections are not open")
	}
	ended := l.drain(t.Context())
	idle.wantEnd() // the grace is over
	p.send(reply("Content-Length: 10\r\n", "hello"))
	c.want(reply("Content-Length: 10\r\nConnection: close\r\n", "hello"))
	select {
	case err := <-ended:
		t.Fatalf("the drain ended (%v) in the middle of an exchange", err)
	default:
	}
	p.send("world")
	c.want("world")
	c.wantEnd()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// So does an answer of our own, when the endpoint has none.
func TestDrainAndTheEndpointGoes(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	ended := l.drain(t.Context())
	p.close()
	c.wantRefusal(502, "before it answered", true)
	c.wantEnd()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An answer whose head went out before the drain could not say close: its connection ends all the same.
func TestDrainAfterTheHead(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(reply("Content-Length: 10\r\n", "hello"))
	c.want(reply("Content-Length: 10\r\n", "hello"))
	ended := l.drain(t.Context())
	p.send("world")
	c.want("world")
	c.wantEnd()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.close()
}

// When time is over everything that is left is reset: exchanges in every state, relays, and what is idle.
func TestDrainResetsTheRest(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	waits, answered, uploads, relayed, idle, half := l.dial(), l.dial(), l.dial(), l.dial(), l.dial(), l.dial()
	var peers []*peer
	for _, x := range []struct {
		c    *peer
		send string
	}{{waits, get}, {answered, get}, {uploads, post("Content-Length: 100\r\n", "hello")}, {relayed, hello}} {
		x.c.send(x.send)
		p := b.accept()
		p.want(x.send)
		peers = append(peers, p)
	}
	peers[1].send(reply("Content-Length: 10\r\n", "hello"))
	answered.want(reply("Content-Length: 10\r\n", "hello"))
	half.send("GET / HT")
	if !eventually(func() bool { return l.server.Open() == 6 }) {
		t.Fatal("the connections are not open")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := l.drain(ctx)
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "6 connections") {
		t.Errorf("the drain says %v", err)
	}
	for _, c := range []*peer{waits, answered, uploads, relayed, idle, half} {
		c.wantReset()
	}
}

// A request that has come when its idle connection is about to be closed is served, whether or not it was read already.
func TestDrainMeetsARequestThatHasCome(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	var got atomic.Int64
	l.origin().serve(func(w io.Writer, _ *http.Request) bool {
		got.Add(1)
		_, err := io.WriteString(w, okay)
		return err == nil
	})
	for range 300 {
		c := l.dial()
		c.send(get)
		c.want(okay)
		n := l.newest()
		if !eventually(func() bool { return n.state.Load() == idle }) {
			t.Fatal("the connection does not become idle")
		}
		before := got.Load()
		c.send(get)
		for n.state.Load() == idle && !n.conn.Stale() && got.Load() == before { // until it is in the socket, or was read
			runtime.Gosched()
		}
		l.server.closeIdle()
		c.want(okay)
		c.close()
	}
}

// Requests and the closing of their connections at the same time: what a server must never do is to take a request and
// leave its client without a word.
func TestDrainMeetsARequest(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	var got atomic.Int64
	l.origin().serve(func(w io.Writer, _ *http.Request) bool {
		got.Add(1)
		_, err := io.WriteString(w, okay)
		return err == nil
	})
	const clients, rounds = 8, 100
	var answers, unanswered atomic.Int64
	for range rounds {
		var done sync.WaitGroup
		start := make(chan struct{})
		for range clients {
			c := l.dial()
			c.send(get)
			c.want(okay)
			answers.Add(1)
			done.Go(func() {
				<-start
				if meets(t, c) {
					answers.Add(1)
				} else {
					unanswered.Add(1)
				}
			})
		}
		done.Go(func() {
			<-start
			l.server.closeIdle()
		})
		close(start)
		done.Wait()
	}
	t.Logf("%d requests met the closing of their connection: %d of them were not served", clients*rounds, unanswered.Load())
	if got.Load() != answers.Load() {
		t.Errorf("the endpoint got %d requests, the clients %d answers", got.Load(), answers.Load())
	}
}

// meets sends a request on a connection that may be closed meanwhile. It is answered in full, or with no byte at all.
func meets(t *testing.T, c *peer) bool {
	defer c.close()
	if _, err := io.WriteString(c, get); err != nil {
		return false
	}
	b := make([]byte, len(okay))
	n, err := io.ReadFull(c, b)
	switch {
	case err == nil && string(b) == okay:
		return true
	case n == 0 && (errors.Is(err, io.EOF) || isReset(err)):
		return false
	}
	t.Errorf("half an answer: %q, %v", b[:n], err)
	return false
}
