package forward

import "testing"

const (
	asks     = "GET /chat HTTP/1.1\r\nHost: web\r\nSec-WebSocket-Key: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	switches = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)

func TestUpgradeToAWebSocket(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(asks + "early") // bytes of the new protocol may come with the head
	p := b.accept()
	p.want(asks)
	p.send(switches + "hello")
	c.want(switches + "hello")
	p.want("early")
	for range 3 {
		c.send("ping")
		p.want("ping")
		p.send("pong")
		c.want("pong")
	}
	c.halfClose()
	p.wantEnd()
	p.send("bye")
	c.want("bye")
	p.close()
	c.wantEnd()
	rec := l.record()
	if rec.Status != 101 || rec.Failure != "" || rec.RequestBytes < 12 || rec.ResponseBytes < 15 {
		t.Errorf("recorded as %+v", rec)
	}
}

func TestUpgradeTheServerEndsFirst(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(asks)
	p := b.accept()
	p.want(asks)
	p.send(switches)
	c.want(switches)
	p.halfClose()
	c.wantEnd()
	c.send("bye")
	p.want("bye")
	c.close()
	p.wantEnd()
}

func TestUpgradeResetsArePassedOn(t *testing.T) {
	for i := range 2 {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(asks)
			p := b.accept()
			p.want(asks)
			p.send(switches)
			c.want(switches)
			if i == 0 {
				c.reset()
				p.wantReset()
			} else {
				p.reset()
				c.wantReset()
			}
		})
	}
}

// An endpoint may decline, and then the answer is one like any other.
func TestUpgradeDeclined(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(asks)
	p := b.accept()
	p.want(asks)
	p.send(okay)
	c.want(okay)
	c.send(get)
	p.want(get)
	p.send(okay)
	c.want(okay)
}

// RFC 9110, 15.2.2 and 7.8: nobody asked for it.
func TestUpgradeUnasked(t *testing.T) {
	for _, x := range []struct{ request, arrives, answer string }{
		{get, get, switches},
		{post("Content-Length: 5\r\n", "hello"), post("Content-Length: 5\r\n", "hello"), switches},
		{"GET / HTTP/1.1\r\nHost: web\r\nUpgrade: websocket\r\n\r\n", get, switches}, // not named by Connection
		{"GET / HTTP/1.0\r\nHost: web\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", get, switches},
		{asks, asks, "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
		{asks, asks, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"},
	} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(x.request)
			p := b.accept()
			p.want(x.arrives)
			p.send(x.answer)
			c.wantRefusal(502, "switched protocols unasked", true)
			c.wantEnd()
			p.wantEnd()
			if rec := l.record(); rec.Status != 502 || rec.Failure != unexpectedSwitch {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// Offers that clients make of their own accord would turn the connection into one that nobody can route: the endpoint
// does not see them.
func TestUpgradeOffersThatNobodyMeans(t *testing.T) {
	for _, offer := range []struct{ fields, arrives string }{
		{"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""},
		{"Upgrade: H2C\r\nConnection: upgrade\r\n", ""},
		{"Upgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n", ""},
		{"Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n"},
	} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send("GET / HTTP/1.1\r\nHost: web\r\n" + offer.fields + "\r\n")
			p := b.accept()
			p.want("GET / HTTP/1.1\r\nHost: web\r\n" + offer.arrives + "\r\n")
			p.send(okay)
			c.want(okay)
			c.send(get)
			p.want(get)
			p.send(okay)
			c.want(okay)
		})
	}
}

// A request with a body that has not come in full cannot switch: the new protocol would begin behind the body's end.
func TestUpgradeWithABody(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(post("Upgrade: x\r\nConnection: Upgrade\r\nContent-Length: 5\r\n", "he"))
	p := b.accept()
	p.want(post("Content-Length: 5\r\n", "he"))
	c.send("llo")
	p.want("llo")
	p.send(okay)
	c.want(okay)

	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello" + "early")
	p.want("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello")
	p.send("HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	c.want("HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	p.want("early")
	c.close()
	p.wantGone()
}

const connect = "CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n"

// RFC 9110, 9.3.6: a tunnel, when the endpoint says so.
func TestConnect(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(connect + "early")
	p := b.accept()
	p.want(connect)
	p.send("HTTP/1.1 200 Connected\r\nX: y\r\n\r\nhello")
	c.want("HTTP/1.1 200 Connected\r\nX: y\r\n\r\nhello")
	p.want("early")
	c.halfClose()
	p.wantEnd()
	p.send("bye")
	p.close()
	c.want("bye")
	c.wantEnd()
	if rec := l.record(); rec.Status != 200 || rec.Method != "CONNECT" || rec.Authority != "db.shop:5432" || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
}

func TestConnectRefused(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(connect)
	p := b.accept()
	p.want(connect)
	p.send("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 2\r\n\r\nno")
	c.want("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 2\r\n\r\nno")
	c.send(get)
	p.want(get)
	p.send(okay)
	c.want(okay)
}
