package netns

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

// what is addressed to the ClusterIP of a Service with a route is routed, over IPv4 and IPv6, from
// several pods at once; all else is untouched. The backends see the pods' own addresses.
func TestRoutedServiceAndUntouchedOne(t *testing.T) {
	m := start(t)
	near, far := m.pods["near"], m.pods["far"]
	m.route(producer, "split", "web", "", "web-v1=90", "web-v2=10")
	m.routed("web", near, far)

	var running []*lab.Running
	for _, pod := range []*lab.Pod{near, far} {
		for _, service := range []string{"web", "api"} {
			l := traffic.Load{Targets: targets(service), Workers: 8, Requests: 1000, Connections: traffic.Mixed, Backends: service + "-"}
			if service == "web" {
				running = append(running, m.begin(pod, l))
				continue
			}
			if r := m.good(pod, l); r.Routed != 0 {
				t.Errorf("%d requests from %s to a Service without a route were routed", r.Routed, pod.Name)
			}
		}
	}
	for _, c := range running {
		r, err := c.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed > 0 {
			t.Fatalf("%d failed: %+v", r.Failed, r.Failures[0])
		}
		// Four standard deviations of 90 % over 1,000 requests.
		if share := r.Share("web-v1"); r.Routed != r.Requests || share < 0.86 || share > 0.94 {
			t.Errorf("routed %d of %d, share of v1 %.3f", r.Routed, r.Requests, share)
		}
	}
	time.Sleep(50 * time.Millisecond) // the servers write their logs in turns
	for _, name := range []string{"web-v1", "web-v2"} {
		clients, err := m.pods[name].Clients()
		if err != nil {
			t.Fatal(err)
		}
		if len(clients) != 4 || clients[near.IPv4] == 0 || clients[near.IPv6] == 0 || clients[far.IPv4] == 0 || clients[far.IPv6] == 0 {
			t.Errorf("%s saw %v, want the two client pods' addresses", name, clients)
		}
	}
}

// a consumer route replaces the producer's for clients of its namespace, and for nobody else.
func TestConsumerRouteIsForItsNamespaceOnly(t *testing.T) {
	m := start(t)
	m.route(producer, "theirs", "web", "", "web-v1=1")
	m.route("far", "ours", "web", "", "web-v2=1")
	m.write("grant.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: far, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: far}]
  to: [{group: "", kind: Service}]
`)
	m.routed("web", m.clients...)
	for client, want := range map[string]string{"near": "web-v1", "other": "web-v1", "far": "web-v2"} {
		m.eventually(client+" gets "+want, 5*time.Second, func() error {
			r, err := m.pods[client].Load(t.Context(), traffic.Load{Targets: targets("web"), Requests: 20, Backends: want})
			if err == nil && r.Failed > 0 {
				t.Logf("%s: %+v", client, r.Failures[0])
				return os.ErrInvalid
			}
			return err
		})
	}
}

// M-15 and GEP-1294: routes of one namespace merge; the more specific match wins.
func TestHeaderMatchBeatsTheGeneralRule(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	m.route(producer, "canary", "web", `{headers: [{name: X-Canary, value: "true"}]}`, "web-v2=1")
	near := m.pods["near"]
	m.routed("web", near)
	m.eventually("the canary", 5*time.Second, func() error {
		r := m.load(near, traffic.Load{Targets: targets("web"), Requests: 10, Headers: map[string]string{"x-canary": "true"}, Backends: "web-v2"})
		if r.Failed > 0 {
			return os.ErrInvalid
		}
		return nil
	})
	m.good(near, traffic.Load{Targets: targets("web"), Requests: 200, Headers: map[string]string{"x-canary": "true"}, Backends: "web-v2"})
	m.good(near, traffic.Load{Targets: targets("web"), Requests: 200, Backends: "web-v1"})
}

// A-41, B-2, B-7: what the proxy answers itself.
func TestAnswersOfTheProxyItself(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "split", "web", "{path: {type: PathPrefix, value: /known}}", "web-v1=1")
	m.route(producer, "missing", "web", "{path: {type: PathPrefix, value: /missing}}", "nobody=1")
	m.route(producer, "empty", "web", "{path: {type: PathPrefix, value: /empty}}", "empty=1")
	for path, status := range map[string]int{"/known": 200, "/unknown": 404, "/missing": 500, "/empty": 503} {
		m.eventually(path, 5*time.Second, func() error {
			r := m.load(near, traffic.Load{Targets: targets("web"), Path: path, Requests: 2, Statuses: []int{status}, Connections: traffic.New})
			if r.Failed > 0 {
				t.Logf("%s: %+v", path, r.Failures[0])
				return os.ErrInvalid
			}
			return nil
		})
		m.good(near, traffic.Load{Targets: targets("web"), Path: path, Requests: 100, Workers: 4, Statuses: []int{status}})
	}
}

// RFC 9112 §2.2 and §3: what is no HTTP request is refused and never forwarded on a guess.
func TestWhatIsNoHTTPIsRefused(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	time.Sleep(100 * time.Millisecond)
	before := seen(t, m.pods["web-v1"]) + seen(t, m.pods["web-v2"])
	for name, request := range map[string]string{
		"no HTTP at all":          "\x00\x01\x02\x03 this is no HTTP\r\n\r\n",
		"no version":              "GET /\r\nHost: web\r\n\r\n",
		"no host":                 "GET / HTTP/1.1\r\n\r\n",
		"two lengths":             "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"length and chunks":       "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"space before the colon":  "GET / HTTP/1.1\r\nHost: web\r\nX-A : b\r\n\r\n",
		"a control in a field":    "GET / HTTP/1.1\r\nHost: web\r\nX-A: b\x00c\r\n\r\n",
		"chunked is not the last": "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
	} {
		for _, to := range targets("web") {
			var answer string
			m.in(near, "raw", &answer, to.String(), strconv.Quote(request)) // an argument holds no NUL
			if !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
				t.Errorf("%s, to %s: answered %q, want 400", name, to, answer)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	if after := seen(t, m.pods["web-v1"]) + seen(t, m.pods["web-v2"]); after != before {
		t.Errorf("the backends saw %d connections or requests of these", after-before)
	}
}

func seen(t *testing.T, p *lab.Pod) int {
	t.Helper()
	lines, err := p.Seen()
	if err != nil {
		t.Fatal(err)
	}
	return len(lines)
}

// A pod that names no namespace is found by the cgroup of its processes.
func TestPodIsFoundByItsCgroup(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	p := m.addPod(lab.PodSpec{Namespace: producer, Name: "plain", ByCgroup: true})
	if _, err := p.Start(lab.Command{Name: "plain-main", Path: "/bin/sleep", Args: []string{"120"}}); err != nil {
		t.Fatal(err)
	}
	// What finds pods looks when the objects change, and from time to time.
	m.routed("web", p)
}

// A bad edit: the last good version serves on, every other object counts, and the log and the status name the file.
func TestBadEditKeepsTheLastGoodVersion(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	for name, yaml := range map[string]string{
		"does not parse":  "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all, namespace: shop\nspec: [\n",
		"unknown field":   "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all, namespace: shop}\nspec:\n  parentRef: []\n",
		"refused by CRDs": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all, namespace: shop}\nspec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n  rules: [{backendRefs: [{name: web-v1, port: 80, weight: -1}]}]\n",
	} {
		logged := len(logOf(m.agent))
		m.write("route-all.yaml", yaml)
		m.eventually(name+": the log names the file", 5*time.Second, func() error {
			if !strings.Contains(logOf(m.agent)[logged:], "route-all.yaml") {
				return os.ErrNotExist
			}
			return nil
		})
		if r := m.good(near, traffic.Load{Targets: targets("web"), Requests: 100, Connections: traffic.Mixed, Workers: 2, Backends: "web-v1"}); r.Routed != r.Requests {
			t.Errorf("%s: %d of %d routed", name, r.Routed, r.Requests)
		}
	}
	var status json.RawMessage
	m.get(m.lab.AgentAdmin(), "/status", &status)
	if !strings.Contains(string(status), "route-all.yaml") {
		t.Errorf("the status does not name the file: %s", status)
	}
	m.route(producer, "more", "api", "", "api-v2=1")
	m.routed("api", near)
}

func logOf(p *lab.Process) string { return p.Tail(1 << 20) }

// An opted-out pod is left alone.
func TestPodThatOptsOutIsNotRedirected(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	out := m.addPod(lab.PodSpec{Namespace: producer, Name: "out", Labels: map[string]string{"sluice.dev/mesh": "disabled"}})
	m.routed("web", m.pods["near"])
	m.direct("web", out)
}

// The route goes, and traffic passes as before it came; nothing fails meanwhile.
func TestRouteComesAndGoesUnderLoad(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	c := m.begin(near, traffic.Load{Targets: targets("web"), Workers: 8, Connections: traffic.Mixed, Rate: 2000, Backends: "web-"})
	for range 5 {
		m.route(producer, "all", "web", "", "web-v1=1")
		m.routed("web", m.pods["far"])
		m.write("route-all.yaml", "")
		m.direct("web", m.pods["far"])
	}
	if r := m.stop(c); r.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", r.Failed, r.Requests, r.Failures[0])
	}
}

// connections that are kept open do not outlive the last route: they end in order and come back direct.
func TestKeptConnectionsComeBackDirectAfterTheLastRoute(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", near)
	c := m.begin(near, traffic.Load{Targets: targets("web"), Workers: 8, Connections: traffic.KeepAlive, Rate: 1000, Backends: "web-", Snapshots: 100 * time.Millisecond})
	m.write("route-all.yaml", "")
	m.direct("web", m.pods["far"])
	limit := time.After(10 * time.Second)
	for direct := false; !direct; {
		select {
		case r := <-c.Reports:
			direct = r.OK() > 0 && r.Routed == 0
		case <-limit:
			t.Fatal("kept connections stay routed")
		}
	}
	if r := m.stop(c); r.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", r.Failed, r.Requests, r.Failures[0])
	}
}
