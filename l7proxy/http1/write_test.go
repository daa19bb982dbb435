package http1

import (
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// forwarded is a request as it goes to a server, if edit, which may be nil, does that to it.
func forwarded(t *testing.T, in string, edit func(*message.Request)) string {
	t.Helper()
	var req message.Request
	n, h, err := ParseRequest([]byte(in), &req, limits)
	if n == 0 || err != nil {
		t.Fatalf("%q: %d, %v", in, n, err)
	}
	if edit != nil {
		edit(&req)
	}
	return string(AppendRequest([]byte("before"), &req, &h))[len("before"):]
}

// answered is a response as it goes to a client.
func answered(t *testing.T, in, method string, to ResponseTo) string {
	t.Helper()
	var resp message.Response
	n, h, err := ParseResponse([]byte(in), method, &resp, limits)
	if n == 0 || err != nil {
		t.Fatalf("%q: %d, %v", in, n, err)
	}
	return string(AppendResponse([]byte("before"), &resp, &h, to))[len("before"):]
}

func TestAppendRequestKeepsOrderAndSpelling(t *testing.T) {
	for in, want := range map[string]string{
		head("GET /a?b HTTP/1.1", "x-B:1", "HOST: a", "X-b: 2  ", "Content-length: 007", "X-B:"): head("GET /a?b HTTP/1.1", "x-B: 1", "HOST: a", "X-b: 2", "Content-length: 007", "X-B: "),
		head("GET /? HTTP/1.1", "Host: a"):                                              head("GET /? HTTP/1.1", "Host: a"),
		head("get //x/../y HTTP/1.2", "Host: a"):                                        head("get //x/../y HTTP/1.1", "Host: a"),
		head("OPTIONS * HTTP/1.1", "Host: a"):                                           head("OPTIONS * HTTP/1.1", "Host: a"),
		head("OPTIONS http://b HTTP/1.1", "Host: a"):                                    head("OPTIONS * HTTP/1.1", "Host: b"), // RFC 9112, 3.2.4
		head("GET http://b?c HTTP/1.1", "X: y", "Host: a", "Z: z"):                      head("GET /?c HTTP/1.1", "X: y", "Host: b", "Z: z"),
		head("CONNECT b:443 HTTP/1.1", "Host: a"):                                       head("CONNECT b:443 HTTP/1.1", "Host: b:443"),
		head("GET / HTTP/1.0", "X: y"):                                                  head("GET / HTTP/1.1", "X: y", "Host: "), // 1.1 wants one
		head("GET http://b/ HTTP/1.0"):                                                  head("GET / HTTP/1.1", "Host: b"),
		head("POST / HTTP/1.1", "Host: a", "Expect: 100-continue", "Content-Length: 5"): head("POST / HTTP/1.1", "Host: a", "Expect: 100-continue", "Content-Length: 5"),
	} {
		if got := forwarded(t, in, nil); got != want {
			t.Errorf("%q becomes\n     %q\nwant %q", in, got, want)
		}
	}
}

func TestRFC9110_7_6_1_AppendRequestLeavesOutHopByHop(t *testing.T) {
	get := func(fields ...string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + head(fields...) }
	for in, want := range map[string]string{
		get("Connection: close", "A: 1"): get("A: 1"),
		get("A: 1", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Connection: x", "B: 2"): get("A: 1", "B: 2"),
		get("Connection: A, close", "A: 1", "B: 2"):                                                   get("B: 2"),
		get("Connection: Content-Length, A", "Content-Length: 5", "A: 1"):                             get("Content-Length: 5"),
		get("Transfer-Encoding: Chunked, ", "Trailer: X", "A: 1"):                                     get("Trailer: X", "A: 1", "Transfer-Encoding: chunked"),
		get("TE: gzip, trailers", "Connection: TE", "A: 1"):                                           get("A: 1", "TE: trailers", "Connection: TE"),
		get("TE: gzip", "Connection: TE", "A: 1"):                                                     get("A: 1"),
		get("Upgrade: websocket", "Connection: keep-alive, Upgrade", "A: 1"):                          get("A: 1", "Upgrade: websocket", "Connection: Upgrade"),
		get("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAM", "A: 1"):     get("A: 1"),
		get("Upgrade: websocket", "A: 1"):                                                             get("A: 1"),
		get("Proxy-Authorization: Basic x", "Via: 1.1 b"):                                             get("Proxy-Authorization: Basic x", "Via: 1.1 b"),
		get("Upgrade: x", "Connection: Upgrade", "TE: trailers"):                                      get("Upgrade: x", "Connection: Upgrade"),
	} {
		if got := forwarded(t, in, nil); got != want {
			t.Errorf("%q becomes\n     %q\nwant %q", in, got, want)
		}
	}
}

func TestAppendRequestWritesWhatAFilterSet(t *testing.T) {
	in := head("GET /a HTTP/1.1", "A: 1", "Host: a", "B: 2")
	for _, c := range []struct {
		edit func(*message.Request)
		want string
	}{
		{func(r *message.Request) { r.Authority = "b:80" }, head("GET /a HTTP/1.1", "A: 1", "Host: b:80", "B: 2")},
		{func(r *message.Request) { r.Fields.Del("host") }, head("GET /a HTTP/1.1", "A: 1", "B: 2", "Host: a")},
		{func(r *message.Request) { r.Fields.Add("host", "evil") }, head("GET /a HTTP/1.1", "A: 1", "Host: a", "B: 2")}, // one Host, whatever happens
		{func(r *message.Request) { r.Path, r.Query, r.HasQuery = "/b", "c", true }, head("GET /b?c HTTP/1.1", "A: 1", "Host: a", "B: 2")},
		{func(r *message.Request) { r.Fields.Set("a", "3"); r.Fields.Add("C", "") }, head("GET /a HTTP/1.1", "A: 3", "Host: a", "B: 2", "C: ")},
		{func(r *message.Request) { r.Method = "PUT" }, head("PUT /a HTTP/1.1", "A: 1", "Host: a", "B: 2")},
	} {
		if got := forwarded(t, in, c.edit); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

func TestAppendResponse(t *testing.T) {
	http11 := ResponseTo{Minor: 1}
	for _, c := range []struct {
		in, method string
		to         ResponseTo
		want       string
	}{
		{head("HTTP/1.1 200 OK", "x-B:1", "Content-length: 5", "X-b: 2"), "GET", http11, head("HTTP/1.1 200 OK", "x-B: 1", "Content-length: 5", "X-b: 2")},
		{head("HTTP/1.0 200 Very\tWell", "Content-Length: 0"), "GET", http11, head("HTTP/1.1 200 Very\tWell", "Content-Length: 0")},
		{head("HTTP/1.1 200"), "GET", ResponseTo{Minor: 1, Close: true}, head("HTTP/1.1 200 ", "Connection: close")},
		{head("HTTP/1.1 999 X", "Connection: close", "A: 1"), "GET", http11, head("HTTP/1.1 999 X", "A: 1")},
		{head("HTTP/1.1 107 X", "A: 1"), "GET", http11, head("HTTP/1.1 107 X", "A: 1")},
		{head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "A: 1"), "GET", http11, head("HTTP/1.1 200 OK", "A: 1", "Transfer-Encoding: chunked")},
		{head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "A: 1"), "HEAD", http11, head("HTTP/1.1 200 OK", "A: 1")},
		{head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), "GET", ResponseTo{Close: true}, head("HTTP/1.1 200 OK", "Connection: close")}, // 1.0 knows no chunks
		{head("HTTP/1.1 200 OK", "Content-Length: 5"), "GET", ResponseTo{KeepAlive: true}, head("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: keep-alive")},
		{head("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: keep-alive"), "HEAD", http11, head("HTTP/1.1 200 OK", "Content-Length: 5")},
		{head("HTTP/1.1 304 X", "Content-Length: 5", "Etag: \"x\""), "GET", http11, head("HTTP/1.1 304 X", "Content-Length: 5", "Etag: \"x\"")},
		{head("HTTP/1.1 204 X", "Content-Length: 5", "A: 1"), "GET", http11, head("HTTP/1.1 204 X", "A: 1")}, // RFC 9110, 8.6
		{head("HTTP/1.1 103 X", "Content-Length: 5", "Link: </a>"), "GET", http11, head("HTTP/1.1 103 X", "Link: </a>")},
		{head("HTTP/1.1 200 OK", "Keep-Alive: timeout=5", "Upgrade: h2,h2c", "Connection: Upgrade, A", "A: 1", "B: 2"), "GET", http11, head("HTTP/1.1 200 OK", "B: 2")},
		{head("HTTP/1.1 101 S", "A: 1", "Upgrade: websocket", "Connection: Upgrade"), "GET", http11, head("HTTP/1.1 101 S", "A: 1", "Upgrade: websocket", "Connection: Upgrade")},
		{head("HTTP/1.1 426 U", "Upgrade: x/2", "Connection: upgrade", "Content-Length: 0"), "GET", http11, head("HTTP/1.1 426 U", "Content-Length: 0", "Upgrade: x/2", "Connection: Upgrade")},
		{head("HTTP/1.1 426 U", "Upgrade: x/2", "Connection: upgrade", "Content-Length: 0"), "GET", ResponseTo{Minor: 1, Close: true},
			head("HTTP/1.1 426 U", "Content-Length: 0", "Upgrade: x/2", "Connection: Upgrade", "Connection: close")},
		{head("HTTP/1.1 426 U", "Content-Length: 0"), "GET", http11, head("HTTP/1.1 426 U", "Content-Length: 0")},
		{head("HTTP/1.1 200 OK", "Expect: x", "Host: y", "Trailer: Z", "TE: trailers"), "GET", http11, head("HTTP/1.1 200 OK", "Expect: x", "Host: y", "Trailer: Z")},
	} {
		if got := answered(t, c.in, c.method, c.to); got != c.want {
			t.Errorf("%q becomes\n     %q\nwant %q", c.in, got, c.want)
		}
	}
}

func TestAppendChunks(t *testing.T) {
	b := []byte("before ")
	b = AppendChunk(b, 1)
	b = AppendChunk(b, 0xabcdef)
	b = AppendChunk(b, 1<<63-1)
	b = AppendLastChunk(b, message.Fields{{Name: "b", Value: "1"}, {Name: "A", Value: ""}})
	b = AppendLastChunk(b, nil)
	if want := "before 1\r\nabcdef\r\n7fffffffffffffff\r\n0\r\nb: 1\r\nA: \r\n\r\n0\r\n\r\n"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}
