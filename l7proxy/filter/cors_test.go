package filter

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func sharing(tb testing.TB, c model.CORS) Chain {
	tb.Helper()
	c.MaxAge = max(c.MaxAge, 5)
	return compiled(tb, model.Filter{CORS: &c})
}

// preflight is what a browser asks before it asks.
func preflight(origin, method string, more ...string) *message.Request {
	r := request(append([]string{"Origin: " + origin, "Access-Control-Request-Method: " + method}, more...)...)
	r.Method = "OPTIONS"
	return r
}

// asked is what a preflight is answered, in the order of names.
func asked(t *testing.T, c Chain, r *message.Request) []string {
	t.Helper()
	a, answered := c.Request(r, input(), &Scratch{})
	if !answered || a.Status != 200 {
		t.Fatalf("the preflight is answered %+v, %v", a, answered)
	}
	return slices.Sorted(slices.Values(lines(a.Fields)))
}

// C:HTTPRouteCORS, and what else gamma 3.7 says of preflights.
func TestF65Preflights(t *testing.T) {
	listed := model.CORS{
		Origins: []string{"https://www.foo.com", "https://*.bar.com"}, Methods: []string{"GET", "OPTIONS"}, Headers: []string{"x-header-1", "x-header-2"},
		Expose: []string{"x-header-3", "x-header-4"}, Credentials: true, MaxAge: 3600,
	}
	granted := func(origin string) []string {
		return []string{
			"Access-Control-Allow-Credentials: true", "Access-Control-Allow-Headers: x-header-1, x-header-2", "Access-Control-Allow-Methods: GET, OPTIONS",
			"Access-Control-Allow-Origin: " + origin, "Access-Control-Expose-Headers: x-header-3, x-header-4", "Access-Control-Max-Age: 3600", "Vary: Origin",
		}
	}
	everything := model.CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}}
	withCredentials := everything
	withCredentials.Credentials = true
	mixed := withCredentials
	mixed.Expose = []string{"*", "X-A"}
	headers := "Access-Control-Request-Headers: x-header-1, x-header-2"
	for name, c := range map[string]struct {
		cors model.CORS
		r    *message.Request
		want []string
	}{
		"an exact origin":               {listed, preflight("https://www.foo.com", "GET", headers), granted("https://www.foo.com")},
		"a wildcard":                    {listed, preflight("https://www.bar.com", "GET"), granted("https://www.bar.com")},
		"a wildcard for two":            {listed, preflight("https://xpto.www.bar.com", "GET"), granted("https://xpto.www.bar.com")},
		"F-64: none":                    {listed, preflight("https://foobar.com", "GET"), []string{"Vary: Origin"}},
		"F-64: no page's":               {listed, preflight("null", "GET"), []string{"Vary: Origin"}},
		"a method that is not listed":   {listed, preflight("https://www.foo.com", "PUT"), granted("https://www.foo.com")}, // the browser refuses it
		"F-67: nothing but safe ones":   {model.CORS{Origins: []string{"http://a"}}, preflight("http://a", "POST"), []string{"Access-Control-Allow-Origin: http://a", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"any, without credentials":      {everything, preflight("https://a:12345", "PUT", headers), []string{"Access-Control-Allow-Headers: x-header-1, x-header-2", "Access-Control-Allow-Methods: *", "Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: *", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"any, with credentials":         {withCredentials, preflight("https://a", "PUT", headers), []string{"Access-Control-Allow-Credentials: true", "Access-Control-Allow-Headers: x-header-1, x-header-2", "Access-Control-Allow-Methods: PUT", "Access-Control-Allow-Origin: https://a", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"any headers, none asked for":   {withCredentials, preflight("null", "PUT"), []string{"Access-Control-Allow-Credentials: true", "Access-Control-Allow-Methods: PUT", "Access-Control-Allow-Origin: null", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"headers in two lines":          {everything, preflight("http://a", "PUT", "Access-Control-Request-Headers: a,b", "access-control-request-headers: c"), []string{"Access-Control-Allow-Headers: a,b, c", "Access-Control-Allow-Methods: *", "Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: *", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"expose: what is not any stays": {mixed, preflight("http://a", "GET"), []string{"Access-Control-Allow-Credentials: true", "Access-Control-Allow-Methods: GET", "Access-Control-Allow-Origin: http://a", "Access-Control-Expose-Headers: X-A", "Access-Control-Max-Age: 5", "Vary: Origin"}},
		"F-62: two origins are none":    {everything, preflight("http://a", "PUT", "Origin: http://b"), []string{"Vary: Origin"}},
		"no origins":                    {model.CORS{}, preflight("http://a", "PUT"), []string{"Vary: Origin"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, asked(t, sharing(t, c.cors), c.r)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// F-61: what lacks a part of a preflight is a request like any other.
func TestF61WhatIsNoPreflightGoesOn(t *testing.T) {
	c := sharing(t, model.CORS{Origins: []string{"http://a"}})
	for name, edit := range map[string]func(*message.Request){
		"another method": func(r *message.Request) { r.Method = "GET" },
		"no origin":      func(r *message.Request) { r.Fields.Del("origin") },
		"no method":      func(r *message.Request) { r.Fields.Del("access-control-request-method") },
		"in lower case":  func(r *message.Request) { r.Method = "options" },
	} {
		r := preflight("http://a", "PUT")
		edit(r)
		if a, answered := c.Request(r, input(), &Scratch{}); answered {
			t.Errorf("%s: it is answered %+v", name, a)
		}
	}
}

// responded is what a client sees of a backend's response to a request of an origin; "" is of none.
func responded(t *testing.T, c Chain, origin string, from ...string) []string {
	t.Helper()
	r, s := request(), &Scratch{}
	if origin != "" {
		r.Fields.Add("origin", origin)
	}
	before := lines(r.Fields)
	if _, answered := c.Request(r, input(), s); answered {
		t.Fatal("it is answered")
	}
	if diff := cmp.Diff(before, lines(r.Fields)); diff != "" {
		t.Errorf("the request changed: -want +got\n%s", diff)
	}
	if len(r.Fields) > 0 {
		r.Fields[0].Value = "spoiled" // the request does not outlive its response
	}
	resp := &message.Response{Status: 200, Fields: request(from...).Fields}
	c.Response(resp, s)
	return lines(resp.Fields)
}

func TestF66Responses(t *testing.T) {
	listed := model.CORS{Origins: []string{"https://www.foo.com"}, Expose: []string{"X-A", "X-B"}, Credentials: true}
	anyOrigin := model.CORS{Origins: []string{"*"}, Expose: []string{"*"}}
	backends := []string{"access-control-allow-origin: *", "A: 1", "Access-Control-Allow-Credentials: true", "Access-Control-Expose-Headers: secret", "Access-Control-Allow-Origin: x"}
	shared := []string{"Access-Control-Allow-Origin: https://www.foo.com", "Access-Control-Allow-Credentials: true", "Access-Control-Expose-Headers: X-A, X-B", "Vary: Origin"}
	for name, c := range map[string]struct {
		cors   model.CORS
		origin string
		from   []string
		want   []string
	}{
		"allowed":                     {listed, "https://www.foo.com", []string{"A: 1"}, append([]string{"A: 1"}, shared...)},
		"in place of the backend's":   {listed, "https://www.foo.com", backends, append([]string{"A: 1"}, shared...)},
		"F-64: not allowed":           {listed, "https://www.bar.com", []string{"A: 1"}, []string{"A: 1", "Vary: Origin"}},
		"nor by the backend":          {listed, "https://www.bar.com", backends, []string{"A: 1", "Vary: Origin"}},
		"without origin":              {listed, "", []string{"A: 1"}, []string{"A: 1", "Vary: Origin"}},
		"any":                         {anyOrigin, "http://a", nil, []string{"Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: *", "Vary: Origin"}},
		"any, without origin":         {anyOrigin, "", nil, []string{"Vary: Origin"}},
		"caches know of others":       {anyOrigin, "", []string{"Vary: Accept, X-Origin"}, []string{"Vary: Accept, X-Origin", "Vary: Origin"}},
		"caches know":                 {anyOrigin, "", []string{"Vary: A", "vary: Accept,\torigin ,b"}, []string{"Vary: A", "vary: Accept,\torigin ,b"}},
		"caches keep nothing at all":  {anyOrigin, "", []string{"Vary: *"}, []string{"Vary: *"}},
		"the request's methods aside": {listed, "https://www.bar.com", []string{"Access-Control-Allow-Methods: PUT"}, []string{"Access-Control-Allow-Methods: PUT", "Vary: Origin"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, responded(t, sharing(t, c.cors), c.origin, c.from...)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// F-2: CORS is first on the way in, wherever it is in the list, and last on the way out.
func TestF2CORSIsTheOutermost(t *testing.T) {
	cors := model.Filter{CORS: &model.CORS{Origins: []string{"http://a"}, MaxAge: 5}}
	c := compiled(t, model.Filter{RequestHeaders: set("Origin: http://b")},
		model.Filter{ResponseHeaders: set("Access-Control-Allow-Origin: x", "X: 1")}, cors)
	if diff := cmp.Diff([]string{"X: 1", "Access-Control-Allow-Origin: http://a", "Vary: Origin"}, responded(t, compiled(t,
		model.Filter{ResponseHeaders: set("Access-Control-Allow-Origin: x", "X: 1")}, cors), "http://a")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := asked(t, c, preflight("http://a", "PUT")); !slices.Contains(got, "Access-Control-Allow-Origin: http://a") {
		t.Errorf("an edit goes before CORS: %q", got)
	}
	// A redirect answers what is no preflight, and a script can follow it.
	c = compiled(t, model.Filter{Redirect: &model.Redirect{Status: 307, Host: "b"}}, cors)
	if got := asked(t, c, preflight("http://a", "PUT")); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "Location") }) {
		t.Errorf("a preflight is redirected: %q", got)
	}
	a, _ := c.Request(request("Origin: http://a"), input(), &Scratch{})
	if diff := cmp.Diff([]string{"Location: http://b/a?b", "Access-Control-Allow-Origin: http://a", "Vary: Origin"}, lines(a.Fields)); a.Status != 307 || diff != "" {
		t.Errorf("%d: -want +got\n%s", a.Status, diff)
	}
}

// F-15: an answer of our own gets no edit, but a script may read it.
func TestF15ShareOfAnAnswerOfOurOwn(t *testing.T) {
	c := compiled(t, model.Filter{ResponseHeaders: set("X: 1")}, model.Filter{CORS: &model.CORS{Origins: []string{"*"}, MaxAge: 5}})
	s, fields := &Scratch{}, message.Fields{{Name: "A", Value: "1"}}
	c.Request(request("Origin: http://a"), input(), s)
	c.Share(&fields, s)
	if diff := cmp.Diff([]string{"A: 1", "Access-Control-Allow-Origin: *", "Vary: Origin"}, lines(fields)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	none := message.Fields{}
	if (&Chain{}).Share(&none, s); len(none) != 0 {
		t.Errorf("without CORS: %v", none)
	}
}

func TestF62Origins(t *testing.T) {
	for _, c := range []struct {
		allowed, origin string
		want            bool
	}{
		{"https://www.foo.com", "https://www.foo.com", true},
		{"https://www.foo.com", "https://www.foo.com:443", true},
		{"https://www.foo.com:443", "https://www.foo.com", true},
		{"http://a:80", "http://a", true},
		{"http://a", "http://a:80", true},
		{"http://A", "HTTP://a", true},
		{"https://www.foo.com", "http://www.foo.com", false},
		{"https://www.foo.com", "https://www.foo.com:8443", false},
		{"https://a:80", "https://a", false},
		{"http://a", "https://a:80", false},
		{"https://www.foo.com", "https://www.foo.com.evil", false},
		{"https://www.foo.com", "https://xwww.foo.com", false},
		{"https://www.foo.com", "https://www.foo.com/", false},
		{"https://www.foo.com", "https://www.foo.com:", false},
		{"https://www.foo.com", "https://www.foo.com:0443x", false},
		{"https://www.foo.com", " https://www.foo.com", false},
		{"https://*.bar.com", "https://www.bar.com", true},
		{"https://*.bar.com", "https://xpto.www.bar.com", true},
		{"https://*.bar.com", "https://WWW.BAR.com:443", true},
		{"https://*.bar.com", "https://bar.com", false},
		{"https://*.bar.com", "https://.bar.com", false},
		{"https://*.bar.com", "https://foobar.com", false},
		{"https://*.bar.com", "https://evil.example/.bar.com", false},
		{"https://*.bar.com", "https://evil.example#.bar.com", false},
		{"https://*.bar.com", "https://evil.example:8443.bar.com", false},
		{"https://*.bar.com", "https://u@www.bar.com", false},
		{"https://*.bar.com", "https://é.bar.com", false},
		{"https://*.bar.com", "https://www.bar.com:8443", false},
		{"https://*.bar.com:8443", "https://www.bar.com:8443", true},
		{"https://*", "https://anything.example", true},
		{"https://*", "https://[fd00::1]", true},
		{"https://*", "https://[fd00::1]:443", true},
		{"https://*", "https://[fd00::1]:8443", false},
		{"https://*", "https://[fd00::1", false},
		{"https://*", "https://[]", false},
		{"https://*", "https://", false},
		{"https://*", "https://:443", false},
		{"https://*", "null", false},
		{"http://*:65535", "http://a:65535", true},
		{"http://*:1", "http://a:65537", false}, // 1 in sixteen bits
		{"http://*:1", "http://a:99999999999999999999999999999999", false},
		{"http://*", "http://a:-80", false},
		{"http://*", "ftp://a", false},
	} {
		chain := sharing(t, model.CORS{Origins: []string{"http://other", c.allowed}})
		if got := chain.cors.allows(c.origin); got != c.want {
			t.Errorf("%s for %q: %v", c.allowed, c.origin, got)
		}
	}
}
