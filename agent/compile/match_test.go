package compile_test

import (
	"encoding/json"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func header(name, value string, t ...gatewayv1.HeaderMatchType) gatewayv1.HTTPHeaderMatch {
	m := gatewayv1.HTTPHeaderMatch{Name: gatewayv1.HTTPHeaderName(name), Value: value}
	for _, t := range t {
		m.Type = &t
	}
	return m
}

func query(name, value string, t ...gatewayv1.QueryParamMatchType) gatewayv1.HTTPQueryParamMatch {
	m := gatewayv1.HTTPQueryParamMatch{Name: gatewayv1.HTTPHeaderName(name), Value: value}
	for _, t := range t {
		m.Type = &t
	}
	return m
}

func headers(all ...gatewayv1.HTTPHeaderMatch) gatewayv1.HTTPRouteMatch {
	return gatewayv1.HTTPRouteMatch{Headers: all}
}

func queries(all ...gatewayv1.HTTPQueryParamMatch) gatewayv1.HTTPRouteMatch {
	return gatewayv1.HTTPRouteMatch{QueryParams: all}
}

func TestMatches(t *testing.T) {
	const anyPath = `"path":{"type":"PathPrefix","value":"/"}`
	method := func(m string) gatewayv1.HTTPRouteMatch {
		return gatewayv1.HTTPRouteMatch{Method: new(gatewayv1.HTTPMethod(m))}
	}
	paths := func(p *gatewayv1.HTTPPathMatch) gatewayv1.HTTPRouteMatch { return gatewayv1.HTTPRouteMatch{Path: p} }
	deep := strings.Repeat("(", 999) + "a" + strings.Repeat(")", 999)
	for name, c := range map[string]struct {
		in   []gatewayv1.HTTPRouteMatch
		want string // JSON of the model's matches, or
		bad  string // why the rule is dropped
	}{
		"M-10: none":                  {nil, `[{` + anyPath + `}]`, ""},
		"M-10: alternatives":          {[]gatewayv1.HTTPRouteMatch{method("GET"), {}}, `[{` + anyPath + `,"method":"GET"},{` + anyPath + `}]`, ""},
		"M-10: a path without a type": {one(paths(&gatewayv1.HTTPPathMatch{Value: new("/a")})), `[{"path":{"type":"PathPrefix","value":"/a"}}]`, ""},
		"M-10: or without a value":    {one(paths(&gatewayv1.HTTPPathMatch{Type: new(gatewayv1.PathMatchExact)})), `[{"path":{"type":"Exact","value":"/"}}]`, ""},
		"M-11: exact, as written":     {one(paths(path(gatewayv1.PathMatchExact, "/Two/"))), `[{"path":{"type":"Exact","value":"/Two/"}}]`, ""},
		"M-12: prefix, as written":    {one(paths(path(gatewayv1.PathMatchPathPrefix, "/a/"))), `[{"path":{"type":"PathPrefix","value":"/a/"}}]`, ""},
		"M-13: expression":            {one(paths(path(gatewayv1.PathMatchRegularExpression, "/v[0-9]+"))), `[{"path":{"type":"RegularExpression","value":"/v[0-9]+"}}]`, ""},
		"M-13: a quote to the end":    {one(paths(path(gatewayv1.PathMatchRegularExpression, `/\Q.(`))), `[{"path":{"type":"RegularExpression","value":"/\\Q.("}}]`, ""},
		"M-13: not RE2":               {one(paths(path(gatewayv1.PathMatchRegularExpression, `/(?=a)`))), "", "matches[0].path: error parsing regexp"},
		"M-13: balanced by anchoring": {one(paths(path(gatewayv1.PathMatchRegularExpression, `/a)(b`))), "", "matches[0].path: error parsing regexp"},
		"M-13: too deep to anchor":    {one(paths(path(gatewayv1.PathMatchRegularExpression, deep))), "", "matches[0].path: the expression is too large or too deep"},
		"M-14: no path":               {one(paths(path(gatewayv1.PathMatchPathPrefix, "a"))), "", `matches[0].path: "a" does not begin with`},
		"M-20: a type of tomorrow":    {one(paths(path("Glob", "/*"))), "", `matches[0].path: match type "Glob" is not known`},

		"M-15: names in lower case": {one(headers(header("X-Env", "Test"))), `[{` + anyPath + `,"headers":[{"name":"x-env","type":"Exact","value":"Test"}]}]`, ""},
		"M-15: the first of a name counts": {
			one(headers(header("Foo", "1"), header("b", "2"), header("foo", "3"))),
			`[{` + anyPath + `,"headers":[{"name":"foo","type":"Exact","value":"1"},{"name":"b","type":"Exact","value":"2"}]}]`, "",
		},
		"M-15: others are ignored":   {one(headers(header("foo", "1"), header("FOO", "(", "RegularExpression"))), `[{` + anyPath + `,"headers":[{"name":"foo","type":"Exact","value":"1"}]}]`, ""},
		"M-16: expression":           {one(headers(header("foo", "a.*", "RegularExpression"))), `[{` + anyPath + `,"headers":[{"name":"foo","type":"RegularExpression","value":"a.*"}]}]`, ""},
		"M-16: exact by name":        {one(headers(header("foo", "(", "Exact"))), `[{` + anyPath + `,"headers":[{"name":"foo","type":"Exact","value":"("}]}]`, ""},
		"M-16: bad expression":       {one(headers(header("a", "b"), header("foo", "(", "RegularExpression"))), "", "matches[0].headers[1]: error parsing regexp"},
		"M-20: a header's type":      {one(headers(header("foo", "a", "Present"))), "", `matches[0].headers[0]: match type "Present" is not known`},
		"M-20: a prefix of a header": {one(headers(header("foo", "a", "PathPrefix"))), "", `match type "PathPrefix" is not known`},
		"M-20: no header name":       {one(headers(header(":authority", "a"))), "", `matches[0].headers[0]: ":authority" is no name`},

		"M-18: names in their case": {
			one(queries(query("A", "1"), query("a", "2"))),
			`[{` + anyPath + `,"query":[{"name":"A","type":"Exact","value":"1"},{"name":"a","type":"Exact","value":"2"}]}]`, "",
		},
		"M-18: the first of a name counts": {one(queries(query("a", "1"), query("a", "(", "RegularExpression"))), `[{` + anyPath + `,"query":[{"name":"a","type":"Exact","value":"1"}]}]`, ""},
		"M-18: expression":                 {one(queries(query("a", "x+", "RegularExpression"))), `[{` + anyPath + `,"query":[{"name":"a","type":"RegularExpression","value":"x+"}]}]`, ""},
		"M-18: bad expression":             {one(queries(query("a", "*", "RegularExpression"))), "", "matches[0].queryParams[0]: error parsing regexp"},
		"M-20: a parameter's type":         {one(queries(query("a", "1", "Present"))), "", `queryParams[0]: match type "Present" is not known`},

		"M-19: every method": {[]gatewayv1.HTTPRouteMatch{
			method("GET"), method("HEAD"), method("POST"), method("PUT"), method("DELETE"), method("CONNECT"), method("OPTIONS"), method("TRACE"), method("PATCH"),
		}, "", ""},
		"M-19: case counts":       {one(method("get")), "", `matches[0].method: "get" is not known`},
		"M-20: the second is bad": {[]gatewayv1.HTTPRouteMatch{{}, method("QUERY")}, "", `matches[1].method: "QUERY" is not known`},
		"M-10: conditions together": {one(gatewayv1.HTTPRouteMatch{
			Path: path(gatewayv1.PathMatchExact, "/p"), Method: new(gatewayv1.HTTPMethodPost),
			Headers: []gatewayv1.HTTPHeaderMatch{header("h", "v")}, QueryParams: []gatewayv1.HTTPQueryParamMatch{query("q", "v")},
		}), `[{"path":{"type":"Exact","value":"/p"},"method":"POST","headers":[{"name":"h","type":"Exact","value":"v"}],"query":[{"name":"q","type":"Exact","value":"v"}]}]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			// The second rule shows whether the first one is dropped alone.
			res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"),
				gatewayv1.HTTPRouteRule{Matches: c.in, BackendRefs: []gatewayv1.HTTPBackendRef{backend("shop/web")}}, rule("/", backend("shop/web"))))
			table := portOf(res, "shop/web", 80).Producer
			if c.bad != "" {
				expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "shop/r.1")
				if got := message(res, "shop/r", gatewayv1.RouteConditionPartiallyInvalid); !strings.Contains(got, "rules[0] is left out: ") || !strings.Contains(got, c.bad) {
					t.Errorf("the message %q does not say %q", got, c.bad)
				}
				return
			}
			expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "shop/r.0 shop/r.1")
			got, err := json.Marshal(table.Rules[0].Matches)
			if err != nil {
				t.Fatal(err)
			}
			if c.want != "" {
				expect(t, "matches", string(got), c.want)
			} else if len(table.Rules[0].Matches) != len(c.in) {
				t.Errorf("of %d matches there are %s", len(c.in), got)
			}
		})
	}
}

func one(m gatewayv1.HTTPRouteMatch) []gatewayv1.HTTPRouteMatch { return []gatewayv1.HTTPRouteMatch{m} }
