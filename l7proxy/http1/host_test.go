package http1

import "testing"

// withHost is a request with that Host.
func withHost(value string) string { return head("GET / HTTP/1.1", "Host: "+value) }

func TestRFC9112_3_2_HostMissingOrRepeated(t *testing.T) {
	refused(t, parseRequest, errHostMissing,
		head("GET / HTTP/1.1"),
		head("GET / HTTP/1.2"),
		head("GET / HTTP/1.1", "Hosts: a", "X-Host: a"),
		head("CONNECT a:1 HTTP/1.1"),
		head("OPTIONS * HTTP/1.1"),
	)
	refused(t, parseRequest, errHostRepeated,
		head("GET / HTTP/1.1", "Host: a", "Host: b"),
		head("GET / HTTP/1.1", "Host: a", "X: y", "host: a"),
		head("GET / HTTP/1.1", "Host:", "Host: a"),
		head("GET / HTTP/1.0", "Host: a", "HOST: a"),
	)
	accepted(t, parseRequest,
		[2]string{head("GET / HTTP/1.0"), "GET - / 1.0 close"},
		[2]string{head("GET / HTTP/1.0", "Host: a"), "GET a / 1.0 close"},
		[2]string{head("GET / HTTP/1.1", "X: y", "hOsT: a"), "GET a /"},
	)
}

func TestRFC9110_7_2_Host(t *testing.T) {
	for _, host := range []string{
		"a", "A.example", "a.", "a-b_c~d", "web.shop.svc.cluster.local:8080", "1.2.3.4", "1.2.3.4:80", "999.1", "a:", "a:0", "a:80", "a:00080", "a:65535",
		"[::]", "[::1]", "[::1]:", "[::1]:80", "[2001:DB8::1]:8080", "[::ffff:1.2.3.4]", "[1:2:3:4:5:6:7:8]",
		"%41", "a%2Eb", "a%c3%a9:80", "!$&'()*+;=",
	} {
		accepted(t, parseRequest, [2]string{withHost(host), "GET " + host + " /"})
	}
	accepted(t, parseRequest,
		[2]string{withHost(""), "GET - /"},
		[2]string{withHost(" \t a \t "), "GET a /"},
	)
}

func TestRFC9110_7_2_HostMalformed(t *testing.T) {
	for _, host := range []string{
		"a b", "a\tb", "a,b", "a, b", "u@a", "u:p@a", "http://a", "a/", "a/b", "a?b", "a#b", "a\\b", "<a>", "\"a\"", "{a}", "a|b", "a^b", "a`b",
		"\xc3\xa9", "a\xff", ":", ":80", "a:b", "a:80:80", "a:-1", "a:+1", "a:65536", "a:99999", "a:000080", "a:100000", "a:8 0", "a::80", "::1", "1:2:3",
		"[", "]", "[]", "[]:80", "[a]", "[1.2.3.4]", "[:]", "[:::]", "[::1", "::1]", "[[::1]]", "[::1]]", "[::1]a", "[::1]80", "[::1]:b", "[::1]:65536",
		"a[::1]", "[::1]:80:80", "[::g]", "[1:2:3:4:5:6:7:8:9]", "[12345::]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[v1.a:b]", "[::1 ]",
		"%", "%4", "a%", "a%4", "a%g0", "a%0g", "%%41",
	} {
		refused(t, parseRequest, errHost, withHost(host))
	}
}
