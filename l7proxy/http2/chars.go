package http2

import (
	"math"
	"net/netip"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// class is what a byte may be part of. The classes are those of package http1: what passes here may be written there.
type class uint8

const (
	tokenByte  class = 1 << iota // RFC 9110, 5.6.2
	nameByte                     // the same without capital letters (RFC 9113, 8.2.1)
	targetByte                   // of a path: visible ASCII, without "#", which begins a fragment
	hostByte                     // of a reg-name (RFC 3986, 3.2.2), without ",": no list of hosts is one
	valueByte                    // of a field value (RFC 9110, 5.5): no control character but HTAB
)

var classes = makeClasses()

func makeClasses() (t [256]class) {
	for i := range t {
		c := byte(i)
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= valueByte
		}
		if c > 0x20 && c < 0x7f && c != '#' {
			t[c] |= targetByte
		}
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			t[c] |= tokenByte | nameByte | hostByte
		case 'A' <= c && c <= 'Z':
			t[c] |= tokenByte | hostByte
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= tokenByte | nameByte
	}
	for _, c := range []byte("-._~!$&'()*+;=") {
		t[c] |= hostByte
	}
	return t
}

// span is how many bytes of that class s begins with.
func span(s string, c class) int {
	for i := range len(s) {
		if classes[s[i]]&c == 0 {
			return i
		}
	}
	return len(s)
}

func isAll(s string, c class) bool { return span(s, c) == len(s) }

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// validValue tells whether s is a field value (RFC 9113, 8.2.1: also without space around it).
func validValue(s string) bool {
	return s == "" || isAll(s, valueByte) && !isSpace(s[0]) && !isSpace(s[len(s)-1])
}

// validHost tells whether s is uri-host [ ":" port ], and so without userinfo.
func validHost(s string) bool {
	if s != "" && s[0] == '[' {
		return validIPv6(s[1:])
	}
	i := span(s, hostByte)
	for isEscape(s[i:]) {
		i += 3 + span(s[i+3:], hostByte)
	}
	return i == len(s) || i > 0 && s[i] == ':' && isPort(s[i+1:])
}

// validIPv6 is validHost for what follows "[". A zone means nothing to another machine.
func validIPv6(s string) bool {
	host, port, closed := strings.Cut(s, "]")
	if !closed || port != "" && port[0] != ':' {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Is6() && ip.Zone() == "" && isPort(strings.TrimPrefix(port, ":"))
}

// isEscape tells whether s begins with a percent-encoded byte (RFC 3986, 2.1).
func isEscape(s string) bool { return len(s) >= 3 && s[0] == '%' && isHex(s[1]) && isHex(s[2]) }

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isPort: a port may be empty (RFC 3986, 3.2.3).
func isPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i > 4 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= math.MaxUint16
}

// cutPort cuts a valid host before its port.
func cutPort(s string) (host, port string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.IndexByte(s[i:], ']') >= 0 {
		return s, ""
	}
	return s[:i], s[i+1:]
}

// sameHost compares two valid hosts as RFC 9113, 8.3.1 wants it: after scheme-based normalization (RFC 3986, 6.2.3).
func sameHost(scheme, a, b string) bool {
	if a == b {
		return true
	}
	usual := "80"
	if message.EqualName(scheme, "https") {
		usual = "443"
	}
	hostA, portA := cutPort(a)
	hostB, portB := cutPort(b)
	if portA == "" {
		portA = usual
	}
	if portB == "" {
		portB = usual
	}
	return message.EqualName(hostA, hostB) && portA == portB
}

// parseLength reads 1*DIGIT that fits an int64.
func parseLength(s string) (n int64, ok bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
