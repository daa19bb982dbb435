package router

import (
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// source turns fuzz bytes into decisions. At its end every decision is 0.
type source struct{ rest []byte }

func (s *source) below(n int) int {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return int(b) % n
}

func (s *source) of(list []string) string { return list[s.below(len(list))] }

// some puts up to n pieces together.
func (s *source) some(n int, list []string) string {
	out := ""
	for range s.below(n + 1) {
		out += s.of(list)
	}
	return out
}

// The alphabets are small, so that what is derived collides often.
var ( // never written
	fuzzPieces   = []string{"/", "a", "b", "/a", "/b", "%", "%2F", "%2f", "%61", "%2", "%25", "A", ".", "+", "%C3", "\xa9", "*", " "}
	fuzzPatterns = []string{"/", "a", "b", ".", ".*", "[^/]+", "(a|b)", "a+", "(?i)", "$", "^", "%", `\Q`, `\E`, "|", "(/a)?", "é"}
	fuzzMethods  = []string{"", "GET", "PUT", "HEAD"}
	fuzzNames    = []string{"x", "y", "host", "a"}
	fuzzFields   = []string{"X", "x", "Y", "Host", "a", "A", "x-"}
	fuzzValues   = []string{"", "a", "b", ",", "a,b", " ", "%61", "+", "/", "="}
)

func (s *source) value(named string) model.ValueMatch {
	v := model.ValueMatch{Name: named, Type: model.Exact}
	if s.below(2) == 1 {
		v.Type, v.Value = model.RegularExpression, s.some(4, fuzzPatterns)
	} else {
		v.Value = s.some(3, fuzzValues)
	}
	return v
}

func (s *source) values() (list []model.ValueMatch) {
	taken := map[string]bool{}
	for range s.below(3) {
		if name := s.of(fuzzNames); !taken[name] {
			taken[name] = true
			list = append(list, s.value(name))
		}
	}
	return list
}

func (s *source) match() model.Match {
	m := model.Match{Method: s.of(fuzzMethods), Headers: s.values(), Query: s.values()}
	switch s.below(3) {
	case 0:
		m.Path = model.PathMatch{Type: model.PathPrefix, Value: "/" + s.some(4, fuzzPieces)}
	case 1:
		m.Path = model.PathMatch{Type: model.Exact, Value: "/" + s.some(4, fuzzPieces)}
	default:
		m.Path = model.PathMatch{Type: model.RegularExpression, Value: s.some(5, fuzzPatterns)}
	}
	return m
}

func (s *source) table() *model.RouteTable {
	t := &model.RouteTable{}
	for range 1 + s.below(5) {
		r := model.Rule{}
		for range 1 + s.below(3) {
			r.Matches = append(r.Matches, s.match())
		}
		t.Rules = append(t.Rules, r)
	}
	return t
}

func (s *source) request() *message.Request {
	r := &message.Request{Method: s.of(fuzzMethods), Authority: s.some(2, fuzzValues)}
	r.Path = s.some(6, fuzzPieces)
	if s.below(8) > 0 {
		r.Path = "/" + r.Path
	}
	if r.HasQuery = s.below(2) == 1; r.HasQuery {
		for range s.below(4) {
			r.Query += s.of(fuzzNames) + s.of([]string{"=", "&", "", ";"}) + s.some(3, fuzzValues) + s.of([]string{"&", ";"})
		}
	}
	for range s.below(5) {
		r.Fields.Add(s.of(fuzzFields), s.some(3, fuzzValues))
	}
	return r
}

// FuzzMatch derives a table and requests, and holds the router against the reference.
func FuzzMatch(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{rest: data}
		table := s.table()
		c, err := Compile(table)
		if err != nil { // an expression that is none
			return
		}
		for range 4 {
			r := s.request()
			if got, want := c.Match(r), referenceMatch(table, r); got != want {
				t.Errorf("%+v\nof the table %+v\nis for rule %d, and the reference says %d", r, table, got, want)
			}
		}
	})
}
