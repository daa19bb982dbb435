package http1

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"strings"
	"unsafe"
)

// class is what a byte may be part of.
type class uint8

const (
	tokenByte  class = 1 << iota // RFC 9110, 5.6.2
	targetByte                   // of a request target: visible ASCII, without "#", which begins a fragment
	hostByte                     // of a reg-name (RFC 3986, 3.2.2), without ",": two Host lines that somebody joined are no host
)

var classes = makeClasses()

func makeClasses() (t [256]class) {
	for c := byte(0x21); c < 0x7f; c++ {
		if c != '#' {
			t[c] |= targetByte
		}
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9':
			t[c] |= tokenByte | hostByte
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= tokenByte
	}
	for _, c := range []byte("-._~!$&'()*+;=") {
		t[c] |= hostByte
	}
	return t
}

// span is how many bytes of that class s begins with.
func span[T []byte | string](s T, c class) int {
	for i := range len(s) {
		if classes[s[i]]&c == 0 {
			return i
		}
	}
	return len(s)
}

const (
	ones = 0x0101010101010101
	lows = 0x7f * ones // all bits of a byte but the highest
)

// control is the index of the first control character but HTAB, which no field value has (RFC 9110, 5.5), or len(s). It
// looks at eight bytes at a time: 0x7f + 1 wraps to 0 in seven bits, below the controls' 0x01 to 0x20; what is more sets
// the highest bit when 0x5f is added to it.
func control(s []byte) int {
	i := 0
	for i <= len(s)-8 {
		w := binary.LittleEndian.Uint64(s[i : i+8 : i+8])
		others := (w&lows+ones)&lows + 0x5f*ones
		found := ^(others | w) &^ lows
		if found == 0 {
			i += 8
			continue
		}
		if i += bits.TrailingZeros64(found) / 8; s[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(s) && !isControl(s[i]) {
		i++
	}
	return i
}

func isControl(c byte) bool { return c < 0x20 && c != '\t' || c == 0x7f }

// view is b as a string that is valid as long as b is not changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// isSpace is for optional white space (OWS: SP and HTAB).
func isSpace(c byte) bool { return c == ' ' || c == '\t' }

func trim(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	for s != "" && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// members are what a comma-separated list has, empty ones included (RFC 9110, 5.6.1).
func members(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for more := true; more; {
			var member string
			if member, list, more = strings.Cut(list, ","); !yield(trim(member)) {
				return
			}
		}
	}
}
