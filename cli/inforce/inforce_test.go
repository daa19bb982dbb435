package inforce

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	agentadmin "github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/state"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// agent is the agent's admin server over a status.
type agent struct {
	agentadmin.Node
	status *node.Status
}

func (a agent) Status(context.Context) (*agentadmin.Status, error) {
	if a.status == nil {
		return nil, errors.New("its loop does not answer")
	}
	return &agentadmin.Status{Status: a.status}, nil
}

func (agent) Config(context.Context) (*node.Model, error) {
	return nil, errors.New("this is the agent's")
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "unix:" + path
}

func local(t *testing.T, agent, proxy string) Node {
	t.Helper()
	a, err := ask.Local("agent", agent)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ask.Local("proxy", proxy)
	if err != nil {
		t.Fatal(err)
	}
	return Node{a, p}
}

func serveAgent(t *testing.T, s *node.Status) string {
	return serve(t, agentadmin.Handler(agent{status: s}, prometheus.NewRegistry()))
}

// serveProxy answers as a proxy that was told of the units.
func serveProxy(t *testing.T, u *model.Update) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	loop, err := inbound.New(func(bool) {}, log)
	if err != nil {
		t.Fatal(err)
	}
	pools := upstream.NewPools(upstream.Limits{})
	s := state.New(state.Config{Registry: upstream.NewRegistry(pools), Pools: pools, Inbound: loop, Log: log})
	t.Cleanup(func() {
		s.Close()
		if err := loop.Free(); err != nil {
			t.Error(err)
		}
	})
	s.Apply(u)
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/config" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(s.Dump()); err != nil {
			t.Error(err)
		}
	}))
}

// everything uses all of the model that routes use.
const everything = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.1
  sessionAffinity: ClientIP
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: grpc, port: 90, targetPort: 8080, appProtocol: kubernetes.io/h2c}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: out, namespace: far, labels: {sluice.dev/mesh: disabled}}
spec: {nodeName: n2, containers: [{name: c, image: c}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: first
    matches: [{path: {type: PathPrefix, value: /a}, method: GET, headers: [{name: x, value: "1"}], queryParams: [{name: q, value: "2"}]}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-y, value: z}]}}
    - {type: URLRewrite, urlRewrite: {hostname: h.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, percent: 10}}
    timeouts: {request: 5s, backendRequest: 2s}
    backendRefs:
    - {name: web, port: 80, weight: 3, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [v]}}]}
    - {name: nobody, port: 80}
  - matches: [{path: {type: Exact, value: /c}}]
    filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: ext}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: far}
spec:
  parentRefs: [{group: "", kind: Service, name: web, namespace: shop}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 90}]
  rules: [{matches: [{method: {service: a.B}}], backendRefs: [{name: web, port: 90}]}]
`

func readFolder(t *testing.T, yaml string) *View {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := Folder{Dir: dir, ReferenceGrants: true}.Read()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What the admin servers show is all of what was compiled.
func TestNodeShowsWhatTheFolderHas(t *testing.T) {
	want := readFolder(t, everything)
	if len(want.Services) != 1 || len(want.Routes) != 3 || len(want.Endpoints) != 2 || len(want.Endpoints[0].Endpoints) != 1 || len(want.Problems) > 0 {
		t.Fatalf("the folder has %+v", want)
	}
	for i := range want.Services[0].Ports { // as an agent does
		want.Services[0].Ports[i].Frontends[0].ID = uint32(i + 1)
	}
	s := &node.Status{Node: "n1", Liveness: node.Liveness{State: "up"}, Routes: want.Routes, Pods: []node.PodStatus{
		{Pod: "shop/web", State: "serving"}, {Pod: "far/out", State: "failed", Reason: "no namespace"}, {Pod: "far/off", State: "excluded", Reason: "host network"},
	}}
	n := local(t, serveAgent(t, s), serveProxy(t, &model.Update{Version: 1, Full: true, Services: want.Services, Endpoints: want.Endpoints}))
	got, err := n.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"Services": {got.Services, want.Services}, "endpoints": {got.Endpoints, want.Endpoints}, "routes": {got.Routes, want.Routes},
		"pods":     {got.Pods, []Pod{{"far", "off", "host network"}, {"far", "out", "failed: no namespace"}, {"shop", "web", ""}}},
		"problems": {got.Problems, []string(nil)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %+v\nwant %+v", what, pair[0], pair[1])
		}
	}
	if !got.AllPods || !strings.Contains(got.Source, "n1") || !strings.Contains(got.Source, n.Proxy.At) {
		t.Errorf("%+v", got)
	}
}

func TestNodeTellsWhatIsNotInForce(t *testing.T) {
	bad := model.Service{Namespace: "shop", Name: "web", Ports: []model.Port{{Number: 0}}}
	n := local(
		t, serveAgent(t, &node.Status{Liveness: node.Liveness{State: "down", Reason: "no proxy beats"}, Problems: []string{"a.yaml:1: odd"}}),
		serveProxy(t, &model.Update{Version: 1, Full: true, Services: []model.Service{bad}}),
	)
	v, err := n.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := strings.Join(v.Problems, "\n"); len(v.Problems) != 3 || !strings.Contains(p, "a.yaml:1: odd") || !strings.Contains(p, "no proxy beats") ||
		!strings.Contains(p, "refused the newest version of Service shop/web") {
		t.Errorf("problems: %s", p)
	}
}

func TestFolderTellsOfPodsThatGoDirect(t *testing.T) {
	v := readFolder(t, everything)
	if len(v.Pods) != 2 || v.Pods[0].Name != "out" || !strings.Contains(v.Pods[0].Direct, "sluice.dev/mesh") || v.Pods[1].Direct != "" || v.AllPods {
		t.Errorf("%+v", v.Pods)
	}
}

func TestFind(t *testing.T) {
	v := readFolder(t, everything)
	if s := v.Service(model.ServiceKey{Namespace: "shop", Name: "web"}); s == nil || s.Name != "web" {
		t.Errorf("%+v", s)
	}
	if e := v.EndpointSet(model.EndpointsKey{Namespace: "shop", Name: "web", Port: 90}); e == nil || e.Port != 90 {
		t.Errorf("%+v", e)
	}
	if v.Service(model.ServiceKey{Namespace: "shop", Name: "x"}) != nil || v.EndpointSet(model.EndpointsKey{}) != nil {
		t.Error("found what is not there")
	}
}

// An error says where it was looked, and with which flag to look elsewhere.
func TestErrorsTellWhatToDo(t *testing.T) {
	good := serveAgent(t, &node.Status{})
	none := "unix:" + filepath.Join(t.TempDir(), "none")
	odd := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }))
	for _, c := range []struct {
		node Node
		want []string
	}{
		{local(t, none, good), []string{"no agent answers at " + none, "--agent"}},
		{local(t, good, none), []string{"no proxy answers at " + none, "--proxy"}},
		{local(t, serveAgent(t, nil), good), []string{"503", "its loop does not answer"}},
		{local(t, odd, good), []string{"the agent at " + odd, "does not read"}},
		{local(t, good, good), []string{"the proxy at " + good, "503", "this is the agent's"}},
	} {
		_, err := c.node.Read(t.Context())
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want it to say %q", c.node, err, want)
			}
		}
	}
	if _, err := (Folder{Dir: filepath.Join(t.TempDir(), "none")}).Read(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a folder that is not there: %v", err)
	}
}
