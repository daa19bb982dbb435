package http1

import (
	"encoding/binary"
	"unsafe"
)

// class is what a byte may be part of.
type class uint8

const (
	tokenByte  class = 1 << iota // RFC 9110, 5.6.2
	targetByte                   // of a request target: visible ASCII, without "#", which begins a fragment
	hostByte                     // RFC 3986, 3.2.2, without ",": two Host lines that somebody joined are no host
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
	for _, c := range []byte("-._~%!$&'()*+;=:[]") {
		t[c] |= hostByte
	}
	return t
}

func all(s []byte, c class) bool {
	for _, b := range s {
		if classes[b]&c == 0 {
			return false
		}
	}
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// clean tells whether a field value has no control character but HTAB (RFC 9110, 5.5). It looks at eight bytes at a time.
func clean(s []byte) bool {
	for len(s) >= 8 {
		w := binary.LittleEndian.Uint64(s)
		del := w ^ 0x7f*ones
		if ((w-0x20*ones)&^w|(del-ones)&^del)&highs != 0 && !cleanBytes(s[:8]) {
			return false
		}
		s = s[8:]
	}
	return cleanBytes(s)
}

func cleanBytes(s []byte) bool {
	for _, b := range s {
		if b < 0x20 && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}

// view is b as a string that is valid as long as b is not changed.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// trim removes optional white space (OWS: SP and HTAB) at both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
