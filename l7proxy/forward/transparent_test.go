package forward

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// crossing is an exchange of which every byte is compared, on both sides.
type crossing struct {
	what             string
	request, arrives string // what the client sends, and what the endpoint gets; "": the same
	answer, returns  string // what the endpoint sends, and what the client gets; "": the same
	ends             bool   // the client's connection ends after it
	replaced         bool   // the endpoint's connection is not used again
}

var crossings = []crossing{
	{
		what: "order, spelling and values of fields",
		request: "GET /a%2Fb//c/../d;p?x=1&&y=%20?z HTTP/1.1\r\nX-B: 2\r\nhOsT: Web.Shop:8080\r\nx-a: 1\r\nX-B: again\r\nX-Empty: \r\n" +
			"X-Raw: \xff\xfe\"a  b\"\t;\r\nCookie: a=b; c=d\r\nAccept: */*\r\nUser-Agent: t\r\n\r\n",
		answer: "HTTP/1.1 299 It's  fine \xff\r\nserver: x\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Empty: \r\nETag: \"\x80\"\r\n" +
			"Content-Length: 3\r\nDATE: never\r\nVia: 1.1 other\r\n\r\nabc",
	},
	{
		what:    "white space around values goes",
		request: "GET / HTTP/1.1\r\nHost:web\r\nX: \t y \t\r\n\r\n", arrives: "GET / HTTP/1.1\r\nHost: web\r\nX: y\r\n\r\n",
		answer: "HTTP/1.1 200 OK\r\nContent-Length:0\r\nX:  y\r\n\r\n", returns: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\r\n\r\n",
	},
	{what: "empty reason", answer: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"},
	{what: "no reason", answer: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", returns: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"},
	{what: "status without a name", answer: "HTTP/1.1 799 x\r\nContent-Length: 0\r\n\r\n"},
	{what: "empty query", request: "GET /? HTTP/1.1\r\nHost: web\r\n\r\n"},
	{what: "empty Host", request: "GET / HTTP/1.1\r\nHost: \r\n\r\n"},
	{what: "literal as Host", request: "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"},
	{what: "empty line before the request (RFC 9112, 2.2)", request: "\r\n" + get, arrives: get},
	{what: "unknown method", request: "FROB /x HTTP/1.1\r\nHost: web\r\n\r\n"},
	{what: "method of symbols", request: "x!#$%&'*+.^_`|~9 / HTTP/1.1\r\nHost: web\r\n\r\n"},
	{what: "method in lower case", request: "get / HTTP/1.1\r\nHost: web\r\n\r\n"},
	{what: "GET with a body", request: "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello"},
	{what: "POST of length 0", request: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n"},
	{what: "POST without a body", request: "POST / HTTP/1.1\r\nHost: web\r\n\r\n"},
	{what: "length with zeros", request: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0005\r\n\r\nhello"},
	{
		what:    "hop-by-hop fields go (RFC 9110, 7.6.1)",
		request: "GET / HTTP/1.1\r\nHost: web\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nX-Hop: 1\r\nConnection: X-Hop, keep-alive\r\nX-End: 2\r\n\r\n",
		arrives: "GET / HTTP/1.1\r\nHost: web\r\nX-End: 2\r\n\r\n",
		answer:  "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\nX-End: 2\r\n\r\n",
		returns: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-End: 2\r\n\r\n",
	},
	{
		what:    "Connection cannot name what frames or routes a message",
		request: "POST / HTTP/1.1\r\nHost: web\r\nConnection: Content-Length, Host\r\nContent-Length: 5\r\n\r\nhello",
		arrives: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
		answer:  "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nok", returns: okay,
	},
	{
		what:    "the client's connection ends, the endpoint's does not",
		request: "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", arrives: get,
		answer: okay, returns: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", ends: true,
	},
	{what: "the endpoint's connection ends, the client's does not", answer: bye, returns: okay, replaced: true},
	{
		what:    "absolute form (RFC 9112, 3.2.2)",
		request: "GET http://web.other:8080/x?y HTTP/1.1\r\nX: 1\r\nHost: ignored\r\n\r\n",
		arrives: "GET /x?y HTTP/1.1\r\nX: 1\r\nHost: web.other:8080\r\n\r\n",
	},
	{
		what: "absolute form without a path", request: "GET http://web.other?y HTTP/1.1\r\nHost: ignored\r\n\r\n",
		arrives: "GET /?y HTTP/1.1\r\nHost: web.other\r\n\r\n",
	},
	{what: "asterisk form", request: "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n"},
	{
		what: "absolute form of the asterisk (RFC 9112, 3.2.4)", request: "OPTIONS http://web HTTP/1.1\r\nHost: web\r\n\r\n",
		arrives: "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n",
	},
	{what: "HEAD", request: "HEAD / HTTP/1.1\r\nHost: web\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"},
	{what: "HEAD without a length", request: "HEAD / HTTP/1.1\r\nHost: web\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nX: y\r\n\r\n"},
	{
		what: "HEAD of what would be chunked", request: "HEAD / HTTP/1.1\r\nHost: web\r\n\r\n",
		answer: "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n", returns: "HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
	},
	{what: "204", answer: "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"},
	{
		what: "204 with a length (RFC 9110, 8.6)", answer: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
		returns: "HTTP/1.1 204 No Content\r\n\r\n",
	},
	{what: "304 with a length", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\n"},
	{what: "205", answer: "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"},
	{
		what: "body that ends with the connection", answer: "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello",
		returns: "HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\nhello", ends: true, replaced: true,
	},
	{
		what: "body of HTTP/1.0 that ends with the connection", answer: "HTTP/1.0 200 OK\r\n\r\nhello",
		returns: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", ends: true, replaced: true,
	},
	{
		what: "length from HTTP/1.0", answer: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", returns: okay, replaced: true,
	},
	{
		what:    "HTTP/1.0",
		request: "GET / HTTP/1.0\r\nHost: web\r\n\r\n", arrives: get,
		returns: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", ends: true,
	},
	{
		what:    "HTTP/1.0 without Host",
		request: "GET / HTTP/1.0\r\nX: y\r\n\r\n", arrives: "GET / HTTP/1.1\r\nX: y\r\nHost: \r\n\r\n",
		returns: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", ends: true,
	},
	{
		what:    "HTTP/1.0 that keeps its connection",
		request: "GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n", arrives: get,
		returns: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
	},
	{
		what:    "chunks to HTTP/1.0",
		request: "GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n", arrives: get,
		answer:  reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n"),
		returns: reply("Connection: close\r\n", "hello world"), ends: true,
	},
	{
		what:    "trailers and chunks",
		request: post("Trailer: X-Sum, x-more\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\na\r\n0123456789\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-more: \r\n\r\n"),
		answer:  reply("Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n1\r\n!\r\n0\r\nx-sum: \"q\"\r\nX-Other: 2\r\n\r\n"),
	},
	{
		what:    "empty chunked bodies",
		request: post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), answer: reply("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
	},
	{
		what:    "extensions, and trailers that have no place there, go (RFC 9110, 6.5.1)",
		request: post("Transfer-Encoding: chunked\r\n", "5;a=\"b\"\r\nhello\r\n0;last\r\nContent-Length: 3\r\nX: y\r\nHost: evil\r\n\r\n"),
		arrives: post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
		answer:  reply("Transfer-Encoding: chunked\r\n", "2;a\r\nok\r\n0\r\nTransfer-Encoding: x\r\nX: y\r\nConnection: close\r\n\r\n"),
		returns: reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX: y\r\n\r\n"),
	},
	{
		what:    "coding in another spelling and an empty list member",
		request: post("Transfer-Encoding: , CHUNKED ,\r\n", "5\r\nhello\r\n0\r\n\r\n"), arrives: post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
	},
	{
		what:    "TE: trailers",
		request: "GET / HTTP/1.1\r\nHost: web\r\nTE: gzip, trailers;q=1\r\nConnection: TE\r\n\r\n",
		arrives: "GET / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
	},
}

func (x crossing) withDefaults() crossing {
	if x.request == "" {
		x.request = get
	}
	if x.arrives == "" {
		x.arrives = x.request
	}
	if x.answer == "" {
		x.answer = okay
	}
	if x.returns == "" {
		x.returns = x.answer
	}
	return x
}

// Nothing is added that nobody asked for: each case compares all bytes, and a second exchange on the same connections
// shows that there were no more.
func TestTransparent(t *testing.T) {
	for _, x := range crossings {
		x := x.withDefaults()
		t.Run(x.what, func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(x.request)
			p := b.accept()
			p.want(x.arrives)
			p.send(x.answer)
			if x.replaced {
				p.halfClose()
			}
			c.want(x.returns)
			if rec := l.record(); rec.Failure != "" || rec.Attempts != 1 {
				t.Errorf("recorded as %+v", rec)
			}
			if x.ends {
				c.wantEnd()
				c = l.dial()
			}
			c.send(get)
			if x.replaced {
				p.wantEnd()
				p = b.accept()
			}
			p.want(get)
			p.send(okay)
			c.want(okay)
			c.halfClose()
			c.wantEnd()
			b.untouched()
		})
	}
}

// The same bytes, but each in a segment of its own: parsing does not depend on how a message is cut.
func TestTransparentByteByByte(t *testing.T) {
	request := post("X-A: b\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
	answer := reply("X-A: b\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n")
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	for i := range len(request) {
		c.send(request[i : i+1])
	}
	p := b.accept()
	p.want(request)
	for i := range len(answer) {
		p.send(answer[i : i+1])
	}
	c.want(answer)
	if rec := l.record(); rec.RequestBytes != 5 || rec.ResponseBytes != 2 || rec.Status != 200 || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
}

// A head that is larger than a buffer, up to the limit, passes, and so does what follows it.
func TestTransparentLargeHeads(t *testing.T) {
	var fields strings.Builder
	for i := range 60 {
		fmt.Fprintf(&fields, "X-%d: %s\r\n", i, strings.Repeat("a", 1000))
	}
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	var p *peer
	for _, body := range []string{"", "hello", strings.Repeat("x", 100<<10)} {
		length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
		request, answer := post(fields.String()+length, body), reply(fields.String()+length, body)
		c.sendLong(request)
		if p == nil {
			p = b.accept()
		}
		p.want(request)
		p.sendLong(answer)
		c.want(answer)
	}
}

func TestPipeliningAnswersInOrder(t *testing.T) {
	var requests, answers []string
	for i := range 10 {
		switch i % 3 {
		case 0:
			requests = append(requests, fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: web\r\n\r\n", i))
		case 1:
			requests = append(requests, fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\n\r\nbody-%d", i, i))
		case 2:
			requests = append(requests, fmt.Sprintf("PUT /%d HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbody-%d\r\n0\r\n\r\n", i, i))
		}
		answers = append(answers, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nanswer-%d", i))
	}
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(strings.Join(requests, ""))
	p := b.accept()
	for i := range requests {
		p.want(requests[i])
		p.send(answers[i])
	}
	c.want(strings.Join(answers, ""))
	b.untouched()
	for i := range requests {
		if rec := l.record(); rec.Path != fmt.Sprintf("/%d", i) || rec.Status != 200 {
			t.Errorf("exchange %d was recorded as %+v", i, rec)
		}
	}
}

// A request that is refused in between does not disturb what follows it.
func TestPipeliningGoesOnAfterAnAnswerOfOurOwn(t *testing.T) {
	l := newLab(t, routes(ruleFor("/a", to(webKey))), Limits{})
	b := l.origin()
	c := l.dial()
	a := "GET /a HTTP/1.1\r\nHost: web\r\n\r\n"
	c.send(a + "POST /none HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello" +
		"POST /none HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + a)
	p := b.accept()
	p.want(a)
	p.send(okay)
	c.want(okay)
	c.wantRefusal(404, "no rule", false)
	c.wantRefusal(404, "no rule", false)
	p.want(a)
	p.send(okay)
	c.want(okay)
}

var deadKey = model.EndpointsKey{Namespace: "shop", Name: "dead", Port: 80}

// Where an endpoint was to have the request, its body is gone when the answer is our own: not one byte more, and not one less.
func TestPipeliningGoesOnAfterAFailure(t *testing.T) {
	for _, request := range []string{get, post("Content-Length: 5\r\n", "hello"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, routes(ruleFor("/none", to(webKey)), ruleFor("/dead", to(deadKey)), ruleFor("/", to(routedKey))), Limits{})
			b := l.originOf(routedKey)
			l.apply(deadKey, deadAddr(t))
			c := l.dial()
			c.send(strings.Replace(request, " / ", " /none ", 1) + strings.Replace(request, " / ", " /dead ", 1) + request + request)
			c.wantRefusal(503, "no endpoint", false)
			c.wantRefusal(503, "could be connected to", false)
			p := b.accept()
			p.want(request)
			p.close()
			c.wantRefusal(502, "before it answered", false)
			p = b.accept()
			p.want(request)
			p.send(bye)
			c.want(okay)
		})
	}
}

func TestHalfCloseAfterTheRequest(t *testing.T) {
	for _, request := range []string{get, post("Content-Length: 5\r\n", "hello"), post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(request)
			c.halfClose()
			p := b.accept()
			p.want(request)
			p.send(okay)
			c.want(okay)
			c.wantEnd()
			if rec := l.record(); rec.Failure != "" || rec.Status != 200 {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}
