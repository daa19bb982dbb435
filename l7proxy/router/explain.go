package router

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// Explanation is what Match finds, and why.
type Explanation struct {
	Rule  int // what Match returns
	Match int // which of that rule's Matches it was; -1 where Rule is

	// NoCall: the table is of GRPCRoutes, and the request is no call of gRPC. Nothing else was looked at.
	NoCall bool

	Alternatives []Alternative // every match of every rule, in the order of precedence; none where NoCall is
}

// Alternative is what became of one match of a rule.
type Alternative struct {
	Rule, Match int
	Misses      []Miss    // the conditions that do not hold; none: all of them do
	Lost        Criterion // of one whose conditions hold and that did not win: what decided
}

// Miss is a condition that does not hold.
type Miss struct {
	Part  Part
	Index int    // among the match's conditions on that part
	Got   string // what the request has there, in the form that is compared
	There bool   // false: it has nothing there, neither of which is an empty value
}

// Part is what of a request a condition is on.
type Part string

// The parts. The last two are those of gRPC's "/service/method".
const (
	PartPath    Part = "path"
	PartMethod  Part = "method"
	PartHeader  Part = "header"
	PartQuery   Part = "query"
	PartService Part = "service"
	PartRPC     Part = "rpc"
)

// Criterion is what decides between two matches that hold both. Each is asked where those before it are equal.
type Criterion string

// The criteria, in the order of their weight.
const (
	ByPathType   Criterion = "path_type"   // exact, regular expression, prefix
	ByPathLength Criterion = "path_length" // the longer one wins
	ByMethod     Criterion = "method"      // one that asks for a method wins
	ByService    Criterion = "service"     // of gRPC: exact, regular expression (the longer one), any
	ByRPC        Criterion = "rpc"         // the same of the method that is called
	ByHeaders    Criterion = "headers"     // the one that asks for more wins
	ByQuery      Criterion = "query"
	ByOrder      Criterion = "order" // that of the table
)

// Explain tells of each alternative whether it holds, and what decided among those that do. It asks the conditions that
// Match asks, of all alternatives.
func (t *Table) Explain(r *message.Request) Explanation {
	e := Explanation{Rule: -1, Match: -1}
	if t.grpc && !r.IsGRPC() {
		e.NoCall = true
		return e
	}
	path := appendPath(nil, r.Path)
	m := matcher{table: t, request: r, path: text{decoded: path, isDecoded: true}}
	defer func() {
		if m.held != nil {
			t.release(m.held)
		}
	}()
	var winner []rank
	for _, c := range t.candidates() {
		a := Alternative{Rule: c.rule, Match: c.match, Misses: append(c.miss(&m), m.misses(c.alternative)...)}
		switch {
		case len(a.Misses) > 0:
		case winner == nil:
			e.Rule, e.Match, winner = a.Rule, a.Match, c.ranks
		default:
			a.Lost = decides(winner, c.ranks)
		}
		e.Alternatives = append(e.Alternatives, a)
	}
	return e
}

// candidate is an alternative with what makes Match look at it.
type candidate struct {
	*alternative
	miss  func(*matcher) []Miss // the conditions on the path that do not hold
	ranks []rank
}

// rank is how specific a candidate is by one criterion.
type rank struct {
	by    Criterion
	value int
}

// candidates are all alternatives in the order of precedence. Those that no request can have both are in any order that stays.
func (t *Table) candidates() []candidate {
	var all []candidate
	if t.grpc {
		return t.calledCandidates()
	}
	add := func(a *alternative, kind, length int, holds func(*text) bool) {
		all = append(all, candidate{a, missesPath(holds), append([]rank{{ByPathType, kind}, {ByPathLength, length}}, ranksOf(a)...)})
	}
	for _, path := range slices.Sorted(maps.Keys(t.exact)) {
		for i := range t.exact[path] {
			add(&t.exact[path][i], exactName, len(path), func(p *text) bool { return p.equals(path) })
		}
	}
	for i := range t.patterns {
		p := &t.patterns[i]
		add(&p.alternative, expressionName, len(p.source), func(path *text) bool { return path.hasPrefix(p.literal) && path.matches(p.expression) })
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(t.prefixes), longestFirst) {
		for i := range t.prefixes[prefix] {
			add(&t.prefixes[prefix][i], anyName, len(prefix), func(p *text) bool { return p.endsElement(len(prefix)) && p.hasPrefix(prefix) })
		}
	}
	return all
}

func longestFirst(a, b string) int {
	return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
}

// calledCandidates are those of a gRPC table.
func (t *Table) calledCandidates() []candidate {
	var all []candidate
	add := func(a *alternative, service, method name) {
		ranks := append([]rank{
			{ByService, service.rank()}, {ByService, len(service.value)}, {ByRPC, method.rank()}, {ByRPC, len(method.value)},
		}, ranksOf(a)...)
		all = append(all, candidate{a, func(m *matcher) []Miss { return m.missesNames(&service, &method) }, ranks})
	}
	for _, path := range slices.Sorted(maps.Keys(t.exact)) {
		service, method, _ := strings.Cut(path[1:], "/")
		for i := range t.exact[path] {
			add(&t.exact[path][i], name{value: service}, name{value: method})
		}
	}
	for _, service := range slices.Sorted(maps.Keys(t.prefixes)) {
		for i := range t.prefixes[service] {
			add(&t.prefixes[service][i], name{value: service[1:]}, name{})
		}
	}
	for i := range t.calls {
		add(&t.calls[i].alternative, t.calls[i].service, t.calls[i].method)
	}
	return all
}

// ranksOf are the ranks that moreSpecific compares.
func ranksOf(a *alternative) []rank {
	return []rank{{ByMethod, present(a.method)}, {ByHeaders, len(a.headers)}, {ByQuery, len(a.query)}}
}

// decides is the first criterion by which two candidates of one table differ.
func decides(winner, other []rank) Criterion {
	for i := range winner {
		if winner[i] != other[i] {
			return winner[i].by
		}
	}
	return ByOrder
}

func missesPath(holds func(*text) bool) func(*matcher) []Miss {
	return func(m *matcher) []Miss {
		if holds(&m.path) {
			return nil
		}
		return []Miss{{Part: PartPath, Got: string(m.path.decoded), There: true}}
	}
}

// missesNames tells which of the names of a call that are asked for are others. A path that names no call has none.
func (m *matcher) missesNames(service, method *name) []Miss {
	if m.names(&call{service: *service, method: *method}, m.path.serviceEnd()) {
		return nil
	}
	var misses []Miss
	end := m.path.serviceEnd()
	for _, n := range []struct {
		part Part
		want *name
		at   [2]int
	}{{PartService, service, [2]int{1, end}}, {PartRPC, method, [2]int{end + 1, m.path.len()}}} {
		if end < 0 {
			if n.want.rank() != anyName {
				misses = append(misses, Miss{Part: n.part})
			}
			continue
		}
		if got := m.path.part(n.at[0], n.at[1]); !n.want.holds(got) {
			misses = append(misses, Miss{Part: n.part, Got: string(got.decoded), There: true})
		}
	}
	return misses
}

// misses are the conditions but the path's that do not hold; where there are none, holds says so.
func (m *matcher) misses(a *alternative) []Miss {
	if m.holds(a) {
		return nil
	}
	var misses []Miss
	if a.method != "" && a.method != m.request.Method {
		misses = append(misses, Miss{Part: PartMethod, Got: m.request.Method, There: true})
	}
	for i := range a.headers {
		if c := &a.headers[i]; !m.header(c) {
			got, there := m.headerValue(c.name)
			misses = append(misses, Miss{PartHeader, i, got, there})
		}
	}
	for i := range a.query {
		if c := &a.query[i]; !m.query(c) {
			got, there := m.queryValue(c.name)
			misses = append(misses, Miss{PartQuery, i, got, there})
		}
	}
	return misses
}

// headerValue is what conditions on a header are asked about (M-17).
func (m *matcher) headerValue(name string) (value string, there bool) {
	if name == "host" {
		return m.request.Authority, m.request.Authority != ""
	}
	var all []string
	fields := m.request.Fields
	for i := next(fields, 0, name); i < len(fields); i = next(fields, i+1, name) {
		all = append(all, fields[i].Value)
	}
	return strings.Join(all, ","), len(all) > 0
}

// queryValue is what conditions on a query parameter are asked about (M-18).
func (m *matcher) queryValue(name string) (value string, there bool) {
	if !m.request.HasQuery {
		return "", false
	}
	for parameter := range strings.SplitSeq(m.request.Query, "&") {
		n, raw, _ := strings.Cut(parameter, "=")
		if parameter == "" || !equalDecoded(n, name) {
			continue
		}
		var decoded []byte
		for raw != "" {
			b, size := decodeQuery(raw)
			decoded, raw = append(decoded, b), raw[size:]
		}
		return string(decoded), true
	}
	return "", false
}
