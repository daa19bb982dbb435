package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Budgets of the design.
const (
	effectBudget     = 100 * time.Millisecond
	idleAgent        = 60 << 20
	idleProxy        = 40 << 20
	agentWithRoutes  = 300 << 20
	proxyWithRoutes  = 200 << 20
	manyRoutes       = 5000
	manyServices     = 1000
	edits            = 100
	podsAtATime      = 20
	effectSampleWait = 2 * time.Millisecond
)

// Every edit of a route has its effect on new requests soon after the API server has answered.
func TestFigureEditToEffect(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	var clients []*pod
	for _, node := range []string{"n1", "n2"} {
		clients = append(clients, c.start(t, ns, podSpec{Name: "client-" + node, Node: node, Client: true}))
	}
	c.apply(t, ns, shop, "echo", "0")
	service := c.address(t, ns, "echo", 80)
	for _, p := range clients {
		p.routed(t, service, "0")
	}
	var took []time.Duration
	for i := range edits {
		mark := strconv.Itoa(i + 1)
		c.apply(t, ns, shop[strings.Index(shop, "---\n")+4:], "echo", mark)
		answered := time.Now()
		var group errgroup.Group
		late := make([]time.Duration, len(clients))
		for at, p := range clients {
			group.Go(func() error {
				for time.Since(answered) < settling {
					sent := time.Now()
					a, err := p.get(t.Context(), service, "/")
					if err != nil {
						return err
					}
					if marked(a, mark) == nil {
						late[at] = sent.Sub(answered) // when it was sent, the edit was in effect
						return nil
					}
					time.Sleep(effectSampleWait)
				}
				return fmt.Errorf("edit %d has no effect at %s after %v", i, p.name, settling)
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		took = append(took, slices.Max(late)) // on the slower node
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("from the API server's answer to effect, %d edits: p50 %v, p99 %v, longest %v (budget of p99 %v)", edits, took[len(took)/2], p99, took[len(took)-1], effectBudget)
	if p99 > effectBudget {
		t.Errorf("p99 is %v, more than %v", p99, effectBudget)
	}
}

// memory is what a program of the node's pod has resident, in bytes; several processes of it are added up.
func (c *cluster) memory(t *testing.T, node, program string) int64 {
	t.Helper()
	pods, err := c.ourPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range pods {
		if p.Spec.NodeName != node {
			continue
		}
		pids, err := c.processesOf(t.Context(), node, string(p.UID))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			text, err := c.onNode(t.Context(), node, "cat", "/proc/"+pid+"/status")
			if err != nil {
				continue // it has ended
			}
			if field(text, "Name:") == program {
				kb, err := strconv.ParseInt(field(text, "VmRSS:"), 10, 64)
				if err != nil {
					t.Fatalf("VmRSS of %s: %v", program, err)
				}
				sum += kb << 10
			}
		}
	}
	if sum == 0 {
		t.Fatalf("there is no %s on %s", program, node)
	}
	return sum
}

func field(text, name string) string {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return f[1]
		}
	}
	return ""
}

// Memory, idle and, with SLUICE_VERIFY=1, with 5,000 HTTPRoutes on 1,000 Services; and the time until all of them serve.
func TestFigureMemory(t *testing.T) {
	c := open(t)
	check := func(when string, agent, proxy int64) {
		for _, node := range []string{"n1", "n2"} {
			for program, budget := range map[string]int64{"sluice-agent": agent, "sluice-proxy": proxy} {
				have := c.memory(t, node, program)
				t.Logf("%s: %s on %s has %d MB resident (budget %d MB)", when, program, node, have>>20, budget>>20)
				if have > budget {
					t.Errorf("%s: %s on %s has %d MB resident, more than %d MB", when, program, node, have>>20, budget>>20)
				}
			}
		}
	}
	check("idle", idleAgent, idleProxy)
	if os.Getenv("SLUICE_VERIFY") != "1" {
		return
	}
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true})
	began := time.Now()
	c.applyMany(t, ns)
	written := time.Now()
	t.Logf("%d HTTPRoutes and %d Services were written in %v", manyRoutes, manyServices, written.Sub(began).Round(time.Second))
	for i := range manyServices { // the last rule of each
		client.routedAt(t, c.address(t, ns, fmt.Sprintf("s%d", i), 80), fmt.Sprintf("/%d", manyRoutes/manyServices-1))
	}
	t.Logf("they all served %v after the last was written", time.Since(written).Round(time.Millisecond))
	check(fmt.Sprintf("with %d routes", manyRoutes), agentWithRoutes, proxyWithRoutes)
}

func (p *pod) routedAt(t *testing.T, service, path string) {
	t.Helper()
	eventually(t, settling, func() error {
		a, err := p.get(t.Context(), service, path)
		if err != nil {
			return err
		}
		return marked(a, path)
	})
}

// applyMany writes Services, all of one backend, and several routes for each.
func (c *cluster) applyMany(t *testing.T, ns string) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	write := func(text string, args ...any) {
		group.Go(func() error {
			_, err := c.applyObject(t.Context(), ns, object(t, fmt.Sprintf(text, args...)))
			return err
		})
	}
	for i := range manyServices {
		write(`
apiVersion: v1
kind: Service
metadata: {name: s%d}
spec:
  selector: {shop: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
`, i)
		for j := range manyRoutes / manyServices {
			write(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: s%[1]d-%[2]d}
spec:
  parentRefs: [{group: "", kind: Service, name: s%[1]d, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: "/%[2]d"}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Route, value: "/%[2]d"}]}}]
    backendRefs: [{name: s%[1]d, port: 80}]
`, i, j)
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// How much longer a pod's start takes by the CNI plugin, by what the agent and the plugin do for each; the pods start at the same time.
func TestFigurePodStart(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	plain := c.namespace(t, meshLabel+"=disabled")
	took := map[string]time.Duration{}
	for name, namespace := range map[string]string{"enrolled": ns, "left alone": plain} {
		began := time.Now()
		var group errgroup.Group
		for i := range podsAtATime {
			group.Go(func() error {
				_, err := c.startPod(t.Context(), namespace, podSpec{Name: fmt.Sprintf("p%d", i), Node: "n1", Client: true}, t.TempDir())
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		took[name] = time.Since(began)
		t.Logf("%d pods, %s: %v until all could be driven", podsAtATime, name, took[name].Round(time.Millisecond))
	}
	late := 0
	s, err := on(t, c.agents(t), "n1").status(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Pods {
		if strings.HasPrefix(p.Pod, ns+"/") && (p.State != "serving" || p.EnrolledBy != "plugin" || p.UnenrolledSeconds > 0) {
			late++
			t.Logf("pod %s is %s, by %s, and was not enrolled for %.3f s: %s", p.Pod, p.State, p.EnrolledBy, p.UnenrolledSeconds, p.Reason)
		}
	}
	if late > 0 {
		t.Errorf("%d of %d pods were not enrolled before their containers started", late, podsAtATime)
	}
	t.Logf("overhead for each pod: %v", ((took["enrolled"] - took["left alone"]) / podsAtATime).Round(time.Millisecond))
}
