package http1

import "testing"

func TestRFC9112_4_StatusLine(t *testing.T) {
	for line, want := range map[string]string{
		"HTTP/1.1 200 OK":                   "200 OK until-close close",
		"HTTP/1.1 200 ":                     "200 until-close close",
		"HTTP/1.1 200":                      "200 until-close close", // the space is missing now and then
		"HTTP/1.1 404 Not  Found\tat\xe9ll": "404 Not  Found\tat\xe9ll until-close close",
		"HTTP/1.1 200  OK":                  "200  OK until-close close",
		"HTTP/1.1 999 X":                    "999 X until-close close",
		"HTTP/1.1 599 200 OK":               "599 200 OK until-close close",
		"HTTP/1.0 200 OK":                   "200 OK 1.0 until-close close",
		"HTTP/1.7 200 OK":                   "200 OK until-close close",
		"HTTP/1.1 205 Reset Content":        "205 Reset Content until-close close",
	} {
		accepted(t, responseTo("GET"), [2]string{head(line, "X: y"), want})
		accepted(t, responseTo("GET"), [2]string{head(line), want})
	}
}

func TestRFC9112_4_StatusLineMalformed(t *testing.T) {
	for _, line := range []string{
		"", " ", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 2", "HTTP/1.1 20", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 200OK", "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK",
		"HTTP/1.1 000 X", "HTTP/1.1 099 X", "HTTP/1.1 2x0 OK", "HTTP/1.1 x00 OK", "HTTP/1.1 20x OK", "HTTP/1.1 -20 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 OK", "HTTP/1.1 OK 200",
		"HTTP/1.1 200\tOK", "HTTP/1.1 2\xb20 OK", "HTTP/2.0 200 OK", "HTTP/2 200 OK", "HTTP/0.9 200 OK", "http/1.1 200 OK", "HTTP/11 200 OK", "HTTP/1.10 200 OK", "HTTP/1.x 200 OK",
		"HTTP1.1 200 OK", "ICY 200 OK", "200 OK", " HTTP/1.1 200 OK", "GET / HTTP/1.1", "<html>", "HTTP/1.1 200 a\x00b", "HTTP/1.1 200 a\x7f", "HTTP/1.1 200 a\rb", "HTTP/1.1 200 \x1b[31m",
		"HTTP/1.1 200 OK\r", "HTTP/1.1 200\r",
	} {
		refused(t, responseTo("GET"), errStatusLine, head(line, "X: y"))
	}
	ok := answer("Content-Length: 0")
	refused(t, responseTo("GET"), errStatusLine, "\r\n"+ok, "\n"+ok, "x"+ok) // only a request may have an empty line before it (2.2)
	refused(t, responseTo("GET"), errLineEnd, "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\n\n", "HTTP/1.1 x\n")
}

func TestRFC9112_6_3_ResponsesWithoutBody(t *testing.T) {
	for _, c := range []struct{ method, line, want string }{
		{"HEAD", "200 OK", "200 OK"},
		{"HEAD", "404 X", "404 X"},
		{"GET", "100 Continue", "100 Continue"},
		{"GET", "103 Early Hints", "103 Early Hints"},
		{"GET", "101 X", "101 X"},
		{"GET", "199 X", "199 X"},
		{"GET", "204 X", "204 X"},
		{"GET", "304 X", "304 X"},
		{"POST", "204 X", "204 X"},
		{"CONNECT", "200 X", "200 X"},
		{"CONNECT", "299 X", "299 X"},
	} {
		for _, field := range []string{"Content-Length: 5", "Transfer-Encoding: chunked", "X: y"} {
			accepted(t, responseTo(c.method), [2]string{head("HTTP/1.1 "+c.line, field), c.want})
		}
		accepted(t, responseTo(c.method), [2]string{head("HTTP/1.1 "+c.line, "Content-Length: 5", "Connection: close"), c.want + " close"})
	}
	for _, c := range []struct{ method, line, want string }{
		{"GET", "200 X", "200 X length=5"},
		{"GET", "203 X", "203 X length=5"},
		{"GET", "205 X", "205 X length=5"},
		{"GET", "303 X", "303 X length=5"},
		{"GET", "305 X", "305 X length=5"},
		{"OPTIONS", "200 X", "200 X length=5"},
		{"head", "200 X", "200 X length=5"},
		{"CONNECT", "300 X", "300 X length=5"},
		{"CONNECT", "407 X", "407 X length=5"},
	} {
		accepted(t, responseTo(c.method), [2]string{head("HTTP/1.1 "+c.line, "Content-Length: 5"), c.want})
	}
}

func TestRFC9112_6_3_Bodiless(t *testing.T) {
	for status := 100; status < 1000; status++ {
		none := status < 200 || status == 204 || status == 304
		for method, want := range map[string]bool{"GET": none, "HEAD": true, "CONNECT": none || status < 300} {
			if got := Bodiless(method, status); got != want {
				t.Errorf("Bodiless(%s, %d) is %v", method, status, got)
			}
		}
	}
}
