package forward

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"strings"
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// passable tells whether an endpoint may be asked for a protocol. After these the connection would be one that nobody can
// route.
func passable(protocol string) bool {
	for _, hidden := range []string{"h2c", "http", "tls"} {
		if len(protocol) >= len(hidden) && strings.EqualFold(protocol[:len(hidden)], hidden) {
			return false
		}
	}
	return !strings.ContainsAny(protocol, ", \t;")
}

// upgrade makes of an extended CONNECT the request that HTTP/1.1 has for it (RFC 8441, 5; RFC 6455, 4.1).
func (b *bridge) upgrade() {
	b.req.Method, b.head.Upgrade = "GET", b.req.Protocol
	b.req.Fields.Del("content-length")
	if b.webSocket() {
		var key [16]byte
		_, _ = rand.Read(key[:]) // it never fails
		b.key = base64.StdEncoding.EncodeToString(key[:])
		b.req.Fields.Set("Sec-WebSocket-Key", b.key)
	}
}

func (b *bridge) webSocket() bool { return strings.EqualFold(b.req.Protocol, "websocket") }

// switched makes of the answer to it what HTTP/2 has: 200 (RFC 8441, 5). An endpoint that took it for an ordinary GET must
// not look as if it had switched.
func (b *bridge) switched(resp *message.Response, head http1.Head) error {
	accept, _ := resp.Fields.Get("sec-websocket-accept")
	switch {
	case resp.Status != 101:
		return errAnswer("the endpoint did not switch protocols, and answered as if the request had been another one")
	case !strings.EqualFold(head.Upgrade, b.req.Protocol):
		return errAnswer("the endpoint switched to another protocol")
	case b.webSocket() && accept != acceptOf(b.key): // RFC 6455, 4.1
		return errAnswer("the endpoint's Sec-WebSocket-Accept is wrong")
	}
	resp.Status = 200
	resp.Fields.Del("sec-websocket-accept")
	return nil
}

// acceptOf is what a server of WebSocket proves with that it is one (RFC 6455, 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// tunnel passes bytes on in both directions.
func (b *bridge) tunnel(writer *sync.WaitGroup, resp *message.Response) error {
	b.tunnelling = true
	b.tell(func(t *http2.Turn, c *fromEndpoint) { c.Response(t, b.token, resp, false) })
	writer.Go(b.write)
	return b.untilClose()
}

// joinCookies makes one field of several, which HTTP/2 may have split (RFC 9113, 8.2.3).
func joinCookies(f *message.Fields) {
	if f.Count("cookie") < 2 {
		return
	}
	var all []string
	for i := range *f {
		if message.EqualName((*f)[i].Name, "cookie") {
			all = append(all, (*f)[i].Value)
		}
	}
	f.Set("cookie", strings.Join(all, "; "))
}
