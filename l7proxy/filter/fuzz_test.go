package filter

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// referenceReplace is gamma 3.4 by elements: those of the prefix go, and the replacement's come in their place.
func referenceReplace(path, match, replacement string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	escape := regexp.MustCompile("%[0-9a-fA-F]{2}")
	decode := func(s string) string {
		return escape.ReplaceAllStringFunc(s, func(e string) string {
			if strings.EqualFold(e, "%2f") {
				return "%2F"
			}
			b, _ := strconv.ParseUint(e[1:], 16, 8)
			return string([]byte{byte(b)})
		})
	}
	elements, prefix := strings.Split(path, "/"), strings.Split(strings.TrimSuffix(match, "/"), "/")
	if len(elements) < len(prefix) {
		return path
	}
	for i := range prefix {
		if decode(elements[i]) != decode(prefix[i]) {
			return path
		}
	}
	rest := elements[len(prefix):]
	if len(rest) == 0 {
		if replacement == "" {
			return "/"
		}
		return replacement
	}
	return strings.Join(append([]string{strings.TrimRight(replacement, "/")}, rest...), "/")
}

func FuzzF41PrefixReplacement(f *testing.F) {
	for _, c := range replaceTable() {
		f.Add(c[0], c[1], c[2])
	}
	f.Add("/a%252Fb/c", "/a%2fb", "/x")
	f.Add("/a%2Fb/c", "/a%252Fb", "/x")
	f.Fuzz(func(t *testing.T, path, match, replacement string) {
		filter := model.Filter{Rewrite: &model.Rewrite{Path: prefix(match, replacement)}}
		if filter.Validate() != nil || match == "" {
			return
		}
		r := request()
		r.Path = path
		run(t, compiled(t, filter), r)
		if want := referenceReplace(path, match, replacement); r.Path != want {
			t.Errorf("%q, prefix %q, by %q: %q, want %q", path, match, replacement, r.Path, want)
		}
	})
}

// referenceLocation puts together what F-21 to F-28 say, one after the other.
func referenceLocation(d *model.Redirect, requestScheme, host string, servicePort uint16, path, query string, hasQuery bool) string {
	scheme, port := requestScheme, int(servicePort)
	if scheme == "" {
		scheme = "http"
	}
	if d.Scheme != "" {
		scheme = d.Scheme
		port = map[string]int{"http": 80, "https": 443}[scheme]
	}
	if d.Port != 0 {
		port = int(d.Port)
	}
	if d.Host != "" {
		host = d.Host
	}
	authority := fmt.Sprintf("%s:%d", host, port)
	if scheme == "http" && port == 80 || scheme == "https" && port == 443 {
		authority = host
	}
	if d.Path != nil && path != "" {
		if path = referenceReplace(path, d.Path.Prefix, d.Path.Value); d.Path.Prefix == "" {
			path = d.Path.Value
		}
	}
	if hasQuery {
		path += "?" + query
	}
	return scheme + "://" + authority + path
}

func FuzzF29Location(f *testing.F) {
	f.Add("", "", uint16(0), "", "", "", "h", uint16(80), "/a", "b", true)
	f.Add("https", "example.org", uint16(8443), "/a", "/b", "https", "[fd00::1]", uint16(443), "/a/c", "", true)
	f.Add("http", "", uint16(0), "", "/full/", "", "10.0.0.1", uint16(8080), "/a", "", false)
	f.Add("", "", uint16(443), "/", "", "https", "h", uint16(1), "", "x=/?", true)
	f.Fuzz(func(t *testing.T, scheme, host string, port uint16, match, value, requestScheme, requestHost string, servicePort uint16, path, query string, hasQuery bool) {
		d := &model.Redirect{Status: 302, Scheme: scheme, Host: host, Port: port}
		if match != "" || value != "" {
			d.Path = prefix(match, value)
		}
		filter := model.Filter{Redirect: d}
		if filter.Validate() != nil || servicePort == 0 || path != "" && path[0] != '/' ||
			requestScheme != "" && requestScheme != "http" && requestScheme != "https" || !isHost(requestHost) {
			return
		}
		r, c, s := request(), compiled(t, filter), &Scratch{}
		r.Scheme, r.Authority, r.Path, r.Query, r.HasQuery = requestScheme, requestHost+":123", path, query, hasQuery
		for range 2 { // what is made again is the same, and leaves the first alone
			a, answered := c.Request(r, Input{Port: servicePort}, s)
			if !answered || a.Status != 302 || len(a.Fields) != 1 {
				t.Fatalf("the answer is %+v, %v", a, answered)
			}
			if want := referenceLocation(d, requestScheme, requestHost, servicePort, path, query, hasQuery); a.Fields[0].Value != want {
				t.Errorf("%+v, %+v: %q, want %q", d, r, a.Fields[0].Value, want)
			}
		}
	})
}

// referenceAllows is F-62 as one expression for each of the origins that are allowed.
func referenceAllows(allowed, origin string) bool {
	parts := regexp.MustCompile(`(?i)^(https?)://([^:]*)(?::0*([0-9]+))?$`).FindStringSubmatch(allowed)
	host := regexp.QuoteMeta(parts[2])
	switch {
	case parts[2] == "*":
		host = `([a-z0-9._-]+|\[[a-z0-9.:]+\])`
	case strings.HasPrefix(parts[2], "*"):
		host = `[a-z0-9._-]+` + regexp.QuoteMeta(parts[2][1:])
	}
	port := parts[3]
	own := map[string]string{"http": "80", "https": "443"}[strings.ToLower(parts[1])]
	if port == "" {
		port = own
	}
	written := ":0*" + port
	if port == own {
		written = "(" + written + ")?"
	}
	// Go's folding of case goes beyond ASCII, where an origin has nothing.
	return regexp.MustCompile(`(?i)^`+parts[1]+"://"+host+written+"$").MatchString(origin) && !strings.ContainsFunc(origin, func(r rune) bool { return r >= 0x80 })
}

func FuzzF62Origins(f *testing.F) {
	for _, c := range [][2]string{
		{"https://www.foo.com", "https://www.foo.com"}, {"https://*.bar.com", "https://a.b.bar.com"}, {"http://*", "http://[::1]"}, {"http://*:81", "http://a:81"},
		{"https://*.bar.com", "https://.bar.com"}, {"https://A.b:0443", "https://a.B"}, {"http://k", "http://\u212a"}, {"http://*", "http://a:65616"},
		{"http://*.b", "http://[.b"}, {"http://*", "http://[a]b"}, {"http://*.b", "http://[::1].b"},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, allowed, origin string) {
		if _, err := model.ParseOrigin(allowed); err != nil {
			return
		}
		c := sharing(t, model.CORS{Origins: []string{"http://other.example:1", allowed}})
		if got, want := c.cors.allows(origin), referenceAllows(allowed, origin) || origin == "http://other.example:1"; got != want {
			t.Errorf("%q for %q: %v, want %v", allowed, origin, got, want)
		}
	})
}
