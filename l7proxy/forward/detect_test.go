package forward

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// routedKey are the endpoints of a rule, where webKey are those of the Service itself: so a test sees which way a
// connection went.
var routedKey = model.EndpointsKey{Namespace: "shop", Name: "routed", Port: 8080}

// portless is the table of a route that names no port.
func portless() *model.RouteTable {
	t := routes(ruleFor("/routed", to(routedKey)))
	t.Explicit = false
	return t
}

const routed = "GET /routed HTTP/1.1\r\nHost: web\r\n\r\n"

var hello = "\x16\x03\x01\x00\x05hello"

// without a table the connection is passed on, byte by byte, whatever it is.
func TestA40WithoutATable(t *testing.T) {
	for _, first := range []string{get, hello, "\x00\x01\x02", "GET / HTTP/1.1\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, nil, Limits{})
			b := l.origin()
			c := l.dial()
			c.send(first)
			p := b.accept()
			p.want(first)
			p.send("anything\n")
			c.want("anything\n")
			c.halfClose() // the one half, and the other one goes on
			p.wantEnd()
			p.send("more")
			c.want("more")
			p.close()
			c.wantEnd()
			l.wantRelayed(1, noRoute)
		})
	}
}

func TestA40TheServerEndsFirst(t *testing.T) {
	l := newLab(t, nil, Limits{})
	b := l.origin()
	c := l.dial()
	p := b.accept() // it may speak first, as well
	p.send("220 hello\r\n")
	p.halfClose()
	c.want("220 hello\r\n")
	c.wantEnd()
	c.send("more")
	p.want("more")
	c.close()
	p.wantEnd()
}

func TestA40ResetsArePassedOn(t *testing.T) {
	for i := range 2 {
		t.Run("", func(t *testing.T) {
			l := newLab(t, nil, Limits{})
			b := l.origin()
			c := l.dial()
			p := b.accept()
			c.send("x")
			p.want("x")
			p.send("y")
			c.want("y")
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

// A client that nobody can be found for is reset, as it would have been refused.
func TestA40NoEndpoint(t *testing.T) {
	l := newLab(t, nil, Limits{})
	for _, endpoints := range [][]netip.AddrPort{nil, {deadAddr(t), deadAddr(t)}} {
		l.apply(webKey, endpoints...)
		if c, err := net.Dial("tcp", l.addr); err == nil { // it may be that soon
			newPeer(t, c, "client").wantReset()
		} else if !isReset(err) {
			t.Errorf("connect: %v", err)
		}
	}
	b := newOrigin(t)
	l.apply(webKey, deadAddr(t), b.addr)
	for range 10 {
		c := l.dial()
		b.accept().send("hello")
		c.want("hello")
	}
}

// a route names the port. TLS is passed on to the Service's own endpoints.
func TestA110ExplicitPortPassesOn(t *testing.T) {
	for _, parts := range [][]string{{hello}, {"\x16", "\x03", "\x01\x00\x05hello"}} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			l.originOf(routedKey)
			b := l.origin()
			c := l.dial()
			for _, part := range parts {
				c.send(part)
			}
			p := b.accept()
			p.want(strings.Join(parts, ""))
			p.send("hello")
			c.want("hello")
			c.halfClose()
			p.wantEnd()
			l.wantRelayed(1, tls)
		})
	}
}

// Everything else is HTTP that is malformed.
func TestA110ExplicitPortRefuses(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	for _, bytes := range []string{
		"\x00\x00\x00\x2f\xff", "SSH-2.0-OpenSSH\r\n", "\x16\x02\x00\x00", "*1\r\n$4\r\nPING\r\n", "PING\r\n", "hello\n",
		"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\n", "EHLO me\r\n",
	} {
		c := l.dial()
		c.send(bytes)
		if strings.HasPrefix(bytes, "PRI") {
			c.wantRefusal(505, "version", true)
		} else {
			c.wantRefusal(400, "RFC 911", true)
		}
		c.wantEnd()
	}
	c := l.dial() // neither this nor that, and the client has ended
	c.send("hello")
	c.halfClose()
	c.wantGone()
	b.untouched()
}

// A route that names no port covers ports of other protocols, too: those pass, to the Service's own endpoints.
func TestA110PortlessPassesOn(t *testing.T) {
	for _, bytes := range []string{
		"PING\r\n", "*1\r\n$4\r\nPING\r\n", hello, "\x00\x00\x00\x2f", "EHLO me\r\n", "get key\r\n", "GET / FTP/1.1\r\n", "\r\n\r\n",
	} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, portless(), Limits{})
			l.originOf(routedKey)
			b := l.origin()
			c := l.dial()
			c.send(bytes)
			p := b.accept()
			p.want(bytes)
			p.send("+PONG\r\n")
			c.want("+PONG\r\n")
			c.halfClose()
			p.wantEnd()
			p.close()
			c.wantEnd()
		})
	}
}

// What may yet become HTTP, but does not: the client waits for its server, or has ended.
func TestA110PortlessPassesOnHalfALine(t *testing.T) {
	l := newLab(t, portless(), Limits{HeadIn: 20 * time.Millisecond})
	b := l.origin()
	for _, bytes := range []string{"login", "GET /", "PRI * HTTP/2", "\x16"} {
		c := l.dial()
		c.send(bytes)
		p := b.accept()
		p.want(bytes)
		p.send("who are you?")
		c.want("who are you?")
		c.close()
		p.close()
		c = l.dial()
		c.send(bytes)
		c.halfClose()
		p = b.accept()
		p.want(bytes)
		p.wantEnd()
		p.send("bye")
		p.close()
		c.want("bye")
		c.wantEnd()
	}
}

func TestA110PortlessRoutesHTTP(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	l.origin()
	b := l.originOf(routedKey)
	c := l.dial()
	c.send(routed + get)
	p := b.accept()
	p.want(routed)
	p.send(okay)
	c.want(okay)
	c.wantRefusal(404, "no rule", false)
}

// HTTP that breaks a rule is refused there, too, once it is known to be HTTP.
func TestA110PortlessRefusesMalformedHTTP(t *testing.T) {
	l := newLab(t, portless(), Limits{HeadIn: 20 * time.Millisecond})
	b := l.origin()
	c := l.dial()
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
	c.wantRefusal(400, "RFC 9112, 6.3", true)
	c.wantEnd()
	c = l.dial()
	c.send("POST / HTTP/1.1\r\nHost")
	c.wantRefusal(408, "RFC 9110, 15.5.9", true)
	c.wantEnd()
	b.untouched()
}

// A server that speaks first is asked after a short wait, once: the port remembers it.
func TestServerFirst(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	b := l.origin()
	c := l.dial()
	p := b.accept()
	p.send("220 hello\r\n")
	c.want("220 hello\r\n")
	c.send("EHLO me\r\n")
	p.want("EHLO me\r\n")
	c.halfClose()
	p.wantEnd()
	p.send("bye")
	p.close()
	c.want("bye")
	c.wantEnd()
	// Nobody looks at what the next client says.
	c = l.dial()
	c.send(get)
	p = b.accept()
	p.want(get)
	p.send("500 what?\r\n")
	c.want("500 what?\r\n")
	l.wantRelayed(2, serverFirst)
}

// Both speak at the same time, after the wait.
func TestServerFirstAndTheClientSpeaks(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	b := l.origin()
	for range 20 {
		l.port.serverFirst.Store(false)
		c := l.dial()
		p := b.accept()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = p.Write([]byte("220 hello\r\n"))
		}()
		c.send("EHLO me\r\n")
		c.want("220 hello\r\n")
		p.want("EHLO me\r\n")
		<-sent
		c.close()
		p.wantGone()
		p.close()
	}
}

// What a server of HTTP says to a silent client is no greeting: the port stays HTTP's.
func TestServerFirstIsNotHTTP(t *testing.T) {
	const bored = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
	l := newLab(t, portless(), Limits{})
	b := l.origin()
	c := l.dial()
	p := b.accept()
	p.send(bored)
	p.close()
	c.want(bored)
	c.wantEnd()
	c = l.dial()
	c.send(get)
	c.wantRefusal(404, "no rule", false)
}

// A client that connects in advance, and speaks HTTP later, is routed; the server saw nothing but a connection that ended.
func TestServerFirstAndAnIdleClientOfHTTP(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	b, r := l.origin(), l.originOf(routedKey)
	for range 10 {
		c := l.dial()
		p := b.accept() // so the wait is over
		c.send("GET /none HTTP/1.1\r\nHost: web\r\n\r\n")
		c.wantRefusal(404, "no rule", false)
		p.wantEnd()
		c.send(routed)
		q := r.accept()
		q.want(routed)
		q.send(bye)
		c.want(okay)
	}
	if l.port.serverFirst.Load() {
		t.Error("the port is taken for a server-first one")
	}
}

func TestServerFirstAndTheClientSpeaksSomethingElse(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	b := l.origin()
	for range 10 {
		c := l.dial()
		p := b.accept()
		c.send("PING\r\n")
		p.want("PING\r\n")
		p.send("+PONG\r\n")
		c.want("+PONG\r\n")
		c.halfClose()
		p.wantEnd()
		p.send("late")
		c.want("late")
	}
}

func TestServerFirstAndOneOfThemGoes(t *testing.T) {
	l := newLab(t, portless(), Limits{})
	b := l.origin()
	for how, leave := range map[string]func(*peer){"FIN": (*peer).close, "RST": (*peer).reset} {
		c := l.dial()
		p := b.accept()
		leave(c)
		p.wantGone()

		c = l.dial()
		p = b.accept()
		leave(p)
		if how == "FIN" {
			c.wantEnd()
		} else {
			c.wantReset()
		}
	}
}

// the port's protocol decides at once.
func TestA73TheProtocolIsKnown(t *testing.T) {
	named := func(appProtocol, name string) func(*model.Port) {
		return func(p *model.Port) { p.AppProtocol, p.Name = appProtocol, name }
	}
	for _, x := range [][2]string{{"", "mysql"}, {"redis", "http"}, {"kubernetes.io/wss", ""}, {"", "tcp-main"}} {
		t.Run("", func(t *testing.T) {
			l := setup{table: portless(), port: named(x[0], x[1])}.start(t)
			b := l.origin()
			c := l.dial()
			c.send(get)
			b.accept().want(get) // although it is HTTP
		})
	}
	for _, x := range [][2]string{{"http", ""}, {"", "http-web"}, {"kubernetes.io/ws", "mysql"}} {
		t.Run("", func(t *testing.T) {
			l := setup{table: portless(), port: named(x[0], x[1]), limits: Limits{HeadIn: time.Hour}}.start(t)
			b := l.origin()
			c := l.dial()
			if !eventually(func() bool { return l.newest() != nil && l.newest().state.Load() == idle }) {
				t.Fatal("the client is not waited for")
			}
			c.send("GET /none HTTP/1.1\r\n")
			c.send(host + "\r\n")
			c.wantRefusal(404, "no rule", false)
			b.untouched()
			c = l.dial()
			c.send("PING\r\n") // no route names the port
			b.accept().want("PING\r\n")
		})
	}
}

func TestClassify(t *testing.T) {
	for bytes, want := range map[string]look{
		"": unclear, "G": unclear, "GET /": unclear, "\r": unclear, "\r\n": unclear, "\r\nGET / HTTP/1.1\r\n": looksHTTP,
		"GET / HTTP/1.1\r": unclear, "GET / HTTP/1.1\r\n": looksHTTP, "GET / HTTP/1.1\n": looksHTTP, "X Y HTTP/9.9\r\n": looksHTTP,
		"HTTP/1.1 200 OK\r\n": looksOther, "GET /\r\n": looksOther, "\x16": unclear, "\x16\x03": looksTLS, "\x16\x04": looksOther,
		"\x17\x03": looksOther, "PRI * HTTP/2.0\r\n\r\nSM\r\n": unclear, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00": looksHTTP2,
		"PRI * HTTP/2.0\r\n\r\nSN": looksHTTP, " GET": looksOther, "\x80": looksOther, "a:b": looksOther, strings.Repeat("A", 65): looksOther,
	} {
		if got := classify([]byte(bytes)); got != want {
			t.Errorf("%q looks like %d, want %d", bytes, got, want)
		}
	}
}
