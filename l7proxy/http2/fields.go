package http2

import (
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// kind says what a field means to the codec.
type kind int

const (
	endToEnd kind = iota
	hostField
	lengthField
	teField
	connectionField
	hopByHop // any other that belongs to a connection (RFC 9113, 8.2.2)
)

// kindOf knows a field by its name: the length decides mostly.
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
	case 7:
		if message.EqualName(name, "upgrade") {
			return hopByHop
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
			return hopByHop
		}
	}
	return endToEnd
}

// facts is what the fields of a message say to the codec.
type facts struct {
	host   string
	hosts  int
	length int64 // -1: unknown
}

// check checks the fields that follow the pseudo-fields. Host goes: :authority has its place.
func (f *facts) check(fields message.Fields) (message.Fields, *Error) {
	f.length = -1
	for i := range fields {
		name, value := fields[i].Name, fields[i].Value
		switch {
		case name == "" || !syntax.All(name, syntax.NameByte):
			if name != "" && name[0] == ':' {
				return nil, errPseudo
			}
			return nil, errFieldName
		case !validValue(value):
			return nil, errFieldValue
		}
		switch kindOf(name) {
		case hostField:
			f.host = value
			f.hosts++
		case lengthField:
			n, ok := syntax.ParseLength(value)
			if !ok || f.length >= 0 {
				return nil, errLength
			}
			f.length = n
		case teField:
			if value != "trailers" {
				return nil, errFieldHop
			}
		case connectionField, hopByHop:
			return nil, errFieldHop
		}
	}
	if f.hosts > 0 {
		fields.Del("host")
	}
	return fields, nil
}

// checkTrailers checks a trailer section. Fields that frame or route a message are left out, as in HTTP/1.1 (RFC 9110,
// 6.5.1).
func checkTrailers(fields message.Fields) (message.Fields, *Error) {
	var f facts
	fields, err := f.check(fields)
	if err != nil {
		return nil, err
	}
	if f.length >= 0 {
		fields.Del("content-length")
	}
	fields.Del("te")
	return fields, nil
}

// cutPseudo tells where the pseudo-fields end.
func cutPseudo(fields message.Fields) int {
	for i := range fields {
		if name := fields[i].Name; name == "" || name[0] != ':' {
			return i
		}
	}
	return len(fields)
}
