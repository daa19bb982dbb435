package router

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// large is a table of n rules with paths of their own, and a few that every request has to be compared with.
func large(tb testing.TB, n int) *Table {
	tb.Helper()
	t := &model.RouteTable{}
	add := func(m model.Match) {
		t.Rules = append(t.Rules, model.Rule{Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Matches: []model.Match{m}})
	}
	for i := range n {
		kind := model.PathPrefix
		if i%2 == 0 {
			kind = model.Exact
		}
		add(model.Match{Path: model.PathMatch{Type: kind, Value: fmt.Sprintf("/service/%d/things", i)}, Method: "GET"})
	}
	root := model.PathMatch{Type: model.PathPrefix, Value: "/"}
	add(model.Match{Path: root, Headers: []model.ValueMatch{{Name: "x-canary", Type: model.Exact, Value: "true"}}})
	add(model.Match{Path: root, Headers: []model.ValueMatch{{Name: "user-agent", Type: model.RegularExpression, Value: "robot/.*"}}})
	add(model.Match{Path: root, Query: []model.ValueMatch{{Name: "version", Type: model.Exact, Value: "2"}}})
	add(model.Match{Path: root})
	c, err := Compile(t)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// largeGRPC is a table of n rules, each for a service or for one of its methods, and a few others.
func largeGRPC(tb testing.TB, n int) *Table {
	tb.Helper()
	t := &model.RouteTable{GRPC: true}
	add := func(m model.Match) {
		t.Rules = append(t.Rules, model.Rule{Route: model.RouteRef{Kind: "GRPCRoute", Namespace: "shop", Name: "r"}, Matches: []model.Match{m}})
	}
	for i := range n {
		m := &model.RPCMatch{Type: model.Exact, Service: fmt.Sprintf("shop.v1.Service%d", i)}
		if i%2 == 0 {
			m.Method = "Get"
		}
		add(model.Match{RPC: m})
	}
	add(model.Match{RPC: &model.RPCMatch{Type: model.RegularExpression, Service: `admin\..*`}})
	add(model.Match{RPC: &model.RPCMatch{Type: model.Exact, Method: "Watch"}})
	add(model.Match{RPC: &model.RPCMatch{}, Headers: []model.ValueMatch{{Name: "x-canary", Type: model.Exact, Value: "true"}}})
	add(model.Match{RPC: &model.RPCMatch{}})
	return mustCompile(tb, t)
}

// usualCalls are calls of every kind.
func usualCalls() map[string]*message.Request {
	fields := message.Fields{{Name: "te", Value: "trailers"}, {Name: "content-type", Value: "application/grpc+proto"}, {Name: "user-agent", Value: "grpc-go/1.80"}}
	calls := map[string]*message.Request{}
	for name, path := range map[string]string{
		"method": "/shop.v1.Service42/Get", "service": "/shop.v1.Service43/Put", "regex": "/admin.Users/List", "only method": "/shop.v2.A/Watch",
		"any": "/shop.v2.A/Get", "escaped": "/shop.v1.Service4%32/Get",
	} {
		calls[name] = &message.Request{Method: "POST", Authority: "web", Path: path, Fields: fields}
	}
	return calls
}

// usual are requests of every kind: found by path, by header, by query, by nothing; with escapes and repeated fields.
func usual() map[string]*message.Request {
	fields := message.Fields{{Name: "Host", Value: "web"}, {Name: "User-Agent", Value: "client/1.0"}, {Name: "Accept", Value: "*/*"}}
	with := func(more ...message.Field) message.Fields { return append(slices.Clip(fields), more...) }
	return map[string]*message.Request{
		"exact":    {Method: "GET", Authority: "web", Path: "/service/42/things", Fields: fields},
		"prefix":   {Method: "GET", Authority: "web", Path: "/service/43/things/of/it", Fields: fields},
		"root":     {Method: "POST", Authority: "web", Path: "/elsewhere", Fields: fields},
		"header":   {Method: "GET", Authority: "web", Path: "/a", Fields: with(message.Field{Name: "X-Canary", Value: "true"})},
		"repeated": {Method: "GET", Authority: "web", Path: "/a", Fields: with(message.Field{Name: "User-Agent", Value: "robot/2"})},
		"query":    {Method: "GET", Authority: "web", Path: "/a", Query: "a=b&version=%32", HasQuery: true, Fields: fields},
		"escaped":  {Method: "GET", Authority: "web", Path: "/service/4%32/things", Fields: fields},
	}
}

// Issue and budget: no allocation per match, however many rules there are.
func TestMatchDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("skipped: with the race detector a sync.Pool forgets on purpose")
	}
	table := large(t, 5000)
	for name, r := range usual() {
		table.Match(r) // memory for what has to be decoded is made once
		if n := testing.AllocsPerRun(200, func() { table.Match(r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// The same for calls, which are found by name, and for what is no call.
func TestMatchRPCDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("skipped: with the race detector a sync.Pool forgets on purpose")
	}
	table := largeGRPC(t, 1000)
	calls := usualCalls()
	for name, want := range map[string]int{"method": 42, "service": 43, "escaped": 42, "regex": 1000, "only method": 1001, "any": 1003} {
		if got := table.Match(calls[name]); got != want { // memory for what has to be decoded is made once
			t.Errorf("%s: rule %d, want %d", name, got, want)
		}
	}
	calls["none"] = usual()["root"]
	for name, r := range calls {
		if n := testing.AllocsPerRun(200, func() { table.Match(r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkMatchRPC(b *testing.B) {
	for _, n := range []int{44, 1000} {
		table := largeGRPC(b, n)
		for _, name := range []string{"method", "service", "regex", "only method", "any", "escaped"} {
			r := usualCalls()[name]
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					table.Match(r)
				}
			})
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 100, 5000} {
		table := large(b, n)
		for _, name := range []string{"exact", "prefix", "root", "escaped"} {
			r := usual()[name]
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					table.Match(r)
				}
			})
		}
	}
}
