package http1

import "fmt"

// Error says which rule a message breaks. It is data: errors are made once, so that hostile input costs no memory.
type Error struct {
	Status int    // what a server answers to such a request
	Reason string // in plain words, for the client and the log
	Rule   string // the section that it breaks
}

func (e *Error) Error() string {
	if e.Rule == "" {
		return e.Reason
	}
	return fmt.Sprintf("%s (%s)", e.Reason, e.Rule)
}

// What can be wrong with a message. Of a response the Status has no meaning: it is answered 502.
var (
	errRequestLine   = &Error{400, "the request line is malformed", "RFC 9112, 3"}
	errMethod        = &Error{400, "the method is malformed", "RFC 9110, 9.1"}
	errTarget        = &Error{400, "the request target is malformed", "RFC 9112, 3.2"}
	errTargetLong    = &Error{414, "the request target is too long", "RFC 9110, 15.5.15"}
	errVersion       = &Error{505, "the HTTP version is not supported", "RFC 9110, 15.6.6"}
	errStatusLine    = &Error{400, "the status line is malformed", "RFC 9112, 4"}
	errLineEnd       = &Error{400, "a line does not end with CR LF", "RFC 9112, 2.2"}
	errBareCR        = &Error{400, "a CR is not followed by LF", "RFC 9112, 2.2"}
	errFieldName     = &Error{400, "a field name is malformed", "RFC 9112, 5.1"}
	errFieldSpace    = &Error{400, "there is space between a field name and the colon", "RFC 9112, 5.1"}
	errFieldColon    = &Error{400, "a field line has no colon", "RFC 9112, 5"}
	errFieldValue    = &Error{400, "a field value has a control character", "RFC 9110, 5.5"}
	errFold          = &Error{400, "a field line begins with space (obs-fold)", "RFC 9112, 5.2"}
	errOptions       = &Error{400, "Connection names too many fields", "RFC 9110, 7.6.1"}
	errUpgrade       = &Error{400, "Upgrade has too many protocols", "RFC 9110, 7.8"}
	errHeadLarge     = &Error{431, "the head is too large", "RFC 6585, 5"}
	errHostMissing   = &Error{400, "Host is missing", "RFC 9112, 3.2"}
	errHostRepeated  = &Error{400, "Host is repeated", "RFC 9112, 3.2"}
	errHost          = &Error{400, "Host is malformed", "RFC 9112, 3.2"}
	errLength        = &Error{400, "Content-Length is malformed", "RFC 9112, 6.3"}
	errLengthTwice   = &Error{400, "Content-Length is repeated", "RFC 9112, 6.3"}
	errLengthChunked = &Error{400, "there is Content-Length as well as Transfer-Encoding", "RFC 9112, 6.3"}
	errCodingOld     = &Error{400, "Transfer-Encoding came with HTTP/1.0", "RFC 9112, 6.1"}
	errCodingTwice   = &Error{400, "chunked is applied more than once, or is not the last transfer coding", "RFC 9112, 6.1"}
	errCodingUnknown = &Error{501, "a transfer coding is not supported", "RFC 9112, 6.1"}
	errChunkSize     = &Error{400, "a chunk size is malformed", "RFC 9112, 7.1"}
	errChunkExt      = &Error{400, "a chunk extension is malformed", "RFC 9112, 7.1.1"}
	errChunkEnd      = &Error{400, "a chunk does not end with CR LF", "RFC 9112, 7.1"}
	errChunkLine     = &Error{400, "a chunk's first line is too long", "RFC 9112, 7.1.1"}
	errTrailersLarge = &Error{431, "the trailer section is too large", "RFC 6585, 5"}
)

// ErrHeadTime is the error of a head that did not come in time.
var ErrHeadTime = &Error{408, "the request's head did not come in time", "RFC 9110, 15.5.9"}
