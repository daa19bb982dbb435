package http2

import (
	"errors"
	"fmt"
)

// Code is an error code of RFC 9113, 7.
type Code uint32

// The error codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

// Error says which rule a frame or a message breaks. It is data: errors are made once, so that hostile input costs no memory.
type Error struct {
	Code   Code   // for the peer
	Status int    // what a request is to be answered with, instead of a reset; 0: the stream is reset
	Reason string // in plain words
	Rule   string // the section that it breaks
}

func (e *Error) Error() string {
	if e.Rule == "" {
		return e.Reason
	}
	return e.Reason + " (" + e.Rule + ")"
}

// What Open says.
var (
	ErrBusy   = errors.New("the endpoint allows no more streams on this connection now")
	ErrEnding = errors.New("the connection takes no new streams")
)

// ErrNotHTTP2 is what Await says of an endpoint that speaks something else.
var ErrNotHTTP2 = errors.New("the endpoint does not speak HTTP/2")

// What ends a connection.
var (
	errPreface      = &Error{ProtocolError, 0, "the connection does not begin with the preface of HTTP/2", "RFC 9113, 3.4"}
	errNotSettings  = &Error{ProtocolError, 0, "the first frame is no SETTINGS", "RFC 9113, 3.4"}
	errNotHTTP2     = &Error{ProtocolError, 0, "the peer does not speak HTTP/2", "RFC 9113, 3.4"}
	errFrameSize    = &Error{FrameSizeError, 0, "a frame has the wrong size", "RFC 9113, 4.2"}
	errPadding      = &Error{ProtocolError, 0, "the padding is longer than the frame", "RFC 9113, 6.1"}
	errStreamZero   = &Error{ProtocolError, 0, "a frame that belongs to a stream names none", "RFC 9113, 5.1.1"}
	errStreamNamed  = &Error{ProtocolError, 0, "a frame that belongs to the connection names a stream", "RFC 9113, 5.1.1"}
	errStreamID     = &Error{ProtocolError, 0, "a stream's id is even, or lower than one before", "RFC 9113, 5.1.1"}
	errIdle         = &Error{ProtocolError, 0, "a frame names a stream that was never opened", "RFC 9113, 5.1"}
	errClosedHead   = &Error{StreamClosed, 0, "HEADERS on a stream that has ended", "RFC 9113, 5.1"}
	errInterleaved  = &Error{ProtocolError, 0, "a header block is interrupted", "RFC 9113, 6.10"}
	errContinuation = &Error{ProtocolError, 0, "CONTINUATION without a header block", "RFC 9113, 6.10"}
	errPush         = &Error{ProtocolError, 0, "PUSH_PROMISE, which is not allowed", "RFC 9113, 8.4"}
	errPriority     = &Error{ProtocolError, 0, "a stream depends on itself", "RFC 7540, 5.3.1"}
	errCompression  = &Error{CompressionError, 0, "a header block cannot be decoded", "RFC 9113, 4.3"}
	errSetPush      = &Error{ProtocolError, 0, "SETTINGS_ENABLE_PUSH has no such value", "RFC 9113, 6.5.2"}
	errSetWindow    = &Error{FlowControlError, 0, "SETTINGS_INITIAL_WINDOW_SIZE is too large", "RFC 9113, 6.5.2"}
	errSetFrame     = &Error{ProtocolError, 0, "SETTINGS_MAX_FRAME_SIZE is out of range", "RFC 9113, 6.5.2"}
	errSetConnect   = &Error{ProtocolError, 0, "SETTINGS_ENABLE_CONNECT_PROTOCOL has no such value", "RFC 8441, 3"}
	errWindowZero   = &Error{ProtocolError, 0, "WINDOW_UPDATE by 0", "RFC 9113, 6.9"}
	errWindowOver   = &Error{FlowControlError, 0, "a window exceeds its maximum", "RFC 9113, 6.9.1"}
	errConnWindow   = &Error{FlowControlError, 0, "more data than the connection's window allows", "RFC 9113, 6.9.1"}
	errBlockLong    = &Error{EnhanceYourCalm, 0, "a header block is too long, or in too many pieces", "RFC 9113, 10.5.1"}
	errFlood        = &Error{EnhanceYourCalm, 0, "too many frames that do no work", "RFC 9113, 10.5"}
	errUnread       = &Error{EnhanceYourCalm, 0, "the peer does not read what it asks for", "RFC 9113, 10.5"}
	errHeadTime     = &Error{ProtocolError, 0, "the preface or a header block did not come in time", "RFC 9113, 3.4"}
	errSettingsTime = &Error{SettingsTimeout, 0, "our SETTINGS were not acknowledged in time", "RFC 9113, 6.5.3"}
	errSilent       = &Error{InternalError, 0, "the peer has gone silent", "RFC 9113, 6.7"}
	errStopped      = &Error{NoError, 0, "the connection was stopped", ""}
)

// What ends a stream.
var (
	errStreamWindow = &Error{FlowControlError, 0, "more data than the stream's window allows", "RFC 9113, 6.9.1"}
	errHalfClosed   = &Error{StreamClosed, 0, "a frame on a stream that its sender has ended", "RFC 9113, 5.1"}
	errTooMany      = &Error{RefusedStream, 0, "more streams than SETTINGS_MAX_CONCURRENT_STREAMS allows", "RFC 9113, 5.1.2"}

	errFieldName     = &Error{ProtocolError, 0, "a field name is malformed", "RFC 9113, 8.2.1"}
	errFieldValue    = &Error{ProtocolError, 0, "a field value has a control character, or space around it", "RFC 9113, 8.2.1"}
	errFieldHop      = &Error{ProtocolError, 0, "a field belongs to a connection of HTTP/1.1", "RFC 9113, 8.2.2"}
	errPseudo        = &Error{ProtocolError, 0, "a pseudo-field is unknown, repeated, or behind other fields", "RFC 9113, 8.3"}
	errPseudoMissing = &Error{ProtocolError, 0, "a pseudo-field is missing", "RFC 9113, 8.3.1"}
	errMethod        = &Error{ProtocolError, 0, "the method is malformed", "RFC 9110, 9.1"}
	errScheme        = &Error{ProtocolError, 0, "the scheme is neither http nor https", "RFC 9113, 8.3.1"}
	errPath          = &Error{ProtocolError, 0, "the path is malformed", "RFC 9113, 8.3.1"}
	errAuthority     = &Error{ProtocolError, 0, "the authority is malformed", "RFC 9113, 8.3.1"}
	errHost          = &Error{ProtocolError, 0, "Host and :authority differ, or Host is repeated", "RFC 9113, 8.3.1"}
	errConnect       = &Error{ProtocolError, 0, "a CONNECT request is malformed", "RFC 9113, 8.5"}
	errProtocol      = &Error{ProtocolError, 0, ":protocol without CONNECT, or malformed", "RFC 8441, 4"}
	errStatus        = &Error{ProtocolError, 0, "the status is missing, malformed, or 101", "RFC 9113, 8.3.2"}
	errInterimEnd    = &Error{ProtocolError, 0, "an interim response ends the stream", "RFC 9113, 8.1"}
	errNoHead        = &Error{ProtocolError, 0, "data comes before the head of the response", "RFC 9113, 8.1"}
	errTrailersEnd   = &Error{ProtocolError, 0, "trailers do not end the stream", "RFC 9113, 8.1"}
	errLength        = &Error{ProtocolError, 0, "Content-Length is malformed or repeated", "RFC 9113, 8.1.1"}
	errLengthDiffers = &Error{ProtocolError, 0, "Content-Length is not the length of the body", "RFC 9113, 8.1.1"}
	errListLarge     = &Error{EnhanceYourCalm, 431, "the fields are too large", "RFC 6585, 5"}
	errTargetLong    = &Error{ProtocolError, 414, "the request target is too long", "RFC 9110, 15.5.15"}
	errTrailersLarge = &Error{EnhanceYourCalm, 0, "the trailer section is too large", "RFC 6585, 5"}
)

func (e *StreamError) Error() string { return e.Reason }

// lost says how many streams went with a connection.
type lost struct {
	streams int
	err     error
}

func (l *lost) Error() string {
	return fmt.Sprintf("the connection ended with %d open streams: %v", l.streams, l.err)
}

func (l *lost) Unwrap() error { return l.err }
