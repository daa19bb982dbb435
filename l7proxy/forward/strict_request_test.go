package forward

import (
	"strings"
	"testing"
	"time"
)

// malformed is a request that breaks a rule, and what is answered to it.
type malformed struct {
	rule    string // what the name of the case begins with, and mostly what the answer cites
	what    string
	request string
	status  int // 0: 400
	says    string
}

const host = "Host: web\r\n"

// post is a request with framing fields and what follows its head.
func post(fields, rest string) string {
	return "POST / HTTP/1.1\r\n" + host + fields + "\r\n" + rest
}

// smuggled is what a smuggler hopes to have read as a request of its own.
const smuggled = "GET /smuggled HTTP/1.1\r\n" + host + "\r\n"

var requestLines = []malformed{
	{rule: "RFC 9112, 3", what: "no version", request: "GET /\r\n\r\n"},
	{rule: "RFC 9112, 3", what: "lower case version", request: "GET / http/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3", what: "version of two digits", request: "GET / HTTP/1.10\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3", what: "space at the end", request: "GET / HTTP/1.1 \r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3", what: "not HTTP", request: "SSH-2.0-x\r\n"},
	{rule: "RFC 9112, 3.2", what: "two spaces", request: "GET  / HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "space in the target", request: "GET /a b HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "space before the method", request: " GET / HTTP/1.1\r\n" + host + "\r\n", says: "RFC 911"},
	{rule: "RFC 9110, 9.1", what: "tab for space", request: "GET\t/ HTTP/1.1\r\n" + host + "\r\n", says: "RFC 911"},
	{rule: "RFC 9110, 9.1", what: "no token", request: "G(T / HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9110, 9.1", what: "NUL", request: "G\x00T / HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9110, 9.1", what: "binary", request: "\x00\x01\x02\x03"},
	{rule: "RFC 9110, 9.1", what: "very long", request: strings.Repeat("A", 100) + " / HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9110, 15.6.6", what: "HTTP/2.0", request: "GET / HTTP/2.0\r\n" + host + "\r\n", status: 505},
	{rule: "RFC 9110, 15.6.6", what: "HTTP/0.9", request: "GET / HTTP/0.9\r\n" + host + "\r\n", status: 505},
	{rule: "RFC 9112, 3.2", what: "no slash", request: "GET a HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "fragment", request: "GET /a#b HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "not ASCII", request: "GET /\xc3\xa4 HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "DEL", request: "GET /\x7f HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "asterisk of GET", request: "GET * HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "other scheme", request: "GET https://web/ HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "userinfo", request: "GET http://u@web/ HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "no authority", request: "GET http:/// HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "CONNECT to a path", request: "CONNECT / HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9112, 3.2", what: "CONNECT without a port", request: "CONNECT web HTTP/1.1\r\n" + host + "\r\n"},
	{rule: "RFC 9110, 9.3.6", what: "CONNECT with a body", says: "CONNECT", request: "CONNECT web:80 HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\nx"},
	{rule: "RFC 9110, 15.5.15", what: "target of 17 KiB", request: "GET /" + strings.Repeat("a", 17<<10) + " HTTP/1.1\r\n" + host + "\r\n", status: 414},
	{rule: "RFC 9110, 15.5.15", what: "target without end", request: "GET /" + strings.Repeat("a", 40<<10), status: 414},
}

var hosts = []malformed{
	{rule: "RFC 9112, 3.2", what: "missing", request: "GET / HTTP/1.1\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "missing though the target has one", request: "GET http://web/ HTTP/1.1\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "repeated", request: "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "repeated, the same", request: "GET / HTTP/1.1\r\nHost: web\r\nhost: web\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "repeated in HTTP/1.0", request: "GET / HTTP/1.0\r\nHost: web\r\nHost: other\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "list", request: "GET / HTTP/1.1\r\nHost: web,other\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "space", request: "GET / HTTP/1.1\r\nHost: web other\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "path", request: "GET / HTTP/1.1\r\nHost: web/x\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "userinfo", request: "GET / HTTP/1.1\r\nHost: a@web\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "port is a word", request: "GET / HTTP/1.1\r\nHost: web:http\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "port too large", request: "GET / HTTP/1.1\r\nHost: web:65536\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "only a port", request: "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "half a literal", request: "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
	{rule: "RFC 9112, 3.2", what: "not ASCII", request: "GET / HTTP/1.1\r\nHost: w\xc3\xa4b\r\n\r\n"},
}

var fieldLines = []malformed{
	{rule: "RFC 9112, 2.2", what: "bare LF after the request line", request: "GET / HTTP/1.1\n" + host + "\r\n"},
	{rule: "RFC 9112, 2.2", what: "bare LF after a field", request: "GET / HTTP/1.1\r\nHost: web\nX: y\r\n\r\n"},
	{rule: "RFC 9112, 2.2", what: "bare LF as the end", request: "GET / HTTP/1.1\r\n" + host + "\n"},
	{rule: "RFC 9112, 2.2", what: "only LF", request: "GET / HTTP/1.1\nHost: web\n\n"},
	{rule: "RFC 9112, 2.2", what: "bare CR in a value", request: "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n"},
	{rule: "RFC 9112, 2.2", what: "bare CR before a hidden field", request: "GET / HTTP/1.1\r\n" + host + "X: a\rContent-Length: 5\r\n\r\n"},
	{rule: "RFC 9112, 2.2", what: "bare CR in a name", request: "GET / HTTP/1.1\r\n" + host + "X\ra: b\r\n\r\n"},
	{rule: "RFC 9112, 2.2", what: "bare CR at the end of a value", request: "GET / HTTP/1.1\r\n" + host + "X: a\r\r\n\r\n"},
	{rule: "RFC 9112, 5.2", what: "obs-fold with SP", request: "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n"},
	{rule: "RFC 9112, 5.2", what: "obs-fold with HTAB", request: "GET / HTTP/1.1\r\n" + host + "X: a\r\n\tb\r\n\r\n"},
	{rule: "RFC 9112, 5.2", what: "space before the first name", request: "GET / HTTP/1.1\r\n Host: web\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "space before the colon", request: "GET / HTTP/1.1\r\nHost : web\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "tab before the colon", request: "GET / HTTP/1.1\r\nHost\t: web\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "space in a name", request: "GET / HTTP/1.1\r\n" + host + "X Y: a\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "no name", request: "GET / HTTP/1.1\r\n" + host + ": a\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "NUL in a name", request: "GET / HTTP/1.1\r\n" + host + "X\x00: a\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "name not ASCII", request: "GET / HTTP/1.1\r\n" + host + "X\xc3\xa4: a\r\n\r\n"},
	{rule: "RFC 9112, 5.1", what: "separator in a name", request: "GET / HTTP/1.1\r\n" + host + "X(y): a\r\n\r\n"},
	{rule: "RFC 9112, 5", what: "no colon", request: "GET / HTTP/1.1\r\n" + host + "X\r\n\r\n"},
	{rule: "RFC 9110, 5.5", what: "NUL in a value", request: "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n"},
	{rule: "RFC 9110, 5.5", what: "control in a value", request: "GET / HTTP/1.1\r\n" + host + "X: 0123456789\x1b[0m\r\n\r\n"},
	{rule: "RFC 9110, 5.5", what: "DEL in a value", request: "GET / HTTP/1.1\r\n" + host + "X: a\x7f\r\n\r\n"},
	{rule: "RFC 6585, 5", what: "head of 70 KiB", request: "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 70) + "\r\n", status: 431},
	{rule: "RFC 6585, 5", what: "field without end", request: "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 80<<10), status: 431},
}

var framings = []malformed{
	{rule: "RFC 9112, 6.3", what: "lengths that differ", request: post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "lengths that are the same", request: post("Content-Length: 5\r\ncontent-length: 5\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "list of lengths", request: post("Content-Length: 5, 5\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "plus", request: post("Content-Length: +5\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "minus", request: post("Content-Length: -5\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "space inside", request: post("Content-Length: 1 0\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "hexadecimal", request: post("Content-Length: 0x5\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "fraction", request: post("Content-Length: 5.0\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "empty length", request: post("Content-Length:\r\n", smuggled)},
	{rule: "RFC 9112, 6.3", what: "length of 2^63", request: post("Content-Length: 9223372036854775808\r\n", "hello")},
	{rule: "RFC 9112, 6.3", what: "length of 2^64 and 5", request: post("Content-Length: 18446744073709551621\r\n", "hello"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "length, then coding", request: post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "coding, then length", request: post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.3", what: "coding and length 0", request: post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.1", what: "coding in HTTP/1.0", request: "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 6.1", what: "chunked twice in one line", request: post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.1", what: "chunked in two lines", request: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.1", what: "chunked is not the last", request: post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.1", what: "chunked is not the last line", request: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 6.1", what: "gzip", request: post("Transfer-Encoding: gzip\r\n", "hello"), status: 501},
	{rule: "RFC 9112, 6.1", what: "gzip before chunked", request: post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+smuggled), status: 501},
	{rule: "RFC 9112, 6.1", what: "identity", request: post("Transfer-Encoding: identity\r\n", smuggled), status: 501},
	{rule: "RFC 9112, 6.1", what: "xchunked", request: post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+smuggled), status: 501},
	{rule: "RFC 9112, 6.1", what: "chunked in quotes", request: post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+smuggled), status: 501},
	{rule: "RFC 9112, 6.1", what: "chunked with a parameter", request: post("Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n"+smuggled), status: 501},
	{rule: "RFC 9112, 6.1", what: "empty coding", request: post("Transfer-Encoding:\r\n", smuggled), status: 501},
	{rule: "RFC 9110, 5.5", what: "control before chunked", request: post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 5.1", what: "space behind Transfer-Encoding", request: post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"+smuggled)},
	{rule: "RFC 9112, 5.2", what: "coding in a folded line", request: post("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)},
}

// chunkErrors are what follows the head of a chunked request, in one piece with it or later.
var chunkErrors = []malformed{
	{rule: "RFC 9112, 7.1", what: "size is a word", request: "hello\r\n"},
	{rule: "RFC 9112, 7.1", what: "no size", request: "\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "minus", request: "-5\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "plus", request: "+5\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "0x", request: "0x5\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "space before the size", request: " 5\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "space behind the size", request: "5 \r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "more than 16 digits", request: "00000000000000005\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "size of 2^64-1", request: "ffffffffffffffff\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "size of 2^63", request: "8000000000000000\r\nhello\r\n"},
	{rule: "RFC 9112, 7.1", what: "data too long", request: "5\r\nhello!\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1", what: "data ends with LF", request: "5\r\nhello\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1", what: "data ends with CR and no LF", request: "5\r\nhello\rX0\r\n\r\n"},
	{rule: "RFC 9112, 2.2", what: "size ends with LF", request: "5\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1", what: "size ends with CR", request: "5\rhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.1", what: "extension without a name", request: "5;\r\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.1", what: "extension without a value", request: "5;a=\r\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.1", what: "extension with a control", request: "5;a=\"\x00\"\r\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.1", what: "extension not closed", request: "5;a=\"b\r\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.1", what: "extension with LF inside", request: "5;a\nb\r\nhello\r\n0\r\n\r\n", says: "RFC 9112, 2.2"},
	{rule: "RFC 9112, 7.1.1", what: "extension too long", request: "5;a=" + strings.Repeat("b", 5<<10) + "\r\nhello\r\n0\r\n\r\n"},
	{rule: "RFC 9112, 7.1.2", what: "trailer without a colon", request: "0\r\nX\r\n\r\n", says: "RFC 9112, 5"},
	{rule: "RFC 9112, 7.1.2", what: "trailer without a name", request: "0\r\n: a\r\n\r\n", says: "RFC 9112, 5.1"},
	{rule: "RFC 9112, 7.1.2", what: "trailer with a NUL", request: "0\r\nX: \x00\r\n\r\n", says: "RFC 9110, 5.5"},
	{rule: "RFC 9112, 7.1.2", what: "trailer that is folded", request: "0\r\nX: a\r\n b\r\n\r\n", says: "RFC 9112, 5.2"},
	{rule: "RFC 9112, 7.1.2", what: "trailer that ends with LF", request: "0\r\nX: a\n\r\n", says: "RFC 9112, 2.2"},
	{rule: "RFC 9112, 7.1.2", what: "body that ends with LF", request: "0\r\n\n", says: "RFC 9112, 2.2"},
	{rule: "RFC 6585, 5", what: "trailers of 12 KiB", request: "0\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 12) + "\r\n", status: 431},
}

func TestStrictRequestsThatBreakARuleAreRefused(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	for _, cases := range [][]malformed{requestLines, hosts, fieldLines, framings} {
		for _, m := range cases {
			t.Run(m.rule+" "+m.what, func(t *testing.T) { refuses(t, l, b, m) })
		}
	}
	for _, m := range chunkErrors {
		m.request = post("Transfer-Encoding: chunked\r\n", m.request+smuggled)
		t.Run(m.rule+" "+m.what, func(t *testing.T) { refuses(t, l, b, m) })
	}
}

// refuses sends the request, alone and behind one that is in order, and proves that nothing of it is passed on.
func refuses(t *testing.T, l *lab, b *origin, m malformed) {
	if m.status == 0 {
		m.status = 400
	}
	if m.says == "" {
		m.says = "(" + m.rule + ")"
	}
	here := *l
	here.tb = t
	b = &origin{tb: t, ln: b.ln, addr: b.addr}

	c := here.dial()
	c.send(m.request)
	c.wantRefusal(m.status, m.says, true)
	c.wantEnd()
	b.untouched()

	c = here.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	p.send(bye)
	c.want(okay)
	c.send(m.request)
	c.wantRefusal(m.status, m.says, true)
	c.wantEnd()
	p.wantEnd()
	b.untouched()
	here.serves(b)
}

// A request whose second half is missing is not passed on either.
func TestStrictHeadsThatDoNotComeInTime(t *testing.T) {
	l := newLab(t, everything(), Limits{HeadIn: 20 * time.Millisecond})
	b := l.origin()
	for _, part := range []string{
		"G", "GET", "GET /", "GET / HTTP/1.1", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: we",
		"GET / HTTP/1.1\r\nHost: web\r\n", "GET / HTTP/1.1\r\nHost: web\r\n\r", "POST / HTTP/1.1\r\nContent-Length: 100\r\nHost: web",
	} {
		t.Run(part, func(t *testing.T) {
			refuses(t, l, b, malformed{request: part, status: 408, says: "RFC 9110, 15.5.9"})
		})
	}
}

// What has begun well and breaks a rule later must not look complete to the endpoint.
func TestStrictBodiesThatBreakARuleLater(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	head := post("Transfer-Encoding: chunked\r\n", "")
	for _, m := range chunkErrors {
		t.Run(m.rule+" "+m.what, func(t *testing.T) {
			here := *l
			here.tb = t
			b := &origin{tb: t, ln: b.ln, addr: b.addr}
			c := here.dial()
			c.send(head + "3\r\nabc\r\n")
			p := b.accept()
			p.want(head + "3\r\nabc\r\n")
			c.send(m.request)
			c.wantRefusal(400, "malformed", true)
			c.wantEnd()
			// What was in order before the mistake may have been passed on.
			got, err := p.more()
			if !isReset(err) || strings.HasSuffix(got, "0\r\n\r\n") {
				t.Errorf("the endpoint got %q, %v; want a reset", got, err)
			}
			here.serves(b)
		})
	}
}

// A client that goes in the middle of its body leaves the endpoint with a reset, not with what looks like a body.
func TestStrictBodiesThatEndTooEarly(t *testing.T) {
	for name, fields := range map[string]string{"Length": "Content-Length: 100\r\n", "Chunked": "Transfer-Encoding: chunked\r\n"} {
		for how, leave := range map[string]func(*peer){"FIN": (*peer).close, "RST": (*peer).reset, "half-close": (*peer).halfClose} {
			t.Run(name+" "+how, func(t *testing.T) {
				l := newLab(t, everything(), Limits{})
				b := l.origin()
				c := l.dial()
				c.send(post(fields, "3\r\nabc\r\n"))
				p := b.accept()
				p.want(post(fields, "3\r\nabc\r\n"))
				leave(c)
				p.wantReset()
				if how == "half-close" {
					c.wantReset()
				}
				if rec := l.record(); rec.Failure != clientGone || rec.Status != 0 {
					t.Errorf("recorded as %+v", rec)
				}
				l.serves(b)
			})
		}
	}
}
