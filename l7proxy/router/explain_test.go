package router

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// told is an Explanation without what does not matter to a test: the winner, and of each other alternative "rule.match: why".
func told(e Explanation) (string, []string) {
	var others []string
	for _, a := range e.Alternatives {
		if a.Rule == e.Rule && a.Match == e.Match {
			continue
		}
		why := string(a.Lost)
		for _, m := range a.Misses {
			got := "nothing"
			if m.There {
				got = fmt.Sprintf("%q", m.Got)
			}
			why += fmt.Sprintf("[%s %d %s]", m.Part, m.Index, got)
		}
		others = append(others, fmt.Sprintf("%d.%d: %s", a.Rule, a.Match, why))
	}
	slices.Sort(others)
	return fmt.Sprintf("%d.%d", e.Rule, e.Match), others
}

func checkTold(t *testing.T, table *model.RouteTable, r *message.Request, winner string, others ...string) {
	t.Helper()
	e := mustCompile(t, table).Explain(r)
	if got, why := told(e); got != winner || !slices.Equal(why, others) {
		t.Errorf("%s %s: %s wins, want %s; the others\n\t%s\nwant\n\t%s", r.Method, r.Path, got, winner,
			strings.Join(why, "\n\t"), strings.Join(others, "\n\t"))
	}
}

func TestExplainNamesEachConditionThatDoesNotHold(t *testing.T) {
	table := rules(
		either(query(header(method(exact("/a b"), "PUT"), "x", "1"), "q", "~[0-9]"), prefix("/a%20b")),
		either(regex("/[0-9]+"), header(prefix("/"), "host", "other")),
	)
	checkTold(t, table, request("GET /a%20b?z&q=a+b&q=1", "X: 2", "x: 3"), "0.1",
		`0.0: [method 0 "GET"][header 0 "2,3"][query 0 "a b"]`,
		`1.0: [path 0 "/a b"]`,
		`1.1: [header 0 "web.shop"]`,
	)
	checkTold(t, table, request("PUT /a"), "-1.-1",
		`0.0: [path 0 "/a"][header 0 nothing][query 0 nothing]`,
		`0.1: [path 0 "/a"]`,
		`1.0: [path 0 "/a"]`,
		`1.1: [header 0 "web.shop"]`,
	)
}

// M-1, M-3, M-4: each criterion decides where those before it are equal.
func TestExplainNamesWhatDecided(t *testing.T) {
	r := request("GET /ab/c?q=1&p=1", "X: 1", "Y: 1")
	for _, c := range []struct {
		winner, other model.Match
		want          Criterion
	}{
		{exact("/ab/c"), regex("/ab/.*"), ByPathType},
		{exact("/ab/c"), method(prefix("/ab/c"), "GET"), ByPathType},
		{regex(".*"), prefix("/ab/c"), ByPathType},
		{regex("/ab/.*"), regex("/ab.*"), ByPathLength},
		{prefix("/ab/c"), method(prefix("/ab"), "GET"), ByPathLength},
		{method(prefix("/"), "GET"), header(header(prefix("/"), "x", "1"), "y", "1"), ByMethod},
		{header(header(prefix("/"), "x", "1"), "y", "1"), query(header(prefix("/"), "x", "1"), "q", "1"), ByHeaders},
		{query(query(prefix("/"), "q", "1"), "p", "1"), query(prefix("/"), "q", "1"), ByQuery},
		{prefix("/ab"), prefix("/ab/"), ByOrder},
	} {
		order := [][]model.Match{either(c.winner), either(c.other)}
		checkTold(t, rules(order...), r, "0.0", "1.0: "+string(c.want))
		if c.want != ByOrder {
			slices.Reverse(order)
			checkTold(t, rules(order...), r, "1.0", "0.0: "+string(c.want))
		}
	}
}

// M-30 to M-36.
func TestExplainCalls(t *testing.T) {
	rpc := func(kind model.MatchType, service, method string) model.Match {
		return model.Match{RPC: &model.RPCMatch{Type: kind, Service: service, Method: method}}
	}
	table := rules(
		either(rpc(model.Exact, "a.B", "C")), either(rpc(model.Exact, "a.B", "")), either(rpc(model.RegularExpression, "a.*", "")),
		either(rpc(model.RegularExpression, "a.+b?", "C")), either(rpc(model.Exact, "", "C")), either(model.Match{RPC: &model.RPCMatch{}}),
	)
	table.GRPC = true
	call := func(path string) *message.Request {
		return request("POST "+path, "Content-Type: application/grpc+proto")
	}
	checkTold(t, table, call("/a.B/C"), "0.0", "1.0: rpc", "2.0: service", "3.0: service", "4.0: service", "5.0: service")
	checkTold(t, table, call("/a.B/D"), "1.0", `0.0: [rpc 0 "D"]`, "2.0: service", `3.0: [rpc 0 "D"]`, `4.0: [rpc 0 "D"]`, "5.0: service")
	checkTold(t, table, call("/x/C"), "4.0", `0.0: [service 0 "x"]`, `1.0: [service 0 "x"]`, `2.0: [service 0 "x"]`, `3.0: [service 0 "x"]`, "5.0: rpc")
	checkTold(t, table, call("/x"), "5.0", "0.0: [service 0 nothing][rpc 0 nothing]", "1.0: [service 0 nothing]",
		"2.0: [service 0 nothing]", "3.0: [service 0 nothing][rpc 0 nothing]", "4.0: [rpc 0 nothing]")

	if e := mustCompile(t, table).Explain(request("POST /a.B/C")); !e.NoCall || e.Rule != -1 || e.Alternatives != nil {
		t.Errorf("a request that is no call: %+v", e)
	}
}

// checkExplained: the winner is Match's, each alternative is told of once, and one has either a reason or none and wins.
func checkExplained(t *testing.T, table *model.RouteTable, request func() *message.Request) (lost int) {
	t.Helper()
	c, err := Compile(table)
	if err != nil {
		return 0
	}
	alternatives := 0
	for _, r := range table.Rules {
		alternatives += len(r.Matches)
	}
	for range 4 {
		r := request()
		e := c.Explain(r)
		if e.Rule != c.Match(r) {
			t.Errorf("%+v\nof the table %+v\nis for rule %d, and it is explained with %d", r, table, c.Match(r), e.Rule)
		}
		if !e.NoCall && len(e.Alternatives) != alternatives {
			t.Errorf("%d of %d alternatives are told of", len(e.Alternatives), alternatives)
		}
		seen := map[[2]int]bool{}
		for _, a := range e.Alternatives {
			at := [2]int{a.Rule, a.Match}
			wins := at == [2]int{e.Rule, e.Match}
			if seen[at] || (len(a.Misses) > 0) == (wins || a.Lost != "") || wins && a.Lost != "" {
				t.Errorf("%+v\nof the table %+v: %+v in %+v", r, table, a, e)
			}
			seen[at] = true
			if a.Lost != "" {
				lost++
			}
		}
		checkAlone(t, table, r, e)
	}
	return lost
}

// checkAlone: an alternative that is alone in a table wins where it is said to hold, and nowhere else. Beside the winner it loses
// whichever comes first, unless it is said that the order decided.
func checkAlone(t *testing.T, table *model.RouteTable, r *message.Request, e Explanation) {
	t.Helper()
	for _, a := range e.Alternatives {
		one := model.Rule{Matches: []model.Match{table.Rules[a.Rule].Matches[a.Match]}}
		alone := mustCompile(t, &model.RouteTable{GRPC: table.GRPC, Rules: []model.Rule{one}})
		if holds := alone.Match(r) == 0; holds != (len(a.Misses) == 0) {
			t.Errorf("%+v\nof %+v: it holds: %v, and it is explained with %+v", r, one, holds, a)
		}
		if a.Lost == "" {
			continue
		}
		winner := model.Rule{Matches: []model.Match{table.Rules[e.Rule].Matches[e.Match]}}
		pair := mustCompile(t, &model.RouteTable{GRPC: table.GRPC, Rules: []model.Rule{one, winner}})
		if first := pair.Match(r) == 0; first != (a.Lost == ByOrder) {
			t.Errorf("%+v\nof %+v: before the winner it wins: %v, and it is explained with %+v", r, one, first, a)
		}
	}
}

func TestRandomExplanationsAgreeWithMatch(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	lost, n := 0, 300
	for i := 0; i < n && !t.Failed(); i++ {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		s := &source{rest: data}
		if i%2 == 0 {
			lost += checkExplained(t, s.table(), s.request)
		} else {
			lost += checkExplained(t, s.grpcTable(), s.called)
		}
	}
	if lost < n/20 && !t.Failed() {
		t.Errorf("only %d alternatives held and lost", lost)
	}
}

// FuzzExplain derives a table and requests, and holds Explain against Match.
func FuzzExplain(f *testing.F) {
	f.Add(false, []byte{})
	f.Fuzz(func(t *testing.T, grpc bool, data []byte) {
		s := &source{rest: data}
		if grpc {
			checkExplained(t, s.grpcTable(), s.called)
			return
		}
		checkExplained(t, s.table(), s.request)
	})
}
