package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// requestSeeds are where the fuzzers begin: one of each kind.
func requestSeeds() []string {
	chunks := "5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n"
	return []string{
		usualRequest,
		"\r\n" + usualRequest + usualRequest,
		head("GET /a/%2e%2E/b?c=%zz&d HTTP/1.1", "Host: a:80"),
		head("GET / HTTP/1.0"),
		head("GET / HTTP/1.0", "Connection: keep-alive"),
		head("GET http://u.example:80?q HTTP/1.1", "Host: a"),
		head("GET http://%41/ HTTP/1.1", "Host: %41"),
		head("GET http://[::1]:80/ HTTP/1.1", "Host: [::1]"),
		head("OPTIONS http://a HTTP/1.1", "Host:"),
		head("OPTIONS * HTTP/1.1", "Host: a"),
		head("CONNECT a:443 HTTP/1.1", "Host: a"),
		head("CONNECT [::1]:443 HTTP/1.1", "Host: a"),
		head("PRI * HTTP/2.0"),
		post("Content-Length: 5") + "hello",
		post("Content-Length: 5", "Content-Length: 5") + "hello",
		post("Content-Length: 9223372036854775807") + "hello",
		post("Transfer-Encoding: chunked") + chunks,
		post("Transfer-Encoding: chunked", "Trailer: X, Content-Length", "TE: trailers") + chunks,
		post("Transfer-Encoding: ,chunked,") + chunks,
		post("Transfer-Encoding: chunked", "Transfer-Encoding:") + chunks,
		post("Transfer-Encoding: chunked", "Content-Length: 5") + chunks,
		post("Transfer-Encoding: gzip, chunked") + chunks,
		post("Transfer-Encoding: chunked, chunked") + chunks,
		post("Connection: close, X", "X: 1", "connection: Y", "Y: 2", "Z: 3"),
		post("Connection: Upgrade", "Upgrade: websocket, h2c"),
		post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"),
		post("Expect: 100-continue", "Content-Length: 1", "Keep-Alive: 5", "Proxy-Connection: close") + "x",
		post("Pragma: no-cache", "A: \xe9\t x", "a:1", "Empty:"),
		post("X: y\r\n z"),
		post("X : y"),
		"GET / HTTP/1.1\nHost: a\n\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\n",
	}
}

func responseSeeds() []string {
	return []string{
		usualResponse,
		head("HTTP/1.1 200"),
		head("HTTP/1.1 200 ") + "until the end",
		head("HTTP/1.0 404 Not Found", "Connection: keep-alive", "Content-Length: 3") + "abc",
		head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked") + "0\r\n\r\n",
		answer("Transfer-Encoding: chunked", "Trailer: X") + "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
		answer("Content-Length: 5", "Connection: X, close", "X: y") + "hello",
		head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"),
		head("HTTP/1.1 426 Upgrade Required", "Upgrade: x/2", "Connection: Upgrade", "Content-Length: 0"),
		head("HTTP/1.1 103 Early Hints", "Link: </a>") + answer("Content-Length: 0"),
		head("HTTP/1.1 204 No Content", "Content-Length: 0"),
		head("HTTP/1.1 304 Not Modified", "Content-Length: 5", "Transfer-Encoding: x"),
		head("HTTP/1.9 999  odd  reason\t"),
		"HTTP/1.1 200 OK\nX: y\n\n",
		"HTTP/1.1 200 OK\r\n X: y\r\n\r\n",
	}
}

func chunkSeeds() []string {
	return []string{
		"0\r\n\r\n",
		"5\r\nhello\r\n0\r\n\r\nmore",
		"5;a;b=c;d=\"e\\\"\" ; f\r\nhello\r\n00\r\nX: y\r\nx: z\r\nContent-Length: 5\r\n\r\n",
		"A\r\n0123456789\r\n1\r\nx\r\n0\r\nTrailer: X\r\nHost: a\r\n\r\n",
		"5 \r\nhello\r\n0\r\n\r\n",
		"5\nhello\n0\n\n",
		"7fffffffffffffff\r\nx",
		"ffffffffffffffff\r\nx",
		"00000000000000001\r\nx\r\n0\r\n\r\n",
		"5\r\nhello0\r\n\r\n",
		strings.Repeat("1;"+strings.Repeat("x", 4000)+"\r\nx\r\n", 8) + "0\r\n\r\n",
		"0\r\nX: y\r\n z\r\n\r\n",
	}
}

// everywhere holds that no beginning of the input is read in another way.
func everywhere(t *testing.T, parse parser, in []byte) {
	t.Helper()
	if len(in) <= 400 {
		splits(t, parse, string(in))
	}
}

func FuzzRequest(f *testing.F) {
	for _, in := range requestSeeds() {
		f.Add([]byte(in))
	}
	f.Fuzz(requestAgainstNetHTTP)
}

func requestAgainstNetHTTP(t *testing.T, in []byte) {
	t.Helper()
	everywhere(t, parseRequest, in)
	var req message.Request
	n, h, err := ParseRequest(in, &req, limits)
	switch {
	case err != nil:
		if n != 0 || err.Status < 400 || err.Status > 599 {
			t.Errorf("%q: %d bytes, %+v", in, n, err)
		}
	case n > 0:
		compareRequest(t, in, n, &req, &h)
	default:
		if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in))); err == nil {
			t.Errorf("%q: we wait for more, and net/http does not", in)
		}
	}
}

func FuzzResponse(f *testing.F) {
	for i, in := range responseSeeds() {
		f.Add([]byte(in), uint8(0))
		f.Add([]byte(in), uint8(i%len(fuzzMethods)))
	}
	f.Fuzz(func(t *testing.T, in []byte, which uint8) {
		responseAgainstNetHTTP(t, in, fuzzMethods[int(which)%len(fuzzMethods)])
	})
}

func responseAgainstNetHTTP(t *testing.T, in []byte, method string) {
	t.Helper()
	everywhere(t, responseTo(method), in)
	var resp message.Response
	n, h, err := ParseResponse(in, method, &resp, limits)
	switch {
	case err != nil:
		if n != 0 {
			t.Errorf("%q: %d bytes, %+v", in, n, err)
		}
	case n > 0:
		compareResponse(t, in, n, method, &resp, &h)
	default:
		if _, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method}); err == nil {
			t.Errorf("%q: we wait for more, and net/http does not", in)
		}
	}
}

var fuzzMethods = []string{"GET", "HEAD", "CONNECT"} // never written

// FuzzChunks also encodes again what it decoded, as a proxy does.
func FuzzChunks(f *testing.F) {
	for i, in := range chunkSeeds() {
		f.Add([]byte(in), uint16(i))
		f.Add([]byte(in), uint16(1000))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) { checkChunks(t, in, int(piece)+1) })
}

func checkChunks(t *testing.T, in []byte, piece int) {
	t.Helper()
	ours := decode(string(in), len(in)+1)
	inPieces := decode(string(in), piece)
	if ours.err != nil && (inPieces.err == errTrailersLarge || ours.err == inPieces.err) { // what is too large may be malformed as well
		inPieces = ours
	}
	if inPieces != ours {
		t.Errorf("%q:\nat once      %+v\nin pieces of %d %+v", in, ours, piece, inPieces)
	}
	input := bufio.NewReaderSize(bytes.NewReader(append([]byte(post("Transfer-Encoding: chunked")), in...)), 64<<10+len(in))
	req, err := http.ReadRequest(input)
	if err != nil {
		t.Fatal(err)
	}
	compareChunks(t, in, req.Body, func() http.Header { return req.Trailer })
	if !ours.last {
		return
	}
	again := recode(string(in))
	if got := decode(again, len(again)); got.data != ours.data || got.chunks != ours.chunks || got.trailers != ours.trailers || got.taken != len(again) || !got.last {
		t.Errorf("%q\nwas written as %q\nand read as %+v\n        not %+v", in, again, got, ours)
	}
}

// recode decodes a body and writes what came.
func recode(in string) string {
	var c Chunks
	var out []byte
	for taken := 0; ; {
		p, n, err := c.Next([]byte(in[taken:]))
		if err != nil {
			return string(out)
		}
		taken += n
		if p.Begins > 0 {
			out = AppendChunk(out, p.Begins)
		}
		out = append(out, p.Data...)
		if p.Ends {
			out = append(out, "\r\n"...)
		}
		if p.Last {
			return string(AppendLastChunk(out, c.Trailers))
		}
	}
}

// FuzzWriteThenParse reads, writes, and reads again: nothing may change its meaning on the way, and from then on no byte
// changes any more.
func FuzzWriteThenParse(f *testing.F) {
	for _, in := range append(requestSeeds(), responseSeeds()...) {
		f.Add([]byte(in), uint8(len(in)))
	}
	f.Fuzz(func(t *testing.T, in []byte, which uint8) {
		var req message.Request
		if n, h, err := ParseRequest(in, &req, limits); n > 0 && err == nil {
			requestAgain(t, in, &req, h)
		}
		var resp message.Response
		method := fuzzMethods[int(which)%len(fuzzMethods)]
		if n, h, err := ParseResponse(in, method, &resp, limits); n > 0 && err == nil {
			responseAgain(t, in, method, &resp, h)
		}
	})
}

// roomy is for what was written: it may have a Host more, or a longer spelling.
var roomy = Limits{Head: 1 << 20, Target: 1 << 20} // never written

func requestAgain(t *testing.T, in []byte, req *message.Request, h Head) {
	t.Helper()
	written := AppendRequest(nil, req, &h)
	var again message.Request
	n, h2, err := ParseRequest(written, &again, roomy)
	if n != len(written) || err != nil {
		t.Fatalf("%q\nwas written as %q\nwhich is %d, %v", in, written, n, err)
	}
	want := h
	want.Minor, want.Close, want.KeepAlive = 1, false, false // these are between us and the client
	if h.Upgrade != "" {
		want.Trailers = false
	}
	_, named := again.Fields.Get("Expect")
	want.Continue = h.Body != NoBody && named && expects(again.Fields)
	if h2 != want {
		t.Errorf("%q\nwas written as %q\nof which we read %+v\n            not %+v", in, written, h2, want)
	}
	same(t, in,
		difference{"method", req.Method, again.Method},
		difference{"authority", req.Authority, again.Authority},
		difference{"path", req.Path, again.Path},
		difference{"query", req.Query, again.Query},
		difference{"having a query", req.HasQuery, again.HasQuery},
		difference{"fields", endToEndOf(req.Fields), endToEndOf(again.Fields)},
	)
	if twice := AppendRequest(nil, &again, &h2); !bytes.Equal(twice, written) {
		t.Errorf("%q\nwas written as %q\n     and then as %q", in, written, twice)
	}
}

func expects(f message.Fields) bool {
	for i := range f {
		if message.EqualName(f[i].Name, "expect") && message.EqualName(f[i].Value, "100-continue") {
			return true
		}
	}
	return false
}

func responseAgain(t *testing.T, in []byte, method string, resp *message.Response, h Head) {
	t.Helper()
	to := ResponseTo{Minor: 1, Close: h.Close}
	written := AppendResponse(nil, resp, &h, to)
	var again message.Response
	n, h2, err := ParseResponse(written, method, &again, roomy)
	if n != len(written) || err != nil {
		t.Fatalf("%q\nwas written as %q\nwhich is %d, %v", in, written, n, err)
	}
	want := h
	want.Minor, want.KeepAlive, want.Trailers = 1, false, false
	if resp.Status != 101 && resp.Status != 426 {
		want.Upgrade = ""
	}
	if h2 != want {
		t.Errorf("%q\nwas written as %q\nof which we read %+v\n            not %+v", in, written, h2, want)
	}
	kept := endToEndOf(resp.Fields)
	if resp.Status < 200 || resp.Status == 204 {
		kept.Del("Content-Length")
	}
	same(t, in,
		difference{"status", resp.Status, again.Status},
		difference{"reason", resp.Reason, again.Reason},
		difference{"fields", kept, endToEndOf(again.Fields)},
	)
	if twice := AppendResponse(nil, &again, &h2, to); !bytes.Equal(twice, written) {
		t.Errorf("%q\nwas written as %q\n     and then as %q", in, written, twice)
	}
}

// endToEndOf are the fields that go to the next hop as they came. Host is compared as the authority.
func endToEndOf(f message.Fields) message.Fields {
	kept := message.Fields{}
	for i := range f {
		switch strings.ToLower(f[i].Name) {
		case "host", "te", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		default:
			kept = append(kept, f[i])
		}
	}
	return kept
}
