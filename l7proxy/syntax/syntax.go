// Package syntax is what bytes and words of HTTP may be made of (RFC 9110, RFC 3986), whatever the version is: what one codec
// lets pass, the other one may write.
package syntax

import (
	"math"
	"net/netip"
	"strings"
)

// Class is what a byte may be part of.
type Class uint8

// The classes.
const (
	TokenByte  Class = 1 << iota // RFC 9110, 5.6.2
	NameByte                     // the same without capital letters (RFC 9113, 8.2.1)
	TargetByte                   // of a request target: visible ASCII, without "#", which begins a fragment
	HostByte                     // of a reg-name (RFC 3986, 3.2.2), without ",": two Host lines that somebody joined are no host
	ValueByte                    // of a field value (RFC 9110, 5.5): no control character but HTAB
)

// classes are never written to.
var classes = makeClasses()

func makeClasses() (t [256]Class) {
	for i := range t {
		c := byte(i)
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= ValueByte
		}
		if c > 0x20 && c < 0x7f && c != '#' {
			t[c] |= TargetByte
		}
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			t[c] |= TokenByte | NameByte | HostByte
		case 'A' <= c && c <= 'Z':
			t[c] |= TokenByte | HostByte
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= TokenByte | NameByte
	}
	for _, c := range []byte("-._~!$&'()*+;=") {
		t[c] |= HostByte
	}
	return t
}

// Is tells whether b is of the class.
func Is(b byte, c Class) bool { return classes[b]&c != 0 }

// Span is how many bytes of that class s begins with.
func Span[T []byte | string](s T, c Class) int {
	for i := range len(s) {
		if classes[s[i]]&c == 0 {
			return i
		}
	}
	return len(s)
}

// All tells whether s is of bytes of that class only.
func All(s string, c Class) bool { return Span(s, c) == len(s) }

// IsSpace is for optional white space (OWS: SP and HTAB).
func IsSpace(c byte) bool { return c == ' ' || c == '\t' }

// ValidHost tells whether s is uri-host [ ":" port ], and so without userinfo. The empty one is valid.
func ValidHost(s string) bool {
	if s != "" && s[0] == '[' {
		return validIPv6(s[1:])
	}
	i := Span(s, HostByte)
	for {
		if _, ok := Escaped(s[i:]); !ok {
			break
		}
		i += 3 + Span(s[i+3:], HostByte)
	}
	return i == len(s) || i > 0 && s[i] == ':' && IsPort(s[i+1:])
}

// validIPv6 is ValidHost for what follows "[". A zone means nothing to another machine.
func validIPv6(s string) bool {
	host, port, closed := strings.Cut(s, "]")
	if !closed || port != "" && port[0] != ':' {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Is6() && ip.Zone() == "" && IsPort(strings.TrimPrefix(port, ":"))
}

// IsPort tells whether s is a port, which may be empty (RFC 3986, 3.2.3).
func IsPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i > 4 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= math.MaxUint16
}

// Escaped returns the byte that a percent-encoding at the beginning of s stands for (RFC 3986, 2.1).
func Escaped(s string) (b byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	high, low := Unhex(s[1]), Unhex(s[2])
	return high<<4 | low, high < 16 && low < 16
}

// Unhex is the value of a hexadecimal digit, 0xff if c is none.
func Unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// ParseLength reads the value of Content-Length: 1*DIGIT that fits an int64 (RFC 9110, 8.6).
func ParseLength(s string) (n int64, ok bool) {
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
