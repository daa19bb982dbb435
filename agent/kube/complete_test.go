package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
)

func TestServiceDefaults(t *testing.T) {
	set := newFolder(t, map[string]string{"a.yaml": `
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  clusterIP: 10.0.0.1
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP, targetPort: dns}]
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec:
  clusterIPs: ["fd00::1", 10.0.0.2]
  ports: [{port: 80, targetPort: 8080}]
`}).good()
	a, b := set.Services[0].Spec, set.Services[1].Spec
	if a.Type != corev1.ServiceTypeClusterIP || !slices.Equal(a.ClusterIPs, []string{"10.0.0.1"}) || b.ClusterIP != "fd00::1" {
		t.Errorf("type %s, clusterIPs %s, clusterIP %s", a.Type, a.ClusterIPs, b.ClusterIP)
	}
	if p := a.Ports[0]; p.Protocol != corev1.ProtocolTCP || p.TargetPort.IntVal != 80 {
		t.Errorf("first port: %+v", p)
	}
	if p := a.Ports[1]; p.Protocol != corev1.ProtocolUDP || p.TargetPort.StrVal != "dns" {
		t.Errorf("second port: %+v", p)
	}
}

// The defaults of the CRD are those of an API server.
func TestRouteDefaults(t *testing.T) {
	set := newFolder(t, map[string]string{"a.yaml": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n" +
		"  parentRefs: [{name: gw}]\n" +
		"  rules:\n  - backendRefs: [{name: b, port: 80}]\n    retry: {}\n" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: s}\nspec: {}\n"}).good()
	r := set.HTTPRoutes[0].Spec
	if p := r.ParentRefs[0]; *p.Group != "gateway.networking.k8s.io" || *p.Kind != "Gateway" {
		t.Errorf("parentRef: %s %s", *p.Group, *p.Kind)
	}
	if m := r.Rules[0].Matches; len(m) != 1 || *m[0].Path.Value != "/" || *r.Rules[0].BackendRefs[0].Weight != 1 || *r.Rules[0].Retry.Attempts != 1 {
		t.Errorf("rule: %+v", r.Rules[0])
	}
	if rules := set.HTTPRoutes[1].Spec.Rules; len(rules) != 1 || *rules[0].Matches[0].Path.Type != "PathPrefix" {
		t.Errorf("rules: %+v", rules)
	}
}

func TestNamespacesAreFilledIn(t *testing.T) {
	set := newFolder(t, map[string]string{"a.yaml": service + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b, labels: {c: d}}\n---\n" +
		edit(route, "  name: web\nspec", "  name: web\n  namespace: b\nspec")}).good()
	var got []string
	for _, n := range set.Namespaces {
		got = append(got, fmt.Sprint(n.Name, n.Labels))
	}
	want := []string{"bmap[c:d kubernetes.io/metadata.name:b]", "defaultmap[kubernetes.io/metadata.name:default]"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

const selecting = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web, tier: front}
  clusterIPs: [10.0.0.1, "fd00::1"]
  ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: 9000}]
`

func pod(name, more, status string) string {
	return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: web, tier: front}" + more + "}\n" +
		"spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}\nstatus: {" + status + "}\n"
}

// describeSlices has one line for each slice: family, ports, endpoints with ready, serving, terminating.
func describeSlices(set *objects.Set) []string {
	var all []string
	for _, s := range set.EndpointSlices {
		line := string(s.AddressType)
		for _, p := range s.Ports {
			line += fmt.Sprintf(" %s=%d", *p.Name, *p.Port)
		}
		line += ":"
		for _, e := range s.Endpoints {
			line += fmt.Sprintf(" %s", e.Addresses[0])
			for _, c := range []struct {
				name string
				is   *bool
			}{{"r", e.Conditions.Ready}, {"s", e.Conditions.Serving}, {"t", e.Conditions.Terminating}} {
				if c.is != nil && *c.is {
					line += c.name
				}
			}
		}
		all = append(all, line)
	}
	return all
}

func TestSlicesFromSelectors(t *testing.T) {
	const ip = "podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]"
	notReady := ip + ", conditions: [{type: Ready, status: 'False'}]"
	const ending = ", deletionTimestamp: 2024-01-01T00:00:00Z"
	for name, c := range map[string]struct {
		content string
		want    []string
	}{
		"both families": {selecting + pod("a", "", ip) + pod("b", "", "podIP: 10.1.0.2"), []string{
			"IPv4 http=8080 admin=9000: 10.1.0.1rs 10.1.0.2rs", "IPv6 http=8080 admin=9000: fd01::1rs"}},
		"the Service's families": {edit(selecting, `, "fd00::1"`, "") + pod("a", "", ip), []string{"IPv4 http=8080 admin=9000: 10.1.0.1rs"}},
		"families by name":       {edit(selecting, "  ports", "  ipFamilies: [IPv6]\n  ports") + pod("a", "", ip), []string{"IPv6 http=8080 admin=9000: fd01::1rs"}},
		"headless":               {edit(selecting, `clusterIPs: [10.0.0.1, "fd00::1"]`, "clusterIP: None") + pod("a", "", ip), []string{"IPv4 http=8080 admin=9000: 10.1.0.1rs", "IPv6 http=8080 admin=9000: fd01::1rs"}},
		"no status yet":          {selecting + pod("a", "", ""), nil},
		"ready":                  {selecting + pod("a", "", ip+", conditions: [{type: Ready, status: 'True'}]"), []string{"IPv4 http=8080 admin=9000: 10.1.0.1rs", "IPv6 http=8080 admin=9000: fd01::1rs"}},
		"not ready":              {selecting + pod("a", "", notReady), []string{"IPv4 http=8080 admin=9000: 10.1.0.1", "IPv6 http=8080 admin=9000: fd01::1"}},
		"publish not ready (A-66)": {edit(selecting, "  ports", "  publishNotReadyAddresses: true\n  ports") + pod("a", "", notReady), []string{
			"IPv4 http=8080 admin=9000: 10.1.0.1r", "IPv6 http=8080 admin=9000: fd01::1r"}},
		"terminating":     {selecting + pod("a", ending, ip), []string{"IPv4 http=8080 admin=9000: 10.1.0.1st", "IPv6 http=8080 admin=9000: fd01::1st"}},
		"finished":        {selecting + pod("a", "", ip+", phase: Succeeded") + pod("b", "", "podIP: 10.1.0.2, phase: Failed"), nil},
		"other labels":    {edit(selecting, "front", "back") + pod("a", "", ip), nil},
		"other namespace": {selecting + pod("a", ", namespace: other", ip), nil},
		"no selector":     {edit(selecting, "  selector: {app: web, tier: front}\n", "") + pod("a", "", ip), nil},
		"ExternalName":    {edit(selecting, `  clusterIPs: [10.0.0.1, "fd00::1"]`, "  type: ExternalName\n  externalName: a.b") + pod("a", "", ip), nil},
		"named port differs (A-70)": {selecting + pod("a", "", "podIP: 10.1.0.1") + strings.ReplaceAll(pod("b", "", "podIP: 10.1.0.2"), "8080", "8081"), []string{
			"IPv4 http=8080 admin=9000: 10.1.0.1rs", "IPv4 http=8081 admin=9000: 10.1.0.2rs"}},
		"named port missing": {selecting + strings.ReplaceAll(pod("a", "", "podIP: 10.1.0.1"), "name: http", "name: other"), []string{"IPv4 admin=9000: 10.1.0.1rs"}},
		"named port of a sidecar": {selecting + strings.ReplaceAll(pod("a", "", "podIP: 10.1.0.1"), "containers: [{", "containers: [{name: d}], initContainers: [{name: e}, {restartPolicy: Always, "), []string{
			"IPv4 http=8080 admin=9000: 10.1.0.1rs"}},
		"slices are given": {selecting + pod("a", "", ip) + "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: []\nports: []\n", []string{"IPv4:"}},
	} {
		set := newFolder(t, map[string]string{"a.yaml": c.content}).good()
		if got := describeSlices(set); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, c.want)
		}
		for _, s := range set.EndpointSlices {
			if s.Labels[discoveryv1.LabelServiceName] != "web" || s.Namespace != "default" || s.Name == "s" {
				continue
			}
			if e := s.Endpoints[0]; *e.NodeName != "n1" || e.TargetRef.Kind != "Pod" {
				t.Errorf("%s: node %s, target %v", name, *e.NodeName, e.TargetRef)
			}
		}
	}
}

func TestManyEndpointsAreSeveralSlices(t *testing.T) {
	content := edit(selecting, `, "fd00::1"`, "")
	for i := range 250 {
		content += pod(fmt.Sprintf("p%d", i), "", fmt.Sprintf("podIP: 10.1.%d.1", i))
	}
	f := newFolder(t, map[string]string{"a.yaml": content})
	names := map[string]int{}
	for _, s := range f.good().EndpointSlices {
		names[s.Name] = len(s.Endpoints)
	}
	if fmt.Sprint(names) != "map[web-ipv4-0:100 web-ipv4-1:100 web-ipv4-2:50]" {
		t.Errorf("got %v", names)
	}
}
