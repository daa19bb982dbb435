package router

import (
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Each pair differs in one criterion of the list in HTTPRouteRule.matches: the first alternative wins wherever it stands.
func TestPrecedenceOfTwoMatchesThatHold(t *testing.T) {
	r := request("GET /a/b?q=1&r=2", "X: 1", "Y: 2")
	for _, c := range []struct {
		name          string
		winner, loser model.Match
	}{
		{"exact before the same prefix", exact("/a/b"), prefix("/a/b")},
		{"exact before all conditions", exact("/a/b"), query(query(header(header(method(prefix("/a/b"), "GET"), "x", "1"), "y", "2"), "q", "1"), "r", "2")},
		{"exact before regex", exact("/a/b"), header(regex("/[a-z]/[a-z]+"), "x", "1")},
		{"M-1 regex before a longer prefix", regex("/a.*"), prefix("/a/b")},
		{"M-1 longer regex", regex("/a/b(c)?"), header(method(regex("/a.*"), "GET"), "x", "1")},
		{"longer prefix", prefix("/a/b"), prefix("/a")},
		{"longer prefix before conditions", prefix("/a/b"), header(method(prefix("/a"), "GET"), "x", "1")},
		{"prefix before /", prefix("/a"), method(prefix("/"), "GET")},
		{"M-3 a trailing slash adds no length", method(prefix("/a/b"), "GET"), prefix("/a/b/")},
		{"M-3 nor takes any", method(prefix("/a/b/"), "GET"), prefix("/a/b")},
		{"method before headers", method(prefix("/a"), "GET"), header(header(prefix("/a"), "x", "1"), "y", "2")},
		{"method before headers, exact", method(exact("/a/b"), "GET"), header(header(exact("/a/b"), "x", "1"), "y", "2")},
		{"method before headers, regex", method(regex("/a.*"), "GET"), header(header(regex("/.*b"), "x", "1"), "y", "2")},
		{"more headers", header(header(prefix("/a"), "x", "1"), "y", "2"), header(prefix("/a"), "x", "1")},
		{"headers before query", header(prefix("/a"), "x", "1"), query(query(prefix("/a"), "q", "1"), "r", "2")},
		{"more query parameters", query(query(prefix("/a"), "q", "1"), "r", "2"), query(prefix("/a"), "q", "1")},
		{"any condition before none", query(prefix("/a"), "q", "1"), prefix("/a")},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, rules(either(c.winner), either(c.loser)), map[*message.Request]int{r: 0})
			check(t, rules(either(c.loser), either(c.winner)), map[*message.Request]int{r: 1})
			// Per match, not per rule: it makes no difference what else the rules have.
			check(t, rules(either(c.loser, exact("/other")), either(exact("/else"), c.winner)), map[*message.Request]int{r: 1})
		})
	}
}

func TestPrecedenceAmongEqualsIsTheOrderOfTheTable(t *testing.T) {
	for _, equal := range [][2]model.Match{
		{prefix("/a"), prefix("/a")},
		{prefix("/a"), prefix("/a/")},
		{exact("/a"), exact("/a")},
		{regex("/a"), regex("/.")},
		{header(prefix("/a"), "x", "1"), header(prefix("/a"), "y", "2")},
		{method(query(prefix("/"), "q", "1"), "GET"), query(method(prefix("/"), "GET"), "r", "2")},
	} {
		r := request("GET /a?q=1&r=2", "X: 1", "Y: 2")
		check(t, rules(either(equal[0]), either(equal[1])), map[*message.Request]int{r: 0})
		check(t, rules(either(equal[1]), either(equal[0])), map[*message.Request]int{r: 0})
	}
}

func TestM3PathMatchOrder(t *testing.T) { // C:HTTPRoutePathMatchOrder
	check(t, rules(
		either(exact("/match")),
		either(exact("/match/exact")),
		either(prefix("/match/")),
		either(prefix("/match/prefix/")),
		either(prefix("/match/prefix/one")),
	), map[*message.Request]int{
		request("GET /match"):                   0,
		request("GET /match/exact"):             1,
		request("GET /match/exact/one"):         2,
		request("GET /match/prefix"):            3,
		request("GET /match/prefix/one"):        4,
		request("GET /match/prefix/one/any"):    4,
		request("GET /match/any"):               2,
		request("GET /match/prefix/o"):          3,
		request("GET /match/"):                  2,
		request("GET /matches"):                 -1,
		request("GET /m%61tch/prefi%78/one/%2"): 4,
	})
}

func TestM4TheFirstHitIsFinal(t *testing.T) { // C:HTTPRouteRuleOrder
	table := rules(either(prefix("/")), either(exact("/a")))
	table.Rules[1].Backends = []model.Backend{{Weight: 1, Invalid: "there is no such Service"}}
	check(t, table, map[*message.Request]int{request("GET /a"): 1})
}

func TestM6PathComesBeforeMethodHeadersAndQuery(t *testing.T) {
	check(t, rules( // C:HTTPRouteMethodMatching
		either(method(prefix("/"), "POST")),
		either(method(prefix("/"), "GET")),
		either(method(prefix("/path1"), "GET")),
		either(header(method(prefix("/"), "PUT"), "version", "one")),
		either(method(prefix("/path2"), "POST")),
		either(prefix("/path5")),
		either(method(prefix("/"), "PATCH")),
		either(header(prefix("/"), "version", "four")),
	), map[*message.Request]int{
		request("POST /"):                       0,
		request("GET /"):                        1,
		request("HEAD /"):                       -1,
		request("GET /path1"):                   2,
		request("PUT /", "Version: one"):        3,
		request("POST /path2"):                  4,
		request("PATCH /path5"):                 5,
		request("PATCH /", "version: four"):     6,
		request("DELETE /", "version: four"):    7,
		request("DELETE /"):                     -1,
		request("PATCH /path5", "version: one"): 5,
	})
	check(t, rules( // C:MeshHTTPRouteQueryParamMatching
		either(query(prefix("/"), "animal", "whale")),
		either(query(prefix("/"), "animal", "dolphin")),
		either(query(query(prefix("/"), "animal", "dolphin"), "color", "blue")),
		either(prefix("/path5")),
		either(header(prefix("/"), "version", "one")),
	), map[*message.Request]int{
		request("GET /?animal=whale"):                       0,
		request("GET /?animal=dolphin"):                     1,
		request("GET /?animal=dolphin&color=blue"):          2,
		request("GET /path5?animal=whale"):                  3,
		request("GET /path5?animal=whale", "version: one"):  3,
		request("GET /?animal=whale", "version: one"):       4,
		request("GET /?animal=shark"):                       -1,
		request("GET /?ANIMAL=whale"):                       -1,
		request("GET /?color=blue&animal=dolphin&animal=x"): 2,
	})
}
