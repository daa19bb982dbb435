package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/tests/need"
)

// mesh is a lab with two Services of two versions each, in a namespace of their own, and a client pod in each of three
// namespaces.
type mesh struct {
	t       *testing.T
	lab     *lab.Lab
	agent   *lab.Process
	proxy   *lab.Process
	pods    map[string]*lab.Pod // web-v1, web-v2, api-v1, api-v2, and the clients: near (in the Services' namespace), far, other
	clients []*lab.Pod
}

const (
	producer = "shop" // namespace of the Services
	port     = 8080   // of the servers
)

// vips are the ClusterIPs of a Service: web, web-v1, web-v2, api, api-v1 and api-v2, and two without pods.
var vips = map[string][]netip.Addr{
	"web": addrs(10), "web-v1": addrs(11), "web-v2": addrs(12),
	"api": addrs(20), "api-v1": addrs(21), "api-v2": addrs(22),
	"empty": addrs(30), "closed": addrs(31),
}

func addrs(n byte) []netip.Addr {
	v6 := netip.MustParseAddr("fd00:10:96::").As16()
	v6[15] = n
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, n}), netip.AddrFrom16(v6)}
}

// targets are the Services' addresses, both families.
func targets(services ...string) []netip.AddrPort {
	var t []netip.AddrPort
	for _, family := range []int{0, 1} {
		for _, s := range services {
			t = append(t, netip.AddrPortFrom(vips[s][family], 80))
		}
	}
	return t
}

// open makes the pods and the Services, without agent, proxy and routes.
func open(t *testing.T) *mesh {
	t.Helper()
	need.Root(t)
	l, err := lab.Open(lab.Options{Bin: programs})
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, lab: l, pods: map[string]*lab.Pod{}}
	t.Cleanup(m.close)
	for _, ns := range []string{producer, "far", "other"} {
		m.write("namespace-"+ns+".yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+ns+"\n")
	}
	for _, name := range []string{"web-v1", "web-v2", "api-v1", "api-v2"} {
		p := m.addPod(lab.PodSpec{Namespace: producer, Name: name, Labels: map[string]string{"app": name[:3], "version": name[4:]}})
		if _, err := p.Serve(t.Context(), port); err != nil {
			t.Fatal(err)
		}
	}
	for name, ns := range map[string]string{"near": producer, "far": "far", "other": "other"} {
		m.clients = append(m.clients, m.addPod(lab.PodSpec{Namespace: ns, Name: name, Labels: map[string]string{"app": name}}))
	}
	m.serveAll()
	return m
}

// start is open with the agent and the proxy running, and ready.
func start(t *testing.T) *mesh {
	t.Helper()
	m := open(t)
	m.startAgent()
	m.startProxy()
	m.ready()
	return m
}

func (m *mesh) addPod(spec lab.PodSpec) *lab.Pod {
	m.t.Helper()
	p, err := m.lab.AddPod(spec)
	if err != nil {
		m.t.Fatal(err)
	}
	m.pods[spec.Name] = p
	return p
}

// serveAll writes the Services' YAML and makes the router serve them.
func (m *mesh) serveAll() {
	m.t.Helper()
	var services []lab.Service
	for name, ips := range vips {
		app, version, _ := strings.Cut(name, "-")
		selector := "app: " + app
		if version != "" {
			selector += ", version: " + version
		}
		annotation := ""
		if name == "closed" {
			selector, annotation = "app: web", "\n  annotations: {sluice.dev/fail: closed}"
		}
		m.write("service-"+name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %s
  namespace: %s%s
spec:
  selector: {%s}
  clusterIP: %s
  clusterIPs: [%s, "%s"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports: [{name: http, port: 80, targetPort: %d}]
`, name, producer, annotation, selector, ips[0], ips[0], ips[1], port))
		s := lab.Service{Name: name, ClusterIPs: ips, Port: 80, TargetPort: port}
		for _, p := range m.lab.Pods() {
			if p.Labels["app"] == app && (version == "" || p.Labels["version"] == version) || name == "closed" && p.Labels["app"] == "web" {
				s.Endpoints = append(s.Endpoints, p)
			}
		}
		services = append(services, s)
	}
	if err := m.lab.SetServices(services...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) write(name, yaml string) {
	m.t.Helper()
	if err := m.lab.WriteManifest(name, []byte(yaml)); err != nil {
		m.t.Fatal(err)
	}
}

// route writes an HTTPRoute of the namespace, bound to port 80 of the Service, with one rule: matches as given, and
// backends with their weights, such as "web-v1=90". Each request of the route is marked.
func (m *mesh) route(namespace, name, service, matches string, backends ...string) {
	m.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, namespace: %s, port: 80}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-route, value: %s}]}
`, name, namespace, service, producer, name)
	if matches != "" {
		fmt.Fprintf(&b, "    matches: [%s]\n", matches)
	}
	b.WriteString("    backendRefs:\n")
	for _, ref := range backends {
		backend, weight, _ := strings.Cut(ref, "=")
		fmt.Fprintf(&b, "    - {name: %s, namespace: %s, port: 80, weight: %s}\n", backend, producer, weight)
	}
	m.write("route-"+name+".yaml", b.String())
}

func (m *mesh) startAgent(flags ...string) {
	m.t.Helper()
	var err error
	if m.agent, err = m.lab.StartAgent(flags...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) startProxy(flags ...string) {
	m.t.Helper()
	var err error
	if m.proxy, err = m.lab.StartProxy(append([]string{"--drain-timeout", "3s"}, flags...)...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) ready() {
	m.t.Helper()
	for p, admin := range map[*lab.Process]string{m.agent: m.lab.AgentAdmin(), m.proxy: m.lab.ProxyAdmin()} {
		if err := m.lab.Ready(m.t.Context(), p, admin, 15*time.Second); err != nil {
			m.t.Fatal(err)
		}
	}
}

// close ends everything; a test that failed shows what the programs said.
func (m *mesh) close() {
	if m.t.Failed() {
		for _, p := range []*lab.Process{m.agent, m.proxy} {
			if p != nil {
				m.t.Logf("the end of %s's log:\n%s", p.Name, p.Tail(30))
			}
		}
	}
	if err := m.lab.Close(); err != nil {
		m.t.Errorf("close the lab: %v", err)
	}
}

// eventually asks again until the answer is nil.
func (m *mesh) eventually(what string, limit time.Duration, ask func() error) time.Duration {
	m.t.Helper()
	began := time.Now()
	for {
		err := ask()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			m.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// load runs a load to its end.
func (m *mesh) load(from *lab.Pod, l traffic.Load) *traffic.Report {
	m.t.Helper()
	r, err := from.Load(m.t.Context(), l)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// good runs a load of which no request may fail.
func (m *mesh) good(from *lab.Pod, l traffic.Load) *traffic.Report {
	m.t.Helper()
	r := m.load(from, l)
	if r.Failed > 0 {
		m.t.Fatalf("%d of %d requests failed; the first: %+v", r.Failed, r.Requests, r.Failures[0])
	}
	return r
}

// routed waits until new connections from the pods to the Service are routed, over both families.
func (m *mesh) routed(service string, from ...*lab.Pod) time.Duration {
	m.t.Helper()
	return m.marked(service, true, from)
}

// direct waits until new connections are not routed.
func (m *mesh) direct(service string, from ...*lab.Pod) time.Duration {
	m.t.Helper()
	return m.marked(service, false, from)
}

func (m *mesh) marked(service string, routed bool, from []*lab.Pod) time.Duration {
	m.t.Helper()
	return m.eventually(fmt.Sprintf("%s routed: %v", service, routed), 10*time.Second, func() error {
		for _, pod := range from {
			l := traffic.Load{Targets: targets(service), Workers: 2, Requests: 4, Connections: traffic.New, Timeout: time.Second}
			r, err := pod.Load(m.t.Context(), l)
			if err != nil {
				return err
			}
			if r.Failed > 0 || routed != (r.Routed == r.OK()) || !routed && r.Routed > 0 {
				return fmt.Errorf("from %s: %d of %d routed, %d failed %v", pod.Name, r.Routed, r.Requests, r.Failed, r.Failures)
			}
		}
		return nil
	})
}

// begin starts a load that goes on until stop.
func (m *mesh) begin(from *lab.Pod, l traffic.Load) *lab.Running {
	m.t.Helper()
	c, err := from.StartLoad(l)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *mesh) stop(c *lab.Running) *traffic.Report {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	r, err := c.Stop(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// worker is the proxy's worker process.
func (m *mesh) worker() int {
	m.t.Helper()
	var pid int
	m.eventually("one worker", 10*time.Second, func() error {
		pids, err := m.lab.Workers(m.proxy)
		if err == nil && len(pids) != 1 {
			err = fmt.Errorf("workers %v", pids)
		}
		if err == nil {
			pid = pids[0]
		}
		return err
	})
	return pid
}

func (m *mesh) signal(pid int, s syscall.Signal) {
	m.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		m.t.Fatalf("signal %v to %d: %v", s, pid, err)
	}
}

// kill kills a process of the lab and waits for its end.
func (m *mesh) kill(p *lab.Process) {
	m.t.Helper()
	m.signal(p.PID(), syscall.SIGKILL)
	<-p.Done()
}

// get reads a page of an admin server as JSON.
func (m *mesh) get(socket, path string, into any) {
	m.t.Helper()
	body, status, err := lab.Get(m.t.Context(), socket, path)
	if err != nil || status != 200 {
		m.t.Fatalf("get %s: status %d, %v", path, status, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		m.t.Fatalf("get %s: %v in %.200s", path, err, body)
	}
}

// descriptors counts the open descriptors of a process.
func (m *mesh) descriptors(pid int) int {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(pid), "fd"))
	if err != nil {
		m.t.Fatal(err)
	}
	return len(entries)
}
