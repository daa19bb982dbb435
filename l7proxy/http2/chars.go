package http2

import (
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// validValue tells whether s is a field value (RFC 9113, 8.2.1: also without space around it).
func validValue(s string) bool {
	return s == "" || syntax.All(s, syntax.ValueByte) && !syntax.IsSpace(s[0]) && !syntax.IsSpace(s[len(s)-1])
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
