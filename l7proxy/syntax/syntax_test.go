package syntax

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// RFC 9110, 5.6.2 and 5.5; RFC 3986, 3.2.2: each byte is of the classes that the grammar puts it in, and of no other.
func TestClassesAreThoseOfTheGrammar(t *testing.T) {
	const lower, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
	alpha := lower + strings.ToUpper(lower)
	visible := ""
	for c := byte('!'); c <= '~'; c++ {
		visible += string([]byte{c})
	}
	members := map[Class]string{
		TokenByte: alpha + digits + "!#$%&'*+-.^_`|~", NameByte: lower + digits + "!#$%&'*+-.^_`|~",
		TargetByte: strings.ReplaceAll(visible, "#", ""), HostByte: alpha + digits + "-._~!$&'()*+;=",
	}
	for i := range 256 {
		b := byte(i)
		for class, all := range members {
			if got, want := Is(b, class), strings.IndexByte(all, b) >= 0; got != want {
				t.Errorf("byte %#x is of class %d: %v, want %v", b, class, got, want)
			}
		}
		if got, want := Is(b, ValueByte), b == '\t' || b >= 0x20 && b != 0x7f; got != want {
			t.Errorf("byte %#x may be in a value: %v, want %v", b, got, want)
		}
	}
	if n := Span("ab c", TokenByte); n != 2 || All("ab c", TokenByte) || !All("", TokenByte) || !All("abc", TokenByte) {
		t.Errorf("the span of a token is %d", n)
	}
}

// RFC 9112, 3.2 and RFC 9113, 8.3.1: a host and perhaps a port, nothing else.
func TestValidHost(t *testing.T) {
	for _, s := range []string{"", "a", "web.shop", "a:80", "a:", "10.0.0.1:65535", "[::1]", "[::1]:80", "[::1]:", "a%2fb", "%20"} {
		if !ValidHost(s) {
			t.Errorf("%q is no host", s)
		}
	}
	for _, s := range []string{
		"a b", "a@b", "a/b", "a,b", "a:65536", "a:8080808080", "a:x", ":80", "[::1", "::1", "[::1%eth0]", "[10.0.0.1]", "[::1]80", "a%2", "a%zz", "a#b", "a:80:80", "é",
	} {
		if ValidHost(s) {
			t.Errorf("%q is a host", s)
		}
	}
}

// RFC 3986, 2.1.
func TestEscaped(t *testing.T) {
	for i := range 256 {
		for _, form := range []string{"%%%02x", "%%%02X"} {
			if b, ok := Escaped(fmt.Sprintf(form, i) + "rest"); !ok || b != byte(i) {
				t.Errorf("byte %#x is %#x, %v", i, b, ok)
			}
		}
	}
	for _, s := range []string{"", "%", "%4", "41", "%g1", "%1g", "%-1"} {
		if b, ok := Escaped(s); ok {
			t.Errorf("%q stands for %#x", s, b)
		}
	}
}

// RFC 9110, 8.6.
func TestParseLength(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "007": 7, "42": 42, fmt.Sprint(math.MaxInt64): math.MaxInt64} {
		if n, ok := ParseLength(s); !ok || n != want {
			t.Errorf("%q is %d, %v", s, n, ok)
		}
	}
	for _, s := range []string{"", " 1", "1 ", "+1", "-1", "1,1", "0x1", "1.0", "9223372036854775808", "99999999999999999999"} {
		if n, ok := ParseLength(s); ok {
			t.Errorf("%q is %d", s, n)
		}
	}
}
