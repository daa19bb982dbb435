// Package http2 is the wire of HTTP/2 (RFC 9113) in the structure that forwards cheaply: one goroutine reads a connection
// and none belongs to a stream; what comes on a stream is told to a Receiver, and what is sent is gathered in the write
// buffer of its connection until the reader that caused it has nothing more to read (a Turn).
//
// A connection has one mutex, over its write buffer, send windows and streams. Nobody holds two of them, and none is held
// while a Receiver or an Acceptor is called.
package http2

import (
	"cmp"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// Receiver is told what comes on a stream. Its methods are called by the goroutine that reads the connection (Sent also by
// the one that writes what was left over), one at a time but for Sent, and do not block. Token is what Bind or Open was given: a Receiver whose memory is used
// again knows by it whether it is still meant. What they are given are views that are valid until they return.
type Receiver interface {
	// Response is told of the head of a response: interim ones (1xx), then the final one. End: nothing follows.
	Response(t *Turn, token uint64, r *message.Response, end bool)
	// Data is told of a part of the body. The bytes are to be given back to the sender with Credit when they have gone on.
	Data(t *Turn, token uint64, p []byte, end bool)
	// Trailers ends the body.
	Trailers(t *Turn, token uint64, f message.Fields)
	// Sent is told of bytes that Handle.Data had queued and that have gone into the write buffer.
	Sent(t *Turn, token uint64, n int)
	// Gone is told that the stream ended before both sides had ended it. Nothing more comes.
	Gone(t *Turn, token uint64, why *StreamError)
}

// Acceptor is told of the requests on a connection of a client.
type Acceptor interface {
	// Request is told of the head of a request. It calls h.Bind before it returns, or ends the stream. End: there is no body.
	Request(t *Turn, h Handle, r *message.Request, end bool)
	// Refuse is told of a stream whose request is not served: because of err.Status > 0 it has to be answered with that status
	// (an oversized header list: 431), else the stream was reset already and this is for the record.
	Refuse(t *Turn, h Handle, err *Error)
}

// Handle names a stream. The memory of streams is used again: a Handle of a stream that is over does nothing. The zero
// Handle is such a one. Its methods may be called by any goroutine.
type Handle struct {
	conn   *Conn
	stream *stream
	id     uint32
}

// StreamError says how a stream ended that was not ended by both sides.
type StreamError struct {
	Code Code
	// Unprocessed: it is certain that the peer did nothing with the request, which may be sent again (RFC 9113, 8.7:
	// REFUSED_STREAM; 6.8: above the last stream of a GOAWAY; or nothing of the request was written).
	Unprocessed bool
	// NotHTTP2: the peer answered the preface with something else (an HTTP/1 status line) or ended the connection before its SETTINGS came.
	NotHTTP2 bool
	// Malformed: what the peer sent on the stream broke the rules, and we reset it.
	Malformed bool
	// Connection: the connection was lost (EOF, reset, a connection error), not the stream alone.
	Connection bool
	Reason     string // in plain words
}

// Limits bound what a connection may use. Zero values have the defaults named here.
type Limits struct {
	Streams          int // open at the same time that a client may have: 1,024
	HeaderList       int // bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts: 64 KiB
	Target           int // bytes of :path: 16 KiB; beyond it 414
	StreamWindow     int // bytes of a stream that may be on the way to us: 256 KiB
	ConnectionWindow int // bytes of a connection that may be on the way to us: 8 MiB
	Unwritten        int // bytes of the write buffer, beyond which the windows count as closed: 256 KiB
}

// Config is what connections share.
type Config struct {
	Limits  Limits
	Buffers *Buffers
	Keeper  *Keeper // looks after them; nil: nobody does
}

// withDefaults puts the defaults where there is nothing.
func (l Limits) withDefaults() Limits {
	return Limits{
		Streams:          cmp.Or(l.Streams, 1024),
		HeaderList:       cmp.Or(l.HeaderList, 64<<10),
		Target:           cmp.Or(l.Target, 16<<10),
		StreamWindow:     cmp.Or(l.StreamWindow, 256<<10),
		ConnectionWindow: cmp.Or(l.ConnectionWindow, 8<<20),
		Unwritten:        cmp.Or(l.Unwritten, 256<<10),
	}
}
