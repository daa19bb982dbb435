package forward

import (
	"net"
	"testing"
)

func TestGetAndPostOnOneConnection(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	var p *peer
	for _, request := range []string{
		"GET /a HTTP/1.1\r\nHost: web\r\n\r\n",
		"POST /b HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
		"POST /c HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		c.send(request)
		if p == nil {
			p = b.accept()
		}
		p.want(request)
		p.send(okay)
		c.want(okay)
	}
}

// BenchmarkExchange is one request and its answer over real sockets, through the Server to a backend in this process.
func BenchmarkExchange(b *testing.B) {
	l := newLab(b, everything(), Limits{})
	backend := l.origin()
	go func() {
		for {
			c, err := backend.ln.Accept()
			if err != nil {
				return
			}
			go answerEach(c)
		}
	}()
	c := l.dial()
	request := []byte("GET /a/b?c=d HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: bench/1\r\nAccept: */*\r\nX-Canary: true\r\n\r\n")
	answer := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
}

// answerEach answers whatever a read brings, and allocates nothing.
func answerEach(c net.Conn) {
	defer c.Close()
	buf, answer := make([]byte, 4096), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok")
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}
