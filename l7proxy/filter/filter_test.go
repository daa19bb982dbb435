package filter

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// headers reads fields that are written as "Name: value".
func headers(lines ...string) (out []model.Header) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		out = append(out, model.Header{Name: name, Value: value})
	}
	return out
}

func set(lines ...string) *model.HeaderEdit    { return &model.HeaderEdit{Set: headers(lines...)} }
func add(lines ...string) *model.HeaderEdit    { return &model.HeaderEdit{Add: headers(lines...)} }
func remove(names ...string) *model.HeaderEdit { return &model.HeaderEdit{Remove: names} }
func all(edits ...*model.HeaderEdit) (e *model.HeaderEdit) {
	e = &model.HeaderEdit{}
	for _, o := range edits {
		e.Set, e.Add, e.Remove = append(e.Set, o.Set...), append(e.Add, o.Add...), append(e.Remove, o.Remove...)
	}
	return e
}

func chain(tb testing.TB, edits ...*model.HeaderEdit) Chain {
	tb.Helper()
	var filters []model.Filter
	for _, e := range edits {
		filters = append(filters, model.Filter{RequestHeaders: e})
	}
	return compiled(tb, filters...)
}

func compiled(tb testing.TB, filters ...model.Filter) Chain {
	tb.Helper()
	c, err := Compile(filters)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// request makes one of "Name: value" lines. Its authority is "web.shop".
func request(lines ...string) *message.Request {
	r := &message.Request{Method: "GET", Authority: "web.shop", Path: "/a", Query: "b", HasQuery: true}
	for _, h := range headers(lines...) {
		r.Fields.Add(h.Name, h.Value)
	}
	return r
}

// input is that of a connection to port 80 of a Service.
func input() Input { return Input{Host: "10.96.0.7", Port: 80} }

// run applies a chain that does not answer.
func run(t *testing.T, c Chain, r *message.Request) {
	t.Helper()
	if a, answered := c.Request(r, input(), &Scratch{}); answered {
		t.Errorf("the request is answered: %v", a)
	}
}

func lines(fields message.Fields) (out []string) {
	for _, f := range fields {
		out = append(out, f.Name+": "+f.Value)
	}
	return out
}

// check applies chains one after the other, and compares the lines.
func check(t *testing.T, r *message.Request, chains []Chain, want ...string) {
	t.Helper()
	for _, c := range chains {
		run(t, c, r)
	}
	if diff := cmp.Diff(want, lines(r.Fields)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestF10SetOverwritesAllValues(t *testing.T) {
	for _, c := range []struct{ name, of, set, want string }{
		{"one line", "A: 1|X: old|B: 2", "X: new", "A: 1|X: new|B: 2"},
		{"several lines", "A: 1|X: old|B: 2|X: older|C: 3|X: oldest", "X: new", "A: 1|X: new|B: 2|C: 3"},
		{"none", "A: 1", "X: new", "A: 1|X: new"},
		{"no fields", "", "X: new", "X: new"},
		{"an empty value", "X: old", "X: ", "X: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request(split(c.of)...)
			check(t, r, []Chain{chain(t, set(c.set))}, split(c.want)...)
		})
	}
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "|")
}

func TestF10AddAppends(t *testing.T) {
	check(t, request("X: 1", "B: 2"), []Chain{chain(t, add("X: 3", "New: 4"))}, "X: 1", "B: 2", "X: 3", "New: 4")
	check(t, request("B: 2"), []Chain{chain(t, add("X: 3"))}, "B: 2", "X: 3")
}

func TestF10RemoveDeletesAllLines(t *testing.T) {
	check(t, request("X: 1", "B: 2", "X: 3", "C: 4"), []Chain{chain(t, remove("X", "Absent"))}, "B: 2", "C: 4")
	check(t, request("X: 1"), []Chain{chain(t, remove("X"))})
}

func TestF10NamesAreCaseInsensitive(t *testing.T) {
	check(t, request("x-sEt: 1", "X-REMOVE: 2", "x-add: 3", "X-SET: 4"),
		[]Chain{chain(t, all(set("X-Set: new"), add("X-Add: 5"), remove("x-reMove")))},
		"x-sEt: new", "x-add: 3", "X-Add: 5")
	// Only ASCII has case (RFC 9110, 5.1): the Kelvin sign is no k.
	check(t, request("K: 1", "\u212a: 2"), []Chain{chain(t, remove("k"))}, "\u212a: 2")
}

// An edit that names a header twice is refused before it comes here; the order holds all the same.
func TestF11SetThenAddThenRemove(t *testing.T) {
	edit := &model.HeaderEdit{Remove: []string{"Gone"}, Add: headers("X: added", "Gone: added"), Set: headers("X: set", "Gone: set")}
	check(t, request("X: sent"), []Chain{chain(t, edit)}, "X: set", "X: added")
}

func TestF12AListIsOneValue(t *testing.T) {
	check(t, request("X: a"), []Chain{chain(t, add("X: b,c, d"))}, "X: a", "X: b,c, d")
	check(t, request("X: a"), []Chain{chain(t, set("X: b,c, d"))}, "X: b,c, d")
}

// The conformance suite joins what a backend got with bare commas.
func TestF13AddMakesALineOfItsOwn(t *testing.T) {
	r := request("X-Header-Add: append-val-1")
	run(t, chain(t, add("X-Header-Add: header-val-2")), r)
	if got := strings.Join([]string{r.Fields[0].Value, r.Fields[1].Value}, ","); len(r.Fields) != 2 || got != "append-val-1,header-val-2" {
		t.Errorf("the lines are %q", lines(r.Fields))
	}
}

func TestF14SetHostIsTheAuthority(t *testing.T) {
	for _, name := range []string{"Host", "host", "HOST"} {
		r := request("A: 1", "Host: web.shop", "B: 2")
		check(t, r, []Chain{chain(t, all(set(name+": other.shop:8080", "A: 3")))}, "A: 3", "Host: web.shop", "B: 2")
		if r.Authority != "other.shop:8080" {
			t.Errorf("set %s: the authority is %q", name, r.Authority)
		}
	}
	r := request("A: 1") // of HTTP/2: its fields have no Host, and get none
	check(t, r, []Chain{chain(t, set("Host: other.shop"))}, "A: 1")
	if r.Authority != "other.shop" {
		t.Errorf("the authority is %q", r.Authority)
	}
}

func TestF14TheRestOfTheRequestStays(t *testing.T) {
	r := request("X: 1")
	run(t, chain(t, all(set("X: 2"), add("Y: 3"), remove("Z"))), r)
	r.Fields = nil
	if diff := cmp.Diff(&message.Request{Method: "GET", Authority: "web.shop", Path: "/a", Query: "b", HasQuery: true}, r); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestF2FiltersApplyInTheirOrder(t *testing.T) {
	check(t, request("X: 1"), []Chain{chain(t, set("X: 2"), add("X: 3"), remove("X"), add("X: 4"), set("Y: 5"))}, "X: 4", "Y: 5")
	r := request()
	run(t, chain(t, set("Host: a"), set("Host: b")), r)
	if r.Authority != "b" {
		t.Errorf("the authority is %q: want the last filter's", r.Authority)
	}
}

// The rule's filters come first, then those of the backend that was chosen.
func TestF6TheBackendsFiltersComeAfterTheRules(t *testing.T) {
	rule := chain(t, set("X: rule", "Rule: 1"), add("Y: rule"))
	backend := chain(t, set("X: backend"), add("Y: backend"), remove("Rule"))
	check(t, request(), []Chain{rule, backend}, "X: backend", "Y: rule", "Y: backend")
}

func TestTheZeroChainChangesNothing(t *testing.T) {
	none, err := Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	check(t, request("X: 1", "x: 2"), []Chain{{}, none, chain(t, &model.HeaderEdit{})}, "X: 1", "x: 2")
}

// What cannot be run is never skipped.
func TestF5AnUnknownFilterIsAnError(t *testing.T) {
	good := model.Filter{RequestHeaders: set("X: 1")}
	for want, f := range map[string]model.Filter{
		"filters[1]: none of its members is set":                    {},
		`filters[1]: requestHeaders.set[1].name: header "TE"`:       {RequestHeaders: set("X: 1", "TE: trailers")},
		`filters[1]: requestHeaders.add[0].name: header "host"`:     {RequestHeaders: add("host: a")},
		`filters[1]: requestHeaders.remove[0]: header "Host"`:       {RequestHeaders: remove("Host")},
		`filters[1]: requestHeaders.set[0].value: it has a control`: {RequestHeaders: set("X: 1\r\nY: 2")},
		`filters[1]: cors.origins[0]: "a" begins with neither`:      {CORS: &model.CORS{Origins: []string{"a"}, MaxAge: 1}},
		`filters[1]: redirect.status: 0 is no redirect`:             {Redirect: &model.Redirect{}},
		`filters[1]: rewrite.host: "a b" is no name`:                {Rewrite: &model.Rewrite{Host: "a b"}},
		`filters[1]: mirror.share: 0/0 is not in 0 to 1`:            {Mirror: &model.Mirror{}},
		`filters[1]: responseHeaders.remove[0]: header "TE"`:        {ResponseHeaders: remove("TE")},
	} {
		c, err := Compile([]model.Filter{good, f, good})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("the error is %v: want %s", err, want)
		}
		r := request("Z: 1")
		if run(t, c, r); !slices.Equal(lines(r.Fields), []string{"Z: 1"}) {
			t.Errorf("what was not compiled changes a request: %q", lines(r.Fields))
		}
	}
}

// F-2: a response is the backend's filters' first, then the rule's; those of requests do not touch it, nor the other way round.
func TestF2AResponseIsEditedByTheBackendFirst(t *testing.T) {
	edit := func(e *model.HeaderEdit) model.Filter { return model.Filter{ResponseHeaders: e} }
	rule := compiled(t, model.Filter{RequestHeaders: set("X: request")}, edit(all(set("X: rule"), remove("Server"))), edit(add("Y: rule")))
	backend := compiled(t, edit(all(set("X: backend", "Z: backend"), add("Y: backend"))))
	req, s := request("A: 1"), &Scratch{}
	rule.Request(req, input(), s)
	backend.Request(req, input(), s)
	resp := &message.Response{Status: 200, Fields: request("x: old", "Server: nginx", "X: older").Fields}
	backend.Response(resp, s)
	rule.Response(resp, s)
	if diff := cmp.Diff([]string{"x: rule", "Z: backend", "Y: backend", "Y: rule"}, lines(resp.Fields)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"A: 1", "X: request"}, lines(req.Fields)); diff != "" {
		t.Errorf("the request: -want +got\n%s", diff)
	}
}

// F-14 is of requests: in a response Host is a field like any other.
func TestF14AResponseHasNoAuthority(t *testing.T) {
	c, resp := compiled(t, model.Filter{ResponseHeaders: set("Host: a")}), &message.Response{}
	c.Response(resp, &Scratch{})
	if diff := cmp.Diff([]string{"Host: a"}, lines(resp.Fields)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A Scratch serves one exchange after the other, and nothing of one is seen in the next.
func TestAScratchIsUsedAgain(t *testing.T) {
	c := compiled(t, model.Filter{CORS: &model.CORS{Origins: []string{"http://a"}, MaxAge: 1}},
		model.Filter{Rewrite: &model.Rewrite{Path: &model.PathEdit{Prefix: "/", Value: "/x"}}})
	s := &Scratch{}
	first, second := request("Origin: http://a"), request()
	c.Request(first, input(), s)
	if first.Path != "/x/a" || s.origin != "http://a" {
		t.Errorf("the path is %q, the origin %q", first.Path, s.origin)
	}
	s.Reset()
	second.Path = "/b"
	c.Request(second, input(), s)
	if second.Path != "/x/b" || s.origin != "" {
		t.Errorf("the path is %q, the origin %q", second.Path, s.origin)
	}
	s.Reset()
	long := request()
	long.Path = "/" + strings.Repeat("c", 2*maxScratch)
	if c.Request(long, input(), s); len(long.Path) != 2*maxScratch+3 || cap(s.text) < 2*maxScratch {
		t.Errorf("the path has %d bytes, the scratch %d", len(long.Path), cap(s.text))
	}
	if s.Reset(); cap(s.text) > maxScratch {
		t.Errorf("it keeps %d bytes", cap(s.text))
	}
}

// cases of what chains do to requests and their responses once their connection has had others: nothing is allocated.
func steady(tb testing.TB) map[string]func() {
	const headers = "Host: web.shop|User-Agent: curl/8|Accept: */*|X-Old: 1|Cookie: a=b|X-Trace: 7|x-old: 2|"
	prefix := &model.PathEdit{Prefix: "/shop/", Value: "/v2"}
	cors := &model.CORS{
		Origins: []string{"https://a.shop", "https://*.shop.example"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"X-A"},
		Credentials: true, MaxAge: 5,
	}
	const origin = "Origin: https://www.Shop.example:443"
	edits := all(set("X-Route: canary", "Host: web-canary.shop"), add("X-Trace: sluice"), remove("X-Old", "X-Absent"))
	out := map[string]func(){}
	for name, c := range map[string]struct {
		lines   string
		method  string
		filters []model.Filter
	}{
		"request headers":  {headers, "GET", []model.Filter{{RequestHeaders: edits}}},
		"response headers": {headers, "GET", []model.Filter{{ResponseHeaders: edits}}},
		"rewrite":          {headers, "GET", []model.Filter{{Rewrite: &model.Rewrite{Host: "v2.shop", Path: prefix}}}},
		"redirect":         {headers, "GET", []model.Filter{{Redirect: &model.Redirect{Status: 302, Port: 8080, Path: prefix}}}},
		"redirect, CORS":   {headers + origin, "GET", []model.Filter{{Redirect: &model.Redirect{Status: 302}}, {CORS: cors}}},
		"CORS":             {headers + origin, "PUT", []model.Filter{{CORS: cors}}},
		"CORS, another's":  {headers + origin + "x", "PUT", []model.Filter{{CORS: cors}}},
		"CORS, preflight": {origin + "|Access-Control-Request-Method: PUT|Access-Control-Request-Headers: a|Access-Control-Request-Headers: b", "OPTIONS",
			[]model.Filter{{CORS: cors}}},
		"mirror": {headers, "GET", []model.Filter{{Mirror: &model.Mirror{Endpoints: model.EndpointsKey{Namespace: "a", Name: "b", Port: 1}, Share: model.Fraction{Numerator: 1, Denominator: 2}}}}},
	} {
		chain, s := compiled(tb, c.filters...), &Scratch{}
		fields, answer := request(split(c.lines)...).Fields, request("Server: nginx", "Vary: Accept, Accept-Encoding", "X-Old: 1", "Access-Control-Allow-Origin: *").Fields
		req, resp := &message.Request{Fields: make(message.Fields, 0, 16)}, &message.Response{Fields: make(message.Fields, 0, 16)}
		out[name] = func() {
			req.Method, req.Authority, req.Path, req.Query, req.HasQuery = c.method, "web.shop:8080", "/sh%6fp/cart/7%2F8", "a=b", true
			req.Fields, resp.Fields = append(req.Fields[:0], fields...), append(resp.Fields[:0], answer...)
			if a, answered := chain.Request(req, input(), s); answered {
				resp.Fields = append(resp.Fields[:0], a.Fields...)
			}
			for i := range chain.Mirrors() {
				chain.Mirrors()[i].Wants(uint64(i))
			}
			chain.Response(resp, s)
			s.Reset()
		}
	}
	return out
}

func TestNoAllocationPerRequest(t *testing.T) {
	for name, exchange := range steady(t) {
		if n := testing.AllocsPerRun(100, exchange); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	for name, exchange := range steady(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				exchange()
			}
		})
	}
}
