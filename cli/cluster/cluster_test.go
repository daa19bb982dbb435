package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster/clustertest"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func open1(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// agent is a program's admin server. It has more to say than fits into one frame of any protocol.
func agent(t *testing.T) string {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.String() {
		case "GET /status":
			fmt.Fprintf(w, `{"node": "n1", "problems": [%q]}`, strings.Repeat("long ", 1<<20))
		case "GET /readyz":
			http.Error(w, "the objects have not been read yet", http.StatusServiceUnavailable)
		case "POST /bypass?on=true":
			fmt.Fprint(w, "{}")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h.Listener.Addr().String()
}

func TestAProgramIsAskedThroughAPortForward(t *testing.T) {
	for _, protocol := range []string{"WebSocket", "SPDY"} {
		t.Run(protocol, func(t *testing.T) {
			s := clustertest.New(t)
			o := Options{Kubeconfig: s.Kubeconfig}
			s.NoWebSocket = protocol == "SPDY"
			s.Ports["sys/p:15021"] = agent(t)
			program := open1(t, o).Agent(Pod{Namespace: "sys", Name: "p", Node: "n1"})
			ctx := within(t, 20*time.Second)
			var status ask.Status
			if err := program.Get(ctx, "/status", &status); err != nil {
				t.Fatal(err)
			}
			if status.Node != "n1" || len(status.Problems) != 1 || len(status.Problems[0]) != 5<<20 {
				t.Errorf("%.200v", status)
			}
			if why, err := program.Ready(ctx); err != nil || why != "the objects have not been read yet" {
				t.Errorf("%q, %v", why, err)
			}
			if err := program.Bypass(ctx, true); err != nil {
				t.Error(err)
			}
			if err := program.Bypass(ctx, false); err == nil || !strings.Contains(err.Error(), "404") {
				t.Error(err)
			}
			for range 4 { // none is left open
				select {
				case <-s.Closed:
				case <-ctx.Done():
					t.Fatal("a port-forward stays open")
				}
			}
			if forwards, open := s.Forwards(); len(forwards) != 4 || forwards[0] != protocol || open != 0 {
				t.Errorf("port-forwards %v, %d of them open", forwards, open)
			}
		})
	}
}

// Why the far end cannot connect is told, not only that it cannot.
func TestWhyThereIsNoAnswer(t *testing.T) {
	s := clustertest.New(t)
	o := Options{Kubeconfig: s.Kubeconfig}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s.Ports["sys/p:15021"] = l.Addr().String()
	s.Denied["/api/v1/namespaces/sys/pods/no/portforward"] = `pods "no" is forbidden: User "u" cannot create resource "pods/portforward"`
	c := open1(t, o)
	for _, tt := range []struct {
		pod  string
		want []string
	}{
		{"p", []string{"no agent answers at pod sys/p on node n1", "connection refused"}},
		{"no", []string{"no agent answers at pod sys/no on node n1", "cannot create resource"}},
	} {
		_, err := c.Agent(Pod{Namespace: "sys", Name: tt.pod, Node: "n1"}).Ready(within(t, 20*time.Second))
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "/run/netns") || strings.Contains(err.Error(), "tcp6") {
				t.Errorf("%s: %v, want it to say %q", tt.pod, err, want)
			}
		}
	}
}

// Whatever hangs, nothing waits for it when its time is up.
func TestWhatHangsIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for name, spoil := range map[string]func(*clustertest.Server){
		"the API server":                   func(s *clustertest.Server) { s.Hang = true },
		"the API server without WebSocket": func(s *clustertest.Server) { s.Hang, s.NoWebSocket = true, true },
		"the kubelet":                      func(s *clustertest.Server) { s.Mute = true },
		"the program":                      func(s *clustertest.Server) { s.Ports["sys/p:15021"] = l.Addr().String() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := clustertest.New(t)
			spoil(s)
			program := open1(t, Options{Kubeconfig: s.Kubeconfig}).Agent(Pod{Namespace: "sys", Name: "p", Node: "n1"})
			_, err := program.Ready(within(t, 2*time.Second))
			if _, is := errors.AsType[*ask.NoAnswer](err); !is || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "it took too long") {
				t.Errorf("%v", err)
			}
			if s.NoWebSocket { // it is the library's, until the server answers
				return
			}
			select {
			case <-s.Opened:
			default:
				t.Skip("the machine is too slow to come so far")
			}
			select {
			case <-s.Closed:
			case <-within(t, 20*time.Second).Done():
				t.Error("the port-forward stays open")
			}
		})
	}
}

type object = map[string]any

func meta(name string, more ...any) object {
	m := object{"name": name}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// paged answers a list in pages of one object.
func paged(kind string, items ...any) func(*http.Request) any {
	return func(r *http.Request) any {
		at := 0
		fmt.Sscan(r.URL.Query().Get("continue"), &at) //nolint:errcheck // the first page
		next := ""
		if at+1 < len(items) {
			next = fmt.Sprint(at + 1)
		}
		page := items[min(at, len(items)):min(at+1, len(items))]
		version := cmp.Or(map[string]string{"PartialObjectMetadataList": "meta.k8s.io/v1", "DaemonSetList": "apps/v1"}[kind], "v1")
		return object{"kind": kind, "apiVersion": version, "metadata": object{"continue": next}, "items": page}
	}
}

func ready(status string) object {
	return object{"conditions": []object{{"type": "Ready", "status": status}}}
}

func TestFacts(t *testing.T) {
	s := clustertest.New(t)
	o := Options{Kubeconfig: s.Kubeconfig}
	node := ready("True")
	node["nodeInfo"] = object{"kernelVersion": "6.12.0", "containerRuntimeVersion": "containerd://2.1.0"}
	s.Objects["/api/v1/nodes"] = paged("NodeList", object{"metadata": meta("n2"), "status": ready("Unknown")}, object{"metadata": meta("n1"), "status": node})
	containers := []object{{"name": "agent", "image": "sluice:1"}, {"name": "proxy", "image": "sluice:2"}}
	running := ready("True")
	running["containerStatuses"] = []object{{"name": "agent", "ready": true, "restartCount": 2, "lastState": object{"terminated": object{"reason": "OOMKilled", "exitCode": 137}}}}
	s.Objects["/api/v1/pods"] = func(r *http.Request) any {
		if got := r.URL.Query().Get("labelSelector"); got != selector {
			t.Errorf("pods with labels %q", got)
		}
		return paged("PodList",
			object{"metadata": meta("p", "namespace", "sys"), "spec": object{"nodeName": "n1", "containers": containers}, "status": running},
			object{"metadata": meta("q", "namespace", "sys", "deletionTimestamp", "2026-01-01T00:00:00Z"), "spec": object{"nodeName": "n0"}, "status": object{"phase": "Pending"}},
		)(r)
	}
	s.Objects["/apis/apps/v1/daemonsets"] = paged("DaemonSetList", object{
		"metadata": meta("sluice", "namespace", "sys", "generation", 2),
		"status":   object{"desiredNumberScheduled": 2, "currentNumberScheduled": 1, "updatedNumberScheduled": 1, "observedGeneration": 2},
	})
	s.Objects["/api/v1/services"] = paged("ServiceList",
		object{"metadata": meta("web", "namespace", "shop"), "spec": object{"clusterIP": "10.96.0.1", "selector": object{"app": "web"}}},
		object{"metadata": meta("db", "namespace", "shop"), "spec": object{"clusterIP": "None"}},
	)
	s.Objects["/apis/gateway.networking.k8s.io/v1"] = object{"kind": "APIResourceList", "resources": []object{
		{"name": "httproutes", "kind": "HTTPRoute"}, {"name": "httproutes/status", "kind": "HTTPRoute"}, {"name": "gateways", "kind": "Gateway"},
	}}
	s.Objects["/apis/gateway.networking.k8s.io/v1beta1"] = object{"kind": "APIResourceList", "resources": []object{{"name": "referencegrants", "kind": "ReferenceGrant"}}}
	annotations := object{bundleVersion: "v1.5.1", bundleChannel: "standard"}
	s.Objects["/apis/apiextensions.k8s.io/v1/customresourcedefinitions"] = paged("PartialObjectMetadataList",
		object{"metadata": meta("httproutes.gateway.networking.k8s.io", "annotations", annotations)},
		object{"metadata": meta("grpcroutes.gateway.networking.k8s.io", "annotations", annotations)},
		object{"metadata": meta("others.example.org", "annotations", object{bundleVersion: "v9"})},
	)
	got, err := open1(t, o).Read(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	db, web := model.ServiceKey{Namespace: "shop", Name: "db"}, model.ServiceKey{Namespace: "shop", Name: "web"}
	want := &Facts{
		Version:    "v1.37.1",
		Gateway:    GatewayAPI{[]string{"HTTPRoute v1", "ReferenceGrant v1beta1"}, []string{"v1.5.1 standard"}},
		Nodes:      []Node{{"n1", true, "6.12.0", "containerd://2.1.0"}, {Name: "n2"}},
		DaemonSets: []DaemonSet{{"sys", "sluice", 2, 1, 1, true}},
		Pods: []Pod{
			{Namespace: "sys", Name: "q", Node: "n0", Ending: true, Why: "Pending"},
			{
				Namespace: "sys", Name: "p", Node: "n1", Ready: true,
				Agent: Container{"sluice:1", 2, "OOMKilled: exit code 137"}, Proxy: Container{Image: "sluice:2"},
			},
		},
		Services: []Service{{db, true, nil}, {web, false, map[string]string{"app": "web"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// Without our pods there is nothing to tell of.
func TestPodsHaveToBeRead(t *testing.T) {
	s := clustertest.New(t)
	o := Options{Kubeconfig: s.Kubeconfig}
	s.Denied["/api/v1/pods"] = `pods is forbidden: User "u" cannot list resource "pods"`
	if _, err := open1(t, o).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "Sluice's pods: pods is forbidden") {
		t.Error(err)
	}
}

// What may not be read is told, and hides nothing else.
func TestWhatMayNotBeReadIsAFact(t *testing.T) {
	s := clustertest.New(t)
	o := Options{Kubeconfig: s.Kubeconfig}
	s.Denied["/api/v1/nodes"] = `nodes is forbidden: User "u" cannot list resource "nodes"`
	s.Objects["/api/v1/namespaces/sys/pods"] = paged("PodList", object{"metadata": meta("p", "namespace", "sys")})
	o.Namespace = "sys"
	f, err := open1(t, o).Read(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Pods) != 1 || !strings.Contains(strings.Join(f.Unread, "\n"), `nodes: nodes is forbidden: User "u" cannot list`) {
		t.Errorf("%+v", f)
	}
	if len(f.Gateway.Served) != 0 || strings.Contains(strings.Join(f.Unread, "\n"), "what is served") { // absent is no trouble
		t.Errorf("%+v", f)
	}
}

func TestWhichCluster(t *testing.T) {
	s := clustertest.New(t)
	o := Options{Kubeconfig: s.Kubeconfig}
	s.Objects["/api/v1/namespaces/shop/pods/web"] = object{"metadata": meta("web"), "spec": object{"nodeName": "n1"}}
	s.Objects["/api/v1/namespaces/shop/pods/new"] = object{"metadata": meta("new")}
	c := open1(t, o)
	if c.Name != "here" {
		t.Errorf("the cluster is called %s", c.Name)
	}
	if node, err := c.NodeOf(t.Context(), "shop", "web"); node != "n1" || err != nil {
		t.Errorf("%s, %v", node, err)
	}
	for _, tt := range []struct{ pod, want string }{{"new", "is on no node yet"}, {"none", "not found"}} {
		if _, err := c.NodeOf(t.Context(), "shop", tt.pod); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.pod, err)
		}
	}
	away := o
	away.Context = "nowhere"
	if _, err := open1(t, away).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "cluster nowhere") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
	away.Context = "odd"
	if _, err := Open(away); err == nil || !strings.Contains(err.Error(), "odd") || !strings.Contains(err.Error(), "--context") {
		t.Errorf("%v", err)
	}
	if _, err := Open(Options{Kubeconfig: filepath.Join(t.TempDir(), "none")}); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("%v", err)
	}
	t.Setenv("KUBECONFIG", o.Kubeconfig)
	if !Configured() {
		t.Error("KUBECONFIG is not seen")
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	if Configured() {
		t.Error("a file that is not there is seen")
	}
}
