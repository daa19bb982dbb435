// Package router decides which rule of a table a request belongs to (gamma section 2 of the Gateway API for Services).
//
// The alternatives of all rules of a table are ranked together, not rule by rule: exact path, then regular expression
// (the longer one first, M-1), then the longest path prefix (M-3), then a method, the number of header matches, the
// number of query matches, and last the order of the table, which is that of age. The first that holds wins for good:
// what its rule answers is the answer (M-4).
//
// In a table of GRPCRoutes the rank is that of the service, then that of the method, then the number of header matches, then
// the order of the table. The API ranks services and methods by their characters, and leaves open how many those of a regular
// expression are: those that it has, those that it matched, or none. Here a name that is written out goes before every
// expression, as among paths, the longer expression before the shorter, and both before a name that is not asked for. So a
// match of a service by expression goes before one of a method only. Names are compared as paths are, decoded (M-14).
package router

import (
	"bytes"
	"regexp"
	"strings"
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// Table is a compiled model.RouteTable. It is immutable and safe for concurrent use.
type Table struct {
	exact    map[string][]alternative // by path
	patterns []pattern                // in order of precedence
	prefixes map[string][]alternative // by prefix without its trailing slash, so "/" is "" (M-12)
	lengths  []int                    // of the prefixes, each once, the longest first

	grpc  bool   // only calls match: exact has those by service and method, prefixes those by service alone
	calls []call // all others, in order of precedence

	scratches sync.Pool // of *scratch
}

// alternative is one match of a rule without its path. Lists of them are in order of precedence.
type alternative struct {
	rule    int
	match   int // which of the rule's
	method  string
	headers []condition
	query   []condition
}

// pattern is an alternative whose path is a regular expression.
type pattern struct {
	alternative
	source     string
	literal    string         // what the path has to begin with, which is cheap to look at first
	expression *regexp.Regexp // anchored
}

// condition compares a header field or a query parameter.
type condition struct {
	name       string
	value      string
	expression *regexp.Regexp // anchored; nil: value is compared
}

// Match returns the index in the model's Rules of the rule that r belongs to, or -1 when there is none: 404 (M-2), and
// in a gRPC table UNIMPLEMENTED (B-20). It does not allocate, and its cost does not depend on rules for other exact paths and
// prefixes, or for other services that are written out.
func (t *Table) Match(r *message.Request) int {
	if t.grpc && !r.IsGRPC() { // A-54, M-35
		return -1
	}
	m := matcher{table: t, request: r, path: text{plain: r.Path}}
	if strings.IndexByte(r.Path, '%') >= 0 {
		s := m.scratch()
		s.path = appendPath(s.path[:0], r.Path)
		m.path = text{decoded: s.path, isDecoded: true}
	}
	rule := m.find()
	if m.held != nil {
		t.release(m.held)
	}
	return rule
}

// matcher is one match under way.
type matcher struct {
	table   *Table
	request *message.Request
	path    text
	held    *scratch // nil until something has to be decoded or joined
}

// find tries the alternatives in order of precedence.
func (m *matcher) find() int {
	t := m.table
	if t.grpc {
		return m.findRPC()
	}
	if rule := m.first(m.path.in(t.exact, m.path.len())); rule >= 0 {
		return rule
	}
	for i := range t.patterns {
		p := &t.patterns[i]
		if m.path.hasPrefix(p.literal) && m.holds(&p.alternative) && m.path.matches(p.expression) {
			return p.rule
		}
	}
	for _, n := range t.lengths {
		if !m.path.endsElement(n) {
			continue
		}
		if rule := m.first(m.path.in(t.prefixes, n)); rule >= 0 {
			return rule
		}
	}
	return -1
}

// first returns the rule of the first alternative that holds, or -1.
func (m *matcher) first(alternatives []alternative) int {
	for i := range alternatives {
		if m.holds(&alternatives[i]) {
			return alternatives[i].rule
		}
	}
	return -1
}

// holds tells whether all conditions but the path's hold (M-10).
func (m *matcher) holds(a *alternative) bool {
	if a.method != "" && a.method != m.request.Method { // GET is not HEAD (M-19)
		return false
	}
	for i := range a.headers {
		if !m.header(&a.headers[i]) {
			return false
		}
	}
	for i := range a.query {
		if !m.query(&a.query[i]) {
			return false
		}
	}
	return true
}

// scratch holds what was decoded or joined for one match.
type scratch struct{ path, value []byte }

// maxScratch is how much a scratch may keep: the length of no usual path or header.
const maxScratch = 16 << 10

func (m *matcher) scratch() *scratch {
	if m.held == nil {
		m.held, _ = m.table.scratches.Get().(*scratch)
	}
	if m.held == nil {
		m.held = &scratch{path: make([]byte, 0, 256), value: make([]byte, 0, 256)}
	}
	return m.held
}

func (t *Table) release(s *scratch) {
	if cap(s.path)+cap(s.value) <= maxScratch {
		t.scratches.Put(s)
	}
}

// text is a path: a string as it came, or bytes when it had to be decoded.
type text struct {
	plain     string
	decoded   []byte
	isDecoded bool
}

func (p *text) len() int {
	if p.isDecoded {
		return len(p.decoded)
	}
	return len(p.plain)
}

// in looks up the first n bytes of p.
func (p *text) in(m map[string][]alternative, n int) []alternative {
	if p.isDecoded {
		return m[string(p.decoded[:n])] // the compiler makes no string of it
	}
	return m[p.plain[:n]]
}

// endsElement tells whether the first n bytes of p are whole path elements (M-12). None are, of any path.
func (p *text) endsElement(n int) bool {
	switch size := p.len(); {
	case n == 0 || n == size:
		return true
	case n > size:
		return false
	case p.isDecoded:
		return p.decoded[n] == '/'
	default:
		return p.plain[n] == '/'
	}
}

// serviceEnd is where in a path "/service/method" the service ends (M-30), or -1 when the path is none.
func (p *text) serviceEnd() int {
	if !p.hasPrefix("/") {
		return -1
	}
	var i int
	if p.isDecoded {
		i = bytes.IndexByte(p.decoded[1:], '/')
	} else {
		i = strings.IndexByte(p.plain[1:], '/')
	}
	if i < 0 {
		return -1
	}
	return 1 + i
}

// part is p from one byte to before another.
func (p *text) part(from, to int) text {
	if p.isDecoded {
		return text{decoded: p.decoded[from:to], isDecoded: true}
	}
	return text{plain: p.plain[from:to]}
}

func (p *text) equals(s string) bool { return p.len() == len(s) && p.hasPrefix(s) }

func (p *text) hasPrefix(s string) bool {
	if p.isDecoded {
		return len(p.decoded) >= len(s) && string(p.decoded[:len(s)]) == s
	}
	return strings.HasPrefix(p.plain, s)
}

func (p *text) matches(e *regexp.Regexp) bool {
	if p.isDecoded {
		return e.Match(p.decoded)
	}
	return e.MatchString(p.plain)
}
