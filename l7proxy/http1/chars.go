package http1

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"strings"
	"unsafe"

	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

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

func trim(s string) string {
	for s != "" && syntax.IsSpace(s[0]) {
		s = s[1:]
	}
	for s != "" && syntax.IsSpace(s[len(s)-1]) {
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
