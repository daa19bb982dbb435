package forward

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// A client sees event k before the endpoint sends event k+1, however the stream is framed.
func TestStreamsAreFlushedAtOnce(t *testing.T) {
	for _, s := range []struct {
		what, head, got string
		frame           func(string) string
		end             string
	}{
		{"until close", reply("Content-Type: text/event-stream\r\n", ""), reply("Content-Type: text/event-stream\r\nConnection: close\r\n", ""),
			func(e string) string { return e }, ""},
		{"chunked", reply("Transfer-Encoding: chunked\r\n", ""), "", func(e string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(e), e) }, "0\r\n\r\n"},
		{"Length", reply("Content-Length: 250\r\n", ""), "", func(e string) string { return e }, ""},
	} {
		t.Run(s.what, func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(get)
			p := b.accept()
			p.want(get)
			p.send(s.head)
			if s.got == "" {
				s.got = s.head
			}
			c.want(s.got) // the head alone, too
			for i := range 25 {
				event := s.frame(fmt.Sprintf("data: %02d\n\n", i))
				p.send(event)
				c.want(event)
			}
			p.send(s.end)
			p.halfClose()
			c.want(s.end)
			if rec := l.record(); rec.ResponseBytes != 250 || rec.Failure != "" {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// Each chunk of a request is passed on when it comes, and a part of a chunk as well.
func TestStreamsOfRequestsAreFlushedAtOnce(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	head := post("Transfer-Encoding: chunked\r\n", "")
	c.send(head)
	p := b.accept()
	p.want(head)
	for _, part := range []string{"5\r\nhello\r\n", "a\r\n", "01234", "56789\r\n", "1\r\nx\r\n", "0\r\nX-Sum: 1\r\n\r\n"} {
		c.send(part)
		p.want(part)
	}
	p.send(okay)
	c.want(okay)
}

// The endpoint answers each chunk before the client sends the next one.
func TestStreamsBothWaysAtOnce(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	request, answer := post("Transfer-Encoding: chunked\r\n", ""), reply("Transfer-Encoding: chunked\r\n", "")
	c.send(request)
	p := b.accept()
	p.want(request)
	p.send(answer)
	c.want(answer)
	for i := range 50 {
		chunk := fmt.Sprintf("6\r\necho%02d\r\n", i)
		c.send(chunk)
		p.want(chunk)
		p.send(chunk)
		c.want(chunk)
	}
	c.send("0\r\n\r\n")
	p.want("0\r\n\r\n")
	p.send("0\r\n\r\n")
	c.want("0\r\n\r\n")
	if rec := l.record(); rec.RequestBytes != 300 || rec.ResponseBytes != 300 || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
	c.send(get) // both connections go on
	p.want(get)
	p.send(okay)
	c.want(okay)
}

// An endpoint that answers early and keeps its connection still gets the whole body.
func TestEarlyAnswerAndTheBodyGoesOn(t *testing.T) {
	for _, x := range []struct{ fields, first, rest string }{
		{"Content-Length: 20\r\n", "hello", "0123456789abcde"},
		{"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n", "f\r\n0123456789abcde\r\n0\r\n\r\n"},
	} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(post(x.fields, x.first))
			p := b.accept()
			p.want(post(x.fields, x.first))
			p.send(okay)
			c.want(okay)
			c.send(x.rest + get)
			p.want(x.rest)
			if rec := l.record(); rec.RequestBytes != 20 || rec.Status != 200 || rec.Failure != "" {
				t.Errorf("recorded as %+v", rec)
			}
			p.want(get) // on the same connections
			p.send(okay)
			c.want(okay)
		})
	}
}

// An endpoint that says that it closes does not want the rest: the client is told so, and its connection ends in order,
// so that the answer is not lost.
func TestEarlyAnswerThatCloses(t *testing.T) {
	const full = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
	for _, fields := range []string{"Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n"} {
		t.Run("", func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := l.origin()
			c := l.dial()
			c.send(post(fields, "5\r\nhello\r\n"))
			p := b.accept()
			p.want(post(fields, "5\r\nhello\r\n"))
			p.send(full)
			p.close()
			c.want(full)
			c.wantEnd()
			c.close()
			if rec := l.record(); rec.Status != 413 || rec.Failure != "" {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// The client sends as fast as it can while the endpoint answers, and goes: the client still gets the answer.
func TestEarlyAnswerWhileTheClientSends(t *testing.T) {
	const full = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	body := strings.Repeat("x", 256<<10)
	c.send(post("Content-Length: 100000000\r\n", "first"))
	p := b.accept()
	p.want(post("Content-Length: 100000000\r\n", "first"))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, body)
		sent <- err
	}()
	p.want(body[:1000])
	p.send(full)
	c.want(full)
	p.reset()
	c.wantEnd()
	if err := <-sent; err != nil {
		t.Errorf("the client's body was not taken: %v", err)
	}
}

// An endpoint that ends without an answer in the middle of the body.
func TestEndpointGoesWhileTheClientSends(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(post("Content-Length: 1000\r\n", "first"))
	p := b.accept()
	p.want(post("Content-Length: 1000\r\n", "first"))
	p.reset()
	c.wantRefusal(502, "closed the connection", true)
	c.wantEnd()
	if rec := l.record(); rec.Failure != upstreamClosed || rec.Status != 502 || rec.Attempts != 1 {
		t.Errorf("recorded as %+v", rec)
	}
	b.untouched()
}
