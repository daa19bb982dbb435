package router

import (
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// header tells whether a condition on a header field holds. A field that is not there fails every condition.
func (m *matcher) header(c *condition) bool {
	if c.name == "host" { // A-102; a request without a host, of HTTP/1.0, has none
		return m.request.Authority != "" && c.holds(m.request.Authority)
	}
	fields := m.request.Fields
	first := next(fields, 0, c.name)
	if first == len(fields) {
		return false
	}
	second := next(fields, first+1, c.name)
	switch {
	case second == len(fields):
		return c.holds(fields[first].Value)
	case c.expression == nil:
		return equalJoined(fields, first, c)
	}
	s := m.scratch()
	s.value = append(s.value[:0], fields[first].Value...)
	for i := second; i < len(fields); i = next(fields, i+1, c.name) {
		s.value = append(s.value, ',')
		s.value = append(s.value, fields[i].Value...)
	}
	return c.expression.Match(s.value)
}

// next returns the index of the first field of that name from start on, or len(fields).
func next(fields message.Fields, start int, name string) int {
	for i := start; i < len(fields); i++ {
		if message.EqualName(fields[i].Name, name) {
			return i
		}
	}
	return len(fields)
}

// equalJoined tells whether the fields of the condition's name, joined with "," (M-17), are its value.
func equalJoined(fields message.Fields, first int, c *condition) bool {
	rest, ok := strings.CutPrefix(c.value, fields[first].Value)
	for i := next(fields, first+1, c.name); ok && i < len(fields); i = next(fields, i+1, c.name) {
		if rest, ok = strings.CutPrefix(rest, ","); ok {
			rest, ok = strings.CutPrefix(rest, fields[i].Value)
		}
	}
	return ok && rest == ""
}

func (c *condition) holds(value string) bool {
	if c.expression != nil {
		return c.expression.MatchString(value)
	}
	return c.value == value
}

// query tells whether a condition on a query parameter holds. The first one of its name counts, and without "=" its
// value is "" (M-18).
func (m *matcher) query(c *condition) bool {
	for rest, more := m.request.Query, m.request.HasQuery; more; {
		var parameter string
		parameter, rest, more = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(parameter, "=")
		if parameter != "" && equalDecoded(name, c.name) {
			return m.parameter(c, value)
		}
	}
	return false
}

func (m *matcher) parameter(c *condition, value string) bool {
	if c.expression == nil {
		return equalDecoded(value, c.value)
	}
	if !strings.ContainsAny(value, "%+") {
		return c.expression.MatchString(value)
	}
	s := m.scratch()
	s.value = s.value[:0]
	for i := 0; i < len(value); {
		b, size := decodeQuery(value[i:])
		s.value = append(s.value, b)
		i += size
	}
	return c.expression.Match(s.value)
}

// equalDecoded tells whether a part of a query, decoded, is want.
func equalDecoded(raw, want string) bool {
	n := 0
	for i := 0; i < len(raw); n++ {
		b, size := decodeQuery(raw[i:])
		if n == len(want) || want[n] != b {
			return false
		}
		i += size
	}
	return n == len(want)
}

// decodeQuery returns the first byte of a part of a query, which is not empty, and how much of s stands for it.
func decodeQuery(s string) (b byte, size int) {
	if b, ok := syntax.Escaped(s); ok {
		return b, 3
	}
	if s[0] == '+' {
		return ' ', 1
	}
	return s[0], 1
}

// appendPath appends a path in the form in which paths are compared (M-14): escapes are decoded, but an escaped slash
// stays one, since it separates no elements, and a "%" that escapes nothing stays as it is. Dots are left alone.
func appendPath(dst []byte, path string) []byte {
	for i := 0; i < len(path); {
		b, ok := syntax.Escaped(path[i:])
		switch {
		case !ok:
			dst = append(dst, path[i])
			i++
			continue
		case b == '/':
			dst = append(dst, "%2F"...) // whatever the case of its F was (RFC 3986, 6.2.2.1)
		default:
			dst = append(dst, b)
		}
		i += 3
	}
	return dst
}
