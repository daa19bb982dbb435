package compile_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func edit(e gatewayv1.HTTPHeaderFilter) gatewayv1.HTTPRouteFilter {
	return gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: &e}
}

func fields(pairs ...string) []gatewayv1.HTTPHeader {
	var all []gatewayv1.HTTPHeader
	for pair := range slices.Chunk(pairs, 2) {
		all = append(all, gatewayv1.HTTPHeader{Name: gatewayv1.HTTPHeaderName(pair[0]), Value: pair[1]})
	}
	return all
}

func TestF10HeaderModifiers(t *testing.T) {
	for name, c := range map[string]struct {
		in   gatewayv1.HTTPHeaderFilter
		want string // JSON of the model's filter, or
		bad  string // why the rule answers 500
	}{
		"all actions, spelling kept": {
			gatewayv1.HTTPHeaderFilter{Set: fields("X-Set", "a"), Add: fields("X-Add", "b,c"), Remove: []string{"X-Del"}}, // F-12
			`{"set":[{"name":"X-Set","value":"a"}],"add":[{"name":"X-Add","value":"b,c"}],"remove":["X-Del"]}`, "",
		},
		"F-11: case variants in one list": {
			gatewayv1.HTTPHeaderFilter{Set: fields("X-A", "1", "x-a", "2"), Add: fields("b", "1", "B", "2"), Remove: []string{"C", "c"}},
			`{"set":[{"name":"X-A","value":"1"}],"add":[{"name":"b","value":"1"}],"remove":["C"]}`, "",
		},
		"F-11: set and add":        {gatewayv1.HTTPHeaderFilter{Set: fields("X-A", "1"), Add: fields("x-a", "2")}, "", `header "x-a" is named by set and by add`},
		"F-11: set and remove":     {gatewayv1.HTTPHeaderFilter{Set: fields("X-A", "1"), Remove: []string{"x-A"}}, "", "by set and by remove"},
		"F-11: add and remove":     {gatewayv1.HTTPHeaderFilter{Add: fields("X-A", "1"), Remove: []string{"x-A"}}, "", "by add and by remove"},
		"F-14: set Host":           {gatewayv1.HTTPHeaderFilter{Set: fields("Host", "example.com:8080")}, `{"set":[{"name":"Host","value":"example.com:8080"}]}`, ""},
		"F-14: add Host":           {gatewayv1.HTTPHeaderFilter{Add: fields("host", "x")}, "", "can be set, but add"},
		"F-14: remove Host":        {gatewayv1.HTTPHeaderFilter{Remove: []string{"HOST"}}, "", "can be set, but remove"},
		"F-14: no host":            {gatewayv1.HTTPHeaderFilter{Set: fields("host", "a/b")}, "", "a host and perhaps a port"},
		"F-14: an empty host":      {gatewayv1.HTTPHeaderFilter{Set: fields("host", "")}, "", "a host and perhaps a port"},
		"F-14: hop by hop":         {gatewayv1.HTTPHeaderFilter{Set: fields("Connection", "close")}, "", "belongs to the connection"},
		"F-14: framing":            {gatewayv1.HTTPHeaderFilter{Remove: []string{"Transfer-Encoding"}}, "", "belongs to the connection"},
		"F-14: length":             {gatewayv1.HTTPHeaderFilter{Add: fields("Content-Length", "1")}, "", "belongs to the connection"},
		"F-14: pseudo":             {gatewayv1.HTTPHeaderFilter{Set: fields(":path", "/")}, "", `":path" is no header name`},
		"no name":                  {gatewayv1.HTTPHeaderFilter{Set: fields("", "x")}, "", `"" is no header name`},
		"a line break in a value":  {gatewayv1.HTTPHeaderFilter{Set: fields("a", "x\r\nb: y")}, "", "control character"},
		"and in one that is added": {gatewayv1.HTTPHeaderFilter{Add: fields("a", "x\ny")}, "", "control character"},
		"a tab and UTF-8":          {gatewayv1.HTTPHeaderFilter{Set: fields("a", "x\tü")}, `{"set":[{"name":"a","value":"x\tü"}]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			atRule := func(f gatewayv1.HTTPRouteFilter) gatewayv1.HTTPRouteRule {
				return ruleWith("/", func(r *gatewayv1.HTTPRouteRule) { r.Filters = []gatewayv1.HTTPRouteFilter{f} })
			}
			atBackend := func(f gatewayv1.HTTPRouteFilter) gatewayv1.HTTPRouteRule {
				return ruleWith("/", func(r *gatewayv1.HTTPRouteRule) { r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{f} })
			}
			ofResponse := gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier, ResponseHeaderModifier: &c.in}
			for place, rule := range map[string]gatewayv1.HTTPRouteRule{
				"filters[0]": atRule(edit(c.in)), "backendRefs[0].filters[0]": atBackend(edit(c.in)),
				"filters[0]: ": atRule(ofResponse), "backendRefs[0].filters[0]: ": atBackend(ofResponse),
			} {
				r := onlyRule(t, result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rule)))
				place, isResponse := strings.CutSuffix(place, ": ")
				if isResponse && (strings.Contains(c.bad, "can be set, but") || strings.Contains(c.bad, "a host and perhaps a port")) {
					if r.Fail != nil { // a response's Host is a header like any other
						t.Errorf("%s of a response: the rule's failure is %+v", place, r.Fail)
					}
					continue
				}
				if c.bad != "" {
					if r.Fail == nil || r.Fail.Status != 500 || !strings.HasPrefix(r.Fail.Reason, place+": ") || !strings.Contains(r.Fail.Reason, c.bad) {
						t.Errorf("%s: the rule's failure is %+v", place, r.Fail)
					}
					if len(r.Filters)+len(r.Backends) != 0 {
						t.Errorf("%s: a rule that fails does more: %+v", place, r)
					}
					continue
				}
				filters := r.Filters
				if rule.Filters == nil {
					filters = r.Backends[0].Filters
				}
				if len(filters) != 1 || r.Fail != nil {
					t.Fatalf("%s: the rule is %+v", place, r)
				}
				edited := filters[0].RequestHeaders
				if isResponse {
					edited = filters[0].ResponseHeaders
				}
				got, err := json.Marshal(edited)
				if err != nil {
					t.Fatal(err)
				}
				expect(t, place, string(got), c.want)
			}
		})
	}
}

// F-5: what is not supported is not skipped, and no broader rule takes its traffic.
func TestF5WhatIsNotSupportedAnswers500(t *testing.T) {
	ofType := func(types ...gatewayv1.HTTPRouteFilterType) func(*gatewayv1.HTTPRouteRule) {
		return func(r *gatewayv1.HTTPRouteRule) {
			for _, t := range types {
				r.Filters = append(r.Filters, gatewayv1.HTTPRouteFilter{Type: t})
			}
		}
	}
	ofBackend := func(types gatewayv1.HTTPRouteFilterType) func(*gatewayv1.HTTPRouteRule) {
		return func(r *gatewayv1.HTTPRouteRule) {
			r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{{Type: types}}
		}
	}
	for name, c := range map[string]struct {
		edit func(*gatewayv1.HTTPRouteRule)
		bad  string // "": it works
	}{
		"external auth":                       {ofType("ExternalAuth"), "filters[0]: filter ExternalAuth is not supported"},
		"M-20: of tomorrow":                   {ofType("Teleport"), "filter Teleport is not supported"},
		"request headers without their part":  {ofType("RequestHeaderModifier"), "has no requestHeaderModifier"},
		"response headers without their part": {ofType("ResponseHeaderModifier"), "has no responseHeaderModifier"},
		"a rewrite without its part":          {ofType("URLRewrite"), "has no urlRewrite"},
		"a mirror without its part":           {ofType("RequestMirror"), "has no requestMirror"},
		"a redirect without its part":         {ofType("RequestRedirect"), "has no requestRedirect"},
		"CORS without its part":               {ofType("CORS"), "has no cors"},
		"the first is told":                   {ofType("ExternalAuth", "CORS"), "filters[0]: filter ExternalAuth"},
		"F-6: a backend's redirect":           {ofBackend("RequestRedirect"), "backendRefs[0].filters[0]: filter RequestRedirect is not supported for one backend"},
		"F-6: a backend's mirror":             {ofBackend("RequestMirror"), "backendRefs[0].filters[0]: filter RequestMirror is not supported for one backend"},
		"F-6: a backend's CORS":               {ofBackend("CORS"), "backendRefs[0].filters[0]: filter CORS is not supported for one backend"},
		"F-6: a backend's auth":               {ofBackend("ExternalAuth"), "backendRefs[0].filters[0]: filter ExternalAuth is not supported"},
		"session persistence": {func(r *gatewayv1.HTTPRouteRule) {
			r.SessionPersistence = &gatewayv1.SessionPersistence{} //nolint:staticcheck // deprecated, and still in the experimental CRD
		}, "sessionPersistence"},
		"nothing of that sort": {func(*gatewayv1.HTTPRouteRule) {}, ""},
		"after one that is": {func(r *gatewayv1.HTTPRouteRule) {
			r.Filters = []gatewayv1.HTTPRouteFilter{setHeader("a", "b"), {Type: "ExternalAuth"}}
		}, "filters[1]: filter ExternalAuth"},
		"what the rule also says is not done": {func(r *gatewayv1.HTTPRouteRule) {
			unsupported(r)
			r.Timeouts = &gatewayv1.HTTPRouteTimeouts{Request: new(gatewayv1.Duration("1s"))}
			r.Retry = &gatewayv1.HTTPRouteRetry{}
		}, "filter ExternalAuth"},
		"no default for a match": {func(r *gatewayv1.HTTPRouteRule) { r.Matches = nil; unsupported(r) }, "filter ExternalAuth"},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, service("shop/web", "10.96.0.1"),
				route("shop/r", to("shop/web"), ruleWith("/narrow", c.edit), rule("/", backend("shop/web"))))
			expect(t, "rules", tableOf(res, "shop/web", 80, "shop"), "shop/r.0 shop/r.1")
			narrow := portOf(res, "shop/web", 80).Producer.Rules[0]
			if c.bad == "" {
				expect(t, "status", statusOf(res, "shop/r"), good)
				if narrow.Fail != nil || len(narrow.Backends) != 1 {
					t.Errorf("the rule is %+v", narrow)
				}
				return
			}
			expect(t, "status", statusOf(res, "shop/r"), good+" PartiallyInvalid=True/UnsupportedValue")
			if narrow.Fail == nil || narrow.Fail.Status != 500 || !strings.Contains(narrow.Fail.Reason, c.bad) || len(narrow.Filters)+len(narrow.Backends) != 0 ||
				narrow.Timeouts != (model.Timeouts{}) || narrow.Retry != nil {
				t.Errorf("the rule is %+v, its failure %+v", narrow, narrow.Fail)
			}
		})
	}
}

// F-5: an ExtensionRef is a reference that leads nowhere: the rule fails, but it is none that is not implemented.
func TestF5ExtensionsAreReferencesThatLeadNowhere(t *testing.T) {
	unresolved := "Accepted=True/Accepted ResolvedRefs=False/InvalidKind"
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
		r.Filters = []gatewayv1.HTTPRouteFilter{setHeader("a", "b"), extension()}
	})))
	if r := onlyRule(t, res); r.Fail == nil || r.Fail.Status != 500 || !strings.Contains(r.Fail.Reason, "rules[0].filters[1]: ExtensionRef to Auth strict") {
		t.Errorf("the rule's failure is %+v", r.Fail)
	}
	expect(t, "status", statusOf(res, "shop/r"), unresolved)

	res = result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
		r.BackendRefs[0].Filters = []gatewayv1.HTTPRouteFilter{extension()}
		r.BackendRefs = append(r.BackendRefs, backend("shop/web"))
	})))
	r := onlyRule(t, res)
	if r.Fail != nil || !strings.Contains(r.Backends[0].Invalid, "ExtensionRef") || r.Backends[1].Invalid != "" { // its share only (B-2)
		t.Errorf("the rule is %+v", r)
	}
	expect(t, "status", statusOf(res, "shop/r"), unresolved)

	nameless := extension()
	nameless.ExtensionRef = nil
	res = result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
		r.Filters = []gatewayv1.HTTPRouteFilter{nameless}
	})))
	expect(t, "a reference to nothing", statusOf(res, "shop/r"), unresolved)
}

// F-2, F-6: filters are in the order of the list, and a backend's are its own.
func TestF2FiltersKeepTheirOrderAndTheirPlace(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
		r.Filters = []gatewayv1.HTTPRouteFilter{rewrite("a.example", nil), setHeader("x", "1")}
		r.BackendRefs = append(r.BackendRefs, backend("shop/web"))
		r.BackendRefs[1].Filters = []gatewayv1.HTTPRouteFilter{setHeader("x", "3")}
	})))
	r := onlyRule(t, res)
	if len(r.Filters) != 2 || r.Filters[0].Rewrite.Host != "a.example" || r.Filters[1].RequestHeaders.Set[0].Value != "1" {
		t.Errorf("the rule's filters are %+v", r.Filters)
	}
	if len(r.Backends[0].Filters) != 0 || len(r.Backends[1].Filters) != 1 || r.Backends[1].Filters[0].RequestHeaders.Set[0].Value != "3" {
		t.Errorf("the backends are %+v", r.Backends)
	}
}
