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

func lines(r *message.Request) (out []string) {
	for _, f := range r.Fields {
		out = append(out, f.Name+": "+f.Value)
	}
	return out
}

// check applies chains one after the other, and compares the lines.
func check(t *testing.T, r *message.Request, chains []Chain, want ...string) {
	t.Helper()
	for _, c := range chains {
		c.Request(r)
	}
	if diff := cmp.Diff(want, lines(r)); diff != "" {
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
	chain(t, add("X-Header-Add: header-val-2")).Request(r)
	if got := strings.Join([]string{r.Fields[0].Value, r.Fields[1].Value}, ","); len(r.Fields) != 2 || got != "append-val-1,header-val-2" {
		t.Errorf("the lines are %q", lines(r))
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
	chain(t, all(set("X: 2"), add("Y: 3"), remove("Z"))).Request(r)
	r.Fields = nil
	if diff := cmp.Diff(&message.Request{Method: "GET", Authority: "web.shop", Path: "/a", Query: "b", HasQuery: true}, r); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestF2FiltersApplyInTheirOrder(t *testing.T) {
	check(t, request("X: 1"), []Chain{chain(t, set("X: 2"), add("X: 3"), remove("X"), add("X: 4"), set("Y: 5"))}, "X: 4", "Y: 5")
	r := request()
	chain(t, set("Host: a"), set("Host: b")).Request(r)
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
		"filters[1]: none of its members is known":                  {},
		`filters[1]: requestHeaders.set[1].name: header "TE"`:       {RequestHeaders: set("X: 1", "TE: trailers")},
		`filters[1]: requestHeaders.add[0].name: header "host"`:     {RequestHeaders: add("host: a")},
		`filters[1]: requestHeaders.remove[0]: header "Host"`:       {RequestHeaders: remove("Host")},
		`filters[1]: requestHeaders.set[0].value: it has a control`: {RequestHeaders: set("X: 1\r\nY: 2")},
	} {
		c, err := Compile([]model.Filter{good, f, good})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("the error is %v: want %s", err, want)
		}
		r := request("Z: 1")
		if c.Request(r); !slices.Equal(lines(r), []string{"Z: 1"}) {
			t.Errorf("what was not compiled changes a request: %q", lines(r))
		}
	}
}

// The request's fields have room, as those of a connection that has had a request before.
func exchange(r *message.Request, from message.Fields, c Chain) {
	r.Authority = "web.shop"
	r.Fields = append(r.Fields[:0], from...)
	c.Request(r)
}

func prepared(tb testing.TB) (*message.Request, message.Fields, Chain) {
	from := request("Host: web.shop", "User-Agent: curl/8", "Accept: */*", "X-Old: 1", "Cookie: a=b", "X-Trace: 7", "x-old: 2").Fields
	return &message.Request{Fields: make(message.Fields, 0, 16)}, from,
		chain(tb, all(set("X-Route: canary", "Host: web-canary.shop"), add("X-Trace: sluice"), remove("X-Old", "X-Absent")))
}

func TestNoAllocationPerRequest(t *testing.T) {
	r, from, c := prepared(t)
	if n := testing.AllocsPerRun(100, func() { exchange(r, from, c) }); n != 0 {
		t.Errorf("%v allocations: want none", n)
	}
	if r.Authority != "web-canary.shop" || len(r.Fields) != 7 {
		t.Errorf("the request is %v", r)
	}
}

func BenchmarkRequest(b *testing.B) {
	r, from, c := prepared(b)
	b.ReportAllocs()
	for b.Loop() {
		exchange(r, from, c)
	}
}
