package router

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Builders of matches, for tables that can be read.

func exact(path string) model.Match  { return withPath(model.Exact, path) }
func prefix(path string) model.Match { return withPath(model.PathPrefix, path) }
func regex(path string) model.Match  { return withPath(model.RegularExpression, path) }

func withPath(t model.MatchType, value string) model.Match {
	return model.Match{Path: model.PathMatch{Type: t, Value: value}}
}

func method(m model.Match, name string) model.Match { m.Method = name; return m }

// header and query add a condition; a value that begins with "~" is a regular expression.
func header(m model.Match, name, value string) model.Match {
	m.Headers = append(slices.Clip(m.Headers), valueMatch(name, value))
	return m
}

func query(m model.Match, name, value string) model.Match {
	m.Query = append(slices.Clip(m.Query), valueMatch(name, value))
	return m
}

func valueMatch(name, value string) model.ValueMatch {
	if e, ok := strings.CutPrefix(value, "~"); ok {
		return model.ValueMatch{Name: name, Type: model.RegularExpression, Value: e}
	}
	return model.ValueMatch{Name: name, Type: model.Exact, Value: value}
}

// rules makes a table of one rule for each list of matches.
func rules(matches ...[]model.Match) *model.RouteTable {
	t := &model.RouteTable{}
	for i, m := range matches {
		t.Rules = append(t.Rules, model.Rule{Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "ns", Name: "r"}, Index: i, Matches: m})
	}
	return t
}

func either(matches ...model.Match) []model.Match { return matches }

func mustCompile(tb testing.TB, t *model.RouteTable) *Table {
	tb.Helper()
	c, err := Compile(t)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// request reads "GET /path?query" and fields as "Name: value"; a Host field becomes the authority.
func request(line string, fields ...string) *message.Request {
	r := &message.Request{Authority: "web.shop"}
	r.Method, r.Path, _ = strings.Cut(line, " ")
	r.Path, r.Query, r.HasQuery = strings.Cut(r.Path, "?")
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Fields.Add(name, value)
		if name == "Host" {
			r.Authority = value
		}
	}
	return r
}

// check holds each request of want against the router and against the reference.
func check(t *testing.T, table *model.RouteTable, want map[*message.Request]int) {
	t.Helper()
	c := mustCompile(t, table)
	for r, rule := range want {
		name := fmt.Sprintf("%s %s?%s %v", r.Method, r.Path, r.Query, r.Fields)
		if got := c.Match(r); got != rule {
			t.Errorf("%s: rule %d, want %d", name, got, rule)
		}
		if got := referenceMatch(table, r); got != rule {
			t.Errorf("%s: the reference says rule %d, want %d", name, got, rule)
		}
	}
}

func TestM2NoMatchIsNoRule(t *testing.T) {
	check(t, rules(either(prefix("/a"))), map[*message.Request]int{request("GET /b"): -1})
	check(t, rules(), map[*message.Request]int{request("GET /"): -1})
}

func TestM10MatchesAreAlternativesAndConditionsAreNot(t *testing.T) {
	check(t, rules(
		either(header(method(prefix("/a"), "GET"), "x", "1"), exact("/b")),
		either(query(header(prefix("/a"), "x", "2"), "q", "3")),
	), map[*message.Request]int{
		request("GET /a", "X: 1"):       0,
		request("GET /b"):               0,
		request("GET /a"):               -1,
		request("PUT /a", "X: 1"):       -1,
		request("GET /a", "X: 2"):       -1,
		request("GET /a?q=3"):           -1,
		request("GET /a?q=3", "X: 2"):   1,
		request("GET /a?q=3", "X: 1,2"): -1,
	})
}

func TestM10PrefixSlashMatchesEverything(t *testing.T) {
	check(t, rules(either(prefix("/"))), map[*message.Request]int{
		request("GET /"):     0,
		request("GET /x//y"): 0,
		request("OPTIONS *"): 0,
		request("CONNECT "):  0, // the authority form has no path
	})
}

func TestM11ExactIsCaseSensitiveAndWhole(t *testing.T) {
	check(t, rules(either(exact("/two"))), map[*message.Request]int{
		request("GET /two"):   0,
		request("GET /two?a"): 0, // the query is no part of it
		request("GET /two/"):  -1,
		request("GET /Two"):   -1,
		request("GET /two/x"): -1,
		request("GET /tw"):    -1,
	})
}

func TestM12PrefixGoesByElement(t *testing.T) {
	for _, value := range []string{"/v2", "/v2/"} { // a trailing slash is ignored
		check(t, rules(either(prefix(value))), map[*message.Request]int{
			request("GET /v2"):        0,
			request("GET /v2/"):       0,
			request("GET /v2/x"):      0,
			request("GET /v2//x"):     0,
			request("GET /v2example"): -1,
			request("GET /V2"):        -1,
			request("GET /foo/v2"):    -1,
			request("GET /v"):         -1,
		})
	}
}

func TestM13RegularExpressionMatchesTheWhole(t *testing.T) {
	check(t, rules(either(regex("/a|/b+"))), map[*message.Request]int{
		request("GET /a"):   0,
		request("GET /bbb"): 0,
		request("GET /ab"):  -1, // the alternatives are anchored together
		request("GET /xa"):  -1,
		request("GET /a/"):  -1,
	})
	check(t, rules(either(regex(`/\Qa.b`))), map[*message.Request]int{ // an open quote
		request("GET /a.b"): 0, request("GET /axb"): -1, request(`GET /a.b)\z`): -1,
	})
	check(t, rules(either(regex("(?i)/a$"))), map[*message.Request]int{request("GET /A"): 0, request("GET /B"): -1})
}

func TestM13BadRegularExpressionIsAnError(t *testing.T) {
	for _, c := range []struct {
		match model.Match
		want  string
	}{
		{regex("("), "rules[0].matches[0].path.value: "},
		{regex("/a)|(/b"), "rules[0].matches[0].path.value: "}, // good only between our brackets
		{header(prefix("/"), "x", "~["), "rules[0].matches[0].headers[0].value: "},
		{query(prefix("/"), "x", "~*"), "rules[0].matches[0].query[0].value: "},
	} {
		if _, err := Compile(rules(either(c.match))); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.match, err, c.want)
		}
	}
}

func TestM14PathsAreComparedDecoded(t *testing.T) {
	table := rules(
		either(exact("/caf%C3%A9")),
		either(exact("/a b")), // not what the API lets through, but it means the same
		either(prefix("/p/q")),
		either(regex("/[0-9]{2}%")),
		either(exact("/dots")),
	)
	check(t, table, map[*message.Request]int{
		request("GET /caf%c3%a9"):        0,
		request("GET /caf\xc3\xa9"):      0,
		request("GET /%63af%C3%A9"):      0,
		request("GET /a%20b"):            1,
		request("GET /a+b"):              -1, // plus is a space in queries only
		request("GET /%70/q/x"):          2,
		request("GET /p%2Fq"):            -1, // an escaped slash separates nothing
		request("GET /p%2fq/x"):          -1,
		request("GET /p/q%2Fx"):          -1,
		request("GET /p/q/%2Fx"):         2,
		request("GET /50%25"):            3,
		request("GET /50%"):              3, // no escape: it stays as it is
		request("GET /%35%30%"):          3,
		request("GET /50%2"):             -1,
		request("GET /x/../dots"):        -1, // dots are not merged
		request("GET /x/%2e%2e/dots"):    -1,
		request("GET /./dots"):           -1,
		request("GET //dots"):            -1,
		request("GET /%64ots?x=%64%6F%"): 4,
	})
	check(t, rules(either(exact("/a%2fb"))), map[*message.Request]int{
		request("GET /a%2Fb"): 0, request("GET /a%2fb"): 0, request("GET /a/b"): -1, request("GET /a%b"): -1,
	})
}

func TestM15HeaderNamesIgnoreCase(t *testing.T) {
	check(t, rules(either(header(prefix("/"), "x-canary", "true"))), map[*message.Request]int{
		request("GET /", "X-CANARY: true"):      0,
		request("GET /", "x-canary: true"):      0,
		request("GET /", "x-canar\u212a: true"): -1,
		request("GET /"):                        -1,
	})
	check(t, rules(either(header(prefix("/"), "k", "1"))), map[*message.Request]int{
		request("GET /", "\u212a: 1"): -1, // the Kelvin sign folds to k in Unicode, not in HTTP
	})
}

func TestM16HeaderValueIsCaseSensitiveAndWhole(t *testing.T) {
	check(t, rules(
		either(header(prefix("/"), "x", "One")),
		either(header(prefix("/"), "y", "~a+")),
	), map[*message.Request]int{
		request("GET /", "X: One"):  0,
		request("GET /", "X: one"):  -1,
		request("GET /", "X: One "): -1,
		request("GET /", "Y: aaa"):  1,
		request("GET /", "Y: aab"):  -1,
		request("GET /", "Y: "):     -1,
	})
}

func TestM17RepeatedHeaderIsJoined(t *testing.T) {
	check(t, rules(
		either(header(prefix("/"), "x", "a,b,c")),
		either(header(prefix("/"), "x", "~a(,[d-f])+")),
		either(header(prefix("/"), "x", ",")),
	), map[*message.Request]int{
		request("GET /", "X: a,b,c"):                          0,
		request("GET /", "X: a", "Y: z", "x: b", "X: c"):      0,
		request("GET /", "X: a,b", "x: c"):                    0,
		request("GET /", "X: a", "X: b"):                      -1,
		request("GET /", "X: a", "X: b", "X: c", "X: "):       -1,
		request("GET /", "X: a", "X: bc"):                     -1,
		request("GET /", "X: a"):                              -1,
		request("GET /", "X: a", "X: d"):                      1,
		request("GET /", "X: a", "X: d", "Y: x", "X: e,f,f"):  1,
		request("GET /", "X: a", "X: g"):                      -1,
		request("GET /", "X: ", "X: "):                        2,
		request("GET /", "X: a, b,c"):                         -1,
		request("GET /", "X: a", "X: b,", "X: c"):             -1,
		request("GET /", "X: a", "X: b", "X: c", "Other: a,"): 0,
	})
}

func TestM18QueryIsDecodedAndTheFirstCounts(t *testing.T) {
	check(t, rules(
		either(query(prefix("/"), "a", "1 2")),
		either(query(prefix("/"), "bare", "")),
		either(query(prefix("/"), "é/", "~(x|ü)+%?")),
		either(query(prefix("/"), "semi", "1;a=1 2")),
	), map[*message.Request]int{
		request("GET /?a=1+2"):           0,
		request("GET /?a=1%202"):         0,
		request("GET /?%61=1%202"):       0,
		request("GET /?&&z&a=1+2&a=9"):   0,
		request("GET /?a=9&a=1+2"):       -1,
		request("GET /?A=1+2"):           -1, // names are case-sensitive
		request("GET /?a=1%2B2"):         -1,
		request("GET /?a=1 2"):           0,
		request("GET /?a"):               -1,
		request("GET /"):                 -1,
		request("GET /?"):                -1,
		request("GET /?bare"):            1,
		request("GET /?bare="):           1,
		request("GET /?bare=x"):          -1,
		request("GET /?%C3%A9%2f=x"):     2,
		request("GET /?é/=%78%c3%bc"):    2,
		request("GET /?é/=x%25"):         2,
		request("GET /?é/=x%"):           2, // no escape
		request("GET /?é/=y"):            -1,
		request("GET /?semi=1;a=1+2"):    3, // ";" separates nothing
		request("GET /?semi=1;a=1%202&"): 3,
		request("GET /?aa=1+2"):          -1,
		request("GET /?a=1+22"):          -1,
		request("GET /?a=1+2=3"):         -1,
	})
	check(t, rules(either(query(prefix("/"), "a", "1=2"))), map[*message.Request]int{request("GET /?a=1=2"): 0})
}

func TestM19MethodIsExact(t *testing.T) {
	check(t, rules(either(method(prefix("/"), "GET"))), map[*message.Request]int{
		request("GET /"): 0, request("HEAD /"): -1, request("get /"): -1,
	})
}

func TestM20UnknownTypeIsAnError(t *testing.T) {
	newer := model.ValueMatch{Name: "x", Type: "Glob", Value: "*"}
	for _, m := range []model.Match{
		withPath("Glob", "/*"),
		withPath("", "/"),
		withPath(model.Exact, "x"),
		withPath(model.PathPrefix, ""),
		{Path: prefix("/").Path, Headers: []model.ValueMatch{newer}},
		{Path: prefix("/").Path, Query: []model.ValueMatch{newer}},
	} {
		if _, err := Compile(rules(either(m))); err == nil {
			t.Errorf("%v was taken", m)
		}
	}
}

func TestA102HostIsTheAuthority(t *testing.T) {
	check(t, rules(either(header(prefix("/"), "host", "web:8080")), either(header(prefix("/"), "host", "~.*"))), map[*message.Request]int{
		request("GET /", "Host: web:8080"):                0,
		request("GET /", "Host: web"):                     1,
		{Method: "GET", Path: "/"}:                        -1, // HTTP/1.0
		{Method: "GET", Path: "/", Authority: "web:8080"}: 0,  // HTTP/2
		{Method: "GET", Path: "/", Fields: message.Fields{{Name: "Host", Value: "web:8080"}}, Authority: "changed"}: 1,
	})
}
