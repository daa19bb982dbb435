// Package http1 is HTTP/1.1 on the wire: strict parsers and writers over the messages of package message (RFC 9110, 9112).
//
// What the RFCs call an error is an error here, never a guess: differing opinions about where a message ends are how
// requests are smuggled. What is in order passes unchanged: the spelling and the order of fields, chunk boundaries,
// trailers.
package http1

import (
	"bytes"
	"math"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
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

	named string // Connection's value, when it names fields that are not hop-by-hop by themselves
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
	options            string // Connection's, if there is one line
	connections        int
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
		l, rest, ok, err := line(b)
		if !ok || err != nil {
			return nil, false, err
		}
		if len(l) == 0 {
			return rest, true, nil
		}
		name, value, err := field(l)
		if err != nil {
			return nil, false, err
		}
		into.Add(name, value)
		if k := kindOf(name); k != endToEnd {
			if err := f.note(k, value); err != nil {
				return nil, false, err
			}
		}
		b = rest
	}
}

func field(l []byte) (name, value string, err *Error) {
	i := 0
	for i < len(l) && classes[l[i]]&tokenByte != 0 {
		i++
	}
	if i == 0 || i == len(l) || l[i] != ':' {
		return "", "", fieldError(l, i)
	}
	v := trim(l[i+1:])
	if !clean(v) {
		if bytes.IndexByte(v, '\r') >= 0 {
			return "", "", errBareCR
		}
		return "", "", errFieldValue
	}
	return view(l[:i]), view(v), nil
}

// fieldError says what is wrong with the name that ends at i.
func fieldError(l []byte, i int) *Error {
	switch {
	case i == 0 && (l[0] == ' ' || l[0] == '\t'):
		return errFold
	case i == len(l):
		return errFieldColon
	case i > 0 && (l[i] == ' ' || l[i] == '\t'):
		return errFieldSpace
	case l[i] == '\r':
		return errBareCR
	}
	return errFieldName
}

func (f *facts) note(k kind, value string) *Error {
	switch k {
	case hostField:
		f.hosts++
		f.host = value
	case lengthField:
		f.lengths++
		n, ok := parseLength(value)
		if !ok {
			return errLength
		}
		f.length = n
	case codingField:
		return f.noteCodings(value)
	case connectionField:
		f.connections++
		if f.connections == 1 {
			f.options = value
		} else {
			f.options += "," + value // rare: it allocates
		}
	case teField:
		f.trailers = f.trailers || hasOption(value, "trailers")
	case upgradeField:
		if f.upgrade == "" {
			f.upgrade = value
		} else {
			f.upgrade += ", " + value
		}
	case expectField:
		f.expected = f.expected || message.EqualName(value, "100-continue")
	}
	return nil
}

// parseLength reads 1*DIGIT that fits an int64.
func parseLength(s string) (n int64, ok bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func (f *facts) noteCodings(value string) *Error {
	unknown := false
	for coding := range strings.SplitSeq(value, ",") {
		coding = strings.Trim(coding, " \t")
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

// connection reads the options of Connection (RFC 9110, 7.6.1).
func (f *facts) connection(h *Head) {
	upgrade := false
	if f.connections > 0 {
		for option := range strings.SplitSeq(f.options, ",") {
			option = strings.Trim(option, " \t")
			switch {
			case message.EqualName(option, "close"):
				h.Close = true
			case message.EqualName(option, "keep-alive"):
				h.KeepAlive = true
			case message.EqualName(option, "upgrade"):
				upgrade = true
			case option == "" || kindOf(option) != endToEnd:
			default:
				h.named = f.options
			}
		}
	}
	if h.Minor == 0 && !h.KeepAlive {
		h.Close = true
	}
	if upgrade && h.Minor > 0 { // RFC 9110, 7.8: of an HTTP/1.0 request it is ignored
		h.Upgrade = f.upgrade
	}
	h.Trailers = f.trailers
}

// hasOption tells whether a comma-separated list has a member, whose parameters do not matter.
func hasOption(list, want string) bool {
	for member := range strings.SplitSeq(list, ",") {
		member, _, _ = strings.Cut(member, ";")
		if message.EqualName(strings.Trim(member, " \t"), want) {
			return true
		}
	}
	return false
}
