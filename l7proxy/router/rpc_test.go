package router

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// rpc is a match of names that are written "service/method", each of which may be missing; after "~" they are regular expressions.
func rpc(names string) model.Match {
	m := model.RPCMatch{Type: model.Exact}
	if rest, ok := strings.CutPrefix(names, "~"); ok {
		m.Type, names = model.RegularExpression, rest
	}
	m.Service, m.Method, _ = strings.Cut(names, "/")
	return model.Match{RPC: &m}
}

func everyCall() model.Match { return model.Match{RPC: &model.RPCMatch{}} }

// calls makes a gRPC table of one rule for each list of matches.
func calls(matches ...[]model.Match) *model.RouteTable {
	t := rules(matches...)
	t.GRPC = true
	return t
}

func calling(path string, fields ...string) *message.Request {
	return request("POST "+path, append([]string{"Content-Type: application/grpc"}, fields...)...)
}

func TestM30ServiceAndMethodAreExact(t *testing.T) {
	check(t, calls(either(rpc("shop.Carts/Get"))), map[*message.Request]int{
		calling("/shop.Carts/Get"):    0,
		calling("/shop.Carts/Get?a"):  0,
		calling("/shop.carts/Get"):    -1, // M-33: case counts
		calling("/shop.Carts/get"):    -1,
		calling("/shop.Carts/Gets"):   -1,
		calling("/shop.Carts/Get/"):   -1,
		calling("/shop.Carts/Get/x"):  -1,
		calling("/xshop.Carts/Get"):   -1,
		calling("/x/shop.Carts/Get"):  -1,
		calling("//shop.Carts/Get"):   -1,
		calling("shop.Carts/Get"):     -1,
		calling("/shop.Carts"):        -1,
		calling("/shop.Carts/"):       -1,
		calling("/"):                  -1,
		calling("*"):                  -1,
		calling(""):                   -1,
		calling("/shop.C%61rts/G%65"): -1,
		calling("/shop.C%61rts/Get"):  0, // M-14: a server that decodes must not be reached by another rule
		calling("/shop.Carts%2FGet"):  -1,
	})
}

func TestM31ServiceAloneIsAllItsMethods(t *testing.T) {
	check(t, calls(either(rpc("shop.Carts")), either(rpc(".shop.Root"))), map[*message.Request]int{
		calling("/shop.Carts/Get"):     0,
		calling("/shop.Carts/"):        0,
		calling("/shop.Carts/a/b"):     0, // the prefix "/shop.Carts/"
		calling("/shop.C%61rts/Get"):   0,
		calling("/shop.Carts"):         -1,
		calling("/shop.Carts.X/Get"):   -1,
		calling("/shop.Cart/Get"):      -1,
		calling("/a/shop.Carts/Get"):   -1,
		calling("/.shop.Root/Get"):     1,
		calling("/shop.Carts%2fx/Get"): -1,
	})
}

func TestM32MethodAloneIsThatOfAnyService(t *testing.T) {
	check(t, calls(either(rpc("/Get"))), map[*message.Request]int{
		calling("/shop.Carts/Get"): 0, calling("/a/Get"): 0, calling("/a/G%65t"): 0,
		calling("/a/get"): -1, calling("/a/GetAll"): -1, calling("/Get"): -1, calling("/a/b/Get"): -1, calling("/a/"): -1,
	})
}

func TestM33RegularExpressionsMatchTheWholeName(t *testing.T) {
	check(t, calls(
		either(rpc(`~shop\..*/Get|List`)),
		either(rpc(`~a+`)),
		either(rpc(`~/W.*`)),
		either(rpc(`~x/\Qa`)), // an open quote
		either(rpc(`~s/.*`)),
	), map[*message.Request]int{
		calling("/shop.Carts/Get"):   0,
		calling("/shop.Carts/List"):  0,
		calling("/shop.Carts/Lists"): -1, // the alternatives are anchored together
		calling("/shop.Carts/GetX"):  -1,
		calling("/xshop.Carts/Get"):  -1,
		calling("/Shop.Carts/Get"):   -1,
		calling("/aaa/Get"):          1,
		calling("/aab/Get"):          -1,
		calling("/aaa"):              -1,
		calling("/b/Watch"):          2,
		calling("/b/watch"):          -1,
		calling("/x/a"):              3,
		calling(`/x/a)\z`):           -1,
		calling("/s/a/b"):            4, // a service has no slash, whatever follows is the method
		calling("/%73/%61"):          4,
	})
}

func TestM34WithoutNamesEveryCallMatches(t *testing.T) {
	check(t, calls(either(everyCall())), map[*message.Request]int{
		calling("/a/b"): 0, calling("/"): 0, calling("/a"): 0, calling("*"): 0, calling(""): 0,
		request("POST /a/b", "Content-Type: application/grpc+proto"): 0,
	})
	check(t, calls(either(header(everyCall(), "x", "1"), header(rpc("a"), "x", "~2|3"))), map[*message.Request]int{ // headers as in HTTP
		calling("/a/b"): -1, calling("/a/b", "X: 1"): 0, calling("/a/b", "X: 2"): 0, calling("/b/b", "X: 2"): -1, calling("/a/b", "x: 4"): -1,
	})
	check(t, calls(either(model.Match{RPC: &model.RPCMatch{Type: model.RegularExpression}})), map[*message.Request]int{calling("/a"): 0})
}

// A-54, M-34, M-35: what is no call of gRPC matches nothing, whatever it asks for.
func TestA54OnlyCallsMatch(t *testing.T) {
	check(t, calls(either(everyCall(), rpc("a/b"), rpc("a"), rpc("~.*"), rpc("/b"))), map[*message.Request]int{
		calling("/a/b"):      0,
		request("POST /a/b"): -1,
		request("POST /a/b", "Content-Type: application/grpc-web"): -1,
		request("GET /a/b", "Content-Type: application/grpc"):      -1,
	})
	check(t, calls(), map[*message.Request]int{calling("/a/b"): -1})
}

// In a table of HTTPRoutes a call is a request like others.
func TestA54CallsInATableOfHTTPRoutes(t *testing.T) {
	check(t, rules(either(exact("/a/b")), either(prefix("/a"))), map[*message.Request]int{calling("/a/b"): 0, calling("/a/c"): 1, calling("/b/c"): -1})
}

// The list of GRPCRouteRule.matches, and where expressions are in it: each pair differs in one criterion, and the first
// alternative wins wherever it stands.
func TestPrecedenceOfCalls(t *testing.T) {
	r := calling("/shop.Carts/Get", "X: 1", "Y: 2")
	for name, pair := range map[string][2]model.Match{
		"service before method":                    {rpc("shop.Carts"), rpc("/Get")},
		"service before headers":                   {rpc("shop.Carts"), header(header(rpc("/Get"), "x", "1"), "y", "2")},
		"method within a service":                  {rpc("shop.Carts/Get"), rpc("shop.Carts")},
		"method before headers":                    {rpc("shop.Carts/Get"), header(rpc("shop.Carts"), "x", "1")},
		"headers of one call":                      {header(header(rpc("shop.Carts/Get"), "x", "1"), "y", "2"), header(rpc("shop.Carts/Get"), "x", "1")},
		"headers of one service":                   {header(rpc("shop.Carts"), "x", "1"), rpc("shop.Carts")},
		"headers of any call":                      {header(everyCall(), "x", "1"), everyCall()},
		"headers of a method":                      {header(rpc("/Get"), "x", "1"), rpc("/Get")},
		"headers of an expression":                 {header(rpc("~shop.*"), "x", "1"), rpc("~shop.*")},
		"any service goes last":                    {rpc("/Get"), header(everyCall(), "x", "1")},
		"a name before an expression":              {rpc("shop.Carts"), rpc("~shop[.]Carts")},
		"a name before an expression and a method": {rpc("shop.Carts"), rpc("~shop[.]Carts/Get")},
		"an expression before none":                {rpc("~s.*"), rpc("/Get")},
		"the longer expression":                    {rpc("~shop[.].*"), rpc("~s.*/Get")},
		"expressions of equal length: the method":  {rpc("~s.*/.*"), rpc("~s.*")},
		"the longer method":                        {rpc("~s.*/Ge."), rpc("~s.*/.*")},
		"a method before an expression":            {rpc("/Get"), rpc("~/Get.*")},
		"a method's expression before none":        {rpc("~/.*"), header(everyCall(), "x", "1")},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, calls(either(pair[0]), either(pair[1])), map[*message.Request]int{r: 0})
			check(t, calls(either(pair[1]), either(pair[0])), map[*message.Request]int{r: 1})
			check(t, calls(either(rpc("other"), pair[1]), either(rpc("other/X"), pair[0])), map[*message.Request]int{r: 1}) // per match
		})
	}
	for _, equal := range [][2]model.Match{ // the order of the table, which is that of age
		{rpc("shop.Carts/Get"), rpc("shop.Carts/Get")},
		{rpc("~shop.*"), rpc("~.*arts")},
		{header(rpc("shop.Carts"), "x", "1"), header(rpc("shop.Carts"), "y", "2")},
		{rpc("/Get"), rpc("/Get")},
	} {
		check(t, calls(either(equal[0]), either(equal[1])), map[*message.Request]int{r: 0})
		check(t, calls(either(equal[1]), either(equal[0])), map[*message.Request]int{r: 0})
	}
}

func TestM4TheFirstCallIsFinal(t *testing.T) {
	table := calls(either(everyCall()), either(rpc("a/b")))
	table.Rules[1].Backends = []model.Backend{{Weight: 1, Invalid: "there is no such Service"}}
	check(t, table, map[*message.Request]int{calling("/a/b"): 1})
}

func TestM20WhatIsNoCallIsAnError(t *testing.T) {
	for want, m := range map[string]model.Match{
		"rpc: there is none":                       {},
		`rpc.type: "Glob" is not known`:            {RPC: &model.RPCMatch{Type: "Glob"}},
		`rpc.type: "" is not known`:                {RPC: &model.RPCMatch{Service: "a"}},
		`rpc.type: "PathPrefix" is not known`:      {RPC: &model.RPCMatch{Type: model.PathPrefix, Method: "a"}},
		`rpc.service: "a/b" has a "/"`:             {RPC: &model.RPCMatch{Type: model.Exact, Service: "a/b", Method: "c"}},
		"rpc.service: error parsing regexp: ":      rpc("~(/a"),
		"rpc.method: error parsing regexp: ":       rpc("~a/("),
		"headers[0].value: error parsing regexp: ": header(everyCall(), "x", "~("),
	} {
		_, err := Compile(calls(either(m)))
		if want = "rules[0].matches[0]." + want; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", m, err, want)
		}
	}
}
