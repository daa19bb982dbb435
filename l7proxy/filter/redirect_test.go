package filter

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func redirecting(tb testing.TB, d model.Redirect) Chain {
	tb.Helper()
	if d.Status == 0 {
		d.Status = 302
	}
	return compiled(tb, model.Filter{Redirect: &d})
}

// located is the Location that a request for authority and path gets.
func located(t *testing.T, d model.Redirect, in Input, authority, path string) string {
	t.Helper()
	r := request()
	r.Authority, r.Path, r.Query, r.HasQuery = authority, path, "", false
	c := redirecting(t, d)
	a, answered := c.Request(r, in, &Scratch{})
	if !answered || len(a.Fields) != 1 || a.Fields[0].Name != "Location" {
		t.Fatalf("the answer is %+v, %v", a, answered)
	}
	return a.Fields[0].Value
}

func TestF20StatusCodes(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := redirecting(t, model.Redirect{Status: status, Host: "example.org"})
		if a, answered := c.Request(request(), input(), &Scratch{}); !answered || a.Status != status {
			t.Errorf("%d: the answer is %+v, %v", status, a, answered)
		}
	}
}

// C:HTTPRouteRedirectPortAndScheme.
func TestF24PortMatrix(t *testing.T) {
	for _, c := range []struct {
		scheme string // of the request
		port   uint16 // of the Service
		d      model.Redirect
		want   string
	}{
		{"", 80, model.Redirect{}, "http://h"},
		{"", 80, model.Redirect{Port: 80}, "http://h"},
		{"", 80, model.Redirect{Port: 8080}, "http://h:8080"},
		{"", 80, model.Redirect{Scheme: "https"}, "https://h"},
		{"", 80, model.Redirect{Scheme: "https", Port: 443}, "https://h"},
		{"", 80, model.Redirect{Scheme: "https", Port: 8443}, "https://h:8443"},
		{"", 80, model.Redirect{Scheme: "https", Port: 80}, "https://h:80"},
		{"", 80, model.Redirect{Scheme: "http"}, "http://h"},
		{"", 8080, model.Redirect{}, "http://h:8080"},
		{"", 8080, model.Redirect{Port: 80}, "http://h"},
		{"", 8080, model.Redirect{Scheme: "http"}, "http://h"}, // F-25
		{"", 8080, model.Redirect{Scheme: "https"}, "https://h"},
		{"", 443, model.Redirect{}, "http://h:443"},
		{"https", 443, model.Redirect{}, "https://h"},
		{"https", 443, model.Redirect{Port: 443}, "https://h"},
		{"https", 443, model.Redirect{Port: 8443}, "https://h:8443"},
		{"https", 443, model.Redirect{Scheme: "http"}, "http://h"},
		{"https", 443, model.Redirect{Scheme: "http", Port: 80}, "http://h"},
		{"https", 443, model.Redirect{Scheme: "http", Port: 8080}, "http://h:8080"},
		{"https", 8443, model.Redirect{}, "https://h:8443"},
		{"ftp", 80, model.Redirect{}, "http://h"}, // F-21: no scheme of a Location
	} {
		name := fmt.Sprintf("%s %d: %+v", c.scheme, c.port, c.d)
		r, chain := request(), redirecting(t, c.d)
		r.Authority, r.Scheme, r.HasQuery = "h:12345", c.scheme, false // F-26: the port that the client wrote is not used
		a, answered := chain.Request(r, Input{Port: c.port}, &Scratch{})
		if want := c.want + "/a"; !answered || a.Fields[0].Value != want {
			t.Errorf("%s: %+v, want %s", name, a, want)
		}
	}
	// The scheme of a request that names none is the connection's.
	if got := located(t, model.Redirect{}, Input{Scheme: "https", Port: 443}, "h", "/"); got != "https://h/" {
		t.Errorf("the connection's scheme: %s", got)
	}
}

func TestF22Host(t *testing.T) {
	for authority, want := range map[string]string{
		"web.shop": "http://web.shop/", "web.shop:8080": "http://web.shop/", "WEB:": "http://WEB/", "10.0.0.1:80": "http://10.0.0.1/",
		"[fd00::1]:80": "http://[fd00::1]/", "[fd00::1]": "http://[fd00::1]/",
		"": "http://10.96.0.7/", // HTTP/1.0: what the client connected to
	} {
		if got := located(t, model.Redirect{}, input(), authority, "/"); got != want {
			t.Errorf("%q: %s, want %s", authority, got, want)
		}
		if got := located(t, model.Redirect{Host: "example.org"}, input(), authority, "/"); got != "http://example.org/" {
			t.Errorf("%q: %s, want the filter's host", authority, got)
		}
	}
	// What an edit makes of Host is for a backend.
	c := compiled(t, model.Filter{RequestHeaders: set("Host: backend.shop")}, model.Filter{Redirect: &model.Redirect{Status: 302}})
	if a, _ := c.Request(request(), input(), &Scratch{}); len(a.Fields) != 1 || a.Fields[0].Value != "http://web.shop/a?b" {
		t.Errorf("after an edit of Host: %+v", a)
	}
}

func TestF23Path(t *testing.T) {
	for _, c := range []struct {
		path string
		edit *model.PathEdit
		want string
	}{
		{"/a/b%2Fc/", nil, "/a/b%2Fc/"},
		{"//evil.example", nil, "//evil.example"}, // F-29: after a host it names none
		{"/a", full("/replacement-full/"), "/replacement-full/"},
		{"/original-prefix/lemon", prefix("/original-prefix", "/replacement-prefix"), "/replacement-prefix/lemon"},
		{"*", nil, ""}, {"*", full("/x"), ""}, {"", nil, ""}, // RFC 9110, 7.1
	} {
		if got := located(t, model.Redirect{Path: c.edit}, input(), "h", c.path); got != "http://h"+c.want {
			t.Errorf("%s, %+v: %s", c.path, c.edit, got)
		}
	}
	for _, c := range replaceTable() {
		if c[0] == "*" {
			continue
		}
		if got := located(t, model.Redirect{Path: prefix(c[1], c[2])}, input(), "h", c[0]); got != "http://h"+c[3] {
			t.Errorf("%s, prefix %s, by %q: %s", c[0], c[1], c[2], got)
		}
	}
}

func TestF28TheQueryStays(t *testing.T) {
	for _, d := range []model.Redirect{{}, {Path: full("/x")}} {
		for query, want := range map[string]string{"a=%20b&c+d": "?a=%20b&c+d", "": "?", "-": ""} {
			r, c := request(), redirecting(t, d)
			if r.Query, r.HasQuery = query, true; query == "-" {
				r.Query, r.HasQuery = "", false
			}
			path := "/a"
			if d.Path != nil {
				path = "/x"
			}
			if a, _ := c.Request(r, input(), &Scratch{}); a.Fields[0].Value != "http://web.shop"+path+want {
				t.Errorf("query %q: %s", query, a.Fields[0].Value)
			}
		}
	}
}

// F-2, F-15: a redirect ends the request: what comes after it does nothing, and its answer is no response that is edited.
func TestF2ARedirectEndsTheRequest(t *testing.T) {
	c := compiled(t, model.Filter{RequestHeaders: set("X: before")}, model.Filter{ResponseHeaders: set("X: response")},
		model.Filter{Redirect: &model.Redirect{Status: 301, Host: "a"}}, model.Filter{RequestHeaders: set("X: after")})
	r := request("X: sent")
	a, answered := c.Request(r, input(), &Scratch{})
	if !answered || a.Status != 301 {
		t.Fatalf("the answer is %+v, %v", a, answered)
	}
	if diff := cmp.Diff([]string{"Location: http://a/a?b"}, lines(a.Fields)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"X: before"}, lines(r.Fields)); diff != "" {
		t.Errorf("the request: -want +got\n%s", diff)
	}
}
