package model

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestMistakesInAFilter(t *testing.T) {
	rule := func(s *Service) *Rule { return &s.Ports[0].Producer.Rules[0] }
	rewrite := func(s *Service) *Rewrite { return rule(s).Filters[2].Rewrite }
	mirror := func(s *Service) *Mirror { return rule(s).Filters[3].Mirror }
	cors := func(s *Service) *CORS { return rule(s).Filters[4].CORS }
	redirect := func(s *Service) *Redirect { return s.Ports[0].Producer.Rules[1].Filters[0].Redirect }
	first := func(s *Service, f Filter) { rule(s).Filters = append([]Filter{f}, rule(s).Filters...) }
	ofBackend := func(s *Service, f Filter) { rule(s).Backends[0].Filters = []Filter{f} }
	ofCalls := func(s *Service, f Filter) { s.Ports[2].Producer.Rules[0].Filters = []Filter{f} }
	const at, next, calls = "ports[0].producer.rules[0].", "ports[0].producer.rules[1].", "ports[2].producer.rules[0]."
	mistakes[*Service]{
		{"two members", func(s *Service) { rule(s).Filters[0].CORS = cors(s) }, at + "filters[0]: requestHeaders and cors are set: one filter has one member"},
		{"F-10: a response's edit", func(s *Service) { rule(s).Filters[1].ResponseHeaders.Remove[0] = "Content-Length" },
			at + `filters[1].responseHeaders.remove[0]: header "Content-Length" says where the message ends`},
		{"a response's value", func(s *Service) { rule(s).Filters[1].ResponseHeaders.Add[0].Value = "a\n" },
			at + "filters[1].responseHeaders.add[0].value: it has a control character"},

		{"F-40: a port in a host", func(s *Service) { rewrite(s).Host = "a:80" }, at + `filters[2].rewrite.host: "a:80" is no name of a host`},
		{"a path without slash", func(s *Service) { rewrite(s).Path.Value = "b" }, at + `filters[2].rewrite.path.value: "b" does not begin with "/"`},
		{"no path", func(s *Service) { *rewrite(s).Path = PathEdit{} }, at + `filters[2].rewrite.path.value: "" does not begin with "/"`},
		{"a prefix without slash", func(s *Service) { rewrite(s).Path.Prefix = "a" }, at + `filters[2].rewrite.path.prefix: "a" does not begin with "/"`},

		{"F-20: no redirect", func(s *Service) { redirect(s).Status = 304 }, next + "filters[0].redirect.status: 304 is no redirect that is known"},
		{"F-21: a scheme", func(s *Service) { redirect(s).Scheme = "ftp" }, next + `filters[0].redirect.scheme: "ftp" is not known`},
		{"F-22: an address", func(s *Service) { redirect(s).Host = "10.0.0.1" }, next + `filters[0].redirect.host: "10.0.0.1" is an address: a name is asked for`},
		{"F-23: a query", func(s *Service) { redirect(s).Path.Value = "/a?b" },
			next + `filters[0].redirect.path.value: "/a?b" has a character that a path cannot have: write it "%3F"`},
		{"two redirects", func(s *Service) {
			s.Ports[0].Producer.Rules[1].Filters = append(s.Ports[0].Producer.Rules[1].Filters, Filter{Redirect: redirect(s)})
		},
			next + "filters[1]: there is another redirect before it"},

		{"F-51: nothing", func(s *Service) { mirror(s).Share.Numerator = 0 }, at + "filters[3].mirror.share: 0/3 is not in 0 to 1, or is 0"},
		{"F-51: more than all", func(s *Service) { mirror(s).Share.Numerator = 4 }, at + "filters[3].mirror.share: 4/3 is not in 0 to 1, or is 0"},
		{"a mirror nowhere", func(s *Service) { mirror(s).Endpoints.Port = 0 }, at + "filters[3].mirror.endpoints.port: 0 is no port"},

		{"F-60: no origin", func(s *Service) { cors(s).Origins[1] = "a" }, at + `filters[4].cors.origins[1]: "a" begins with neither "http://" nor "https://"`},
		{"F-60: any origin beside one", func(s *Service) { cors(s).Origins[1] = "*" }, at + `filters[4].cors.origins[1]: "*" begins with neither "http://" nor "https://"`},
		{"F-60: any method beside one", func(s *Service) { cors(s).Methods = []string{"*", "PUT"} }, at + `filters[4].cors.methods[0]: "*" stands alone or not at all`},
		{"F-60: any header beside one", func(s *Service) { cors(s).Headers[1] = "*" }, at + `filters[4].cors.headers[1]: "*" stands alone or not at all`},
		{"no header", func(s *Service) { cors(s).Expose[1] = "a b" }, at + `filters[4].cors.expose[1]: "a b" is none`},
		{"no age", func(s *Service) { cors(s).MaxAge = 0 }, at + "filters[4].cors.maxAge: 0 is less than 1"},
		{"two of CORS", func(s *Service) { first(s, Filter{CORS: cors(s)}) }, at + "filters[5]: there is another cors before it"},

		{"F-6: a backend's redirect", func(s *Service) { ofBackend(s, Filter{Redirect: redirect(s)}) }, at + "backends[0].filters[0]: redirect is a rule's, not a backend's"},
		{"F-6: a backend's mirror", func(s *Service) { ofBackend(s, Filter{Mirror: mirror(s)}) }, at + "backends[0].filters[0]: mirror is a rule's, not a backend's"},
		{"F-6: a backend's CORS", func(s *Service) { ofBackend(s, Filter{CORS: cors(s)}) }, at + "backends[0].filters[0]: cors is a rule's, not a backend's"},
		{"M-36: calls that are redirected", func(s *Service) { ofCalls(s, Filter{Redirect: redirect(s)}) }, calls + "filters[0]: a gRPC table has no redirect"},
		{"M-36: calls with another path", func(s *Service) { ofCalls(s, Filter{Rewrite: rewrite(s)}) }, calls + "filters[0]: a gRPC table has no rewrite"},
		{"M-36: calls of other origins", func(s *Service) { ofCalls(s, Filter{CORS: cors(s)}) }, calls + "filters[0]: a gRPC table has no cors"},
	}.check(t, fullService, (*Service).Validate)
}

func TestMistakesInAPolicy(t *testing.T) {
	rule := func(s *Service) *Rule { return &s.Ports[0].Producer.Rules[0] }
	ofCalls := func(s *Service) *Rule { return &s.Ports[2].Producer.Rules[0] }
	const at, calls = "ports[0].producer.rules[0].", "ports[2].producer.rules[0]."
	mistakes[*Service]{
		{"a time-out below 0", func(s *Service) { rule(s).Timeouts.Request = -1 }, at + "timeouts.request: -1ns is negative"},
		{"a try's time-out below 0", func(s *Service) { rule(s).Timeouts.BackendRequest = -1 }, at + "timeouts.backendRequest: -1ns is negative"},
		{"B-44: a try that is longer than all", func(s *Service) { rule(s).Timeouts.Request = Duration(time.Second) },
			at + "timeouts.backendRequest: 1.5s is more than the 1s that the whole request has"},
		{"B-51: no attempts", func(s *Service) { rule(s).Retry.Attempts = 0 }, at + "retry.attempts: 0 is less than 1"},
		{"B-50: no error", func(s *Service) { rule(s).Retry.Codes[1] = 399 }, at + "retry.codes[1]: 399 is no error: want 400 to 599"},
		{"B-50: beyond all", func(s *Service) { rule(s).Retry.Codes[0] = 600 }, at + "retry.codes[0]: 600 is no error: want 400 to 599"},
		{"a backoff below 0", func(s *Service) { rule(s).Retry.Backoff = -1 }, at + "retry.backoff: -1ns is negative"},
		{"M-36: calls with a time-out", func(s *Service) { ofCalls(s).Timeouts.Request = 1 }, calls + "timeouts: a gRPC table has none"},
		{"M-36: calls that are tried again", func(s *Service) { ofCalls(s).Retry = rule(s).Retry }, calls + "retry: a gRPC table has none"},
	}.check(t, fullService, (*Service).Validate)
	s := fullService()
	rule(s).Timeouts.Request = 0 // B-43, B-44: none, so that a try may take any time
	rule(s).Retry.Codes = []int{400, 599}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

// F-14 is of requests: a response has no Host that could be one too many.
func TestF14AResponseMayHaveAnyHost(t *testing.T) {
	f := Filter{ResponseHeaders: &HeaderEdit{Set: []Header{{"Host", ""}}, Add: []Header{{"host", "a b"}}, Remove: []string{"HOST"}}}
	if err := f.Validate(); err != nil {
		t.Error(err)
	}
}

func TestF62ParseOrigin(t *testing.T) {
	for s, want := range map[string]Origin{
		"http://a":                {"http", "a", false, 80},
		"https://a":               {"https", "a", false, 443},
		"HTTPS://WWW.Shop:08443":  {"https", "www.shop", false, 8443},
		"http://*":                {"http", "", true, 80},
		"http://*:1":              {"http", "", true, 1},
		"https://*.shop.example":  {"https", ".shop.example", true, 443},
		"http://10.0.0.1:65535":   {"http", "10.0.0.1", false, 65535},
		"http://a-b_c.0":          {"http", "a-b_c.0", false, 80},
		"ftp://a":                 {},
		"://a":                    {},
		"a":                       {},
		"null":                    {},
		"*":                       {},
		"http://":                 {},
		"http://:80":              {},
		"http://a:":               {},
		"http://a:0":              {},
		"http://a:65536":          {},
		"http://a:+8":             {},
		"http://a:8:8":            {},
		"http://a/":               {},
		"http://a/b":              {},
		"http://a b":              {},
		"http://u@a":              {},
		"http://[::1]":            {},
		"http://*a":               {},
		"http://*.":               {},
		"http://*..a":             {},
		"http://**":               {},
		"http://a.*":              {},
		"http://a..b":             {},
		"http://.a":               {},
		"http://a.":               {},
		"http://é":                {},
		"http://\u212a":           {},
		"http:/a":                 {},
		"https://a?b":             {},
		"https://a#b":             {},
		"https://a\r\n":           {},
		"http://" + long(254, ""): {},
	} {
		got, err := ParseOrigin(s)
		if got != want || (err == nil) == (want == Origin{}) {
			t.Errorf("%q: %+v, %v: want %+v", s, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), `"`) {
			t.Errorf("%q: %v does not show it", s, err)
		}
	}
}

// long is a name of n bytes.
func long(n int, end string) string { return strings.Repeat("a", n-len(end)) + end }

func TestCheckHost(t *testing.T) {
	for s, right := range map[string]bool{
		"a": true, "a.b-c.d": true, "example.org": true, "1.2.3": true, long(253, ".a"): true,
		"": false, "*.a": false, "a:80": false, "A": false, "a.": false, ".a": false, "a..b": false, "10.0.0.1": false, "::1": false, "[::1]": false,
		"a/b": false, "a b": false, "u@a": false, "a\r\n": false, "é": false, long(254, ".a"): false,
	} {
		if err := CheckHost(s); (err == nil) != right {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for s, want := range map[string]string{
		"/": "", "/a/b/": "", "//": "", "/a%2fB%20": "", "/-._~!$&'()*+,;=:@09AZaz": "", "/..": "",
		"": "does not begin", "a": "does not begin", "*": "does not begin", "http://a": "does not begin",
		"/a?b": `"%3F"`, "/a#b": `"%23"`, "/a b": `"%20"`, "/é": `"%C3"`, "/\r\n": `"%0D"`, "/\x7f": `"%7F"`, `/"`: `"%22"`, `/\`: `"%5C"`, "/{": `"%7B"`,
		"/%": "escapes nothing", "/%2": "escapes nothing", "/%2g": "escapes nothing", "/%g2": "escapes nothing", "/%%20": "escapes nothing",
	} {
		switch err := CheckPath(s); {
		case want == "":
			if err != nil {
				t.Errorf("%q: %v", s, err)
			}
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v, want %s", s, err, want)
		}
	}
}

func TestDurationsAreWrittenForPeople(t *testing.T) {
	text, err := json.Marshal(Timeouts{Request: Duration(90 * time.Second)})
	if want := `{"request":"1m30s"}`; err != nil || string(text) != want {
		t.Errorf("%s, %v: want %s", text, err, want)
	}
	var back Timeouts
	if err := json.Unmarshal(text, &back); err != nil || back.Request != Duration(90*time.Second) {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"request":"soon"}`), &back); err == nil {
		t.Error("a duration that is none is taken")
	}
}

func TestFiltersThatAreRight(t *testing.T) {
	for name, f := range map[string]Filter{
		"F-43: a rewrite of nothing":     {Rewrite: &Rewrite{}},
		"F-23: the path stays":           {Redirect: &Redirect{Status: 301}},
		"F-41: a prefix goes":            {Rewrite: &Rewrite{Path: &PathEdit{Prefix: "/"}}},
		"F-60: any origin":               {CORS: &CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}, MaxAge: 1}},
		"F-60: any host":                 {CORS: &CORS{Origins: []string{"http://*"}, MaxAge: 1}},
		"F-51: everything":               {Mirror: &Mirror{Endpoints: EndpointsKey{"a", "b", 1}, Share: Fraction{1, 1}}},
		"F-10: an edit that changes not": {ResponseHeaders: &HeaderEdit{}},
	} {
		if err := f.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
