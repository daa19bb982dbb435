package check

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("it is not what %s has (-want +got):\n%s", file, diff)
	}
}

func asJSON(t *testing.T, r *Report) string {
	t.Helper()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

var (
	web = model.ServiceKey{Namespace: "shop", Name: "web"}
	pay = model.ServiceKey{Namespace: "shop", Name: "pay"}
	db  = model.ServiceKey{Namespace: "shop", Name: "db"}
)

// condition is a route's, for one parent.
func condition(parent, kind string, status metav1.ConditionStatus, reason, message string) compile.RouteStatus {
	return compile.RouteStatus{
		Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"},
		Parents: []gatewayv1.RouteParentStatus{{
			ParentRef:  gatewayv1.ParentReference{Name: gatewayv1.ObjectName(parent)},
			Conditions: []metav1.Condition{{Type: kind, Status: status, Reason: reason, Message: message}},
		}},
	}
}

// node is what is heard from a node on which all is well.
func node(name string) Asked {
	return Asked{
		Pod: &cluster.Pod{
			Namespace: "sluice-system", Name: "sluice-" + name, Node: name, Ready: true,
			Agent: cluster.Container{Image: "registry:5000/sluice/agent:v1.0.0"}, Proxy: cluster.Container{Image: "registry:5000/sluice/proxy:v1.0.0"},
		},
		Status: &ask.Status{
			Node: name, Liveness: ask.Liveness{State: "up"}, Kernel: ask.Kernel{InStep: true, Bypass: new(false)},
			Proxies: []ask.Proxy{{PID: 7, State: "serving"}},
			Pods:    []ask.Pod{{Pod: "shop/client-" + name, State: "serving"}},
			Frontends: []ask.Frontend{
				{Address: netip.MustParseAddrPort("10.96.0.1:80"), Service: web, InKernel: true},
				{Address: netip.MustParseAddrPort("10.96.0.2:80"), Service: pay, InKernel: true, FailClosed: true},
			},
			Routes: []compile.RouteStatus{condition("web", "Accepted", metav1.ConditionTrue, "Accepted", "all ports")},
			CNI:    &ask.CNI{State: "installed", File: "10-cni.conflist"},
		},
	}
}

// good is a cluster in which all is well. Every call returns one of its own.
func good() *Input {
	in := &Input{
		Source: "cluster here",
		Cluster: &cluster.Facts{
			Version:    "v1.37.1",
			Gateway:    cluster.GatewayAPI{Served: []string{"GRPCRoute v1", "HTTPRoute v1", "ReferenceGrant v1"}, Versions: []string{"v1.5.1 standard"}},
			DaemonSets: []cluster.DaemonSet{{Namespace: "sluice-system", Name: "sluice", Desired: 3, Current: 3, Updated: 3, Observed: true}},
			Services:   []cluster.Service{{ServiceKey: db, Headless: true, Selector: map[string]string{"app": "db"}}, {ServiceKey: pay}, {ServiceKey: web, Selector: map[string]string{"app": "web"}}},
		},
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		in.Asked = append(in.Asked, node(name))
		in.Cluster.Nodes = append(in.Cluster.Nodes, cluster.Node{Name: name, Ready: true, Kernel: "6.12.0"})
		in.Cluster.Pods = append(in.Cluster.Pods, *in.Asked[len(in.Asked)-1].Pod)
	}
	return in
}

func TestAllIsWell(t *testing.T) {
	in := good()
	r := Check(in)
	if !r.Good || len(r.Problems) != 0 || len(r.Notes) != 0 {
		t.Errorf("%+v", r)
	}
	golden(t, "good.txt", r.String())
	golden(t, "good.json", asJSON(t, r))
}

// lost is what a node has when it has lost its pod of ours.
func lost(in *Input, i int) {
	in.Asked = slices.Delete(in.Asked, i, i+1)
	in.Cluster.Pods = slices.Delete(in.Cluster.Pods, i, i+1)
}

// Each kind of finding is made by what it is about, on the nodes that have it, and nothing else is found.
func TestEveryKind(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		name  string
		spoil func(*Input)
		nodes string
		want  string // is said
	}{
		{NotInstalled, "", func(in *Input) { in.Asked, in.Cluster.Pods, in.Cluster.DaemonSets = nil, nil, nil }, "", "--context"},
		{NoGatewayAPI, "", func(in *Input) { in.Cluster.Gateway = cluster.GatewayAPI{} }, "", "install the CRDs"},
		{BypassOn, "", func(in *Input) { in.Asked[1].Status.Kernel.Bypass = new(true) }, "n2", "Services that fail closed are reached directly"},
		{PodMissing, "", func(in *Input) { lost(in, 1); in.Cluster.DaemonSets[0].Current = 2 }, "n2", "kubectl describe daemonset -n sluice-system sluice"},
		{PodMissing, "of some", func(in *Input) {
			lost(in, 2)
			lost(in, 1)
			in.Cluster.DaemonSets[0].Desired, in.Cluster.DaemonSets[0].Updated, in.Cluster.DaemonSets[0].Current = 2, 2, 1
		}, "n2 n3", "1 of these nodes should have one"},
		{PodNotReady, "", func(in *Input) {
			in.Asked[1].Pod.Ready, in.Asked[1].Pod.Why = false, "container agent waits: ImagePullBackOff"
			in.Asked[1].Agent.NoAnswer, in.Asked[1].Proxy.NoAnswer, in.Asked[1].Status = "x", "x", nil // told with it
		}, "n2", "ImagePullBackOff"},
		{PodNotReady, "successor", func(in *Input) {
			next := *in.Asked[1].Pod
			next.Name, next.Ready, next.Why, next.Agent.Restarts = "next", false, "container agent waits: CrashLoopBackOff", 3
			in.Asked = append(in.Asked, Asked{Pod: &next})
		}, "n2", "CrashLoopBackOff"},
		{NoAnswer, "agent", func(in *Input) { in.Asked[1].Agent.NoAnswer, in.Asked[1].Status = "connection refused", nil }, "n2", "-c agent"},
		{NoAnswer, "proxy", func(in *Input) { in.Asked[1].Proxy.NoAnswer = "connection refused" }, "n2", "the proxy does not answer: connection refused"},
		{NotReady, "agent", func(in *Input) { in.Asked[1].Agent.NotReady = "the objects have not been read yet" }, "n2", "the agent is not ready: the objects"},
		{NotReady, "proxy", func(in *Input) { in.Asked[1].Proxy.NotReady = "no agent" }, "n2", "-c proxy"},
		{NotRedirecting, "", func(in *Input) { in.Asked[1].Status.Liveness = ask.Liveness{State: "down", Reason: "no proxy beats"} }, "n2", "no proxy beats; those to Services that fail closed are refused"},
		{KernelProblem, "", func(in *Input) { in.Asked[1].Status.Kernel.Problem = "another program runs before ours" }, "n2", "another program"},
		{KernelBehind, "", func(in *Input) { in.Asked[1].Status.Kernel.InStep = false }, "n2", "tries again"},
		{Refused, "", func(in *Input) {
			in.Asked[1].Status.Proxies[0].Refused = []model.Refusal{{Service: &web, Reason: "no port"}}
			in.Asked[2].Status.Proxies[0].Refused = []model.Refusal{{Service: &web, Reason: "no port"}}
		}, "n2 n3", "no port"},
		{PodFailed, "", func(in *Input) {
			in.Asked[1].Status.Pods = append(in.Asked[1].Status.Pods, ask.Pod{Pod: "shop/x", State: "failed", Reason: "no capability SYS_PTRACE"})
		}, "n2", "SYS_PTRACE"},
		{PodWaiting, "", func(in *Input) {
			in.Asked[1].Status.Pods[0] = ask.Pod{Pod: "shop/x", State: "waiting", Reason: "the proxy has not acked it yet", UnenrolledSeconds: 12.3}
		}, "n2", "(for 12s now)"},
		{ServiceNotRedirected, "not in force", func(in *Input) { in.Asked[1].Status.Frontends[0].InKernel = false }, "n2", "wait for the proxy or the kernel"},
		{ServiceNotRedirected, "of two addresses one", func(in *Input) {
			in.Asked[1].Status.Frontends = append(in.Asked[1].Status.Frontends, ask.Frontend{Address: netip.MustParseAddrPort("[fd00::1]:80"), Service: web, InKernel: true})
			in.Asked[1].Status.Frontends[0].InKernel = false
		}, "n2", "wait for the proxy or the kernel"},
		{ServiceNotRedirected, "not known", func(in *Input) { in.Asked[1].Status.Frontends = in.Asked[1].Status.Frontends[:1] }, "n2", "does not know of its routes"},
		{RouteCondition, "", func(in *Input) {
			for i := range in.Asked {
				in.Asked[i].Status.Routes[0] = condition("none", "Accepted", metav1.ConditionFalse, "NoMatchingParent", "Service shop/none is not there")
			}
		}, "n1 n2 n3", "Accepted=False (NoMatchingParent) for Service shop/none"},
		{RouteCondition, "partially invalid", func(in *Input) {
			in.Asked[1].Status.Routes[0] = condition("web", "PartiallyInvalid", metav1.ConditionTrue, "UnsupportedValue", "rules[0] is left out")
		}, "n2", "sluice routes shop/r"},
		{RouteHeadlessParent, "", func(in *Input) {
			in.Asked[1].Status.Routes[0] = condition("db", "Accepted", metav1.ConditionFalse, "NoMatchingParent", "no")
		}, "n2", "no address that could be redirected"},
		{ObjectProblem, "", func(in *Input) { in.Asked[1].Status.Problems = []string{"a.yaml:1: odd"} }, "n2", "a.yaml:1: odd"},
		{CNIProblem, "", func(in *Input) {
			in.Asked[1].Status.CNI = &ask.CNI{State: "malformed", Problem: "10-x.conflist: no JSON"}
		}, "n2", "no JSON"},
		{VersionSkew, "", func(in *Input) { in.Asked[1].Pod.Agent.Image = "sluice@sha256:ab" }, "", "sha256:ab on n2, v1.0.0 on n1, n3"},

		{CNIWithout, "", func(in *Input) {
			in.Asked[1].Status.CNI = &ask.CNI{State: "contested", Problem: "somebody takes it out"}
		}, "n2", "somebody"},
		{Rollout, "", func(in *Input) { in.Cluster.DaemonSets[0].Updated = 1 }, "", "1 of 3 nodes have the newest version"},
		{Rollout, "successor", func(in *Input) {
			next := *in.Asked[1].Pod
			next.Name, next.Ready, next.Why = "next", false, "container agent runs and is not ready"
			in.Asked = append(in.Asked, Asked{Pod: &next, Agent: Program{NotReady: "it waits for the lock"}})
		}, "n2", "about to follow"},
		{NodeWithout, "", func(in *Input) {
			lost(in, 1)
			in.Cluster.DaemonSets[0] = cluster.DaemonSet{Namespace: "sluice-system", Name: "sluice", Desired: 2, Current: 2, Updated: 2, Observed: true}
		}, "n2", "nodeSelector"},
		{NodeNotReady, "", func(in *Input) { in.Cluster.Nodes[1].Ready = false }, "n2", "Kubernetes says"},
		{NoNode, "", func(in *Input) {
			in.Asked, in.Cluster.Pods, in.Cluster.Nodes = nil, nil, nil
			in.Cluster.DaemonSets[0] = cluster.DaemonSet{Namespace: "sluice-system", Name: "sluice", Observed: true}
		}, "", "tolerations"},
		{Restarted, "", func(in *Input) { in.Asked[1].Pod.Proxy.Restarts, in.Asked[1].Pod.Proxy.LastEnd = 2, "OOMKilled" }, "n2", "2 times), lastly because of OOMKilled"},
		{PassedBy, "", func(in *Input) { in.Asked[1].Status.Kernel.Counters = map[string]uint64{"bound_to_device": 3} }, "n2", "3 connections"},
		{HeadlessTwin, "", func(in *Input) { in.Cluster.Services[0].Selector = map[string]string{"app": "web"} }, "", "pods of Service shop/web"},
		{Warning, "", func(in *Input) { in.Asked[1].Status.Warnings = []string{"w"} }, "n2", "w"},
		{Event, "", func(in *Input) { in.Asked[1].Status.Events = []string{"e"} }, "n2", "e"},
		{KindNotServed, "", func(in *Input) { in.Cluster.Gateway.Served = []string{"HTTPRoute v1", "ReferenceGrant v1beta1"} }, "", "GRPCRoute"},
		{MixedGatewayAPI, "", func(in *Input) { in.Cluster.Gateway.Versions = []string{"v1.4.0 standard", "v1.5.1 experimental"} }, "", "v1.4.0 standard, v1.5.1 experimental"},
		{NotChecked, "", func(in *Input) {
			in.Cluster.Unread, in.Cluster.Gateway.Served = []string{cluster.ServedUnread + ": forbidden"}, nil
		}, "", "forbidden"},
		{CannotTell, "", func(in *Input) { in.Asked[1].Status.Kernel.Bypass = nil }, "n2", "bypass"},
	} {
		t.Run(strings.TrimSpace(string(c.kind)+" "+c.name), func(t *testing.T) {
			in := good()
			c.spoil(in)
			r := Check(in)
			found := slices.Concat(r.Problems, r.Notes)
			if len(found) != 1 || found[0].Kind != c.kind || strings.Join(found[0].Nodes, " ") != c.nodes {
				t.Fatalf("found %+v, want one of kind %s on %q", found, c.kind, c.nodes)
			}
			isNote := c.kind.rank() == Event.rank()
			if r.Good != isNote || len(r.Notes) != map[bool]int{true: 1}[isNote] {
				t.Errorf("good: %t, notes: %v", r.Good, r.Notes)
			}
			if said := fmt.Sprintf("%+v", found[0]); !strings.Contains(said, c.want) {
				t.Errorf("it does not say %q: %s", c.want, said)
			}
			if text := strings.Join(strings.Fields(r.String()), " "); !strings.Contains(text, strings.Join(strings.Fields(found[0].What), " ")) {
				t.Errorf("the text does not say it:\n%s", r)
			}
		})
	}
}

// Scripts rely on what the docs say: each kind is explained there, and each field of the JSON.
func TestTheDocsHaveAll(t *testing.T) {
	docs, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("check.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "([a-z-]+)"`).FindAllSubmatch(source, -1)
	fields := regexp.MustCompile("json:\"([a-zA-Z]+)").FindAllSubmatch(source, -1)
	if len(kinds) < 30 || len(fields) < 30 {
		t.Fatalf("found %d kinds and %d fields", len(kinds), len(fields))
	}
	for _, name := range slices.Concat(kinds, fields) {
		if !strings.Contains(string(docs), "`"+string(name[1])+"`") {
			t.Errorf("docs/cli.md does not tell of `%s`", name[1])
		}
	}
}

// The end of an agent is not told as that of its successor, and an old pod of an upgrade is not told of at all.
func TestAnUpgradeIsNoProblem(t *testing.T) {
	in := good()
	old := *in.Asked[1].Pod
	old.Name, old.Ready, old.Ending, old.Why = "old", false, true, "container agent ended: exit code 0"
	in.Asked = slices.Insert(in.Asked, 1, Asked{Pod: &old, Agent: Program{NoAnswer: "gone"}, Proxy: Program{NoAnswer: "gone"}})
	if r := Check(in); !r.Good || len(r.Nodes) != 3 || r.Nodes[1].Agent != "ready" || len(r.Notes) != 0 {
		t.Errorf("%+v", r)
	}
	in.Cluster.DaemonSets[0].Updated = 1
	in.Asked[2].Pod.Agent.Image = "registry:5000/sluice/agent:v2.0.0"
	if r := Check(in); !r.Good || len(r.Notes) != 2 || r.Notes[0].Kind != Rollout || r.Notes[1].Kind != Rollout {
		t.Errorf("%+v", r)
	}
}

// While a node redirects nothing, that is told once, and not for each of its pods and Services.
func TestWhatIsAmissWithANodeIsToldOnce(t *testing.T) {
	in := good()
	s := in.Asked[0].Status
	s.Liveness = ask.Liveness{State: "waiting", Reason: "no proxy has come yet"}
	s.Pods[0] = ask.Pod{Pod: "shop/x", State: "waiting", Reason: "no proxy has come yet"}
	s.Frontends[0].InKernel, s.Frontends[1].InKernel = false, false
	r := Check(in)
	if len(r.Problems) != 1 || r.Problems[0].Kind != NotRedirecting || len(r.NotEnrolled) != 1 || r.Nodes[0].Amiss != 1 {
		t.Errorf("%+v", r)
	}
	if r.Services[0].Nodes != 2 {
		t.Errorf("%+v", r.Services)
	}
}

// What a proxy refused that goes, its successor may have taken.
func TestAProxyThatGoesRefusesNothing(t *testing.T) {
	for _, state := range []string{"draining", "released"} {
		in := good()
		in.Asked[0].Status.Proxies[0] = ask.Proxy{State: state, Refused: []model.Refusal{{Service: &web, Reason: "no"}}}
		if r := Check(in); !r.Good {
			t.Errorf("%+v", r)
		}
	}
}

// bad has something of everything.
func bad() *Input {
	in := good()
	in.Cluster.Nodes = append(in.Cluster.Nodes, cluster.Node{Name: "n4", Kernel: "6.12.0"})
	in.Cluster.DaemonSets[0].Desired = 4
	in.Cluster.DaemonSets[0].Updated = 4
	in.Asked[1].Agent.NoAnswer, in.Asked[1].Status = "dial tcp 127.0.0.1:15021: connect: connection refused", nil
	in.Asked[0].Pod.Proxy.Restarts, in.Asked[0].Pod.Proxy.LastEnd = 2, "OOMKilled: exit code 137"
	s := in.Asked[0].Status
	s.Pods = append(s.Pods, ask.Pod{Pod: "shop/broken", State: "failed", Reason: "open its network namespace: permission denied"},
		ask.Pod{Pod: "shop/early", State: "serving", EnrolledBy: "running", UnenrolledSeconds: 3723},
		ask.Pod{Pod: "shop/ending", State: "ending", Reason: "it has ended"})
	for i := range 7 {
		s.Pods = append(s.Pods, ask.Pod{Pod: fmt.Sprintf("kube-system/host-%d", i), State: "excluded", Reason: "it shares its node's network"})
		s.Pods = append(s.Pods, ask.Pod{Pod: fmt.Sprintf("shop/late-%d", i), State: "serving", EnrolledBy: "found", UnenrolledSeconds: 0.02 * float64(i+1)})
	}
	s.Pods = append(s.Pods, ask.Pod{Pod: "shop/legacy", State: "excluded", Reason: "it opted out with the label sluice.dev/mesh"})
	for _, i := range []int{0, 2} {
		in.Asked[i].Status.Routes = append(in.Asked[i].Status.Routes, condition("db", "Accepted", metav1.ConditionFalse, "NoMatchingParent", "Service shop/db is headless"))
		in.Asked[i].Status.Proxies[0].Refused = []model.Refusal{{Service: &pay, Reason: "a control character \x1b[31m in a value"}}
	}
	in.Asked[2].Status.Kernel.Bypass = new(true)
	return in
}

func TestGolden(t *testing.T) {
	r := Check(bad())
	golden(t, "bad.txt", r.String())
	golden(t, "bad.json", asJSON(t, r))
}

// One node without a cluster has the same to say, and no advice that needs one.
func TestOneNode(t *testing.T) {
	a := node("n1")
	a.Pod, a.Proxy.NoAnswer = nil, "connect: no such file or directory"
	a.Status.Liveness = ask.Liveness{State: "down", Reason: "no proxy beats"}
	in := &Input{Source: "the agent at unix:/run/a and the proxy at unix:/run/p", Asked: []Asked{a}}
	golden(t, "node.txt", Check(in).String())
	if s := Check(in).String(); strings.Contains(s, "kubectl") {
		t.Error("it talks of kubectl")
	}
	a.Status, a.Agent.NoAnswer = nil, "connection refused"
	in.Asked[0] = a
	if r := Check(in); len(r.Problems) != 2 || r.Nodes[0].Name != "this node" {
		t.Errorf("%+v", r)
	}
}

// Of one node of a cluster, nothing of the others is told.
func TestOnlyOneNode(t *testing.T) {
	in := bad()
	in.Node = "n1"
	in.Asked = in.Asked[:1]
	r := Check(in)
	for _, f := range slices.Concat(r.Problems, r.Notes) {
		if len(f.Nodes) > 0 && !slices.Equal(f.Nodes, []string{"n1"}) {
			t.Errorf("%+v", f)
		}
	}
	if len(r.Nodes) != 1 || len(r.Problems) != 3 {
		t.Errorf("%+v", r)
	}
	in = bad()
	in.Node, in.Asked = "n4", nil
	if r = Check(in); len(r.Problems) != 1 || r.Problems[0].Kind != PodMissing || len(r.Nodes) != 1 {
		t.Errorf("%+v", r)
	}
}

// A long list is cut for people, never for scripts.
func TestLongListsAreCut(t *testing.T) {
	in := good()
	for i := range 30 {
		in.Asked[0].Status.Pods = append(in.Asked[0].Status.Pods, ask.Pod{Pod: fmt.Sprintf("shop/x-%02d", i), State: "failed", Reason: fmt.Sprint("error ", i)})
	}
	in.Asked[0].Status.Warnings = []string{strings.Repeat("word ", 1000) + "end"}
	r := Check(in)
	if s := r.String(); len(s) > 6000 || strings.Contains(s, "error 25") || strings.Count(s, "and 10 more: --output json has all") != 2 {
		t.Error(s)
	}
	if s := asJSON(t, r); !strings.Contains(s, "error 29") || !strings.Contains(s, "word end") {
		t.Error(s)
	}
}
