package filter

import (
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// prefix replaces a prefix, the way the API's table has it.
func prefix(match, by string) *model.PathEdit { return &model.PathEdit{Prefix: match, Value: by} }
func full(path string) *model.PathEdit        { return &model.PathEdit{Value: path} }

func rewriting(tb testing.TB, p *model.PathEdit) Chain {
	tb.Helper()
	return compiled(tb, model.Filter{Rewrite: &model.Rewrite{Path: p}})
}

// replaceTable is gamma 3.4: a request's path, the prefix that matched, what replaces it, and what comes out.
func replaceTable() [][4]string {
	return [][4]string{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},

		// Decisions (checklist 33).
		{"/foo", "/", "/xyz", "/xyz/foo"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/foo", "/foo", "/xyz/", "/xyz/"},
		{"/foo", "/foo/", "/xyz", "/xyz"},
		{"/foo", "/", "", "/foo"},
		{"/", "/", "/", "/"},

		// As it was sent: escapes and doubled slashes stay; what is escaped matches what is not (M-14).
		{"/foo/a%2Fb%20c", "/foo", "/xyz", "/xyz/a%2Fb%20c"},
		{"/foo/a%2fb", "/foo", "/", "/a%2fb"},
		{"/f%6Fo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/f%6fo", "/f%6Fo", "/xyz", "/xyz"},
		{"/foo//bar", "/foo", "/xyz", "/xyz//bar"},
		{"/foo/bar", "/foo", "/x%20y", "/x%20y/bar"},
		{"/foo/%zz%", "/foo", "/xyz", "/xyz/%zz%"},
		{"/%zz/bar", "/%zz", "/xyz", "/xyz/bar"},

		// A rule whose prefix is another one has not matched.
		{"/foobar", "/foo", "/xyz", "/foobar"},
		{"/foo%2Fbar", "/foo", "/xyz", "/foo%2Fbar"},
		{"/FOO/bar", "/foo", "/xyz", "/FOO/bar"},
		{"/fo", "/foo", "/xyz", "/fo"},
		// What is no path has no prefix.
		{"*", "/", "/xyz", "*"},
		{"", "/", "/xyz", ""},
	}
}

func TestF41PrefixReplacement(t *testing.T) {
	for _, c := range replaceTable() {
		r := request()
		r.Path = c[0]
		run(t, rewriting(t, prefix(c[1], c[2])), r)
		if r.Path != c[3] {
			t.Errorf("%s, prefix %s, by %q: %q, want %q", c[0], c[1], c[2], r.Path, c[3])
		}
		if r.Query != "b" || !r.HasQuery || r.Authority != "web.shop" {
			t.Errorf("%s: more than the path has changed: %+v", c[0], r)
		}
	}
}

func TestF41FullReplacement(t *testing.T) {
	for from, want := range map[string]string{"/": "/one/", "/a/b%20c": "/one/", "*": "*", "": ""} {
		r := request()
		r.Path = from
		run(t, rewriting(t, full("/one/")), r)
		if r.Path != want || r.Query != "b" || !r.HasQuery {
			t.Errorf("%q becomes %q?%s, want %q", from, r.Path, r.Query, want)
		}
	}
}

func TestF40HostRewrite(t *testing.T) {
	r := request("Host: web.shop")
	r.Authority = "web.shop:8080"
	check(t, r, []Chain{compiled(t, model.Filter{Rewrite: &model.Rewrite{Host: "one.example.org"}})}, "Host: web.shop") // its value is not used
	if r.Authority != "one.example.org" || r.Path != "/a" {
		t.Errorf("the target is %s%s", r.Authority, r.Path)
	}
}

func TestF43WithoutRewriteTheTargetStays(t *testing.T) {
	r := request()
	run(t, compiled(t, model.Filter{Rewrite: &model.Rewrite{}}, model.Filter{ResponseHeaders: set("Host: a")}), r)
	if r.Authority != "web.shop" || r.Path != "/a" {
		t.Errorf("the target is %s%s", r.Authority, r.Path)
	}
}

// F-42: the backend's rewrite wins, and its prefix is of what the rule matched.
func TestF42TheBackendsRewriteStartsFromTheOriginalPath(t *testing.T) {
	for name, c := range map[string]struct {
		rule, backend *model.PathEdit
		want          string
	}{
		"both replace the prefix":    {prefix("/foo", "/rule"), prefix("/foo", "/backend"), "/backend/bar"},
		"the rule the whole":         {full("/rule"), prefix("/foo", "/backend"), "/backend/bar"},
		"the backend the whole":      {prefix("/foo", "/rule"), full("/backend"), "/backend"},
		"the rule alone":             {prefix("/foo", "/rule"), nil, "/rule/bar"},
		"the backend alone":          {nil, prefix("/foo", "/backend"), "/backend/bar"},
		"the backend takes it away":  {full("/rule"), prefix("/foo", ""), "/bar"},
		"the rule's makes it longer": {prefix("/foo", "/foo/foo"), prefix("/foo", "/x"), "/x/bar"},
	} {
		r, s := request(), &Scratch{}
		r.Path = "/foo/bar"
		for _, p := range []*model.PathEdit{c.rule, c.backend} {
			chain := rewriting(t, p)
			chain.Request(r, input(), s)
		}
		if r.Path != c.want {
			t.Errorf("%s: %q, want %q", name, r.Path, c.want)
		}
	}
}

// F-2, and C:HTTPRouteRewritePath: rewrites and edits of headers go together, in the order of the list.
func TestF2RewritesAndEditsTogether(t *testing.T) {
	r := request("X-Header-Add-Append: append-val-1", "X-Header-Remove: 1")
	check(t, r, []Chain{compiled(t,
		model.Filter{RequestHeaders: all(set("Host: early.example"), add("X-Header-Add-Append: header-val-2"), remove("X-Header-Remove"))},
		model.Filter{Rewrite: &model.Rewrite{Host: "test.example.org", Path: full("/one")}},
	)}, "X-Header-Add-Append: append-val-1", "X-Header-Add-Append: header-val-2")
	if r.Authority != "test.example.org" || r.Path != "/one" {
		t.Errorf("the target is %s%s", r.Authority, r.Path)
	}
}

// What is made of one request stays while the Scratch makes more.
func TestStringsOfAScratchStay(t *testing.T) {
	c, s := rewriting(t, prefix("/a", "/x")), &Scratch{}
	var made []*message.Request
	for range 100 {
		r := request()
		r.Path = "/a/b"
		s.pathNoted = false
		c.Request(r, input(), s)
		made = append(made, r)
	}
	for _, r := range made {
		if r.Path != "/x/b" {
			t.Fatalf("the path became %q", r.Path)
		}
	}
}
