package http1

import (
	"math/rand/v2"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// pieces makes a message of fuzz bytes: each chooses what comes next. Mostly that is in order, so that the whole often is
// but for one thing.
type pieces struct{ left []byte }

func (p *pieces) next() int {
	if len(p.left) == 0 {
		return 0
	}
	b := p.left[0]
	p.left = p.left[1:]
	return int(b)
}

func (p *pieces) of(list ...string) string { return list[p.next()%len(list)] }

// mostly is one of good, and now and then one of odd.
func (p *pieces) mostly(good []string, odd ...string) string {
	if b := p.next(); b < 244 {
		return good[b%len(good)]
	}
	return p.of(odd...)
}

func (p *pieces) end() string {
	return p.mostly([]string{"\r\n"}, "\n", "\r", "\r\r\n", " \r\n", "\r\n ", "", "\r\n\r\n")
}

func (p *pieces) space() string { return p.mostly([]string{" "}, "  ", "\t", "", "\r") }

func (p *pieces) field() string {
	name := p.mostly([]string{"Connection", "X", "x", "Upgrade", "TE", "Trailer", "Expect", "Keep-Alive", "Pragma", "Y"},
		"Host", "host", "Content-Length", "Transfer-Encoding", "content-length", "Content Length", "", "X\x00")
	return name + p.mostly([]string{":", ": ", ":\t "}, " : ", "", "::") + p.value()
}

func (p *pieces) value() (v string) {
	for range 1 + p.next()%3 {
		v += p.mostly([]string{"a", "close", "keep-alive", "X", "Y", "Upgrade", "", "trailers", "no-cache", "websocket", "h2c", "100-continue", "content-length", "TE", "expect"}, "\x00", "\xff", "\x0b") +
			p.mostly([]string{", ", ",", ""}, ";", " ", "\t,")
	}
	return v
}

// framing is what says how long the body is.
func (p *pieces) framing() string {
	switch p.next() % 4 {
	case 0:
		return ""
	case 1:
		return "Content-Length: " + p.mostly([]string{"5", "0", "05", "12"}, "+5", "5,5", "", "5 5", "-0", "0x5", "99999999999999999999", "\x005") + p.end()
	case 2:
		return "Transfer-Encoding: " + p.codings() + p.end()
	}
	return p.of("Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: \r\n",
		"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding : chunked\r\n", "Transfer-Encoding:\r\n chunked\r\n", "Content-Length: 5\r\n")
}

func (p *pieces) codings() string {
	return p.mostly([]string{"chunked", "Chunked"}, "chunked,", ",chunked", "gzip, chunked", "chunked, chunked", "identity", "", "chunked;q=1", "\x0bchunked")
}

func (p *pieces) fields() (s string) {
	for range p.next() % 5 {
		s += p.field() + p.end()
	}
	return s
}

func (p *pieces) request() string {
	return p.mostly([]string{""}, "\r\n", "\n", "\r", "\r\n\r\n") +
		p.mostly([]string{"GET", "POST", "CONNECT", "OPTIONS"}, "G T", "", "G(T") + p.space() + p.target() + p.space() +
		p.mostly([]string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2"}, "HTTP/2.0", "http/1.1", "HTTP/1.10", "", "HTTP/1.1 ") + p.end() +
		p.mostly([]string{"Host: a\r\n", "Host: a:80\r\n", "host:[::1]\r\n", "Host:\r\n"}, "", "Host: a b\r\n", "Host: a\r\nHost: a\r\n", "Host: %41\r\n") +
		p.fields() + p.framing() + p.fields() + "\r\n" + p.body()
}

func (p *pieces) target() string {
	return p.mostly([]string{"/", "/", "/a?b", "*", "http://b/", "http://b", "b:80", "http://[::1]:80?c", "/%zz", "//b", "http://b:", "/a%2Fb"}, "https://b/", "http://u@b/", "", "http://b:80#c", "/\x80", "/a b", "[::1]", "a") +
		p.mostly([]string{"", "", "?", "?q"}, "#", "\x00")
}

func (p *pieces) response() string {
	return p.mostly([]string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2"}, "HTTP/2.0", "\r\nHTTP/1.1", "HTTP/1.10") + p.space() +
		p.mostly([]string{"200", "204", "304", "101", "103", "426", "999"}, "20", "2000", "-20", "") + p.mostly([]string{" OK", " ", "", "  two  words "}, "\tx", " \x00", " a\rb") + p.end() +
		p.fields() + p.framing() + p.fields() + "\r\n" + p.body()
}

func (p *pieces) body() (s string) {
	for range p.next() % 4 {
		s += p.mostly([]string{"5", "05", "5;a", "5 ; a=\"b\"", "0005"}, "0", "5 ", "g", "", "5;", "fffffffffffffffff", "4", "6") + p.end() + p.mostly([]string{"hello", "a\r\nbc"}, "hell", "hello!") + p.end()
	}
	return s + p.mostly([]string{"0\r\n", "0;a\r\n", "00\r\n"}, "", "0\n", "0 \r\n") + p.fields() + p.of("\r\n", "\r\nmore")
}

func FuzzPieces(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		seed := make([]byte, 150)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		p := &pieces{choices}
		checkRequest(t, []byte(p.request()))
		checkResponse(t, []byte(p.response()), p.of(fuzzMethods...))
		checkChunks(t, []byte(p.body()), 1)
	})
}

// checkRequest holds all that is known of requests.
func checkRequest(t *testing.T, in []byte) {
	t.Helper()
	requestAgainstNetHTTP(t, in)
	var req message.Request
	if n, h, err := ParseRequest(in, &req, limits); n > 0 && err == nil {
		requestAgain(t, in, &req, h)
	}
}

func checkResponse(t *testing.T, in []byte, method string) {
	t.Helper()
	responseAgainstNetHTTP(t, in, method)
	var resp message.Response
	if n, h, err := ParseResponse(in, method, &resp, limits); n > 0 && err == nil {
		responseAgain(t, in, method, &resp, h)
	}
}
