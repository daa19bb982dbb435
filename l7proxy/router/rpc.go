package router

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// call is an alternative of a gRPC table that is not found by the name of its service: it asks for a method only, for names
// that expressions match, or for nothing.
type call struct {
	alternative
	service, method name
}

// name compares a service or a method.
type name struct {
	value      string         // "": any
	literal    string         // what the name has to begin with, which is cheap to look at first
	expression *regexp.Regexp // anchored; nil: value is compared
}

// addRPC puts one match of a gRPC table where its call will be looked for.
func (t *Table) addRPC(a alternative, m *model.Match) error {
	c := call{}
	var err error
	switch {
	case m.RPC == nil:
		return errors.New("rpc: there is none")
	case m.RPC.Type != model.Exact && m.RPC.Type != model.RegularExpression && *m.RPC != model.RPCMatch{}: // M-20
		return fmt.Errorf("rpc.type: %q is not known", m.RPC.Type)
	}
	if a.headers, err = conditions("headers", m.Headers); err != nil {
		return err
	}
	if c.service, err = newName(m.RPC.Type, m.RPC.Service); err != nil {
		return fmt.Errorf("rpc.service: %w", err)
	}
	if c.method, err = newName(m.RPC.Type, m.RPC.Method); err != nil {
		return fmt.Errorf("rpc.method: %w", err)
	}
	switch service := "/" + c.service.value; {
	case c.service.rank() < exactName:
		c.alternative = a
		t.calls = append(t.calls, c)
	case strings.Contains(c.service.value, "/"): // it ends where the method begins (M-33)
		return fmt.Errorf("rpc.service: %q has a \"/\"", c.service.value)
	case c.method.rank() == anyName: // M-31
		t.prefixes[service] = append(t.prefixes[service], a)
	default: // M-30
		path := service + "/" + c.method.value
		t.exact[path] = append(t.exact[path], a)
	}
	return nil
}

func newName(t model.MatchType, value string) (n name, err error) {
	n.value = value
	if t == model.RegularExpression && value != "" {
		n.expression, n.literal, err = anchored(value)
	}
	return n, err
}

// The ranks of names. What an expression matches has no number of characters that people could predict.
const (
	anyName = iota
	expressionName
	exactName
)

func (n *name) rank() int {
	switch {
	case n.value == "":
		return anyName
	case n.expression != nil:
		return expressionName
	}
	return exactName
}

// compare orders names: the more specific one first.
func (n *name) compare(o *name) int {
	return -cmp.Or(cmp.Compare(n.rank(), o.rank()), cmp.Compare(len(n.value), len(o.value)))
}

// moreSpecificCall: "characters in a matching service", then "in a matching method", then "header matches"
// (GRPCRouteRule.matches of the API, in this order).
func moreSpecificCall(a, b call) int {
	return cmp.Or(a.service.compare(&b.service), a.method.compare(&b.method), moreSpecific(a.alternative, b.alternative))
}

// findRPC tries the alternatives of a gRPC table in order of precedence.
func (m *matcher) findRPC() int {
	t := m.table
	if rule := m.first(m.path.in(t.exact, m.path.len())); rule >= 0 {
		return rule
	}
	end := m.path.serviceEnd()
	if end >= 0 {
		if rule := m.first(m.path.in(t.prefixes, end)); rule >= 0 {
			return rule
		}
	}
	for i := range t.calls {
		if c := &t.calls[i]; m.holds(&c.alternative) && m.names(c, end) {
			return c.rule
		}
	}
	return -1
}

// names tells whether the names of the call, whose service ends where it is said, are those of c. A path that names no
// call is only for what asks for no names (M-34).
func (m *matcher) names(c *call, end int) bool {
	if c.service.rank() == anyName && c.method.rank() == anyName {
		return true
	}
	return end >= 0 && c.service.holds(m.path.part(1, end)) && c.method.holds(m.path.part(end+1, m.path.len()))
}

func (n *name) holds(p text) bool {
	switch n.rank() {
	case anyName:
		return true
	case exactName:
		return p.equals(n.value)
	}
	return p.hasPrefix(n.literal) && p.matches(n.expression)
}
