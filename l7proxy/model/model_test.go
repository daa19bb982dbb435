package model

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fullUpdate has each member of each type set somewhere.
func fullUpdate() *Update {
	return &Update{
		Version: 7, Full: true,
		Services:         []Service{*fullService()},
		RemovedServices:  []ServiceKey{{"shop", "old"}},
		Endpoints:        []EndpointSet{*fullEndpoints()},
		RemovedEndpoints: []EndpointsKey{{"shop", "old", 80}},
	}
}

func fullService() *Service {
	web := EndpointsKey{"shop", "web-v1", 8080}
	edit := func() *HeaderEdit {
		return &HeaderEdit{
			Set: []Header{{"X-Route", "canary"}, {"Host", "web-v2.shop:80"}}, Add: []Header{{"X-Trace", "a, b"}}, Remove: []string{"X-Old"},
		}
	}
	return &Service{
		ServiceKey: ServiceKey{"shop", "web"},
		Ports: []Port{{
			Number: 80, Name: "http", AppProtocol: "http",
			Frontends: []Frontend{{ID: 1, Address: netip.MustParseAddr("10.96.0.7")}, {ID: MaxFrontendID, Address: netip.MustParseAddr("fd00::7")}},
			Default:   EndpointsKey{"shop", "web", 80},
			Producer: &RouteTable{Explicit: true, Rules: []Rule{
				{
					Route: RouteRef{"HTTPRoute", "shop", "web"}, Index: 1, Name: "canary",
					Matches: []Match{{
						Path: PathMatch{PathPrefix, "/a"}, Method: "GET",
						Headers: []ValueMatch{{"x-canary", Exact, "1"}, {"x-user", RegularExpression, "a.*"}},
						Query:   []ValueMatch{{"Q", Exact, ""}, {"q", RegularExpression, "[0-9]+"}},
					}, {Path: PathMatch{Exact, "/b"}}, {Path: PathMatch{RegularExpression, "/c/[^/]+"}}},
					Filters: []Filter{
						{RequestHeaders: edit()}, {ResponseHeaders: edit()}, {Rewrite: &Rewrite{Host: "v2.shop", Path: &PathEdit{Prefix: "/a", Value: "/b%20c"}}},
						{Mirror: &Mirror{Endpoints: web, Share: Fraction{1, 3}}},
						{CORS: &CORS{
							Origins: []string{"https://*.shop:8443", "http://a"}, Methods: []string{"PUT"}, Headers: []string{"X-A", "X-B"},
							Expose: []string{"*", "X-C"}, Credentials: true, MaxAge: 5,
						}},
					},
					Backends: []Backend{
						{Weight: MaxWeight, Endpoints: web, Filters: []Filter{
							{RequestHeaders: edit()}, {ResponseHeaders: edit()}, {Rewrite: &Rewrite{Path: &PathEdit{Value: "/"}}},
						}},
						{Invalid: "there is no Service shop/gone"},
					},
					Timeouts: Timeouts{Request: Duration(90 * time.Second), BackendRequest: Duration(1500 * time.Millisecond)},
					Retry:    &Retry{Attempts: 2, Codes: []int{500, 429}, Backoff: Duration(25 * time.Millisecond)},
				},
				{
					Route: RouteRef{"HTTPRoute", "shop", "web"}, Index: 3, Matches: []Match{{Path: PathMatch{PathPrefix, "/old"}}},
					Filters: []Filter{{Redirect: &Redirect{
						Status: 308, Scheme: "https", Host: "new.shop", Port: 8443, Path: &PathEdit{Prefix: "/old"},
					}}},
				},
				{
					Route: RouteRef{"HTTPRoute", "shop", "web"}, Index: 2, Matches: []Match{{Path: PathMatch{PathPrefix, "/"}}},
					Fail: &Failure{Status: 500, Reason: "filter ExternalAuth is not supported"},
				},
			}},
			Consumers: map[string]*RouteTable{
				"zoo": {Rules: []Rule{{Route: RouteRef{"HTTPRoute", "zoo", "to-web"}, Matches: []Match{{Path: PathMatch{PathPrefix, "/"}}}}}},
				"ant": {Rules: []Rule{}},
			},
		}, {
			Number: 81, Frontends: []Frontend{{ID: 2, Address: netip.MustParseAddr("10.96.0.7")}}, Default: EndpointsKey{"shop", "web", 81},
		}, {
			Number: 82, Frontends: []Frontend{{ID: 3, Address: netip.MustParseAddr("10.96.0.7")}}, Default: EndpointsKey{"shop", "web", 82},
			Producer: &RouteTable{GRPC: true, Rules: []Rule{{
				Route: RouteRef{"GRPCRoute", "shop", "carts"},
				Matches: []Match{
					{RPC: &RPCMatch{Exact, "shop.Carts", "Get"}, Headers: []ValueMatch{{"x-canary", Exact, "1"}}},
					{RPC: &RPCMatch{Type: RegularExpression, Service: `shop\..*`, Method: "[A-Z]+"}},
					{RPC: &RPCMatch{}},
				},
				Filters:  []Filter{{RequestHeaders: edit()}},
				Backends: []Backend{{Weight: 1, Endpoints: web}},
			}}},
			Consumers: map[string]*RouteTable{"zoo": {GRPC: true, Rules: []Rule{}}},
		}},
	}
}

func fullEndpoints() *EndpointSet {
	return &EndpointSet{
		EndpointsKey: EndpointsKey{"shop", "web-v1", 8080}, AppProtocol: "http", Affinity: Duration(3 * time.Hour),
		Endpoints: []Endpoint{
			{Address: netip.MustParseAddrPort("10.244.1.2:8080"), Node: "n1", Zone: "z1", ForZones: []string{"z1"}, ForNodes: []string{"n1"}},
			{Address: netip.MustParseAddrPort("[fd00:1::2]:8080"), Terminating: true},
		},
	}
}

// The names of the JSON form are what an agent and a proxy of other versions understand. After a change that is meant,
// SLUICE_GOLDEN=write rewrites the file; the change may need another ProtocolVersion.
func TestJSONForm(t *testing.T) {
	golden := filepath.Join("testdata", "update.json")
	got, err := json.MarshalIndent(fullUpdate(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if os.Getenv("SLUICE_GOLDEN") == "write" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("-%s +what is written now\n%s", golden, diff)
	}
	back := &Update{}
	d := json.NewDecoder(bytes.NewReader(want))
	d.DisallowUnknownFields()
	if err := d.Decode(back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullUpdate(), back, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("-written +read\n%s", diff)
	}
}

// A member that nobody set here would be in no golden file and in no table of mistakes.
func TestFullUpdateSetsEachMember(t *testing.T) {
	set := map[string]bool{}
	visit(reflect.ValueOf(fullUpdate()), set)
	if len(set) < 40 {
		t.Errorf("only %d members were visited", len(set))
	}
	for name, is := range set {
		if !is {
			t.Errorf("%s is set nowhere", name)
		}
	}
}

// visit notes for each member of each type whether it is set somewhere.
func visit(v reflect.Value, set map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			visit(v.Elem(), set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(v.Index(i), set)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			visit(v.MapIndex(k), set)
		}
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[Update]().PkgPath() {
			return
		}
		for i := range v.NumField() {
			name := v.Type().String() + "." + v.Type().Field(i).Name
			set[name] = set[name] || !v.Field(i).IsZero()
			visit(v.Field(i), set)
		}
	}
}

// a client namespace's own routes replace the producer's, and all others get those.
func TestA22TableOfAClient(t *testing.T) {
	producer, consumer := &RouteTable{}, &RouteTable{Explicit: true}
	for _, c := range []struct {
		name, client string
		port         Port
		want         *RouteTable
	}{
		{"the consumer's own", "zoo", Port{Producer: producer, Consumers: map[string]*RouteTable{"zoo": consumer}}, consumer},
		{"another namespace", "ant", Port{Producer: producer, Consumers: map[string]*RouteTable{"zoo": consumer}}, producer},
		{"another namespace without producer", "ant", Port{Consumers: map[string]*RouteTable{"zoo": consumer}}, nil},
		{"no consumers", "zoo", Port{Producer: producer}, producer},
		{"no table", "zoo", Port{}, nil},
	} {
		if got := c.port.Table(c.client); got != c.want {
			t.Errorf("%s: %p, want %p", c.name, got, c.want)
		}
	}
}

// Who forgets one leaves a proxy without endpoints.
func TestEndpointSetsAreAllThatAServiceNames(t *testing.T) {
	s := fullService()
	s.Ports[0].Producer.Rules[0].Filters[3].Mirror.Endpoints.Name = "mirrored"
	s.Ports[0].Consumers["zoo"].Rules[0].Backends = []Backend{{Endpoints: EndpointsKey{"zoo", "own", 80}}}
	got := slices.Compact(slices.SortedFunc(s.EndpointSets(), EndpointsKey.Compare))
	want := []EndpointsKey{{"shop", "mirrored", 8080}, {"shop", "web", 80}, {"shop", "web", 81}, {"shop", "web", 82}, {"shop", "web-v1", 8080}, {"zoo", "own", 80}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	n := len(slices.Collect(s.EndpointSets()))
	for stop := 1; stop <= n; stop++ { // who has seen enough gets no more
		seen := 0
		for range s.EndpointSets() {
			if seen++; seen == stop {
				break
			}
		}
		if seen != stop {
			t.Errorf("%d seen, want %d", seen, stop)
		}
	}
}

func TestKeysAreOrderedAndWritten(t *testing.T) {
	services := []ServiceKey{{"a", "z"}, {"b", "a"}, {"b", "b"}}
	endpoints := []EndpointsKey{{"a", "z", 9}, {"b", "a", 9}, {"b", "b", 80}, {"b", "b", 443}}
	if !slices.IsSortedFunc(services, ServiceKey.Compare) || services[0].Compare(services[0]) != 0 || services[2].Compare(services[1]) <= 0 {
		t.Error("Services are not ordered by namespace, then name")
	}
	if !slices.IsSortedFunc(endpoints, EndpointsKey.Compare) || endpoints[0].Compare(endpoints[0]) != 0 || endpoints[3].Compare(endpoints[2]) <= 0 {
		t.Error("endpoint sets are not ordered by namespace, name, then port")
	}
	got := []string{services[1].String(), endpoints[3].String(), RouteRef{"HTTPRoute", "shop", "web"}.String()}
	if want := []string{"b/a", "b/b:443", "HTTPRoute shop/web"}; !slices.Equal(got, want) {
		t.Errorf("they are written %q: want %q", got, want)
	}
}

// What anybody may send is refused or taken, and what is taken reads the same when it is sent on.
func FuzzService(f *testing.F) {
	seed, err := json.Marshal(fullService())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	for _, s := range []string{
		strings.Replace(string(seed), `"1m30s"`, `"-90.5h"`, 1), strings.Replace(string(seed), `"https://*.shop:8443"`, `"*"`, 1),
		`{}`, `{"namespace":"a","name":"b","ports":[{"number":1,"default":{"namespace":"a","name":"b","port":1},"frontends":[{"id":1,"address":"::ffff:1.2.3.4"}]}]}`,
		strings.Replace(string(seed), `"/c/[^/]+"`, `"(("`, 1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Service
		if json.Unmarshal(b, &s) != nil || s.Validate() != nil {
			return
		}
		sent, err := json.Marshal(&s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(sent, &again); err != nil {
			t.Fatalf("%v: %s", err, sent)
		}
		if err := again.Validate(); err != nil {
			t.Errorf("sent on, it is refused: %v: %s", err, sent)
		}
		if resent, err := json.Marshal(&again); err != nil || !bytes.Equal(sent, resent) {
			t.Errorf("sent on (%v) it is\n%s\nwas\n%s", err, resent, sent)
		}
	})
}
