package router

import (
	"cmp"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Compile compiles t. An error names the place in t that cannot be implemented; the tables of a model.Service that
// Validate has passed have none.
func Compile(t *model.RouteTable) (*Table, error) {
	c := &Table{grpc: t.GRPC, exact: map[string][]alternative{}, prefixes: map[string][]alternative{}}
	add := c.add
	if t.GRPC {
		add = c.addRPC
	}
	for i := range t.Rules {
		for j := range t.Rules[i].Matches {
			if err := add(alternative{rule: i, match: j}, &t.Rules[i].Matches[j]); err != nil {
				return nil, fmt.Errorf("rules[%d].matches[%d].%w", i, j, err)
			}
		}
	}
	c.sort()
	return c, nil
}

// add puts one match where its path will be looked for.
func (t *Table) add(a alternative, m *model.Match) error {
	a.method = m.Method
	var err error
	if a.headers, err = conditions("headers", m.Headers); err != nil {
		return err
	}
	if a.query, err = conditions("query", m.Query); err != nil {
		return err
	}
	switch m.Path.Type {
	case model.Exact, model.PathPrefix:
		if !strings.HasPrefix(m.Path.Value, "/") {
			return fmt.Errorf("path.value: %q does not begin with \"/\"", m.Path.Value)
		}
		path := string(appendPath(nil, m.Path.Value)) // as requests' paths are compared (M-14)
		if m.Path.Type == model.Exact {
			t.exact[path] = append(t.exact[path], a)
			return nil
		}
		path = strings.TrimSuffix(path, "/")
		t.prefixes[path] = append(t.prefixes[path], a)
	case model.RegularExpression:
		p := pattern{alternative: a, source: m.Path.Value}
		if p.expression, p.literal, err = anchored(m.Path.Value); err != nil {
			return fmt.Errorf("path.value: %w", err)
		}
		t.patterns = append(t.patterns, p)
	default: // a newer agent's (M-20)
		return fmt.Errorf("path.type: %q is not known", m.Path.Type)
	}
	return nil
}

// sort brings the alternatives, which are in the order of the table, into the order of precedence.
func (t *Table) sort() {
	for _, list := range t.exact {
		slices.SortStableFunc(list, moreSpecific)
	}
	for prefix, list := range t.prefixes {
		slices.SortStableFunc(list, moreSpecific)
		t.lengths = append(t.lengths, len(prefix))
	}
	slices.SortFunc(t.lengths, func(a, b int) int { return cmp.Compare(b, a) }) // the longest first (M-3)
	t.lengths = slices.Compact(t.lengths)
	slices.SortStableFunc(t.patterns, func(a, b pattern) int {
		// "Longer" is a rank that people can predict; the API has none (M-1).
		return cmp.Or(cmp.Compare(len(b.source), len(a.source)), moreSpecific(a.alternative, b.alternative))
	})
	slices.SortStableFunc(t.calls, moreSpecificCall)
}

// moreSpecific orders alternatives with the same rank of path: "Method match", "largest number of header matches",
// "largest number of query param matches" (HTTPRouteRule.matches of the API, in this order).
func moreSpecific(a, b alternative) int {
	return cmp.Or(
		-cmp.Compare(present(a.method), present(b.method)),
		-cmp.Compare(len(a.headers), len(b.headers)),
		-cmp.Compare(len(a.query), len(b.query)),
	)
}

func present(s string) int { return min(len(s), 1) }

func conditions(list string, matches []model.ValueMatch) ([]condition, error) {
	var out []condition
	for i, v := range matches {
		c := condition{name: v.Name, value: v.Value}
		switch v.Type {
		case model.Exact:
		case model.RegularExpression:
			var err error
			if c.expression, _, err = anchored(v.Value); err != nil {
				return nil, fmt.Errorf("%s[%d].value: %w", list, i, err)
			}
		default: // M-20
			return nil, fmt.Errorf("%s[%d].type: %q is not known", list, i, v.Type)
		}
		out = append(out, c)
	}
	return out, nil
}

// anchored compiles an expression that has to match the whole of a value (M-13). literal is what such a value begins
// with.
func anchored(source string) (e *regexp.Regexp, literal string, err error) {
	free, err := regexp.Compile(source)
	if err != nil {
		return nil, "", err
	}
	// Not the source goes between the anchors but its normal form, in which quotes and groups are closed: `\Q` is a
	// good expression, and would quote an anchor that follows it.
	parsed, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, "", err
	}
	if e, err = regexp.Compile(`\A(?:` + parsed.String() + `)\z`); err != nil {
		return nil, "", err
	}
	literal, _ = free.LiteralPrefix()
	return e, literal, nil
}
