package model

import (
	"net/netip"
	"strings"
	"testing"
)

func TestWhatIsRightIsTaken(t *testing.T) {
	if err := fullService().Validate(); err != nil {
		t.Error(err)
	}
	if err := fullEndpoints().Validate(); err != nil {
		t.Error(err)
	}
	if err := (&EndpointSet{EndpointsKey: EndpointsKey{"shop", "web", 80}}).Validate(); err != nil { // B-7
		t.Errorf("an empty set: %v", err)
	}
	if err := (&Service{ServiceKey: ServiceKey{"shop", strings.Repeat("a", 253)}}).Validate(); err != nil {
		t.Errorf("a Service without ports: %v", err)
	}
	if err := (&Pod{UID: "1", Namespace: "shop", Name: "web-0.x"}).Validate(); err != nil {
		t.Errorf("a pod: %v", err)
	}
}

// mistakes is a table of one mistake each, and of what is said of it.
type mistakes[T any] []struct {
	does string
	edit func(T)
	want string
}

func (list mistakes[T]) check(t *testing.T, right func() T, validate func(T) error) {
	t.Helper()
	for _, m := range list {
		unit := right()
		m.edit(unit)
		switch err := validate(unit); {
		case err == nil:
			t.Errorf("%s: it is taken, want %q", m.does, m.want)
		case err.Error() != m.want:
			t.Errorf("%s: %q\nwant %q", m.does, err, m.want)
		}
	}
}

func TestMistakesInAService(t *testing.T) {
	const none = "there is no address"
	address := netip.MustParseAddr
	mistakes[*Service]{
		{"no namespace", func(s *Service) { s.Namespace = "" }, `namespace: "" is no name of a namespace`},
		{"no name", func(s *Service) { s.Name = "" }, `name: "" is no name of an object`},
		{"a long name", func(s *Service) { s.Name = strings.Repeat("a", 254) }, `name: "` + strings.Repeat("a", 254) + `" is no name of an object`},
		{"a slash", func(s *Service) { s.Name = "a/b" }, `name: "a/b" is no name of an object`},
		{"a capital", func(s *Service) { s.Namespace = "Shop" }, `namespace: "Shop" is no name of a namespace`},
		{"a letter that is not ASCII", func(s *Service) { s.Name = "é" }, `name: "é" is no name of an object`},

		{"port 0", func(s *Service) { s.Ports[1].Number = 0 }, "ports[1].number: 0 is no port"},
		{"a port twice", func(s *Service) { s.Ports[1].Number = 80 }, "ports[1].number: port 80 is there twice"},
		{"id 0", func(s *Service) { s.Ports[0].Frontends[1].ID = 0 }, "ports[0].frontends[1].id: 0 is not in 1 to 4194303"},
		{"an id beyond the prefix", func(s *Service) { s.Ports[0].Frontends[1].ID++ }, "ports[0].frontends[1].id: 4194304 is not in 1 to 4194303"},
		{"an id twice", func(s *Service) { s.Ports[1].Frontends[0].ID = 1 }, "ports[1].frontends[0].id: 1 is that of another frontend of the Service"},
		{"no address", func(s *Service) { s.Ports[0].Frontends[0].Address = netip.Addr{} }, "ports[0].frontends[0].address: " + none},
		{"the unspecified address", func(s *Service) { s.Ports[0].Frontends[0].Address = address("0.0.0.0") },
			"ports[0].frontends[0].address: 0.0.0.0 is no address to connect to"},
		{"a group's address", func(s *Service) { s.Ports[0].Frontends[1].Address = address("ff02::1") },
			"ports[0].frontends[1].address: ff02::1 is no address to connect to"},
		{"IPv4 in IPv6", func(s *Service) { s.Ports[0].Frontends[1].Address = address("::ffff:10.0.0.1") },
			"ports[0].frontends[1].address: ::ffff:10.0.0.1 is an IPv4 address: want 10.0.0.1"},
		{"a zone", func(s *Service) { s.Ports[0].Frontends[1].Address = address("fe80::1%eth0") },
			"ports[0].frontends[1].address: fe80::1%eth0 has a zone"},
		{"an address twice", func(s *Service) { s.Ports[0].Frontends[1].Address = s.Ports[0].Frontends[0].Address },
			"ports[0].frontends[1].address: 10.96.0.7:80 is there twice"},

		{"another's endpoints", func(s *Service) { s.Ports[0].Default.Name = "api" },
			"ports[0].default: shop/api:80 are not the Service's own endpoints: want shop/web:80"},
		{"another port's endpoints", func(s *Service) { s.Ports[1].Default.Port = 80 },
			"ports[1].default: shop/web:80 are not the Service's own endpoints: want shop/web:81"},
		{"a consumer that is no namespace", func(s *Service) { s.Ports[0].Consumers["a_b"] = &RouteTable{} },
			`ports[0].consumers["a_b"]: "a_b" is no namespace`},
		{"A-20: the Service's namespace as a consumer", func(s *Service) { s.Ports[0].Consumers["shop"] = &RouteTable{} },
			`ports[0].consumers["shop"]: the Service's own namespace has no consumer routes`},
		{"a consumer without a table", func(s *Service) { s.Ports[0].Consumers["zoo"] = nil }, `ports[0].consumers["zoo"]: there is no table`},
		{"a consumer's rule", func(s *Service) { s.Ports[0].Consumers["zoo"].Rules[0].Index = -1 },
			`ports[0].consumers["zoo"].rules[0].index: -1 is negative`},
	}.check(t, fullService, (*Service).Validate)
}

func TestMistakesInARule(t *testing.T) {
	rule := func(s *Service) *Rule { return &s.Ports[0].Producer.Rules[0] }
	backend := func(s *Service) *Backend { return &rule(s).Backends[0] }
	match := func(s *Service) *Match { return &rule(s).Matches[0] }
	const at = "ports[0].producer.rules[0]."
	mistakes[*Service]{
		{"a route without kind", func(s *Service) { rule(s).Route.Kind = "" }, at + `route: " shop/web" names no route`},
		{"a route without namespace", func(s *Service) { rule(s).Route.Namespace = "" }, at + `route: "HTTPRoute /web" names no route`},
		{"a route without name", func(s *Service) { rule(s).Route.Name = "" }, at + `route: "HTTPRoute shop/" names no route`},
		{"a negative index", func(s *Service) { rule(s).Index = -1 }, at + "index: -1 is negative"},
		{"M-10: no matches", func(s *Service) { rule(s).Matches = nil }, at + `matches: there are none: path prefix "/" matches everything`},
		{"a failure that is none", func(s *Service) { s.Ports[0].Producer.Rules[2].Fail.Status = 399 },
			"ports[0].producer.rules[2].fail.status: 399 is no error: want 400 to 599"},
		{"a status beyond all", func(s *Service) { s.Ports[0].Producer.Rules[2].Fail.Status = 600 },
			"ports[0].producer.rules[2].fail.status: 600 is no error: want 400 to 599"},

		{"a path prefix without slash", func(s *Service) { match(s).Path.Value = "a" }, at + `matches[0].path.value: "a" does not begin with "/"`},
		{"an exact path without slash", func(s *Service) { rule(s).Matches[1].Path.Value = "" }, at + `matches[1].path.value: "" does not begin with "/"`},
		{"a path's expression", func(s *Service) { rule(s).Matches[2].Path.Value = "(" },
			at + "matches[2].path.value: error parsing regexp: missing closing ): `(`"},
		{"M-20: an unknown type of path", func(s *Service) { match(s).Path.Type = "Suffix" }, at + `matches[0].path.type: "Suffix" is not known`},
		{"M-19: no method", func(s *Service) { match(s).Method = "GET /" }, at + `matches[0].method: "GET /" is no method`},
		{"M-15: a header in capitals", func(s *Service) { match(s).Headers[1].Name = "X-User" },
			at + `matches[0].headers[1].name: "X-User" is no header name in lower case`},
		{"no header name", func(s *Service) { match(s).Headers[0].Name = "x y" }, at + `matches[0].headers[0].name: "x y" is no header name in lower case`},
		{"M-15: a header twice", func(s *Service) { match(s).Headers[1].Name = "x-canary" }, at + `matches[0].headers[1].name: "x-canary" is there twice`},
		{"a header by prefix", func(s *Service) { match(s).Headers[0].Type = PathPrefix }, at + `matches[0].headers[0].type: "PathPrefix" is not known`},
		{"a header's expression", func(s *Service) { match(s).Headers[1].Value = "a**" },
			at + "matches[0].headers[1].value: error parsing regexp: invalid nested repetition operator: `**`"},
		{"no parameter", func(s *Service) { match(s).Query[0].Name = "" }, at + "matches[0].query[0].name: it is empty"},
		{"M-18: a parameter twice", func(s *Service) { match(s).Query[1].Name = "Q" }, at + `matches[0].query[1].name: "Q" is there twice`},
		{"a parameter's expression", func(s *Service) { match(s).Query[1].Value = "[" },
			at + "matches[0].query[1].value: error parsing regexp: missing closing ]: `[`"},
		{"a parameter without type", func(s *Service) { match(s).Query[0].Type = "" }, at + `matches[0].query[0].type: "" is not known`},

		{"too much weight", func(s *Service) { backend(s).Weight++ }, at + "backends[0].weight: 1000001 is more than 1000000"},
		{"an invalid backend's weight", func(s *Service) { rule(s).Backends[1].Weight = MaxWeight + 1 },
			at + "backends[1].weight: 1000001 is more than 1000000"},
		{"a backend without port", func(s *Service) { backend(s).Endpoints.Port = 0 }, at + "backends[0].endpoints.port: 0 is no port"},
		{"a backend without namespace", func(s *Service) { backend(s).Endpoints.Namespace = "" },
			at + `backends[0].endpoints.namespace: "" is no name of a namespace`},
		{"B-2: neither endpoints nor why", func(s *Service) { rule(s).Backends[1].Invalid = "" }, at + "backends[1].endpoints.port: 0 is no port"},
		{"F-5: an unknown filter", func(s *Service) { rule(s).Filters = append(rule(s).Filters, Filter{}) },
			at + "filters[5]: none of its members is set"},
		{"F-5: an unknown filter of a backend", func(s *Service) { backend(s).Filters[0] = Filter{} },
			at + "backends[0].filters[0]: none of its members is set"},
		{"F-14: a rule's edit", func(s *Service) { rule(s).Filters[0].RequestHeaders.Remove[0] = "Host" },
			at + `filters[0].requestHeaders.remove[0]: header "Host" can only be set: a request has exactly one`},
		{"F-14: a backend's edit", func(s *Service) { backend(s).Filters[0].RequestHeaders.Set[1].Value = "a b" },
			at + `backends[0].filters[0].requestHeaders.set[1].value: "a b" is no host and port`},
	}.check(t, fullService, (*Service).Validate)
}

func TestMistakesInAnRPC(t *testing.T) {
	rule := func(s *Service) *Rule { return &s.Ports[2].Producer.Rules[0] }
	match := func(s *Service) *Match { return &rule(s).Matches[0] }
	expression := func(s *Service) *RPCMatch { return rule(s).Matches[1].RPC }
	const at = "ports[2].producer.rules[0]."
	mistakes[*Service]{
		{"M-34: no matches", func(s *Service) { rule(s).Matches = nil }, at + "matches: there are none: an empty rpc matches everything"},
		{"M-34: no rpc", func(s *Service) { match(s).RPC = nil }, at + "matches[0].rpc: there is none: an empty one matches every call"},
		{"M-36: a path", func(s *Service) { match(s).Path = PathMatch{Exact, "/a"} }, at + "matches[0].path: a gRPC table asks for no path"},
		{"M-36: half a path", func(s *Service) { match(s).Path.Value = "/" }, at + "matches[0].path: a gRPC table asks for no path"},
		{"M-36: a method of HTTP", func(s *Service) { match(s).Method = "POST" }, at + "matches[0].method: a gRPC table asks for no method of HTTP"},
		{"M-36: a parameter", func(s *Service) { match(s).Query = []ValueMatch{{"q", Exact, "1"}} }, at + "matches[0].query: a gRPC table asks for no parameters"},
		{"M-20: an unknown type", func(s *Service) { match(s).RPC.Type = "Glob" }, at + `matches[0].rpc.type: "Glob" is not known`},
		{"M-20: a path's type", func(s *Service) { match(s).RPC.Type = PathPrefix }, at + `matches[0].rpc.type: "PathPrefix" is not known`},
		{"M-20: an unknown type of nothing", func(s *Service) { match(s).RPC = &RPCMatch{Type: "Glob"} }, at + `matches[0].rpc.type: "Glob" is not known`},
		{"a service without type", func(s *Service) { match(s).RPC = &RPCMatch{Service: "a"} }, at + `matches[0].rpc.type: "" is not known`},
		{"a method without type", func(s *Service) { match(s).RPC = &RPCMatch{Method: "a"} }, at + `matches[0].rpc.type: "" is not known`},
		{"M-33: a slash in a service", func(s *Service) { match(s).RPC.Service = "a/b" }, at + `matches[0].rpc.service: "a/b" has a "/", and no service has`},
		{"a service's expression", func(s *Service) { expression(s).Service = "(" },
			at + "matches[1].rpc.service: error parsing regexp: missing closing ): `(`"},
		{"a method's expression", func(s *Service) { expression(s).Method = "[" },
			at + "matches[1].rpc.method: error parsing regexp: missing closing ]: `[`"},
		{"M-15: a header in capitals", func(s *Service) { match(s).Headers[0].Name = "X" }, at + `matches[0].headers[0].name: "X" is no header name in lower case`},
		{"a table of HTTPRoutes", func(s *Service) { s.Ports[2].Producer.GRPC = false }, at + `matches[0].path.type: "" is not known`},
		{"A-54: a call beside a path", func(s *Service) { s.Ports[0].Producer.Rules[0].Matches[1].RPC = &RPCMatch{} },
			"ports[0].producer.rules[0].matches[1].rpc: only a gRPC table asks for calls"},
	}.check(t, fullService, (*Service).Validate)
}

func TestM33WhatAnRPCMayBe(t *testing.T) {
	for _, m := range []RPCMatch{
		{}, {Type: Exact}, {Type: RegularExpression}, {Type: Exact, Service: ".a.B"}, {Type: Exact, Method: "M"},
		{Type: RegularExpression, Service: "a/b"}, // no call matches it, and it does no harm
	} {
		s := fullService()
		s.Ports[2].Producer.Rules[0].Matches[0].RPC = &m
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestMistakesInEndpoints(t *testing.T) {
	address := func(s string) func(*EndpointSet) {
		return func(e *EndpointSet) { e.Endpoints[1].Address = netip.MustParseAddrPort(s) }
	}
	mistakes[*EndpointSet]{
		{"no namespace", func(e *EndpointSet) { e.Namespace = "" }, `namespace: "" is no name of a namespace`},
		{"no name", func(e *EndpointSet) { e.Name = "a b" }, `name: "a b" is no name of an object`},
		{"no port", func(e *EndpointSet) { e.Port = 0 }, "port: 0 is no port"},
		{"no address", func(e *EndpointSet) { e.Endpoints[0].Address = netip.AddrPort{} }, "endpoints[0].address: there is no address"},
		{"an endpoint without port", address("10.0.0.1:0"), "endpoints[1].address: 0 is no port"},
		{"the unspecified address", address("[::]:80"), "endpoints[1].address: :: is no address to connect to"},
		{"a group's address", address("224.0.0.1:80"), "endpoints[1].address: 224.0.0.1 is no address to connect to"},
		{"IPv4 in IPv6", address("[::ffff:10.0.0.1]:80"), "endpoints[1].address: ::ffff:10.0.0.1 is an IPv4 address: want 10.0.0.1"},
		{"a zone", address("[fe80::1%1]:80"), "endpoints[1].address: fe80::1%1 has a zone"},
		{"an endpoint twice", address("10.244.1.2:8080"), "endpoints[1].address: 10.244.1.2:8080 is there twice"},
	}.check(t, fullEndpoints, (*EndpointSet).Validate)
}

func TestMistakesInAPod(t *testing.T) {
	mistakes[*Pod]{
		{"no UID", func(p *Pod) { p.UID = "" }, "uid: it is empty"},
		{"no namespace", func(p *Pod) { p.Namespace = "" }, `namespace: "" is no name of a namespace`},
		{"no name", func(p *Pod) { p.Name = "" }, `name: "" is no name of an object`},
	}.check(t, func() *Pod { return &Pod{UID: "1", Namespace: "shop", Name: "web-0"} }, (*Pod).Validate)
}

// What frames a message, what belongs to one connection, and what a request has exactly one of.
func TestF14WhatAnEditMayName(t *testing.T) {
	edits := map[string]func(string) *HeaderEdit{
		"set[0].name: ": func(n string) *HeaderEdit { return &HeaderEdit{Set: []Header{{n, "a"}}} },
		"add[0].name: ": func(n string) *HeaderEdit { return &HeaderEdit{Add: []Header{{n, "a"}}} },
		"remove[0]: ":   func(n string) *HeaderEdit { return &HeaderEdit{Remove: []string{n}} },
	}
	for name, want := range map[string]string{
		"Connection": "belongs to one connection", "KEEP-ALIVE": "belongs to one connection", "Proxy-Connection": "belongs to one connection",
		"te": "belongs to one connection", "Trailer": "belongs to one connection", "Transfer-Encoding": "belongs to one connection",
		"upgrade": "belongs to one connection", "Content-Length": "says where the message ends", "host": "can only be set",
		":authority": "is no header name", "": "is no header name", "x y": "is no header name", "x:": "is no header name",
		"é": "is no header name", "x\r\n": "is no header name",
		"X-Any": "", "content-type": "", "!#$%&'*+-.^_`|~09AZaz": "", "Hosts": "",
	} {
		for at, edit := range edits {
			err := edit(name).Validate()
			switch isSet := at == "set[0].name: "; {
			case want == "" || name == "host" && isSet:
				if err != nil {
					t.Errorf("%s%q is refused: %v", at, name, err)
				}
			case err == nil:
				t.Errorf("%s%q is taken", at, name)
			case !strings.HasPrefix(err.Error(), at) || !strings.Contains(err.Error(), want):
				t.Errorf("%s%q: %q does not say that it %s", at, name, err, want)
			}
		}
	}
}

// RFC 9110, 5.5: a line break in a value would write another header.
func TestValuesThatAnEditMayHave(t *testing.T) {
	for c := range 256 {
		value := "a" + string([]byte{byte(c)}) + "b"
		refused := c < 0x20 && c != '\t' || c == 0x7f
		for at, e := range map[string]*HeaderEdit{
			"set[0].value: ": {Set: []Header{{"X", value}}}, "add[0].value: ": {Add: []Header{{"X", value}}},
		} {
			err := e.Validate()
			if (err != nil) != refused || refused && err.Error() != at+"it has a control character" {
				t.Errorf("%sbyte %#x: %v", at, c, err)
			}
		}
	}
	if err := (&HeaderEdit{Set: []Header{{"X", ""}}}).Validate(); err != nil {
		t.Errorf("an empty value: %v", err)
	}
	for value, right := range map[string]bool{
		"web.shop": true, "web.shop:8080": true, "[fd00::1]:80": true, "10.0.0.1": true,
		"": false, "a b": false, "a\tb": false, "a/b": false, "a?b": false, "a#b": false, "u@a": false, `a\b`: false, "a,b": false,
	} {
		for _, name := range []string{"Host", "HOST"} {
			if err := (&HeaderEdit{Set: []Header{{name, value}}}).Validate(); (err == nil) != right {
				t.Errorf("%s %q: %v", name, value, err)
			}
		}
	}
}
