// Package hpack is the compression of header blocks (RFC 7541) for a proxy: a decoder that allocates nothing in the steady
// state, and an encoder without state, whose bytes are right on any connection.
package hpack

import "unsafe"

// overhead is what a field counts beyond its name and value, in the table (RFC 7541, 4.1) and in a header list (RFC 9113,
// 6.5.2).
const overhead = 32

func sizeOf(name, value string) int { return len(name) + len(value) + overhead }

// Error says which rule a header block breaks: a connection error of type COMPRESSION_ERROR (RFC 9113, 4.3). It is data:
// errors are made once, so that hostile input costs no memory.
type Error struct {
	Reason string // in plain words
	Rule   string // the section that it breaks
}

func (e *Error) Error() string { return e.Reason + " (" + e.Rule + ")" }

// What can be wrong with a header block.
var (
	errIndexZero   = &Error{"a field has index 0", "RFC 7541, 6.1"}
	errIndex       = &Error{"an index is beyond the end of the table", "RFC 7541, 2.3.3"}
	errInteger     = &Error{"an integer is too large or too long", "RFC 7541, 5.1"}
	errIntegerCut  = &Error{"the header block ends within an integer", "RFC 7541, 5.1"}
	errString      = &Error{"a string is longer than what is left of the header block", "RFC 7541, 5.2"}
	errStringNone  = &Error{"the header block ends before the string of a literal field", "RFC 7541, 6.2"}
	errEOS         = &Error{"a Huffman-coded string has EOS in it", "RFC 7541, 5.2"}
	errPadding     = &Error{"the padding of a Huffman-coded string is not the beginning of EOS", "RFC 7541, 5.2"}
	errPaddingLong = &Error{"the padding of a Huffman-coded string is longer than 7 bits", "RFC 7541, 5.2"}
	errUpdateLarge = &Error{"a table size update is above the size that we allow", "RFC 7541, 6.3"}
	errUpdateLate  = &Error{"a table size update follows a field", "RFC 7541, 4.2"}
	errUpdates     = &Error{"a header block has more than two table size updates", "RFC 7541, 4.2"}
)

// view is a string whose bytes are b's.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
