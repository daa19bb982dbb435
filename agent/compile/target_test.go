package compile_test

import (
	"encoding/json"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// filterCase is one filter of a rule for the path prefix /old.
type filterCase struct {
	in   gatewayv1.HTTPRouteFilter
	want string // JSON of the model's filter, or
	bad  string // why the rule answers 500
}

// checkFilters compiles each filter as the only one of a rule, without backends where it is a redirect.
func checkFilters(t *testing.T, cases map[string]filterCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/old", func(r *gatewayv1.HTTPRouteRule) {
				r.Filters = []gatewayv1.HTTPRouteFilter{c.in}
				if c.in.RequestRedirect != nil {
					r.BackendRefs = nil
				}
			})))
			r := onlyRule(t, res)
			if c.bad != "" {
				if r.Fail == nil || r.Fail.Status != 500 || r.Fail.Reason != "filters[0]: "+c.bad {
					t.Errorf("the rule's failure is %+v, want %q", r.Fail, c.bad)
				}
				expect(t, "status", statusOf(res, "shop/r"), "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs")
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), good)
			if len(r.Filters) != 1 || r.Fail != nil {
				t.Fatalf("the rule is %+v, its failure %+v", r, r.Fail)
			}
			got, err := json.Marshal(r.Filters[0])
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "filter", string(got), c.want)
		})
	}
}

func TestF20Redirects(t *testing.T) {
	type in = gatewayv1.HTTPRequestRedirectFilter
	status := func(n int) gatewayv1.HTTPRouteFilter { return redirect(func(r *in) { r.StatusCode = &n }) }
	scheme := func(s string) gatewayv1.HTTPRouteFilter { return redirect(func(r *in) { r.Scheme = &s }) }
	port := func(n int32) gatewayv1.HTTPRouteFilter { return redirect(func(r *in) { r.Port = &n }) }
	host := func(s string) gatewayv1.HTTPRouteFilter {
		return redirect(func(r *in) { r.Hostname = new(gatewayv1.PreciseHostname(s)) })
	}
	to := func(p *gatewayv1.HTTPPathModifier) gatewayv1.HTTPRouteFilter {
		return redirect(func(r *in) { r.Path = p })
	}
	const oneOfThem = " is not supported: use 301, 302, 303, 307 or 308"
	checkFilters(t, map[string]filterCase{
		"F-20: 302 by default":   {redirect(func(*in) {}), `{"redirect":{"status":302}}`, ""},
		"F-20: 301":              {status(301), `{"redirect":{"status":301}}`, ""},
		"F-20: 303":              {status(303), `{"redirect":{"status":303}}`, ""},
		"F-20: 307":              {status(307), `{"redirect":{"status":307}}`, ""},
		"F-20: 308":              {status(308), `{"redirect":{"status":308}}`, ""},
		"F-20: none":             {status(304), "", "requestRedirect.statusCode: 304" + oneOfThem},
		"F-20: an answer":        {status(200), "", "requestRedirect.statusCode: 200" + oneOfThem},
		"F-21: http":             {scheme("http"), `{"redirect":{"status":302,"scheme":"http"}}`, ""},
		"F-21: https":            {scheme("https"), `{"redirect":{"status":302,"scheme":"https"}}`, ""},
		"F-21: the request's":    {scheme(""), `{"redirect":{"status":302}}`, ""},
		"F-21: another":          {scheme("ftp"), "", `requestRedirect.scheme: "ftp" is not supported: use "http" or "https"`},
		"F-22: a host":           {host("example.org"), `{"redirect":{"status":302,"host":"example.org"}}`, ""},
		"F-22: the request's":    {host(""), `{"redirect":{"status":302}}`, ""},
		"F-22: a wildcard":       {host("*.example.org"), "", `requestRedirect.hostname: "*.example.org" is no name of a host`},
		"F-22: a port":           {host("example.org:80"), "", `requestRedirect.hostname: "example.org:80" is no name of a host`},
		"F-22: an address":       {host("10.0.0.1"), "", `requestRedirect.hostname: "10.0.0.1" is an address: a name is asked for`},
		"F-24: a port number":    {port(8443), `{"redirect":{"status":302,"port":8443}}`, ""},
		"F-24: no port":          {port(0), "", "requestRedirect.port: 0 is no port"},
		"F-24: beyond all":       {port(65536), "", "requestRedirect.port: 65536 is no port"},
		"F-23: the whole path":   {to(replacePath("/new/")), `{"redirect":{"status":302,"path":{"value":"/new/"}}}`, ""},
		"F-23: the prefix":       {to(replacePrefix("/new")), `{"redirect":{"status":302,"path":{"prefix":"/old","value":"/new"}}}`, ""},
		"F-23: a mistake inside": {to(replacePath("new")), "", `requestRedirect.path.replaceFullPath: "new" does not begin with "/"`},
		"all of it": {redirect(func(r *in) {
			*r = in{
				StatusCode: new(308), Scheme: new("https"), Hostname: new(gatewayv1.PreciseHostname("a.b")), Port: new(gatewayv1.PortNumber(1)), Path: replacePath("/c"),
			}
		}), `{"redirect":{"status":308,"scheme":"https","host":"a.b","port":1,"path":{"value":"/c"}}}`, ""},
	})
}

func TestF40Rewrites(t *testing.T) {
	path := func(p *gatewayv1.HTTPPathModifier) gatewayv1.HTTPRouteFilter { return rewrite("", p) }
	checkFilters(t, map[string]filterCase{
		"F-40: the host":           {rewrite("one.example.org", nil), `{"rewrite":{"host":"one.example.org"}}`, ""},
		"F-40: no host":            {rewrite("one/two", nil), "", `urlRewrite.hostname: "one/two" is no name of a host`},
		"F-43: nothing":            {path(nil), `{"rewrite":{}}`, ""},
		"F-41: the whole path":     {path(replacePath("/one")), `{"rewrite":{"path":{"value":"/one"}}}`, ""},
		"F-41: an empty one":       {path(replacePath("")), `{"rewrite":{"path":{"value":"/"}}}`, ""},
		"F-41: the prefix":         {path(replacePrefix("/one/")), `{"rewrite":{"path":{"prefix":"/old","value":"/one/"}}}`, ""},
		"F-41: the prefix goes":    {path(replacePrefix("")), `{"rewrite":{"path":{"prefix":"/old"}}}`, ""},
		"F-41: both":               {rewrite("a", replacePath("/b")), `{"rewrite":{"host":"a","path":{"value":"/b"}}}`, ""},
		"a query":                  {path(replacePath("/a?b")), "", `urlRewrite.path.replaceFullPath: "/a?b" has a character that a path cannot have: write it "%3F"`},
		"a space":                  {path(replacePrefix("/a b")), "", `urlRewrite.path.replacePrefixMatch: "/a b" has a character that a path cannot have: write it "%20"`},
		"a line break":             {path(replacePath("/a\r\nX: y")), "", `urlRewrite.path.replaceFullPath: "/a\r\nX: y" has a character that a path cannot have: write it "%0D"`},
		"no slash":                 {path(replacePrefix("a")), "", `urlRewrite.path.replacePrefixMatch: "a" does not begin with "/"`},
		"M-20: a type of tomorrow": {path(&gatewayv1.HTTPPathModifier{Type: "ReplaceRegex"}), "", `urlRewrite.path: type "ReplaceRegex" is not known`},
		"without its path":         {path(&gatewayv1.HTTPPathModifier{Type: "ReplaceFullPath"}), "", "urlRewrite.path: ReplaceFullPath has no replaceFullPath"},
		"without its prefix":       {path(&gatewayv1.HTTPPathModifier{Type: "ReplacePrefixMatch"}), "", "urlRewrite.path: ReplacePrefixMatch has no replacePrefixMatch"},
	})
}

// F-3: a prefix can be replaced where all requests have one. The CRD does not look at two backends.
func TestF3ReplacePrefixMatchNeedsExactlyOnePrefix(t *testing.T) {
	const why = "replacePrefixMatch: the rule has to have exactly one match, and that of type PathPrefix"
	match := func(t gatewayv1.PathMatchType, value string) gatewayv1.HTTPRouteMatch {
		return gatewayv1.HTTPRouteMatch{Path: path(t, value)}
	}
	for name, c := range map[string]struct {
		matches []gatewayv1.HTTPRouteMatch
		prefix  string // "": it has none
	}{
		"one prefix":                 {[]gatewayv1.HTTPRouteMatch{match("PathPrefix", "/a/")}, "/a/"},
		"none, which is the default": {nil, "/"},
		"one without path":           {[]gatewayv1.HTTPRouteMatch{{Method: new(gatewayv1.HTTPMethodGet)}}, "/"},
		"two prefixes":               {[]gatewayv1.HTTPRouteMatch{match("PathPrefix", "/a"), match("PathPrefix", "/b")}, ""},
		"an exact path":              {[]gatewayv1.HTTPRouteMatch{match("Exact", "/a")}, ""},
		"an expression":              {[]gatewayv1.HTTPRouteMatch{match("RegularExpression", "/a")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			with := func(edit func(*gatewayv1.HTTPRouteRule)) gatewayv1.HTTPRouteRule {
				return ruleWith("/", func(r *gatewayv1.HTTPRouteRule) { r.Matches = c.matches; edit(r) })
			}
			f := []gatewayv1.HTTPRouteFilter{rewrite("", replacePrefix("/x"))}
			for place, rule := range map[string]gatewayv1.HTTPRouteRule{
				"filters[0]": with(func(r *gatewayv1.HTTPRouteRule) { r.Filters = f }),
				"backendRefs[1].filters[0]": with(func(r *gatewayv1.HTTPRouteRule) {
					r.BackendRefs = append(r.BackendRefs, backend("shop/web"))
					r.BackendRefs[1].Filters = f
				}),
				"backendRefs[0].filters[0]": with(func(r *gatewayv1.HTTPRouteRule) {
					r.BackendRefs = append(r.BackendRefs, backend("shop/web"))
					r.BackendRefs[0].Filters, r.BackendRefs[1].Filters = f, f
				}),
			} {
				r := onlyRule(t, result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rule)))
				if c.prefix == "" {
					if r.Fail == nil || r.Fail.Reason != place+": urlRewrite.path."+why {
						t.Errorf("%s: the rule's failure is %+v", place, r.Fail)
					}
					continue
				}
				var all []model.Filter
				for _, b := range r.Backends {
					all = append(all, b.Filters...)
				}
				if all = append(all, r.Filters...); r.Fail != nil || len(all) == 0 {
					t.Fatalf("%s: the rule is %+v, its failure %+v", place, r, r.Fail)
				}
				for _, f := range all {
					if *f.Rewrite.Path != (model.PathEdit{Prefix: c.prefix, Value: "/x"}) {
						t.Errorf("%s: the edit is %+v", place, f.Rewrite.Path)
					}
				}
			}
		})
	}
}

// F-3, F-4: what cannot run together is told as that.
func TestF4IncompatibleFilters(t *testing.T) {
	all := func(filters ...gatewayv1.HTTPRouteFilter) func(*gatewayv1.HTTPRouteRule) {
		return func(r *gatewayv1.HTTPRouteRule) { r.Filters, r.BackendRefs = filters, nil }
	}
	away := redirect(func(*gatewayv1.HTTPRequestRedirectFilter) {})
	share := cors(func(*gatewayv1.HTTPCORSFilter) {})
	respond := gatewayv1.HTTPRouteFilter{Type: "ResponseHeaderModifier", ResponseHeaderModifier: setHeader("a", "b").RequestHeaderModifier}
	for name, c := range map[string]struct {
		edit func(*gatewayv1.HTTPRouteRule)
		bad  string // "": it works
	}{
		"request headers twice":   {all(setHeader("a", "1"), setHeader("b", "2")), "filters[1]: there is another RequestHeaderModifier before it"},
		"response headers twice":  {all(respond, setHeader("a", "1"), respond), "filters[2]: there is another ResponseHeaderModifier before it"},
		"two redirects":           {all(away, away), "filters[1]: there is another RequestRedirect before it"},
		"two rewrites":            {all(rewrite("a", nil), rewrite("b", nil)), "filters[1]: there is another URLRewrite before it"},
		"two of CORS":             {all(share, share), "filters[1]: there is another CORS before it"},
		"a redirect and rewrite":  {all(away, rewrite("a", nil)), "filters: RequestRedirect and URLRewrite: what is redirected goes to no backend, so that the other has nothing to do"},
		"a redirect and a mirror": {all(mirror("shop/web"), away), "filters: RequestRedirect and RequestMirror: what is redirected goes to no backend, so that the other has nothing to do"},
		"a redirect and backends": {func(r *gatewayv1.HTTPRouteRule) { r.Filters = []gatewayv1.HTTPRouteFilter{away} }, "filters: RequestRedirect and backendRefs: what is redirected goes to no backend"},
		"a backend's twice": {func(r *gatewayv1.HTTPRouteRule) {
			r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{setHeader("a", "1"), setHeader("b", "2")}
		}, "backendRefs[0].filters[1]: there is another RequestHeaderModifier before it"},
		"F-52: mirrors may be many": {func(r *gatewayv1.HTTPRouteRule) {
			r.Filters = []gatewayv1.HTTPRouteFilter{mirror("shop/web"), share, mirror("shop/web"), setHeader("a", "b"), respond, rewrite("a", nil)}
		}, ""},
		"the rule's and a backend's are two lists": {func(r *gatewayv1.HTTPRouteRule) {
			r.Filters, r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{rewrite("a", nil)}, []gatewayv1.HTTPRouteFilter{rewrite("b", nil)}
		}, ""},
		"CORS, edits and a redirect": {all(away, share, setHeader("a", "b"), respond), ""},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", c.edit)))
			r := onlyRule(t, res)
			if c.bad == "" {
				expect(t, "status", statusOf(res, "shop/r"), good)
				if r.Fail != nil {
					t.Errorf("the rule's failure is %+v", r.Fail)
				}
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), "Accepted=False/IncompatibleFilters ResolvedRefs=True/ResolvedRefs")
			if r.Fail == nil || r.Fail.Reason != c.bad {
				t.Errorf("the rule's failure is %+v, want %q", r.Fail, c.bad)
			}
		})
	}
	both := []gatewayv1.HTTPRouteRule{ruleWith("/a", all(away, away)), ruleWith("/b", unsupported)}
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), both...))
	expect(t, "of several reasons", statusOf(res, "shop/r"), "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs")
	if got := message(res, "shop/r", gatewayv1.RouteConditionAccepted); !strings.Contains(got, "rules[0] answers 500: filters[1]") || !strings.Contains(got, "rules[1] answers 500: ") {
		t.Errorf("the message is %q", got)
	}
	res = result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/a", all(away, away)), ruleWith("/b", badMatch)))
	expect(t, "of a match too", statusOf(res, "shop/r"), "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs")
}
