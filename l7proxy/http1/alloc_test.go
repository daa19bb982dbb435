package http1

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// On the path of a request nothing is allocated (design: 0 per request in the steady state).
func TestOrdinaryMessagesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	var req message.Request
	var resp message.Response
	var c Chunks
	out := make([]byte, 0, 4<<10)
	for name, in := range map[string]string{
		"usual":   usualRequest,
		"body":    post("Content-Length: 5", "Expect: 100-continue", "Connection: close"),
		"chunks":  post("Transfer-Encoding: chunked", "TE: trailers", "Connection: TE, keep-alive"),
		"upgrade": post("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
		"IPv6":    head("GET http://[::1]:80/ HTTP/1.0", "Host: [2001:db8::1]:80"),
		"bad":     post("Content-Length: x"),
	} {
		b := []byte(in)
		zero(t, "request, "+name, func() {
			if n, h, err := ParseRequest(b, &req, limits); n == len(b) && err == nil {
				out = AppendRequest(out[:0], &req, &h)
			}
		})
	}
	for name, in := range map[string]string{
		"usual":  usualResponse,
		"chunks": answer("Transfer-Encoding: chunked", "Trailer: x"),
		"rest":   answer("Connection: close"),
		"bad":    answer("X : y"),
	} {
		b := []byte(in)
		zero(t, "response, "+name, func() {
			if n, h, err := ParseResponse(b, "GET", &resp, limits); n == len(b) && err == nil {
				out = AppendResponse(out[:0], &resp, &h, ResponseTo{Minor: 1, Close: true})
			}
		})
	}
	chunks := append(usualChunks()[:len(usualChunks())-2], "grpc-status: 0\r\nx: y\r\n\r\n"...)
	zero(t, "chunks", func() {
		c = Chunks{Trailers: c.Trailers[:0]}
		for rest := chunks; ; {
			p, n, err := c.Next(rest)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			if rest = rest[n:]; p.Last {
				out = AppendLastChunk(AppendChunk(out[:0], 5), c.Trailers)
				return
			}
		}
	})
}

func zero(t *testing.T, what string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(100, f); n != 0 {
		t.Errorf("%s: %v allocations", what, n)
	}
}

// A connection that is served again and again allocates nothing either.
func TestReaderAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r, p := connect(t)
	var req message.Request
	in := []byte(usualRequest)
	zero(t, "a request through a Reader", func() {
		if _, err := unix.Write(p.fd, in); err != nil {
			t.Fatal(err)
		}
		if err := r.Await(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Request(&req, limits, 0); err != nil {
			t.Fatal(err)
		}
		r.Release()
	})
}
