package forward

import (
	"strings"
	"testing"
)

// malformedAnswer is an answer that breaks a rule.
type malformedAnswer struct{ rule, what, answer string }

// reply is an answer with framing fields and what follows its head.
func reply(fields, rest string) string { return "HTTP/1.1 200 OK\r\n" + fields + "\r\n" + rest }

var malformedAnswers = []malformedAnswer{
	{"RFC 9112, 4", "no HTTP", "hello\r\n\r\n"},
	{"RFC 9112, 4", "no HTTP and no line", "hello"},
	{"RFC 9112, 4", "other protocol", "ICY 200 OK\r\n\r\n"},
	{"RFC 9112, 4", "other major version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "status 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "status is a word", "HTTP/1.1 two OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 4", "control in the reason", "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 2.2", "empty line first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 2.2", "bare LF after the status line", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 2.2", "bare LF after a field", "HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n"},
	{"RFC 9112, 2.2", "bare CR in a value", reply("X: y\rSet-Cookie: a\r\nContent-Length: 0\r\n", "")},
	{"RFC 9112, 5.1", "space before the colon", reply("Content-Length : 2\r\n", "ok")},
	{"RFC 9112, 5.1", "no name", reply(": a\r\nContent-Length: 2\r\n", "ok")},
	{"RFC 9112, 5.2", "obs-fold", reply("X: a\r\n b\r\nContent-Length: 2\r\n", "ok")},
	{"RFC 9112, 5", "no colon", reply("X\r\nContent-Length: 2\r\n", "ok")},
	{"RFC 9110, 5.5", "NUL in a value", reply("X: \x00\r\nContent-Length: 2\r\n", "ok")},
	{"RFC 9112, 6.3", "lengths that differ", reply("Content-Length: 2\r\nContent-Length: 3\r\n", "ok")},
	{"RFC 9112, 6.3", "lengths that are the same", reply("Content-Length: 2\r\nContent-Length: 2\r\n", "ok")},
	{"RFC 9112, 6.3", "list of lengths", reply("Content-Length: 2, 2\r\n", "ok")},
	{"RFC 9112, 6.3", "minus", reply("Content-Length: -2\r\n", "ok")},
	{"RFC 9112, 6.3", "length of 2^64 and 2", reply("Content-Length: 18446744073709551618\r\n", "ok")},
	{"RFC 9112, 6.3", "length and coding", reply("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")},
	{"RFC 9112, 6.1", "coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
	{"RFC 9112, 6.1", "chunked twice", reply("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n")},
	{"RFC 9112, 6.1", "unknown coding", reply("Transfer-Encoding: gzip\r\n", "ok")},
	{"RFC 9112, 7.1", "chunk size in the first bytes", reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\nX\r\n")},
	{"RFC 9112, 7.1", "chunk end in the first bytes", reply("Transfer-Encoding: chunked\r\n", "2\r\nok0\r\n\r\n")},
	{"RFC 9112, 7.1.2", "trailer in the first bytes", reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX\r\n\r\n")},
	{"RFC 9110, 15", "head of 70 KiB", reply(strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 70), "")},
}

func TestStrictAnswersThatBreakARuleAreNotPassedOn(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	for _, m := range malformedAnswers {
		t.Run(m.rule+" "+m.what, func(t *testing.T) {
			here := *l
			here.tb = t
			b := &origin{tb: t, ln: b.ln, addr: b.addr}
			c := here.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			p.send(m.answer)
			c.wantRefusal(502, "answer is malformed", false)
			p.wantGone()
			// The client's connection goes on, with another one to the endpoint.
			c.send(get)
			p = b.accept()
			p.want(get)
			p.send(bye)
			c.want(okay)
		})
	}
}

func TestAnswersThatEndBeforeTheirHeadAre502(t *testing.T) {
	for name, part := range map[string]string{
		"nothing": "", "part of a line": "HTTP/1.1 2", "part of a head": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
	} {
		for how, leave := range map[string]func(*peer){"FIN": (*peer).close, "RST": (*peer).reset} {
			t.Run(name+" "+how, func(t *testing.T) {
				l := newLab(t, everything(), Limits{})
				b := l.origin()
				c := l.dial()
				c.send(get)
				p := b.accept()
				p.want(get)
				p.send(part)
				leave(p)
				c.wantRefusal(502, "closed the connection before it answered", false)
				if rec := l.record(); rec.Failure != upstreamClosed || rec.Status != 502 || rec.Attempts != 1 {
					t.Errorf("recorded as %+v", rec)
				}
				b.untouched()
			})
		}
	}
}

// What an endpoint did not finish must not look finished to the client.
func TestTruncatedAnswersReset(t *testing.T) {
	for _, m := range []struct {
		what, sent, got string
		leave           func(*peer)
	}{
		{"Length, FIN", reply("Content-Length: 10\r\n", "hello"), reply("Content-Length: 10\r\n", "hello"), (*peer).close},
		{"Length, RST", reply("Content-Length: 10\r\n", "hello"), reply("Content-Length: 10\r\n", "hello"), (*peer).reset},
		{"Length, FIN before the body", reply("Content-Length: 10\r\n", ""), reply("Content-Length: 10\r\n", ""), (*peer).close},
		{"chunked, FIN behind a chunk", reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), (*peer).close},
		{"chunked, RST behind a chunk", reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), (*peer).reset},
		{"chunked, FIN in a chunk", reply("Transfer-Encoding: chunked\r\n", "5\r\nhe"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhe"), (*peer).close},
		{"chunked, FIN in a size", reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n1"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), (*peer).close},
		{"chunked, FIN behind the last size", reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), (*peer).close},
		{"chunked, FIN in the trailers", reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX: y\r\n"),
			reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), (*peer).close},
		{"until close, RST", reply("X: y\r\n", "hello"), reply("X: y\r\nConnection: close\r\n", "hello"), (*peer).reset},
		{"HTTP/1.0 and Length, FIN", "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhello", reply("Content-Length: 10\r\n", "hello"), (*peer).close},
	} {
		t.Run(m.what, func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			p.send(m.sent)
			c.want(m.got)
			m.leave(p)
			c.wantReset()
			if rec := l.record(); rec.Failure != upstreamClosed || rec.Status != 200 {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// To a client of HTTP/1.0 the end of the connection is the end of the body, so a reset is all that tells.
func TestTruncatedChunksResetAClientOfHTTP10(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send("GET / HTTP/1.0\r\nHost: web\r\n\r\n")
	p := b.accept()
	p.want(get)
	p.send(reply("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"))
	c.want(reply("Connection: close\r\n", "hello"))
	p.close()
	c.wantReset()
}

func TestStrictAnswersThatBreakARuleLaterReset(t *testing.T) {
	for _, later := range []string{"X\r\n", "5\r\nhello!\r\n", "5\nhello\r\n", "0\r\nX\r\n\r\n", "ffffffffffffffffff\r\n"} {
		t.Run(later, func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			first := reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n")
			p.send(first)
			c.want(first)
			p.send(later)
			// The data before the mistake may have been passed on.
			if got, err := c.more(); !isReset(err) || strings.HasSuffix(got, "\r\n\r\n") {
				t.Errorf("the client got %q, %v; want a reset", got, err)
			}
			p.wantGone()
			if rec := l.record(); rec.Failure != badResponse || rec.Status != 200 {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// Bytes behind an answer belong to no request: nobody gets them, and the connection is not used again.
func TestStrictBytesBehindAnAnswer(t *testing.T) {
	for _, answer := range []string{okay, reply("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), "HTTP/1.1 204 No Content\r\n\r\n"} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			p.send(answer + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			c.want(answer)
			p.wantGone()
			c.send(get)
			p = b.accept()
			p.want(get)
			p.send(bye)
			c.want(okay)
		})
	}
}
