// Package http1 is HTTP/1.1 on the wire: strict parsers and writers over the messages of package message (RFC 9110, 9112).
//
// What the RFCs call an error is an error here, never a guess: differing opinions about where a message ends are how
// requests are smuggled. What is in order passes unchanged: the spelling and the order of fields, chunk boundaries,
// trailers.
package http1

import (
	"bytes"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// Limits of a head, in bytes.
type Limits struct {
	Head   int // all of it, its empty line included
	Target int // of a request
}

// Body says how a message's body is delimited.
type Body int

// The ways of RFC 9112, 6.3.
const (
	NoBody Body = iota
	Length
	Chunked
	UntilClose // of a response
)

// Head is what a head says of its connection and of the body that follows; the message has everything else.
type Head struct {
	Minor  int // of HTTP/1.Minor
	Body   Body
	Length int64 // with Body Length

	Close     bool // the connection ends after this message
	KeepAlive bool // said so in words, which HTTP/1.0 needs
	Continue  bool // Expect: 100-continue
	Trailers  bool // TE: trailers

	// Upgrade is the value of Upgrade when Connection names it, without the protocols that nobody means (usefulUpgrade).
	Upgrade string
}

// kind says what a field means to the codec.
type kind int

const (
	endToEnd kind = iota
	hostField
	lengthField
	codingField
	connectionField
	teField
	upgradeField
	expectField
	hopByHop // any other
)

// kindOf knows a field by its name. It is asked for each field of each message, twice: the length decides mostly.
func kindOf(name string) kind {
	switch len(name) {
	case 2:
		if message.EqualName(name, "te") {
			return teField
		}
	case 4:
		if message.EqualName(name, "host") {
			return hostField
		}
	case 6:
		if message.EqualName(name, "expect") {
			return expectField
		}
	case 7:
		if message.EqualName(name, "upgrade") {
			return upgradeField
		}
	case 10:
		if message.EqualName(name, "connection") {
			return connectionField
		}
		if message.EqualName(name, "keep-alive") {
			return hopByHop
		}
	case 14:
		if message.EqualName(name, "content-length") {
			return lengthField
		}
	case 16:
		if message.EqualName(name, "proxy-connection") {
			return hopByHop
		}
	case 17:
		if message.EqualName(name, "transfer-encoding") {
			return codingField
		}
	}
	return endToEnd
}

// facts is what the fields of a head say about framing and connection while they are read.
type facts struct {
	host, upgrade      string
	hosts              int
	length             int64
	lengths, codings   int
	chunked            bool
	closes, keeps      bool // what Connection says
	upgrades           bool
	named              []string // by Connection: fields that are not hop-by-hop by themselves
	trailers, expected bool
}

// line cuts off the first line, without its end; ok is false when it is not complete yet.
func line(b []byte) (l, rest []byte, ok bool, err *Error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, false, nil
	}
	if i == 0 || b[i-1] != '\r' {
		return nil, nil, false, errLineEnd
	}
	return b[:i-1], b[i+1:], true, nil
}

// fields parses field lines up to the empty line. It returns what follows; ok is false when the end has not come yet.
func (f *facts) fields(b []byte, into *message.Fields) (rest []byte, ok bool, err *Error) {
	for {
		name, value, n, err := field(b)
		if n == 0 {
			return nil, false, err
		}
		b = b[n:]
		if name == "" {
			return b, true, nil
		}
		into.Add(name, value)
		if k := kindOf(name); k != endToEnd {
			if err := f.note(k, value); err != nil {
				return nil, false, err
			}
		}
	}
}

// section parses the fields of the head that b begins with, which follow its first line. It returns the head's length in
// bytes, or 0 when its end has not come yet or something is wrong.
func (f *facts) section(b, fields []byte, into *message.Fields, limits Limits) (int, *Error) {
	rest, ok, err := f.fields(fields, into)
	size := len(b) - len(rest)
	switch {
	case err != nil:
		return 0, err
	case !ok && len(b) >= limits.Head || ok && size > limits.Head:
		return 0, errHeadLarge
	case !ok:
		return 0, nil
	}
	return size, nil
}

// field parses the field line at the beginning of b, of n bytes; 0: its end has not come yet. The empty line, which ends
// the fields, has no name.
func field(b []byte) (name, value string, n int, err *Error) {
	colon := syntax.Span(b, syntax.TokenByte)
	if colon == 0 || colon == len(b) || b[colon] != ':' {
		n, err = noField(b, colon)
		return "", "", n, err
	}
	begin := colon + 1
	for begin < len(b) && syntax.IsSpace(b[begin]) {
		begin++
	}
	end := begin + control(b[begin:])
	if n, err = lineEnd(b, end, errFieldValue); n == 0 {
		return "", "", 0, err
	}
	for end > begin && syntax.IsSpace(b[end-1]) {
		end--
	}
	return view(b[:colon]), view(b[begin:end]), n, nil
}

// lineEnd returns where the next line begins if this one ends at i, and 0 when that cannot be said yet. Without a line's
// end there, it is another error.
func lineEnd(b []byte, i int, other *Error) (int, *Error) {
	switch {
	case i == len(b):
		return 0, nil
	case b[i] == '\n':
		return 0, errLineEnd
	case b[i] != '\r':
		return 0, other
	case i+1 == len(b):
		return 0, nil
	case b[i+1] != '\n':
		return 0, errBareCR
	}
	return i + 2, nil
}

// noField is for a line that has no field name with a colon behind it: at i something else follows.
func noField(b []byte, i int) (int, *Error) {
	other := errFieldName
	if i < len(b) && syntax.IsSpace(b[i]) {
		if other = errFieldSpace; i == 0 {
			other = errFold
		}
	}
	n, err := lineEnd(b, i, other)
	if n > 0 && i > 0 {
		return 0, errFieldColon
	}
	return n, err
}

func (f *facts) note(k kind, value string) *Error {
	switch k {
	case hostField:
		f.hosts++
		f.host = value
	case lengthField:
		f.lengths++
		n, ok := syntax.ParseLength(value)
		if !ok {
			return errLength
		}
		f.length = n
	case codingField:
		return f.noteCodings(value)
	case connectionField:
		return f.noteOptions(value)
	case teField:
		f.trailers = f.trailers || hasOption(value, "trailers")
	case upgradeField:
		switch {
		case f.upgrade == "":
			f.upgrade = value
		case len(f.upgrade)+len(value) > maxUpgrade:
			return errUpgrade
		case value != "":
			f.upgrade += ", " + value // rare: it allocates
		}
	case expectField:
		f.expected = f.expected || message.EqualName(value, "100-continue")
	}
	return nil
}

func (f *facts) noteCodings(value string) *Error {
	unknown := false
	for coding := range members(value) {
		if coding == "" { // an empty list element (RFC 9110, 5.6.1)
			continue
		}
		if f.chunked {
			return errCodingTwice // something follows it
		}
		f.codings++
		if message.EqualName(coding, "chunked") {
			f.chunked = true
		} else {
			unknown = true
		}
	}
	if f.codings == 0 || unknown {
		return errCodingUnknown
	}
	return nil
}

// framing applies RFC 9112, 6.3 to what the fields said. The caller knows messages that have no body by themselves.
func (f *facts) framing(h *Head, otherwise Body) *Error {
	switch {
	case f.lengths > 1:
		return errLengthTwice
	case f.codings > 0 && h.Minor == 0:
		return errCodingOld
	case f.codings > 0 && f.lengths > 0:
		return errLengthChunked
	case f.codings > 0:
		h.Body = Chunked
	case f.lengths > 0:
		h.Body, h.Length = Length, f.length
		if f.length == 0 {
			h.Body = NoBody
		}
	default:
		h.Body = otherwise
	}
	return nil
}

// maxNamed is how many fields Connection may name, and maxUpgrade how long several lines of Upgrade may be together.
// Each name is looked for among all fields, and lines are put together one by one: without limits a head would cost the
// square of its length.
const (
	maxNamed   = 32
	maxUpgrade = 1 << 10
)

// noteOptions reads a line of Connection (RFC 9110, 7.6.1).
func (f *facts) noteOptions(value string) *Error {
	for option := range members(value) {
		switch {
		case message.EqualName(option, "close"):
			f.closes = true
		case message.EqualName(option, "keep-alive"):
			f.keeps = true
		case message.EqualName(option, "upgrade"):
			f.upgrades = true
		case option == "":
		case kindOf(option) != endToEnd && kindOf(option) != expectField:
			// It goes no further anyway, or says where the message goes and where it ends: that stays.
		case len(f.named) == maxNamed:
			return errOptions
		default:
			f.named = append(f.named, option) // rare: it allocates
		}
	}
	return nil
}

// connection applies what Connection said. Fields that it names were meant for us and go no further; they go at once,
// so that a client cannot take away what a filter adds.
func (f *facts) connection(h *Head, fields *message.Fields) {
	for _, name := range f.named {
		fields.Del(name)
	}
	h.Close = f.closes || h.Minor == 0 && !f.keeps
	h.KeepAlive = f.keeps
	if f.upgrades && h.Minor > 0 { // RFC 9110, 7.8: of an HTTP/1.0 request it is ignored
		h.Upgrade = f.upgrade
	}
	h.Trailers = f.trailers
}

// hasOption tells whether a comma-separated list has a member, whose parameters do not matter.
func hasOption(list, want string) bool {
	for member := range members(list) {
		member, _, _ = strings.Cut(member, ";")
		if message.EqualName(trim(member), want) {
			return true
		}
	}
	return false
}
