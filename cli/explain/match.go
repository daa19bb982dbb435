package explain

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/router"
)

// describeMatch is a match in words.
func describeMatch(m *model.Match) string {
	var all []string
	add := func(what string, t model.MatchType, value string) {
		all = append(all, fmt.Sprintf("%s %s %s", what, verb(t), quote(value)))
	}
	if m.RPC != nil {
		if m.RPC.Service != "" {
			add("service", m.RPC.Type, m.RPC.Service)
		}
		if m.RPC.Method != "" {
			add("method", m.RPC.Type, m.RPC.Method)
		}
	} else if m.Path != (model.PathMatch{Type: model.PathPrefix, Value: "/"}) {
		add("path", m.Path.Type, m.Path.Value)
	}
	if m.Method != "" {
		all = append(all, "method is "+m.Method)
	}
	for _, h := range m.Headers {
		add("header "+h.Name, h.Type, h.Value)
	}
	for _, q := range m.Query {
		add("query parameter "+q.Name, q.Type, q.Value)
	}
	switch {
	case len(all) > 0:
		return strings.Join(all, ", ")
	case m.RPC != nil:
		return "every call"
	}
	return "every request"
}

// quote marks where a value begins and ends. Escapes are for what would not show otherwise: expressions have backslashes of their
// own.
func quote(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == '"' || r == utf8.RuneError || !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return `"` + s + `"`
}

// verb is how a value is compared.
func verb(t model.MatchType) string {
	switch t {
	case model.PathPrefix:
		return "begins with"
	case model.RegularExpression:
		return "matches"
	}
	return "is"
}

// describeMisses tells why a match does not hold.
func describeMisses(m *model.Match, misses []router.Miss) string {
	var all []string
	for _, miss := range misses {
		all = append(all, describeMiss(m, miss))
	}
	return strings.Join(all, ", and ")
}

func describeMiss(m *model.Match, miss router.Miss) string {
	what, want, kind := "path", m.Path.Value, m.Path.Type
	switch miss.Part {
	case router.PartMethod:
		what, want, kind = "method", m.Method, model.Exact
	case router.PartHeader:
		v := m.Headers[miss.Index]
		what, want, kind = "header "+v.Name, v.Value, v.Type
	case router.PartQuery:
		v := m.Query[miss.Index]
		what, want, kind = "query parameter "+v.Name, v.Value, v.Type
	case router.PartService:
		what, want, kind = "service", m.RPC.Service, m.RPC.Type
	case router.PartRPC:
		what, want, kind = "method", m.RPC.Method, m.RPC.Type
	}
	want = quote(want)
	not := map[string]string{"is": "is not", "begins with": "does not begin with", "matches": "does not match"}[verb(kind)]
	switch {
	case miss.There:
		return fmt.Sprintf("%s %s %s %s", what, quote(miss.Got), not, want)
	case miss.Part == router.PartService || miss.Part == router.PartRPC:
		return fmt.Sprintf("the path names no %s, where it %s %s", what, needs(kind), want)
	}
	return fmt.Sprintf("there is no %s, which %s %s", what, needs(kind), want)
}

func needs(t model.MatchType) string {
	if t == model.RegularExpression {
		return "has to match"
	}
	return "has to be"
}

// describeLost tells why a match that holds goes after the one that won.
func describeLost(by router.Criterion, winner, other *model.Match) string {
	const nameOrder = "one that is written out goes before an expression, a longer expression before a shorter one, and both before any"
	switch by {
	case router.ByPathType:
		return fmt.Sprintf("%s goes before %s", pathKind(winner), pathKind(other))
	case router.ByPathLength:
		return fmt.Sprintf("its path, %s, is shorter than %s", quote(other.Path.Value), quote(winner.Path.Value))
	case router.ByMethod:
		return fmt.Sprintf("it asks for no method, and the winner for %s", winner.Method)
	case router.ByService:
		return "its service is less specific: " + nameOrder + " service"
	case router.ByRPC:
		return "its method is less specific: " + nameOrder + " method"
	case router.ByHeaders:
		return fmt.Sprintf("it asks for %s, and the winner for %d", count(len(other.Headers), "header"), len(winner.Headers))
	case router.ByQuery:
		return fmt.Sprintf("it asks for %s, and the winner for %d", count(len(other.Query), "query parameter"), len(winner.Query))
	}
	return ""
}

func pathKind(m *model.Match) string {
	switch m.Path.Type {
	case model.Exact:
		return "an exact path"
	case model.RegularExpression:
		return "an expression of the path"
	}
	return "a prefix of the path"
}

// count is a number of things.
func count(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing
	case 1:
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
