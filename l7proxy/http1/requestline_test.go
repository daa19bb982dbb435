package http1

import (
	"strings"
	"testing"
)

// requestLine is a request with that first line.
func requestLine(line string) string { return head(line, "Host: a") }

func requestLines(lines ...string) (inputs []string) {
	for _, l := range lines {
		inputs = append(inputs, requestLine(l))
	}
	return inputs
}

func TestRFC9112_3_RequestLine(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("GET / HTTP/1.1"), "GET a /"},
		[2]string{requestLine("get / HTTP/1.1"), "get a /"}, // another method than GET (RFC 9110, 9.1)
		[2]string{requestLine("M-SEARCH / HTTP/1.1"), "M-SEARCH a /"},
		[2]string{requestLine("BASELINE-CONTROL /v HTTP/1.1"), "BASELINE-CONTROL a /v"},
		[2]string{requestLine("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"), "!#$%&'*+-.^_`|~09azAZ a /"},
		[2]string{requestLine(strings.Repeat("M", maxMethod) + " / HTTP/1.1"), strings.Repeat("M", maxMethod) + " a /"},
		[2]string{requestLine("GET / HTTP/1.1") + "GET /next HTTP/1.1\r\n", "GET a /"},
	)
}

func TestRFC9112_3_RequestLineMalformed(t *testing.T) {
	refused(t, parseRequest, errRequestLine, requestLines(
		"GET",
		"GET ",
		"GET /", // HTTP/0.9
		"GET / ",
		"GET HTTP/1.1",
		" GET / HTTP/1.1",
		"GET / HTTP/1.1 ",
		"GET / HTTP/1.1\t",
		"GET /\tHTTP/1.1",
		"GET /HTTP/1.1",
		"GET / HTTP 1.1",
	)...)
	refused(t, parseRequest, errTarget, requestLines(
		"GET  HTTP/1.1",
		"GET  / HTTP/1.1",
		"GET /  HTTP/1.1",
		"GET / / HTTP/1.1",
		"GET \t/ HTTP/1.1",
	)...)
}

func TestRFC9110_9_1_MethodMalformed(t *testing.T) {
	refused(t, parseRequest, errMethod, requestLines(
		"G(T / HTTP/1.1",
		"GET, / HTTP/1.1",
		"GET: / HTTP/1.1",
		"GET\t/ HTTP/1.1",
		"\"GET\" / HTTP/1.1",
		"G\xc3\x89T / HTTP/1.1",
		"G\x00T / HTTP/1.1",
		"G\rT / HTTP/1.1",
		"\x16\x03\x01\x02\x00\x01\x00", // TLS
		"http://a/ HTTP/1.1",
		"{}",
		strings.Repeat("M", maxMethod+1)+" / HTTP/1.1",
		strings.Repeat("M", maxMethod+1),
	)...)
}

func TestRFC9110_2_5_Versions(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("GET / HTTP/1.0"), "GET a / 1.0 close"},
		[2]string{requestLine("GET / HTTP/1.2"), "GET a /"}, // is 1.1 for us
		[2]string{requestLine("GET / HTTP/1.9"), "GET a /"},
	)
}

func TestRFC9110_15_6_6_VersionNotSupported(t *testing.T) {
	refused(t, parseRequest, errVersion, requestLines(
		"GET / HTTP/0.9", "GET / HTTP/0.0", "GET / HTTP/2.0", "GET / HTTP/3.0", "GET / HTTP/9.9", "PRI * HTTP/2.0",
	)...)
	if errVersion.Status != 505 {
		t.Errorf("the status is %d, not 505", errVersion.Status)
	}
}

func TestRFC9112_2_3_VersionMalformed(t *testing.T) {
	refused(t, parseRequest, errRequestLine, requestLines(
		"GET / http/1.1", "GET / Http/1.1", "GET / HTTP/1.10", "GET / HTTP/01.1", "GET / HTTP/11", "GET / HTTP/1", "GET / HTTP/1.",
		"GET / HTTP/.1", "GET / HTTP/1.x", "GET / HTTP/x.1", "GET / HTTP/1,1", "GET / HTTP/-1.1", "GET / HTTP1.1", "GET / HTTPS/1.1", "GET / ICAP/1.0",
		"GET / HTTP/1.\xb1", "GET / HTTP/1.:", "GET / HTTP/1./", "GET / RTSP/1.1",
	)...)
}

func TestRFC9112_2_2_OneEmptyLineBefore(t *testing.T) {
	ok := requestLine("GET / HTTP/1.1")
	accepted(t, parseRequest, [2]string{"\r\n" + ok, "GET a /"})
	refused(t, parseRequest, errRequestLine, "\r\n\r\n"+ok)
	refused(t, parseRequest, errLineEnd, "\n"+ok, "\r\n\n"+ok, "\n\r\n"+ok)
	refused(t, parseRequest, errMethod, "\r"+ok, "\r\r\n"+ok)
}

func TestRFC9112_2_2_FirstLineEndsWithLF(t *testing.T) {
	refused(t, parseRequest, errLineEnd, "GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\n\n", "GET /\n", "GET\n", "\n")
	refused(t, parseRequest, errMethod, "G(T / HTTP/1.1\n", strings.Repeat("M", maxMethod+1)+"\n")
}

func TestRFC9112_3_2_1_OriginForm(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("GET /a/b.c;d=e,f:g@h HTTP/1.1"), "GET a /a/b.c;d=e,f:g@h"},
		[2]string{requestLine("GET /?q HTTP/1.1"), "GET a /?q"},
		[2]string{requestLine("GET /? HTTP/1.1"), "GET a /?"}, // an empty query is one
		[2]string{requestLine("GET /?a?b=/c?d HTTP/1.1"), "GET a /?a?b=/c?d"},
		[2]string{requestLine("GET //b/c HTTP/1.1"), "GET a //b/c"},
		[2]string{requestLine("GET /../%2e%2e/./x HTTP/1.1"), "GET a /../%2e%2e/./x"}, // as it was sent
		[2]string{requestLine("GET /%zz%?% HTTP/1.1"), "GET a /%zz%?%"},
		[2]string{requestLine("GET /http://b/ HTTP/1.1"), "GET a /http://b/"},
		[2]string{requestLine("OPTIONS / HTTP/1.1"), "OPTIONS a /"},
		[2]string{requestLine("GET /!\"$&'()*+,-.<=>[\\]^_`{|}~ HTTP/1.1"), "GET a /!\"$&'()*+,-.<=>[\\]^_`{|}~"},
	)
}

func TestRFC9112_3_2_TargetMalformed(t *testing.T) {
	refused(t, parseRequest, errTarget, requestLines(
		"GET a HTTP/1.1",
		"GET a/b HTTP/1.1",
		"GET ?q HTTP/1.1",
		"GET /a#b HTTP/1.1", // a fragment is never sent
		"GET /?a#b HTTP/1.1",
		"GET # HTTP/1.1",
		"GET http://a/#b HTTP/1.1",
		"GET /\xc3\xa9 HTTP/1.1",
		"GET /\x80 HTTP/1.1",
		"GET /\xff HTTP/1.1",
		"GET /a\x00b HTTP/1.1",
		"GET /a\tb HTTP/1.1",
		"GET /a\rb HTTP/1.1",
		"GET /\x7f HTTP/1.1",
		"GET /a b HTTP/1.1",
	)...)
}

func TestRFC9112_3_2_2_AbsoluteForm(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("GET http://b/c?d HTTP/1.1"), "GET b /c?d"}, // Host does not count
		[2]string{requestLine("GET http://b:80/ HTTP/1.1"), "GET b:80 /"},
		[2]string{requestLine("GET HTTP://B/ HTTP/1.1"), "GET B /"},
		[2]string{requestLine("GET http://b HTTP/1.1"), "GET b /"},
		[2]string{requestLine("GET http://b?c HTTP/1.1"), "GET b /?c"},
		[2]string{requestLine("GET http://b? HTTP/1.1"), "GET b /?"},
		[2]string{requestLine("GET http://b//c HTTP/1.1"), "GET b //c"},
		[2]string{requestLine("GET http://b/?http://c HTTP/1.1"), "GET b /?http://c"},
		[2]string{requestLine("GET http://[::1]:80/ HTTP/1.1"), "GET [::1]:80 /"},
		[2]string{requestLine("OPTIONS http://b/ HTTP/1.1"), "OPTIONS b /"},
		[2]string{head("GET http://b/ HTTP/1.1", "Host:"), "GET b /"},
		[2]string{head("GET http://b/ HTTP/1.0"), "GET b / 1.0 close"},
	)
	refused(t, parseRequest, errTarget, requestLines(
		"GET https://b/ HTTP/1.1", // we have no key of b
		"GET ftp://b/ HTTP/1.1",
		"GET http:/b/ HTTP/1.1",
		"GET http:b HTTP/1.1",
		"GET :// HTTP/1.1",
		"GET http:// HTTP/1.1",
		"GET http:///b HTTP/1.1",
		"GET http://?b HTTP/1.1",
		"GET http://u@b/ HTTP/1.1", // userinfo (RFC 9110, 4.2.4)
		"GET http://u:p@b/ HTTP/1.1",
		"GET http://b:x/ HTTP/1.1",
		"GET http://b:65536/ HTTP/1.1",
		"GET http://[b]/ HTTP/1.1",
		"GET http://b\\c/ HTTP/1.1",
		"GET http://:80/ HTTP/1.1",
	)...)
	refused(t, parseRequest, errHostMissing, head("GET http://b/ HTTP/1.1")) // 3.2 asks for it in any case
	refused(t, parseRequest, errHost, head("GET http://b/ HTTP/1.1", "Host: a b"))
	refused(t, parseRequest, errHostRepeated, head("GET http://b/ HTTP/1.1", "Host: b", "Host: b"))
}

func TestRFC9112_3_2_3_AuthorityForm(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("CONNECT b:443 HTTP/1.1"), "CONNECT b:443 -"},
		[2]string{requestLine("CONNECT [2001:db8::1]:443 HTTP/1.1"), "CONNECT [2001:db8::1]:443 -"},
		[2]string{requestLine("connect /b HTTP/1.1"), "connect a /b"}, // is not CONNECT
	)
	refused(t, parseRequest, errTarget, requestLines(
		"CONNECT b HTTP/1.1",
		"CONNECT b: HTTP/1.1",
		"CONNECT :443 HTTP/1.1",
		"CONNECT b:x HTTP/1.1",
		"CONNECT b:65536 HTTP/1.1",
		"CONNECT b:443:443 HTTP/1.1",
		"CONNECT u@b:443 HTTP/1.1",
		"CONNECT /b:443 HTTP/1.1",
		"CONNECT / HTTP/1.1",
		"CONNECT * HTTP/1.1",
		"CONNECT http://b:443/ HTTP/1.1",
		"CONNECT b:443/ HTTP/1.1",
		"CONNECT b:443?c HTTP/1.1",
		"CONNECT [::1] HTTP/1.1", // the last group is no port
		"CONNECT [::1]: HTTP/1.1",
		"CONNECT ::1:443 HTTP/1.1",
		"CONNECT [::1 HTTP/1.1",
		"CONNECT [::1]443 HTTP/1.1",
	)...)
}

func TestRFC9112_3_2_4_AsteriskForm(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{requestLine("OPTIONS * HTTP/1.1"), "OPTIONS a *"},
		[2]string{requestLine("OPTIONS http://b HTTP/1.1"), "OPTIONS b *"},
		[2]string{requestLine("OPTIONS http://b? HTTP/1.1"), "OPTIONS b /?"},
		[2]string{requestLine("OPTIONS /* HTTP/1.1"), "OPTIONS a /*"},
	)
	refused(t, parseRequest, errTarget, requestLines(
		"GET * HTTP/1.1", "options * HTTP/1.1", "OPTIONS *? HTTP/1.1", "OPTIONS ** HTTP/1.1", "OPTIONS */a HTTP/1.1",
	)...)
}
