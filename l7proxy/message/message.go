// Package message is the one form in which requests and responses exist between the codecs: HTTP/1.1 and HTTP/2 read
// into it and write from it, the router matches on it and filters edit it.
//
// Strings in a message are views: of the read buffer in HTTP/1.1, of the decoder's strings in HTTP/2. They are valid
// until the message is released by the codec that read it; who keeps one longer clones it (strings.Clone).
package message

// Request is the head of a request.
type Request struct {
	Method string
	// Authority is the value of Host or :authority, port included, as it was sent. It is what a codec writes.
	Authority string
	// Path is the path as it was sent, escapes and all; "*" for the asterisk form of OPTIONS; "" for CONNECT.
	Path string
	// Query is what follows "?", as it was sent; HasQuery tells an empty query from none.
	Query    string
	HasQuery bool
	// Scheme is :scheme as it was sent; "" from HTTP/1.1: written as "http".
	Scheme string
	// Protocol is :protocol of an extended CONNECT (RFC 8441), which has a path; "" otherwise.
	Protocol string
	Fields   Fields
}

// Response is the head of a response.
type Response struct {
	Status int
	Reason string // HTTP/1.x only; passed on as it came
	Fields Fields
}

// Field is one field line of a head or a trailer section, with the spelling that it had on the wire.
type Field struct {
	Name, Value string
	// Sensitive: it came as "never indexed", which HTTP/2 passes on as such (RFC 7541, 6.2.3).
	Sensitive bool
}

// Fields are field lines in the order of the wire. In an HTTP/1.1 request they include Host, at its place, so that the
// order survives; its value there is not used: Authority is.
type Fields []Field
