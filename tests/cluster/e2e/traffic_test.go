package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// shop makes a Service of some backend pods and a route that marks all its requests.
const shop = `
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {shop: %[1]s}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules:
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Route, value: %[2]q}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: %[2]q}]}} # by which loads count
    backendRefs: [{name: %[1]s, port: 80}]
`

// isBackendOf are the labels of a backend of a shop.
func isBackendOf(name string) map[string]string { return map[string]string{"shop": name} }

// The server sees the client pod's own address, on one node and across nodes.
func TestServerSeesTheClientsAddress(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	near := c.start(t, ns, podSpec{Name: "near", Node: "n1", Client: true})
	far := c.start(t, ns, podSpec{Name: "far", Node: "n2", Client: true})
	c.start(t, ns, podSpec{Name: "server", Node: "n1", Labels: isBackendOf("echo")})
	c.apply(t, ns, shop, "echo", "yes")
	c.accepted(t, "HTTPRoute", ns, "echo")
	service := c.address(t, ns, "echo", 80)
	for _, client := range []*pod{near, far} {
		a := client.routed(t, service, "yes")
		if want := client.addresses.V4.String() + ":"; !strings.HasPrefix(a.Saw.Client, want) {
			t.Errorf("the server saw client %s at %s, want its own address %s", client.name, a.Saw.Client, want)
		}
	}
}

// What a NetworkPolicy engine installs at a client's veth holds for routed traffic too: it leaves through there as the client's own.
func TestFilterAtTheClientsVethHolds(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true})
	same := c.start(t, ns, podSpec{Name: "same", Node: "n1", Labels: isBackendOf("same")})
	other := c.start(t, ns, podSpec{Name: "other", Node: "n2", Labels: isBackendOf("other")})
	c.apply(t, ns, shop, "same", "same")
	c.apply(t, ns, shop, "other", "other")
	for _, p := range []*pod{same, other} {
		c.accepted(t, "HTTPRoute", ns, p.name)
		client.routed(t, c.address(t, ns, p.name, 80), p.name)
	}
	veth := client.veth(t)
	for _, p := range []*pod{same, other} {
		forbid(t, c, "n1", veth, p)
		answers := p.name
		eventually(t, settling, func() error {
			a, err := client.get(t.Context(), c.address(t, ns, answers, 80), "/")
			if err == nil && a.Saw != nil {
				return fmt.Errorf("%s still answers, although the client's veth drops what is for it", answers)
			}
			return nil
		})
	}
	// Only those: the filter itself is right.
	third := c.start(t, ns, podSpec{Name: "third", Node: "n2", Labels: isBackendOf("third")})
	c.apply(t, ns, shop, third.name, "third")
	client.routed(t, c.address(t, ns, third.name, 80), "third")
}

// forbid drops what comes out of a veth for a backend.
func forbid(t *testing.T, c *cluster, node, veth string, backend *pod) {
	t.Helper()
	table := "e2e-" + backend.name
	rules := fmt.Sprintf("add table netdev %[1]s; add chain netdev %[1]s in { type filter hook ingress device %[2]q priority 0; }; add rule netdev %[1]s in ip daddr %[3]s tcp dport 8080 drop",
		table, veth, backend.addresses.V4)
	if _, err := c.onNode(t.Context(), node, "nft", rules); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.onNode(context.Background(), node, "nft", "delete table netdev "+table); err != nil {
			t.Error(err)
		}
	})
}

// process is the number, on its node, of a process of the pod.
func (p *pod) process(t *testing.T) string {
	t.Helper()
	pids, err := p.cluster.processesOf(t.Context(), p.node(t), p.uid)
	if err != nil || len(pids) == 0 {
		t.Fatalf("pod %s has no process: %v", p.name, err)
	}
	return pids[0]
}

// processesOf are the processes, on a node, of the pod with that UID.
func (c *cluster) processesOf(ctx context.Context, node, uid string) ([]string, error) {
	out, err := c.onNode(ctx, node, "sh", "-c", `grep -l "$0" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3; true`, uid)
	return strings.Fields(out), err
}

func (p *pod) node(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(p.cluster.kubectl(t, "get", "pod", "-n", p.namespace, p.name, "-o", "jsonpath={.spec.nodeName}"))
}

// veth is the node's end of the pod's veth pair.
func (p *pod) veth(t *testing.T) string {
	t.Helper()
	var inside, outside []struct {
		Ifindex   int    `json:"ifindex"`
		LinkIndex int    `json:"link_index"`
		Name      string `json:"ifname"`
	}
	pid := p.process(t)
	for _, q := range []struct {
		into any
		args []string
	}{
		{&inside, []string{"nsenter", "-t", pid, "-n", "--", "ip", "-j", "link", "show", "eth0"}}, {&outside, []string{"ip", "-j", "link"}},
	} {
		out, err := p.cluster.onNode(t.Context(), p.node(t), q.args...)
		if err == nil {
			err = json.Unmarshal([]byte(out), q.into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range outside {
		if len(inside) == 1 && l.Ifindex == inside[0].LinkIndex {
			return l.Name
		}
	}
	t.Fatalf("no link of the node is number %s, the peer of pod %s", strconv.Itoa(inside[0].LinkIndex), p.name)
	return ""
}
