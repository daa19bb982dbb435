package router

import (
	"math/rand/v2"
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
	fuzzNamed    = []string{"", "", "a", "a", "b", "ab", "A", "a%2Fb", "%", "é"}
	fuzzTypes    = []string{"application/grpc", "application/grpc", "application/grpc+a", "Application/GRPC;a", "application/grpc-web", "a"}
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

// call is a match of a gRPC table.
func (s *source) call() model.Match {
	m := model.Match{RPC: &model.RPCMatch{}, Headers: s.values()}
	switch s.below(5) {
	case 0, 1:
		*m.RPC = model.RPCMatch{Type: model.Exact, Service: s.of(fuzzNamed), Method: s.of(fuzzNamed)}
	case 2, 3:
		*m.RPC = model.RPCMatch{Type: model.RegularExpression, Service: s.some(3, fuzzPatterns), Method: s.some(3, fuzzPatterns)}
	}
	return m
}

func (s *source) grpcTable() *model.RouteTable {
	t := &model.RouteTable{GRPC: true}
	for range 1 + s.below(6) {
		r := model.Rule{}
		for range 1 + s.below(3) {
			r.Matches = append(r.Matches, s.call())
		}
		t.Rules = append(t.Rules, r)
	}
	return t
}

// called is a request that is a call, most of the time.
func (s *source) called() *message.Request {
	r := s.request()
	if s.below(16) > 0 {
		r.Method = "POST"
	}
	if s.below(8) > 0 {
		r.Path = "/" + s.of(fuzzNamed) + "/" + s.of(fuzzNamed)
	}
	if s.below(16) > 0 {
		r.Fields.Add("Content-Type", s.of(fuzzTypes))
	}
	return r
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
		compare(t, s.table(), s.request)
	})
}

// FuzzMatchRPC is the same with tables of GRPCRoutes.
func FuzzMatchRPC(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{rest: data}
		compare(t, s.grpcTable(), s.called)
	})
}

// compare holds the router against the reference.
func compare(t *testing.T, table *model.RouteTable, request func() *message.Request) (found int) {
	t.Helper()
	c, err := Compile(table)
	if err != nil { // an expression that is none
		return 0
	}
	for range 4 {
		r := request()
		got, want := c.Match(r), referenceMatch(table, r)
		if got != want {
			t.Errorf("%+v\nof the table %+v\nis for rule %d, and the reference says %d", r, table, got, want)
		}
		if want >= 0 {
			found++
		}
	}
	return found
}

// Random tables and calls. That enough of them match is part of the test: what never matches proves nothing.
func TestRandomCalls(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	found, n := 0, 500
	for i := 0; i < n && !t.Failed(); i++ {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		s := &source{rest: data}
		found += compare(t, s.grpcTable(), s.called)
	}
	if found < n/4 && !t.Failed() { // many tables have an expression that is none
		t.Errorf("only %d calls matched", found)
	}
}
