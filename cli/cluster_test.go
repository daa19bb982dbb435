package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/cluster/clustertest"
)

// program is an admin server that answers as it is told to.
type program struct {
	mu     sync.Mutex
	bypass bool
	status string // the rest of it
	config string
	fails  bool // the switch cannot be turned
}

func (p *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "GET /readyz":
		fmt.Fprintln(w, "ok")
	case "GET /status":
		fmt.Fprintf(w, `{"liveness": {"state": "up"}, "kernel": {"inStep": true, "bypass": %t}%s}`, p.bypass, p.status)
	case "GET /config":
		fmt.Fprint(w, p.config)
	case "POST /bypass":
		if p.fails {
			http.Error(w, "the map is gone", http.StatusServiceUnavailable)
			return
		}
		p.bypass = r.URL.Query().Get("on") == "true"
	default:
		http.NotFound(w, r)
	}
}

func (p *program) on() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bypass
}

// town is a cluster of three nodes with an agent and a proxy each.
type town struct {
	*clustertest.Server
	agents map[string]*program
}

type object = map[string]any

const proxyConfig = `{"services": [{"service": "shop/web", "ports": [{"number": 80, "default": "shop/web:80", "tables": [{"routes": ["HTTPRoute shop/r"],
	"rules": [{"route": {"kind": "HTTPRoute", "namespace": "shop", "name": "r"}, "matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]}]}]}],
	"endpoints": [], "refused": []}`

func newTown(t *testing.T) *town {
	t.Helper()
	s := &town{clustertest.New(t), map[string]*program{}}
	var nodes, pods []object
	for _, node := range []string{"n1", "n2", "n3"} {
		ready := object{"conditions": []object{{"type": "Ready", "status": "True"}}}
		nodes = append(nodes, object{"metadata": object{"name": node}, "status": ready})
		pods = append(pods, object{
			"metadata": object{"namespace": "sys", "name": "sluice-" + node}, "status": ready,
			"spec": object{"nodeName": node, "containers": []object{{"name": "agent", "image": "s:1"}}},
		})
		agent := &program{status: fmt.Sprintf(`, "node": %q, "frontends": [{"address": "10.96.0.1:80", "service": {"namespace": "shop", "name": "web"},
			"inKernel": true, "failClosed": true}], "pods": [{"pod": "shop/client", "state": "serving"}]`, node)}
		s.agents[node] = agent
		s.Ports["sys/sluice-"+node+":15021"] = listen(t, agent)
		s.Ports["sys/sluice-"+node+":15020"] = listen(t, &program{config: proxyConfig})
	}
	s.Objects["/api/v1/nodes"] = object{"kind": "NodeList", "apiVersion": "v1", "items": nodes}
	s.Objects["/api/v1/pods"] = object{"kind": "PodList", "apiVersion": "v1", "items": pods}
	s.Objects["/api/v1/services"] = object{"kind": "ServiceList", "apiVersion": "v1"}
	s.Objects["/apis/apps/v1/daemonsets"] = object{"kind": "DaemonSetList", "apiVersion": "apps/v1", "items": []object{{
		"metadata": object{"namespace": "sys", "name": "sluice"},
		"status":   object{"desiredNumberScheduled": 3, "currentNumberScheduled": 3, "updatedNumberScheduled": 3},
	}}}
	s.Objects["/apis/gateway.networking.k8s.io/v1"] = object{"kind": "APIResourceList", "resources": []object{
		{"name": "httproutes", "kind": "HTTPRoute"}, {"name": "grpcroutes", "kind": "GRPCRoute"}, {"name": "referencegrants", "kind": "ReferenceGrant"},
	}}
	s.Objects["/apis/apiextensions.k8s.io/v1/customresourcedefinitions"] = object{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
	s.Objects["/api/v1/namespaces/shop/pods/client"] = object{"metadata": object{"name": "client"}, "spec": object{"nodeName": "n2"}}
	s.Objects["/api/v1/namespaces/shop/pods/far"] = object{"metadata": object{"name": "far"}, "spec": object{"nodeName": "n9"}}
	t.Setenv("KUBECONFIG", s.Kubeconfig)
	return s
}

func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// silent is an address where connections are taken, and nothing is said.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// command runs one, and returns what it prints and the exit status that follows.
func command(t *testing.T, args ...string) (out string, status int, err error) {
	t.Helper()
	var b bytes.Buffer
	switch args[0] {
	case "check":
		err = runCheck(t.Context(), args[1:], &b)
	case "bypass":
		err = runBypass(t.Context(), args[1:], &b)
	case "routes":
		err = runRoutes(t.Context(), args[1:], &b)
	case "explain":
		err = runExplain(t.Context(), args[1:], &b)
	}
	return b.String(), exitStatus(t, args, err), err
}

func exitStatus(t *testing.T, args []string, err error) int {
	t.Helper()
	_, troubled := errors.AsType[trouble](err)
	switch {
	case errors.Is(err, errNo):
		return 1
	case troubled:
		return 2
	case err != nil:
		t.Errorf("%v: the error %v has no exit status", args, err)
	}
	return 0
}

func TestCheckOfACluster(t *testing.T) {
	newTown(t)
	out, status, err := command(t, "check")
	if status != 0 || !strings.HasPrefix(out, "cluster here, Kubernetes v1.37.1: all is well") || strings.Count(out, "ready  ready  up") != 3 {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
	if out, status, err = command(t, "check", "--node", "n2"); status != 0 || strings.Contains(out, "n1") || !strings.Contains(out, "node n2") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
}

// A node that does not answer, in whatever way, hides none of the others, and costs no more than its time.
func TestASilentNodeHidesNoOther(t *testing.T) {
	s := newTown(t)
	s.Ports["sys/sluice-n1:15021"] = silent(t)
	s.Ports["sys/sluice-n2:15020"] = "127.0.0.1:1"
	s.Denied["/api/v1/namespaces/sys/pods/sluice-n3/portforward"] = "you may not"
	start := time.Now()
	out, status, err := command(t, "check", "-o", "json", "--timeout", "3s")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	var r struct {
		Schema   string
		Good     bool
		Problems []struct {
			Kind, What string
			Nodes      []string
		}
		Nodes []struct{ Name, Agent, Proxy string }
	}
	if jsonErr := json.Unmarshal([]byte(out), &r); status != 1 || jsonErr != nil || r.Schema != "sluice.dev/check/v1" || r.Good {
		t.Fatalf("status %d, %v, %v:\n%s", status, err, jsonErr, out)
	}
	if got := fmt.Sprint(r.Nodes); got != "[{n1 no answer ready} {n2 ready no answer} {n3 no answer no answer}]" {
		t.Error(got)
	}
	for _, want := range []string{"n1: the agent does not answer: it took too long", "n2: the proxy does not answer: ", "n3: the agent does not answer: ", "n3: the proxy does not answer: "} {
		found := false
		for _, p := range r.Problems {
			found = found || p.Kind == "no-answer" && strings.HasPrefix(p.Nodes[0]+": "+p.What, want)
		}
		if !found {
			t.Errorf("%q is not among %v", want, r.Problems)
		}
	}
	if !strings.Contains(out, "connection refused") || !strings.Contains(out, "you may not") {
		t.Error(out)
	}
}

func TestBypassOfACluster(t *testing.T) {
	s := newTown(t)
	out, status, err := command(t, "bypass", "on", "--node", "n2")
	said := strings.Join(strings.Fields(out), " ")
	if status != 0 || said != "n2: the bypass is on The bypass is on, on 1 of 1 nodes: connections there go direct, no route applies to them, until 'sluice bypass off'. "+
		"Services that fail closed are reached directly meanwhile: shop/web." {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
	if s.agents["n1"].on() || !s.agents["n2"].on() || s.agents["n3"].on() {
		t.Error("it was not that of n2 alone")
	}
	if out, status, err = command(t, "check"); status != 1 || !strings.Contains(out, "node n2: the bypass is on") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
	if out, status, err = command(t, "bypass", "status"); status != 0 || !strings.Contains(out, "n1: the bypass is off\nn2: the bypass is on\n") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
	if out, status, err = command(t, "bypass", "off"); status != 0 || !strings.Contains(out, "The bypass is off: connections") || s.agents["n2"].on() {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
}

// The result is each node's own.
func TestBypassTellsWhichNodeFailed(t *testing.T) {
	s := newTown(t)
	s.agents["n1"].fails = true
	s.Ports["sys/sluice-n2:15021"] = silent(t)
	out, status, err := command(t, "bypass", "--json", "on", "--timeout", "3s")
	var r bypassed
	if jsonErr := json.Unmarshal([]byte(out), &r); status != 1 || jsonErr != nil || len(r.Nodes) != 3 || r.Good {
		t.Fatalf("status %d, %v, %v:\n%s", status, err, jsonErr, out)
	}
	if !strings.Contains(r.Nodes[0].Error, "the map is gone") || !strings.Contains(r.Nodes[1].Error, "too long") || r.Nodes[2].Error != "" || !r.Nodes[2].Bypass {
		t.Errorf("%+v", r.Nodes)
	}
	if !s.agents["n3"].on() {
		t.Error("it is not on on n3")
	}
	if text := r.String(); !strings.Contains(text, "on 1 of 3 nodes") || !strings.Contains(text, "2 of 3 nodes did not answer") {
		t.Error(text)
	}
}

// Of the two agents that a node has during an upgrade one is enough.
func TestOneOfTwoAgentsIsEnough(t *testing.T) {
	s := newTown(t)
	pods := s.Objects["/api/v1/pods"].(object)
	items := pods["items"].([]object)
	pods["items"] = append(items[:1:1], object{"metadata": object{"namespace": "sys", "name": "a-successor"}, "spec": object{"nodeName": "n1"}})
	s.Ports["sys/a-successor:15021"] = "127.0.0.1:1"
	if out, status, err := command(t, "bypass", "on"); status != 0 || !s.agents["n1"].on() || !strings.Contains(out, "1 of 1 nodes") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
}

func TestExplainAsksTheNodeOfTheClient(t *testing.T) {
	newTown(t)
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"explain", "--from", "shop/client", "--to", "shop/web:80"}, 0, "pod sys/sluice-n2 on node n2"},
		{[]string{"explain", "--from", "shop", "--to", "shop/web:80"}, 0, "on node n1"},
		{[]string{"explain", "--node", "n3", "--from", "shop/client", "--to", "shop/web:80"}, 0, "on node n3"},
		{[]string{"explain", "--from", "shop/far", "--to", "shop/web:80"}, 2, "no pod of Sluice is on node n9"},
		{[]string{"explain", "--from", "shop/none", "--to", "shop/web:80"}, 2, "not found"},
		{[]string{"routes"}, 0, "on node n1"},
		{[]string{"routes", "--node", "n3"}, 0, "on node n3"},
		{[]string{"routes", "--node", "n8"}, 2, "there are some on n1, n2, n3"},
	} {
		out, status, err := command(t, c.args...)
		if err != nil {
			out += err.Error()
		}
		if status != c.status || !strings.Contains(strings.Join(strings.Fields(out), " "), c.want) {
			t.Errorf("%v: status %d, want %d and %q:\n%s", c.args, status, c.status, c.want, out)
		}
	}
}

// One that does not answer does not keep routes from being told.
func TestRoutesAreAskedOfAnotherNode(t *testing.T) {
	s := newTown(t)
	s.Ports["sys/sluice-n1:15021"] = "127.0.0.1:1"
	if out, status, err := command(t, "routes"); status != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "on node n2") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
}

func TestWhereItLooks(t *testing.T) {
	s := newTown(t)
	none := "unix:" + filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"check", "--agent", none, "--proxy", none}, 1, "no such file"},
		{[]string{"check", "--agent", "localhost"}, 2, "neither IP:PORT nor unix:PATH"},
		{[]string{"check", "--agent", none, "--context", "here"}, 2, "give one kind"},
		{[]string{"check", "--agent", none, "--node", "n1"}, 2, "--node is of a cluster"},
		{[]string{"check", "--context", "odd"}, 2, "odd"},
		{[]string{"check", "--context", "nowhere"}, 2, "refused"},
		{[]string{"check", "--node", "n8"}, 2, "has no node n8"},
		{[]string{"check", "--output", "yaml"}, 2, "want text or json"},
		{[]string{"check", "--timeout", "0s"}, 2, "longer than nothing"},
		{[]string{"check", "now"}, 2, "one argument too many"},
		{[]string{"check", "--kubeconfig", s.Kubeconfig, "--namespace", "none"}, 2, "Sluice's pods"},
		{[]string{"bypass"}, 2, "say on, off or status"},
		{[]string{"bypass", "yes"}, 2, `not "yes"`},
		{[]string{"bypass", "on", "off"}, 2, "one argument too many"},
		{[]string{"bypass", "on", "--node", "n8"}, 2, "there are some on n1, n2, n3"},
		{[]string{"bypass", "on", "--agent", none}, 1, "this node: no answer"},
	} {
		out, status, err := command(t, c.args...)
		if err != nil {
			out += err.Error()
		}
		if status != c.status || !strings.Contains(strings.Join(strings.Fields(out), " "), c.want) {
			t.Errorf("%v: status %d, want %d and %q:\n%s", c.args, status, c.status, c.want, out)
		}
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	for _, args := range [][]string{{"check", "--node", "n1"}, {"check", "--cluster"}} {
		if _, status, err := command(t, args...); status != 2 || err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
			t.Errorf("%v without a cluster: status %d, %v", args, status, err)
		}
	}
}

// Without anything that says which cluster, it is this machine.
func TestOneNodeWithoutACluster(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	a := &program{status: `, "node": "n1"`}
	h := &httptest.Server{Listener: l, Config: &http.Server{Handler: a}}
	h.Start()
	t.Cleanup(h.Close)
	at := "unix:" + path
	if out, status, err := command(t, "check", "--agent", at, "--proxy", at); status != 0 || !strings.Contains(out, "all is well") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
	if out, status, err := command(t, "bypass", "on", "--agent", at); status != 0 || !a.on() || !strings.Contains(out, "this node: the bypass is on") {
		t.Errorf("status %d, %v:\n%s", status, err, out)
	}
}

func TestHelpOfCheckAndBypass(t *testing.T) {
	for _, name := range []string{"check", "bypass"} {
		if code := run([]string{name, "--help"}); code != 0 {
			t.Errorf("%s --help: exit code %d", name, code)
		}
	}
	if code := run([]string{"bypass", "yes"}); code != 2 {
		t.Errorf("exit code %d", code)
	}
}
