package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func setup(threads, routes int) Setup {
	return Setup{
		Listen: netip.MustParseAddrPort("127.0.0.1:18080"), Threads: threads, Routes: routes, Dir: "/dir",
		Backends: []Backend{
			{Name: "v1", Address: netip.MustParseAddrPort("10.0.0.1:8080"), Weight: 80},
			{Name: "v2", Address: netip.MustParseAddrPort("10.0.0.2:8080"), Weight: 20},
		},
	}
}

// contains fails for each text that is not there.
func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("it lacks %q:\n%.2000s", w, got)
		}
	}
}

func TestHAProxyMatchesWeighsAndKeepsConnections(t *testing.T) {
	cfg, prefixes := HAProxy(setup(2, 1))
	contains(t, cfg, "nbthread 2\n", "bind 127.0.0.1:18080\n", "acl routed req.hdr(x-bench) -m str yes\n", "status 404 unless routed",
		"server v1 10.0.0.1:8080 weight 80 pool-max-conn 2048", "server v2 10.0.0.2:8080 weight 20 pool-max-conn 2048", "http-reuse always", "default_backend web\n")
	if prefixes != "" {
		t.Errorf("prefixes %q for one route", prefixes)
	}
	cfg, prefixes = HAProxy(setup(1, 5000))
	contains(t, cfg, "use_backend %[path,map_beg(/dir/routes.map)]\n")
	contains(t, prefixes, "/r/0000/ web\n", "/r/4999/ web\n")
	if n := strings.Count(prefixes, "\n"); n != 5000 {
		t.Errorf("%d prefixes, want 5000", n)
	}
	if strings.Contains(cfg, "default_backend") {
		t.Error("what no route matches goes to a default backend")
	}
}

func TestNginxMatchesWeighsAndKeepsConnections(t *testing.T) {
	one := Nginx(setup(2, 1))
	contains(t, one, "worker_processes 2;", "listen 127.0.0.1:18080 reuseport;", "server 10.0.0.1:8080 weight=80", "server 10.0.0.2:8080 weight=20",
		"keepalive 2048;", `proxy_set_header Connection "";`, `location / { if ($http_x_bench != "yes") { return 404; } proxy_pass http://web; }`)
	many := Nginx(setup(1, 100))
	if n := strings.Count(many, "proxy_pass"); n != 100 {
		t.Errorf("%d locations, want 100", n)
	}
	contains(t, many, "location /r/0099/ {")
	for _, cfg := range []string{one, many, NginxBackend("v1", 8080, "/root")} {
		if strings.Count(cfg, "{") != strings.Count(cfg, "}") {
			t.Errorf("braces do not match:\n%.2000s", cfg)
		}
	}
}

func TestNginxBackendSaysWhoItIs(t *testing.T) {
	contains(t, NginxBackend("v2", 8080, "/root"), "listen 8080;", "root /root;", "add_header x-backend v2;", "location = /10k {", "location = /1m {")
	files := Files()
	if len(files["10k"]) != 10<<10 || len(files["1m"]) != 1<<20 {
		t.Errorf("files of %d and %d bytes", len(files["10k"]), len(files["1m"]))
	}
}

func TestEnvoyMatchesAndWeighs(t *testing.T) {
	for _, routes := range []int{1, 100} {
		b, err := Envoy(setup(1, routes))
		if err != nil {
			t.Fatal(err)
		}
		var any object
		if err := json.Unmarshal(b, &any); err != nil {
			t.Fatal(err)
		}
		compact, err := json.Marshal(any)
		if err != nil {
			t.Fatal(err)
		}
		contains(t, string(compact), `{"clusters":[{"name":"v1","weight":80},{"name":"v2","weight":20}]}`,
			`{"name":"x-bench","string_match":{"exact":"yes"}}`, `"address":"10.0.0.2","port_value":8080`)
		if n := strings.Count(string(compact), `"weighted_clusters"`); n != routes {
			t.Errorf("%d routes, want %d", n, routes)
		}
	}
}

func TestRoutesAreWhatTheOthersAreTold(t *testing.T) {
	for _, routes := range []int{1, 100} {
		d := yaml.NewDecoder(strings.NewReader(string(Routes(setup(1, 1).Backends, routes))))
		n := 0
		for ; ; n++ {
			var route struct {
				Kind string
				Spec struct {
					Rules []struct {
						Matches     []any
						BackendRefs []struct{ Weight int } `yaml:"backendRefs"`
					}
				}
			}
			if err := d.Decode(&route); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			path := "/"
			if routes > 1 {
				path = Prefix(n)
			}
			want := fmt.Sprintf("[map[headers:[map[name:x-bench value:yes]] path:map[type:PathPrefix value:%s]]]", path)
			r := route.Spec.Rules[0]
			if route.Kind != "HTTPRoute" || fmt.Sprint(r.Matches) != want || r.BackendRefs[0].Weight != 80 || r.BackendRefs[1].Weight != 20 {
				t.Errorf("route %d: %+v, want matches %s", n, route, want)
			}
		}
		if n != routes {
			t.Errorf("%d routes, want %d", n, routes)
		}
	}
}

func TestServicesAreYAML(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("10.96.0.12")}
	d := yaml.NewDecoder(strings.NewReader(string(Services(setup(1, 1).Backends, addresses, 8080, 8081))))
	var names []string
	for {
		var o struct {
			Metadata struct{ Name string }
			Spec     struct{ Selector map[string]string }
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Metadata.Name+o.Spec.Selector["version"])
	}
	if want := []string{"bench", "web", "v1v1", "v2v2"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestPathsAreSpreadOverTheRoutes(t *testing.T) {
	if got := Paths(1, "/10k"); !slices.Equal(got, []string{"/10k"}) {
		t.Errorf("one route: %v", got)
	}
	for _, routes := range []int{2, 100, 5000} {
		got := Paths(routes, "/")
		if len(got) != min(16, routes) || len(slices.Compact(slices.Clone(got))) != len(got) || got[len(got)-1] >= Prefix(routes) || got[0] == got[len(got)-1] {
			t.Errorf("%d routes: %v", routes, got)
		}
	}
	if got := Paths(5000, "/"); got[0] != "/r/0156/" || got[15] != "/r/4843/" {
		t.Errorf("5000 routes: %v", got)
	}
}

func TestRequestIsWhole(t *testing.T) {
	const want = "GET /a HTTP/1.1\r\nHost: web.bench.svc.cluster.local\r\nUser-Agent: bench\r\nAccept: */*\r\nx-bench: yes\r\nConnection: close\r\n\r\n"
	if got := Request("/a", true); got != want {
		t.Errorf("%q", got)
	}
	contains(t, Wrk([]string{"/a", "/b"}, false), `"GET /a HTTP/1.1\r\nHost: `, `"GET /b HTTP/1.1\r\n`)
}

func TestParseWrkReadsTheSummary(t *testing.T) {
	got, err := ParseWrk("Running 1s test @ http://127.0.0.1/\n  Requests/sec: 1\nsluice-bench 58000 1001000 3\n")
	if want := (WrkResult{Requests: 58000, Elapsed: 1001 * time.Millisecond, Failures: 3}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "unable to connect\n", "sluice-bench 0 1001000 3\n", "sluice-bench x 1 1\n"} {
		if got, err := ParseWrk(bad); err == nil {
			t.Errorf("%q: %+v and no error", bad, got)
		}
	}
}

func grpc() Setup {
	s := setup(2, 1)
	s.GRPC = true
	return s
}

// HTTP/2 on both sides, and only where it is asked for.
func TestGRPCIsHTTP2OnBothSides(t *testing.T) {
	cfg, prefixes := HAProxy(grpc())
	contains(t, cfg, "bind 127.0.0.1:18080 proto h2\n", "server v1 10.0.0.1:8080 proto h2 weight 80", "server v2 10.0.0.2:8080 proto h2 weight 20", "status 404 unless routed")
	if plain, _ := HAProxy(setup(2, 1)); strings.Contains(plain, "h2") || prefixes != "" {
		t.Errorf("HTTP/1.1:\n%s", plain)
	}
	nginx := Nginx(grpc())
	contains(t, nginx, "listen 127.0.0.1:18080 http2 reuseport;", `location / { if ($http_x_bench != "yes") { return 404; } grpc_pass grpc://web; }`, "keepalive 2048;")
	if plain := Nginx(setup(2, 1)); strings.Contains(nginx, "proxy_pass") || strings.Contains(plain, "grpc_pass") || strings.Contains(plain, " http2 ") {
		t.Errorf("HTTP/1.1:\n%s", plain)
	}
	for want, s := range map[string]Setup{"HTTP2": grpc(), "HTTP1": setup(1, 1)} {
		b, err := Envoy(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(b), "http2_protocol_options"); s.GRPC && got != 2 || !s.GRPC && got != 0 {
			t.Errorf("%s: %d clusters speak HTTP/2", want, got)
		}
		contains(t, string(b), `"codec_type": "`+want+`"`)
	}
}

func TestGRPCRouteIsWhatTheOthersAreTold(t *testing.T) {
	var route struct {
		Kind string
		Spec struct {
			ParentRefs []struct{ Port int } `yaml:"parentRefs"`
			Rules      []struct {
				Matches     []any
				BackendRefs []struct{ Weight, Port int } `yaml:"backendRefs"`
			}
		}
	}
	if err := yaml.Unmarshal(GRPCRoute(setup(1, 1).Backends), &route); err != nil {
		t.Fatal(err)
	}
	r := route.Spec.Rules[0]
	if route.Kind != "GRPCRoute" || route.Spec.ParentRefs[0].Port != GRPCPort || fmt.Sprint(r.Matches) != "[map[headers:[map[name:x-bench value:yes]]]]" ||
		fmt.Sprint(r.BackendRefs) != "[{80 9000} {20 9000}]" {
		t.Errorf("%+v", route)
	}
}

// A call as gRPC libraries send it: each field costs something.
func TestH2loadSendsWholeCalls(t *testing.T) {
	args := strings.Join(H2load("127.0.0.1:1", "/file", 4, 100, 3*time.Second), "|")
	contains(t, args, "-c4|-m100|-D3|-d|/file|", "|:authority: "+Host+"|", "|te: trailers|", "|content-type: application/grpc|", "|user-agent: grpc-", "|grpc-timeout: ",
		"|traceparent: 00-", "|x-bench: yes|", "|http://127.0.0.1:1/bench.Echo/Echo")
	if m := Message(); len(m) != 5+MessageSize || m[0] != 0 || m[4] != MessageSize {
		t.Errorf("message % x", m)
	}
}

const h2loadSummary = `Application protocol: h2c
finished in 2.00s, 160448.50 req/s, 8.11MB/s
requests: 1000 total, 1016 started, 1000 done, 997 succeeded, 3 failed, 2 errored, 1 timeout
status codes: 997 2xx, 0 3xx, 1 4xx, 2 5xx
traffic: 16.22MB (17007589) total, 940.15KB (962718) headers (space savings 93.88%), 20.44KB (20937) data
`

func TestParseH2loadReadsTheSummary(t *testing.T) {
	got, err := ParseH2load(h2loadSummary)
	if want := (H2loadResult{Requests: 1000, Succeeded: 997, Failures: 4, Data: 20937, Rate: 160448.5}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for name, bad := range map[string]string{
		"nothing": "", "no answers": strings.ReplaceAll(h2loadSummary, "1000 done", "0 done"), "HTTP/1.1": strings.ReplaceAll(h2loadSummary, "h2c", "http/1.1"),
	} {
		if got, err := ParseH2load(bad); err == nil {
			t.Errorf("%s: %+v and no error", name, got)
		}
	}
	for data, ok := range map[int]bool{20937: true, 20937 - 2*21: true, 20937 - 3*21: false, 20937 + 3*21: false, 0: false} {
		got.Data = data
		if err := got.Check(2); (err == nil) != ok {
			t.Errorf("%d bytes of 997 messages with 2 under way: %v", data, err)
		}
	}
}
