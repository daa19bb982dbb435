package http1

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// usualRequest and usualResponse are what a client and a server of the day send: ten fields, some 400 bytes.
const (
	usualRequest = "GET /api/v1/orders/4711?expand=items HTTP/1.1\r\n" +
		"Host: orders.shop.svc.cluster.local:8080\r\n" +
		"User-Agent: checkout/2.14 (linux; amd64)\r\n" +
		"Accept: application/json\r\n" +
		"Accept-Encoding: gzip, deflate, br\r\n" +
		"Cache-Control: no-cache\r\n" +
		"X-Request-Id: 7f1d3c52-9a0e-4d0c-8f5e-2f3b1c6a9d10\r\n" +
		"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
		"Cookie: session=c2Vzc2lvbg\r\n" +
		"Accept-Language: en\r\n" +
		"Connection: keep-alive\r\n\r\n"
	usualResponse = "HTTP/1.1 200 OK\r\n" +
		"Date: Thu, 24 Sep 2026 10:11:12 GMT\r\n" +
		"Content-Type: application/json; charset=utf-8\r\n" +
		"Content-Length: 1234\r\n" +
		"Server: orders/1.8\r\n" +
		"Cache-Control: private, max-age=0, must-revalidate\r\n" +
		"Etag: \"5d8c72a5edda8d6a3\"\r\n" +
		"Vary: Accept-Encoding, Accept-Language\r\n" +
		"X-Request-Id: 7f1d3c52-9a0e-4d0c-8f5e-2f3b1c6a9d10\r\n" +
		"Strict-Transport-Security: max-age=31536000\r\n" +
		"Connection: keep-alive\r\n\r\n"
)

// usualChunks is a body of 16 chunks of 1000 bytes.
func usualChunks() []byte {
	return []byte(strings.Repeat("3e8\r\n"+strings.Repeat("x", 1000)+"\r\n", 16) + "0\r\n\r\n")
}

func BenchmarkParseRequest(b *testing.B) {
	in := []byte(usualRequest)
	req := message.Request{Fields: make(message.Fields, 0, 16)}
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if n, _, err := ParseRequest(in, &req, limits); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	in := []byte(usualResponse)
	resp := message.Response{Fields: make(message.Fields, 0, 16)}
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if n, _, err := ParseResponse(in, "GET", &resp, limits); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var req message.Request
	n, h, err := ParseRequest([]byte(usualRequest), &req, limits)
	if n == 0 || err != nil {
		b.Fatal(n, err)
	}
	out := make([]byte, 0, 1<<10)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		out = AppendRequest(out[:0], &req, &h)
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	var resp message.Response
	n, h, err := ParseResponse([]byte(usualResponse), "GET", &resp, limits)
	if n == 0 || err != nil {
		b.Fatal(n, err)
	}
	out := make([]byte, 0, 1<<10)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		out = AppendResponse(out[:0], &resp, &h, ResponseTo{Minor: 1})
	}
}

func BenchmarkChunks(b *testing.B) {
	in := usualChunks()
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var c Chunks
		for rest := in; ; {
			p, n, err := c.Next(rest)
			if err != nil {
				b.Fatal(err)
			}
			if rest = rest[n:]; p.Last {
				break
			}
		}
	}
}
