package http1

import (
	"strings"
	"testing"
)

// post is a request with those fields, answer a response.
func post(fields ...string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + head(fields...) }

func answer(fields ...string) string { return "HTTP/1.1 200 OK\r\n" + head(fields...) }

// framed tries fields in a request and in a response.
func framed(t *testing.T, want *Error, fields ...string) {
	t.Helper()
	refused(t, parseRequest, want, post(fields...))
	refused(t, responseTo("GET"), want, answer(fields...))
	refused(t, responseTo("HEAD"), want, answer(fields...)) // no body, but no less malformed
	refused(t, responseTo("GET"), want, "HTTP/1.1 304 Not Modified\r\n"+head(fields...))
}

func TestRFC9112_6_3_Bodies(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{post("X: y"), "POST a /"}, // none without a word of one (rule 7)
		[2]string{post("Content-Length: 0"), "POST a /"},
		[2]string{post("Content-Length: 5") + "hello", "POST a / length=5"},
		[2]string{post("CONTENT-length:\t005 "), "POST a / length=5"},
		[2]string{post("Content-Length: 9223372036854775807"), "POST a / length=9223372036854775807"},
		[2]string{post("Content-Length: 00000000000000000000000000001"), "POST a / length=1"},
		[2]string{post("Transfer-Encoding: chunked") + "0\r\n\r\n", "POST a / chunked"},
		[2]string{post("transfer-ENCODING: Chunked"), "POST a / chunked"},
		[2]string{head("GET / HTTP/1.1", "Host: a", "Content-Length: 5"), "GET a / length=5"}, // any method may have one
		[2]string{head("GET / HTTP/1.2", "Host: a", "Transfer-Encoding: chunked"), "GET a / chunked"},
		[2]string{head("POST / HTTP/1.0", "Content-Length: 5"), "POST - / 1.0 length=5 close"},
	)
	accepted(t, responseTo("GET"),
		[2]string{answer("X: y"), "200 OK until-close close"}, // rule 8
		[2]string{answer("Content-Length: 0"), "200 OK"},
		[2]string{answer("Content-Length: 5"), "200 OK length=5"},
		[2]string{answer("Transfer-Encoding: chunked"), "200 OK chunked"},
		[2]string{head("HTTP/1.0 200 OK", "Connection: keep-alive"), "200 OK 1.0 until-close close keep-alive"},
		[2]string{head("HTTP/1.0 200 OK", "Connection: keep-alive", "Content-Length: 1"), "200 OK 1.0 length=1 keep-alive"},
	)
}

func TestRFC9112_6_3_ContentLengthRepeated(t *testing.T) {
	framed(t, errLengthTwice, "Content-Length: 5", "Content-Length: 6")
	framed(t, errLengthTwice, "Content-Length: 5", "Content-Length: 5")
	framed(t, errLengthTwice, "Content-Length: 0", "X: y", "content-length: 0")
	framed(t, errLengthTwice, "Content-Length: 5", "Content-Length: 5", "Transfer-Encoding: chunked")
}

func TestRFC9112_6_3_ContentLengthMalformed(t *testing.T) {
	for _, v := range []string{
		"", " ", "+5", "-5", "-0", "+0", "5.0", "5e0", "0x5", "5h", "a", "5 5", "5,5", "5, 5", "5;5", "5,", ",5", "\"5\"", "5 ; x", "1_000", "5\t6", "5/", "/5", "5:", ":5", "٥", "\xb2",
		"9223372036854775808", "9223372036854775817", "18446744073709551615", "18446744073709551616", "18446744073709551621", "99999999999999999999999999",
	} {
		framed(t, errLength, "Content-Length: "+v)
	}
	framed(t, errLength, "Content-Length: 5", "Content-Length: x")
}

func TestRFC9112_6_3_ContentLengthWithTransferEncoding(t *testing.T) {
	framed(t, errLengthChunked, "Content-Length: 5", "Transfer-Encoding: chunked")
	framed(t, errLengthChunked, "Transfer-Encoding: chunked", "Content-Length: 0")
	framed(t, errLengthChunked, "Transfer-Encoding: chunked", "X: y", "content-length: 5")
}

func TestRFC9112_6_1_TransferCodingUnknown(t *testing.T) {
	for _, v := range []string{
		"gzip", "identity", "gzip, chunked", "deflate,chunked", "compress", "x-chunked", "chunkedx", "chunk", "\"chunked\"", "chunked;q=1", "chunked chunked",
		"chunked\xa0", "\xa0chunked", "\x85chunked", "cow", "", ",", " , ,", "chunKED\tx", "chun\u212aed",
	} {
		framed(t, errCodingUnknown, "Transfer-Encoding: "+v)
	}
	framed(t, errCodingUnknown, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked")
	framed(t, errFieldValue, "Transfer-Encoding: \x0bchunked")
	framed(t, errFieldValue, "Transfer-Encoding: chunked\x00")
	framed(t, errFieldSpace, "Transfer-Encoding : chunked")
	framed(t, errFieldName, "Transfer\xe2\x80\x90Encoding: chunked")
}

func TestRFC9112_6_1_ChunkedTwiceOrNotLast(t *testing.T) {
	for _, v := range []string{"chunked, chunked", "chunked,chunked", "chunked, gzip", "chunked, identity", ",chunked,,chunked"} {
		framed(t, errCodingTwice, "Transfer-Encoding: "+v)
	}
	framed(t, errCodingTwice, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
	framed(t, errCodingTwice, "Transfer-Encoding: chunked", "transfer-encoding: identity")
}

func TestRFC9110_5_6_1_EmptyListMembers(t *testing.T) {
	for _, v := range []string{"chunked,", ", chunked", ",, \t,chunked ,"} {
		accepted(t, parseRequest, [2]string{post("Transfer-Encoding: " + v), "POST a / chunked"})
	}
	accepted(t, parseRequest,
		[2]string{post("Transfer-Encoding: chunked", "Transfer-Encoding:"), "POST a / chunked"},
		[2]string{post("Connection: ,, close ,"), "POST a / close"},
		[2]string{post("Connection:"), "POST a /"},
	)
}

func TestRFC9112_6_1_TransferEncodingInHTTP10(t *testing.T) {
	refused(t, parseRequest, errCodingOld,
		head("POST / HTTP/1.0", "Transfer-Encoding: chunked"),
		head("POST / HTTP/1.0", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"),
		head("POST / HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked"),
	)
	refused(t, responseTo("GET"), errCodingOld, head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"))
	refused(t, responseTo("HEAD"), errCodingOld, head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"))
}

func TestRFC9110_10_1_1_Expect(t *testing.T) {
	accepted(t, parseRequest,
		[2]string{post("Expect: 100-continue", "Content-Length: 5"), "POST a / length=5 continue"},
		[2]string{post("expect: 100-Continue", "Transfer-Encoding: chunked"), "POST a / chunked continue"},
		[2]string{post("Expect: 100-continue"), "POST a /"},                      // without a body it asks for nothing
		[2]string{post("Expect: 100-continue", "Content-Length: 0"), "POST a /"}, // likewise
		[2]string{post("Expect: 100-continued", "Content-Length: 5"), "POST a / length=5"},
		[2]string{head("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 5"), "POST - / 1.0 length=5 close"}, // is ignored of 1.0
	)
}

func TestRFC9110_15_5_15_TargetTooLong(t *testing.T) {
	longest := "/" + strings.Repeat("x", limits.Target-1)
	accepted(t, parseRequest, [2]string{requestLine("GET " + longest + " HTTP/1.1"), "GET a " + longest})
	refused(t, parseRequest, errTargetLong,
		requestLine("GET "+longest+"x HTTP/1.1"),
		requestLine("GET "+longest+"\x00 HTTP/1.1"),
		requestLine("GET "+strings.Repeat(" ", limits.Target+1)+" HTTP/1.1"),
		requestLine("GET http://a"+longest+" HTTP/1.1"),
		"GET "+longest+"xxxxxxxxxx",
		"GET "+longest+strings.Repeat("x", 20<<10)+"\n",
	)
	for _, end := range []string{" HTTP/1.1", " HTTP/1.1\r", " HTTP/1.1\r\n"} { // a byte at a time it is no longer than at once
		if got := parseRequest([]byte("GET " + longest + end)); got != (result{}) {
			t.Errorf("with %q it is %+v", end, got)
		}
	}
	refused(t, parseRequest, errRequestLine, requestLine("GET "+longest+" HTTP/1."))
}

// withSize is a head of that many bytes.
func withSize(firstLine string, n int) string {
	const fields = "\r\nHost: a\r\nX: "
	return firstLine + fields + strings.Repeat("x", n-len(firstLine)-len(fields)-4) + "\r\n\r\n"
}

func TestRFC6585_5_HeadTooLarge(t *testing.T) {
	request, response := "GET / HTTP/1.1", "HTTP/1.1 200 OK"
	accepted(t, parseRequest, [2]string{withSize(request, limits.Head), "GET a /"})
	accepted(t, responseTo("GET"), [2]string{withSize(response, limits.Head), "200 OK until-close close"})
	refused(t, parseRequest, errHeadLarge, withSize(request, limits.Head+1), withSize(request, limits.Head)[:limits.Head-4]+"xxxx",
		head(request, "Host: a")[:20]+strings.Repeat("a:b\r\n", limits.Head/5), "\r\n"+withSize(request, limits.Head-1))
	refused(t, responseTo("GET"), errHeadLarge, withSize(response, limits.Head+1), withSize(response, limits.Head)[:limits.Head-4]+"xxxx",
		response+strings.Repeat("K", limits.Head))
	// What follows the head does not count.
	accepted(t, parseRequest, [2]string{withSize(request, limits.Head) + strings.Repeat("x", 100), "GET a /"})
}
