package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// clock is how times of a failure and of what happened then are told.
const clock = "15:04:05.000"

// busy is a namespace with a client on each node, a routed Service with a backend on each, and a load from either client.
type busy struct {
	c       *cluster
	ns      string
	clients []*pod
	service string
	stops   []func() *traffic.Report
}

func (c *cluster) busy(t *testing.T, rate int) *busy {
	t.Helper()
	b := &busy{c: c, ns: c.namespace(t)}
	for _, node := range []string{"n1", "n2"} {
		c.start(t, b.ns, podSpec{Name: "server-" + node, Node: node, Labels: isBackendOf("echo")})
		b.clients = append(b.clients, c.start(t, b.ns, podSpec{Name: "client-" + node, Node: node, Client: true}))
	}
	c.apply(t, b.ns, shop, "echo", "yes")
	c.accepted(t, "HTTPRoute", b.ns, "echo")
	b.service = c.address(t, b.ns, "echo", 80)
	for _, p := range b.clients {
		p.routed(t, b.service, "yes")
		b.stops = append(b.stops, p.load(t, loadOf(rate, b.service)))
	}
	return b
}

// stop ends the loads and tells what came of them.
func (b *busy) stop(t *testing.T, while string) (failed int64) {
	t.Helper()
	for i, stop := range b.stops {
		r := stop()
		failed += r.Failed
		t.Logf("%s: %d of %d requests from %s failed, %d went direct, longest %v, p99 %v", while, r.Failed, r.Requests, b.clients[i].name, r.OK()-r.Routed, r.Longest, r.P99)
		for _, f := range r.Failures[:min(10, len(r.Failures))] {
			t.Logf("  at %s, after %v: %s: %s", f.At.UTC().Format(clock), f.After, f.Kind, f.Error)
		}
		if r.Routed == 0 {
			t.Errorf("no request from %s was routed: the load proves nothing", b.clients[i].name)
		}
	}
	return failed
}

// An agent that dies is started again; nothing fails meanwhile, and afterwards it does its work.
func TestAgentIsKilled(t *testing.T) {
	c := open(t)
	b := c.busy(t, 100)
	for _, node := range []string{"n1", "n2"} {
		restarts := c.restarts(t, node, "agent")
		c.kill(t, node, "sluice-agent")
		eventually(t, time.Minute, func() error {
			if have := c.restarts(t, node, "agent"); have <= restarts {
				return fmt.Errorf("the agent of %s was not started again", node)
			}
			return nil
		})
	}
	c.kubectl(t, "rollout", "status", "-n", system, "daemonset/"+release, "--timeout=60s")
	b.c.apply(t, b.ns, shop, "echo", "again")
	for _, p := range b.clients {
		p.routed(t, b.service, "again")
	}
	b.c.accepted(t, "HTTPRoute", b.ns, "echo")
	if failed := b.stop(t, "while the agents were killed"); failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
}

// restarts is how often a container of the node's pod was started again.
func (c *cluster) restarts(t *testing.T, node, container string) int32 {
	t.Helper()
	pods, err := c.ourPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		for _, s := range p.Status.ContainerStatuses {
			if p.Spec.NodeName == node && s.Name == container {
				return s.RestartCount
			}
		}
	}
	t.Fatalf("there is no container %s on %s", container, node)
	return 0
}

// kill kills a program of Sluice's pod on the node.
func (c *cluster) kill(t *testing.T, node, program string) {
	t.Helper()
	pods, err := c.ourPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Spec.NodeName != node {
			continue
		}
		pids, err := c.processesOf(t.Context(), node, string(p.UID))
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			name, err := c.onNode(t.Context(), node, "cat", "/proc/"+pid+"/comm")
			if err == nil && strings.TrimSpace(name) == program {
				if _, err := c.onNode(t.Context(), node, "kill", "-9", pid); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("there is no %s on %s", program, node)
}

// The DaemonSet is replaced five times under a steady load. The count of failed requests is printed; the goal is none.
func TestRolloutRestartUnderLoad(t *testing.T) {
	c := open(t)
	b := c.busy(t, 200)
	for i := range 5 {
		start := time.Now()
		c.kubectl(t, "rollout", "restart", "-n", system, "daemonset/"+release)
		c.kubectl(t, "rollout", "status", "-n", system, "daemonset/"+release, "--timeout=180s")
		t.Logf("rollout %d began at %s and took %v", i+1, start.UTC().Format(clock), time.Since(start).Round(time.Millisecond))
	}
	if failed := b.stop(t, "over 5 rollouts"); failed > 0 {
		t.Errorf("%d requests failed over 5 rollouts, want none", failed)
	}
	b.c.apply(t, b.ns, shop, "echo", "after")
	for _, p := range b.clients {
		p.routed(t, b.service, "after")
	}
}

// What is on a node of Sluice's, by where it was looked for: programs, links and maps of BPF, pins, CNI files, sockets and folders, and
// what is in the pods' namespaces.
func (c *cluster) traces(t *testing.T, node string, pods []*pod) map[string]string {
	t.Helper()
	all := map[string]string{}
	for what, command := range map[string]string{
		"pins":    "find /sys/fs/bpf -mindepth 1 | sort",
		"cni":     "cd /etc/cni/net.d && for f in *; do echo $f; cat $f; done",
		"plugins": "ls /opt/cni/bin",
		"run":     "find /run/sluice 2>/dev/null | sort; true",
	} {
		out, err := c.onNode(t.Context(), node, "sh", "-c", command)
		if err != nil {
			t.Fatal(err)
		}
		all[what] = out
	}
	for _, p := range pods {
		if p.node(t) != node {
			continue
		}
		out, err := c.onNode(t.Context(), node, "nsenter", "-t", p.process(t), "-n", "--", "sh", "-c", "ip route show table all; ip -6 route show table all; ip rule; ss -Htln")
		if err != nil {
			t.Fatal(err)
		}
		all["namespace of "+p.name] = out
	}
	return all
}

// Sluice is uninstalled under a load, and installed again: traffic goes on, and the nodes are afterwards as they were before.
func TestUninstallUnderLoad(t *testing.T) {
	c := open(t)
	ctx := context.Background()
	if out, err := c.run(ctx, "uninstall"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.left(t)
	reinstall := func() error {
		out, err := c.run(ctx, "install")
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		return err
	}
	installed := false
	t.Cleanup(func() {
		if !installed {
			if err := reinstall(); err != nil {
				t.Error(err)
			}
		}
	})
	ns := c.namespace(t)
	var clients []*pod
	for _, node := range []string{"n1", "n2"} {
		c.start(t, ns, podSpec{Name: "server-" + node, Node: node, Labels: isBackendOf("echo")})
		clients = append(clients, c.start(t, ns, podSpec{Name: "client-" + node, Node: node, Client: true, User: 1000}))
	}
	c.apply(t, ns, shop, "echo", "yes")
	service := c.address(t, ns, "echo", 80)
	before, objects := map[string]map[string]string{}, countBPF(t)
	for _, node := range []string{"n1", "n2"} {
		before[node] = c.traces(t, node, clients)
	}
	var stops []func() *traffic.Report
	for _, p := range clients {
		p.routed(t, service, "")
		stops = append(stops, p.load(t, loadOf(100, service)))
	}
	if err := reinstall(); err != nil {
		t.Fatal(err)
	}
	installed = true
	for _, p := range clients { // which ran before Sluice was there, as an ordinary user
		p.routed(t, service, "yes")
	}
	installed = false
	if out, err := c.run(ctx, "uninstall"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.left(t)
	for _, p := range clients {
		p.routed(t, service, "")
	}
	for i, stop := range stops {
		r := stop()
		t.Logf("from %s %d of %d requests failed while Sluice was installed and uninstalled", clients[i].name, r.Failed, r.Requests)
		if r.Failed > 0 || r.Routed == 0 {
			t.Errorf("from %s: %d requests failed, want none; %d were routed, want some: %v", clients[i].name, r.Failed, r.Routed, r.Failures)
		}
	}
	for _, node := range []string{"n1", "n2"} {
		eventually(t, settling, func() error { return difference(before[node], c.traces(t, node, clients)) })
	}
	if now := countBPF(t); !equal(objects, now) {
		t.Errorf("there were %v BPF objects of Sluice, and now %v", objects, now)
	}
}

// left waits until our pods have ended, which Helm does not: they take away what they made while they end.
func (c *cluster) left(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		list, err := c.core.CoreV1().Pods(system).List(t.Context(), metav1.ListOptions{LabelSelector: ours})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d of our pods have not ended", len(list.Items))
		}
		return err
	})
}

func difference(before, after map[string]string) error {
	for what, had := range before {
		if have := after[what]; have != had {
			return fmt.Errorf("%s were\n%s\nand are\n%s", what, had, have)
		}
	}
	return nil
}

func equal(a, b map[string]int) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return slices.Equal(x, y)
}
