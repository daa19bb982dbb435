package forward

import (
	"bytes"
	"errors"
	"os"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// speech is what a client turned out to speak.
type speech int

const (
	saysNothing speech = iota // it is gone, or what it said was seen to
	speaksHTTP
	speaksHTTP2
	speaksOther
)

// serverFirstWait is how long a client on a port of unknown protocol may be silent before the server is asked whether
// it speaks first, as those of mail and of some databases do.
const serverFirstWait = 50 * time.Millisecond

// detect finds out what the client speaks. On a port without a table everything is passed on. A route that names
// the port makes it HTTP's; of what else comes there only TLS is passed on. A route that names no
// port covers ports of databases too: there everything but HTTP is passed on.
func (n *session) detect(p *port, t *table) speech {
	switch {
	case t == nil:
		n.relayed = noRoute
		return speaksOther
	case t.explicit || p.protocol == httpProtocol:
		if !n.await() {
			return saysNothing
		}
		return n.listen(t.explicit)
	case p.protocol == opaqueProtocol:
		n.relayed = byName
		return speaksOther
	case n.port.serverFirst.Load():
		n.relayed = serverFirst
		return speaksOther
	}
	if n.conn.SetReadDeadline(time.Now().Add(serverFirstWait)) != nil {
		return saysNothing
	}
	err := n.in.Await()
	if n.conn.SetReadDeadline(time.Time{}) != nil || err != nil && !isTimeout(err) {
		return saysNothing
	}
	if err != nil {
		return n.whoSpeaksFirst(p)
	}
	return n.listen(false)
}

// listen reads until it is clear what the client speaks. On a port that is HTTP's everything else is malformed HTTP, and
// a first line takes no longer than a head may. Elsewhere who stops in the middle of a line speaks something else, and
// waits for the server.
func (n *session) listen(mustBeHTTP bool) speech {
	if s := n.heard(mustBeHTTP); s != saysNothing {
		return s
	}
	if n.conn.SetReadDeadline(time.Now().Add(n.server.cfg.Limits.HeadIn)) != nil {
		return saysNothing
	}
	s := saysNothing
	for s == saysNothing {
		err := n.in.Fill()
		s = n.heard(mustBeHTTP)
		switch {
		case s != saysNothing:
		case len(n.in.Buffered()) > n.server.limits.Target, err != nil && !isTimeout(err) && mustBeHTTP:
			s = speaksHTTP // the parser says what is wrong with it
		case err != nil && !mustBeHTTP:
			s = speaksOther
		case err != nil:
			n.refuse(http1.ErrHeadTime.Status, headTimeout, http1.ErrHeadTime.Error())
			return saysNothing
		}
	}
	if n.conn.SetReadDeadline(time.Time{}) != nil {
		return saysNothing
	}
	return s
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// heard says what the bytes that have come are; saysNothing: that is not clear yet.
func (n *session) heard(mustBeHTTP bool) speech {
	switch classify(n.in.Buffered()) {
	case looksHTTP:
		return speaksHTTP
	case looksTLS:
		n.relayed = tls
		return speaksOther
	case looksHTTP2: // prior knowledge
		return speaksHTTP2
	case looksOther:
		if mustBeHTTP {
			return speaksHTTP // likewise
		}
		return speaksOther
	}
	return saysNothing
}

// look is what the first bytes of a connection look like.
type look int

const (
	unclear look = iota
	looksHTTP
	looksHTTP2
	looksTLS
	looksOther
)

var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") // RFC 9113, 3.4

// classify looks at the first bytes of a client. HTTP/1 is known by the end of its first line.
func classify(b []byte) look {
	switch {
	case len(b) == 0:
		return unclear
	case b[0] == 0x16: // a TLS record of type handshake (RFC 8446, 5.1)
		if len(b) == 1 {
			return unclear
		}
		if b[1] == 3 {
			return looksTLS
		}
		return looksOther
	case bytes.HasPrefix(b, preface):
		return looksHTTP2
	case bytes.HasPrefix(preface, b):
		return unclear
	}
	line := bytes.TrimPrefix(b, []byte("\r\n"))
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		if plausible(line) {
			return unclear
		}
		return looksOther
	}
	line = bytes.TrimSuffix(line[:end], []byte("\r"))
	if i := bytes.LastIndexByte(line, ' '); i > 0 && bytes.HasPrefix(line[i+1:], []byte("HTTP/")) && plausible(line) {
		return looksHTTP
	}
	return looksOther
}

// plausible tells whether a beginning of a line can be one of a request line: a word in letters, a space, a target.
func plausible(line []byte) bool {
	const longestMethod = 64
	for i, c := range line {
		switch {
		case c == ' ':
			return i > 0
		case c == '\r' && i == len(line)-1 && i == 0:
			return true
		case i >= longestMethod || c <= 0x20 || c >= 0x7f || c == ':' || c == '/':
			return false
		}
	}
	return true
}

// greeting is what a server said first.
type greeting struct {
	bytes []byte
	err   error
}

// whoSpeaksFirst connects to the Service's own endpoints for a silent client, as would have happened without us, and
// waits for either side. A server that speaks is remembered for the port. A client that speaks HTTP after all, because
// it had only connected in advance, is served as such: the server has seen nothing of it.
func (n *session) whoSpeaksFirst(p *port) speech {
	to, e := n.connect(p.fallback)
	if to == nil {
		n.conn.Reset()
		return saysNothing
	}
	e.Acquire()
	defer e.Release()
	said := make(chan greeting, 1)
	go func() {
		b := make([]byte, 4<<10)
		k, err := to.Read(b)
		// It wakes us; it fails when the client is gone, and we are awake. Before it is said: we lift the deadline then.
		_ = n.conn.SetReadDeadline(time.Unix(1, 0))
		said <- greeting{b[:k], err}
	}()
	spoke := n.in.Await()
	_ = to.SetReadDeadline(time.Unix(1, 0)) // it reads no more
	server := <-said
	lifted := n.conn.SetReadDeadline(time.Time{}) == nil && to.SetReadDeadline(time.Time{}) == nil
	if !lifted || sock.IsReset(server.err) || sock.IsReset(spoke) { // who asks a second time hears of no reset
		to.Reset()
		n.conn.Reset()
		return saysNothing
	}
	if spoke == nil && len(server.bytes) == 0 && (server.err == nil || isTimeout(server.err)) {
		if s := n.listen(false); s == speaksHTTP || s == speaksHTTP2 {
			_ = to.Close() // nothing was said on it
			return s
		}
	}
	if len(server.bytes) > 0 {
		n.relayed = serverFirst
		if !bytes.HasPrefix(server.bytes, []byte("HTTP/")) { // a server of HTTP may say 408 before it closes
			n.port.serverFirst.Store(true)
		}
		if _, err := n.conn.Write(server.bytes); err != nil {
			to.Reset()
			return saysNothing
		}
	} else if spoke != nil && !isTimeout(spoke) {
		_ = to.Close() // the client went without a word
		return saysNothing
	}
	n.passOn(to)
	return saysNothing
}

// connect connects to an endpoint of the set; nil: none could be had.
func (n *session) connect(set *upstream.Set) (*sock.Conn, *upstream.Endpoint) {
	refused := make([]*upstream.Endpoint, 0, maxAttempts)
	for range maxAttempts {
		e := n.choose(set, refused, nil)
		if e == nil {
			break
		}
		if c, err := n.client.Upstream.Dial(e, n.server.cfg.Limits.Connect); err == nil {
			return c, e
		}
		refused = append(refused, e)
	}
	return nil, nil
}
