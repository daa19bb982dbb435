package routes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/need"
	"github.com/sluice-mesh/sluice/tests/routes"
	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

// namespaces runs cases in the lab: pods are network namespaces of this machine, and objects files of a folder.
type namespaces struct {
	lab   *lab.Lab
	agent *lab.Process
	proxy *lab.Process
	pods  map[string]*lab.Pod
	drive map[string]*echo.Driver

	mu        sync.Mutex
	objects   map[routes.Key]map[string]any
	addresses map[routes.Key][2]string // of Services, both families; they are not given twice
	served    map[servicePort]bool     // by the lab's router: it has room for few
	markers   int
	last      *agentStatus
	lastAt    time.Time
}

type servicePort struct {
	service routes.Key
	port    int
}

// agentStatus is what of the agent's status is looked at.
type agentStatus struct {
	Frontends []struct {
		Service  struct{ Namespace, Name string }
		InKernel bool
	}
	Routes []struct {
		Route      struct{ Kind, Namespace, Name string }
		Generation int64
		Parents    []routes.ParentStatus
	}
	Problems []string
}

func startNamespaces(t *testing.T) *namespaces {
	t.Helper()
	need.Root(t)
	l, err := lab.Open(lab.Options{Bin: programs})
	if err != nil {
		t.Fatal(err)
	}
	n := &namespaces{
		lab: l, pods: map[string]*lab.Pod{}, drive: map[string]*echo.Driver{},
		objects: map[routes.Key]map[string]any{}, addresses: map[routes.Key][2]string{}, served: map[servicePort]bool{},
	}
	t.Cleanup(func() { n.close(t) })
	for name, namespace := range map[string]string{
		"v1": "backends", "v2": "backends", "v3": "backends", "bad": "backends", "client": "client", "consumer": "consumer",
	} {
		if err := n.startPod(t.Context(), name, namespace); err != nil {
			t.Fatal(err)
		}
	}
	if n.agent, err = l.StartAgent("--zone", "here"); err != nil {
		t.Fatal(err)
	}
	if n.proxy, err = l.StartProxy("--drain-timeout", "1s"); err != nil {
		t.Fatal(err)
	}
	for p, admin := range map[*lab.Process]string{n.agent: l.AgentAdmin(), n.proxy: l.ProxyAdmin()} {
		if err := l.Ready(t.Context(), p, admin, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *namespaces) close(t *testing.T) {
	for _, p := range []*lab.Process{n.agent, n.proxy} {
		if p == nil {
			continue
		}
		select {
		case <-p.Done():
			t.Errorf("%s ended; the end of its log:\n%s", p.Name, p.Tail(20))
		default:
		}
	}
	if err := n.lab.Close(); err != nil {
		t.Errorf("close the lab: %v", err)
	}
}

// startPod runs the test binary in a pod and waits until it can be driven.
func (n *namespaces) startPod(ctx context.Context, name, namespace string) error {
	p, err := n.lab.AddPod(lab.PodSpec{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}})
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket := filepath.Join(n.lab.Dir, name+".sock")
	options, err := json.Marshal(echo.Pod{Name: name, Control: socket, Backend: namespace == "backends"})
	if err != nil {
		return err
	}
	process, err := p.Start(lab.Command{Name: name, Path: self, Env: []string{podVariable + "=" + string(options)}})
	if err != nil {
		return err
	}
	n.pods[name], n.drive[name] = p, echo.NewDriver(socket)
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-process.Done():
			return process.Wait(ctx)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (n *namespaces) Pods() map[string]routes.Addresses {
	all := map[string]routes.Addresses{}
	for name, p := range n.pods {
		all[name] = routes.Addresses{V4: p.IPv4, V6: p.IPv6}
	}
	return all
}

func (n *namespaces) Send(ctx context.Context, pod string, r *echo.Request) ([]echo.Answer, error) {
	d := n.drive[pod]
	if d == nil {
		return nil, fmt.Errorf("there is no pod %q", pod)
	}
	return d.Send(ctx, r)
}

func (n *namespaces) Seen(ctx context.Context, pod, nonce string) ([]echo.Saw, error) {
	return n.drive[pod].Seen(ctx, nonce)
}

func (n *namespaces) ServiceAddress(namespace, name string, port int, ipv6 bool) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := routes.Key{Kind: "Service", Namespace: namespace, Name: name}
	a, is := n.addresses[key]
	if !is {
		return "", fmt.Errorf("%s has no address", key)
	}
	if at := (servicePort{key, port}); !n.served[at] {
		n.served[at] = true
		if err := n.serve(); err != nil {
			return "", err
		}
	}
	if ipv6 {
		return a[1], nil
	}
	return a[0], nil
}

func (n *namespaces) Apply(ctx context.Context, objects []routes.Object) error {
	n.mu.Lock()
	err := n.write(objects)
	n.mu.Unlock()
	if err != nil {
		return err
	}
	touched := map[string]bool{}
	for _, o := range objects {
		touched[o.Namespace] = true
	}
	return n.sync(ctx, touched)
}

func (n *namespaces) write(objects []routes.Object) error {
	for _, o := range objects {
		content := o.Content
		if o.Kind == "Service" {
			content = n.withAddresses(o)
		}
		b, err := yaml.Marshal(content)
		if err != nil {
			return err
		}
		if err := n.lab.WriteManifest(fileOf(o.Key), b); err != nil {
			return err
		}
		n.objects[o.Key] = content
	}
	return n.serve()
}

func fileOf(k routes.Key) string {
	return strings.ToLower(k.Kind + "_" + k.Namespace + "_" + k.Name + ".yaml")
}

func (n *namespaces) Delete(ctx context.Context, keys []routes.Key) error {
	n.mu.Lock()
	var errs []error
	for _, k := range keys {
		delete(n.objects, k)
		errs = append(errs, os.Remove(filepath.Join(n.lab.Manifests, fileOf(k))))
	}
	errs = append(errs, n.serve())
	n.mu.Unlock()
	return errors.Join(append(errs, n.sync(ctx, nil))...)
}

// withAddresses gives a Service addresses, unless it is of a kind that has none or says them itself.
func (n *namespaces) withAddresses(o routes.Object) map[string]any {
	content := maps.Clone(o.Content)
	spec := maps.Clone(content["spec"].(map[string]any))
	content["spec"] = spec
	if spec["type"] == "ExternalName" || spec["clusterIP"] != nil {
		return content
	}
	a, is := n.addresses[o.Key]
	if !is {
		i := len(n.addresses) + 10
		a = [2]string{fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), fmt.Sprintf("fd00:10:96::%x", i)}
		n.addresses[o.Key] = a
	}
	families, list := []any{"IPv4", "IPv6"}, []any{a[0], a[1]}
	if given, is := spec["ipFamilies"].([]any); is && len(given) == 1 {
		i := slices.Index(families, given[0])
		families, list = given, list[i:i+1]
	}
	spec["clusterIP"], spec["clusterIPs"], spec["ipFamilies"] = list[0], list, families
	return content
}

// serve makes the lab's router do what kube-proxy does for all Services that there are.
func (n *namespaces) serve() error {
	byAddress := map[string]*lab.Pod{}
	for _, p := range n.pods {
		byAddress[p.IPv4.String()] = p
	}
	var all []lab.Service
	for key, content := range n.objects {
		spec, _ := content["spec"].(map[string]any)
		list, _ := spec["clusterIPs"].([]any)
		if key.Kind != "Service" || len(list) == 0 {
			continue
		}
		var ips []netip.Addr
		for _, ip := range list {
			ips = append(ips, netip.MustParseAddr(ip.(string)))
		}
		ports, _ := spec["ports"].([]any)
		for _, p := range ports {
			port := p.(map[string]any)
			if !n.served[servicePort{key, port["port"].(int)}] {
				continue
			}
			s := lab.Service{Name: key.Name, ClusterIPs: ips, Port: uint16(port["port"].(int))}
			s.TargetPort, s.Endpoints = n.endpoints(key, port["name"], byAddress)
			all = append(all, s)
		}
	}
	return n.lab.SetServices(all...)
}

// endpoints are the pods behind a Service's port, by its slices of IPv4.
func (n *namespaces) endpoints(service routes.Key, port any, pods map[string]*lab.Pod) (number uint16, found []*lab.Pod) {
	for key, content := range n.objects {
		if key.Kind != "EndpointSlice" || key.Namespace != service.Namespace || content["addressType"] != "IPv4" {
			continue
		}
		meta := content["metadata"].(map[string]any)
		labels, _ := meta["labels"].(map[string]any)
		if labels["kubernetes.io/service-name"] != service.Name {
			continue
		}
		ports, _ := content["ports"].([]any)
		for _, p := range ports {
			if p := p.(map[string]any); p["name"] == port {
				number = uint16(p["port"].(int))
			}
		}
		endpoints, _ := content["endpoints"].([]any)
		for _, e := range endpoints {
			addresses, _ := e.(map[string]any)["addresses"].([]any)
			if p := pods[addresses[0].(string)]; p != nil {
				found = append(found, p)
			}
		}
	}
	return number, found
}

// sync waits until the agent has read what was written before: a route that is written after it has a status. Then it waits
// until the frontends of the namespaces are in the kernel, which they are once the proxy has acked them.
func (n *namespaces) sync(ctx context.Context, touched map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	n.mu.Lock()
	n.markers++
	marker := routes.Key{Kind: "HTTPRoute", Namespace: "sync", Name: fmt.Sprintf("marker-%d", n.markers)}
	n.mu.Unlock()
	err := n.lab.WriteManifest(fileOf(marker), fmt.Appendf(nil, `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: sync}
spec: {parentRefs: [{group: "", kind: Service, name: nobody}]}
`, marker.Name))
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(filepath.Join(n.lab.Manifests, fileOf(marker))) }() // the lab's folder goes in the end anyhow
	for {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		if s.find(marker) != nil && s.inKernel(touched) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent has not taken up what was written; its problems: %q", s.Problems)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// status is the agent's, at most a few milliseconds old, so that cases that wait at the same time ask once.
func (n *namespaces) status(ctx context.Context) (*agentStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.lastAt) < 15*time.Millisecond {
		return n.last, nil
	}
	body, code, err := lab.Get(ctx, n.lab.AgentAdmin(), "/status")
	if err != nil {
		return nil, err
	}
	if code != 200 {
		return nil, fmt.Errorf("the agent answers %d: %s", code, body)
	}
	s := &agentStatus{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, err
	}
	n.last, n.lastAt = s, time.Now()
	return s, nil
}

func (s *agentStatus) inKernel(namespaces map[string]bool) bool {
	for _, f := range s.Frontends {
		if namespaces[f.Service.Namespace] && !f.InKernel {
			return false
		}
	}
	return true
}

func (s *agentStatus) find(k routes.Key) *routes.RouteStatus {
	for i := range s.Routes {
		r := &s.Routes[i]
		if r.Route.Kind == k.Kind && r.Route.Namespace == k.Namespace && r.Route.Name == k.Name {
			return &routes.RouteStatus{Generation: r.Generation, Parents: r.Parents}
		}
	}
	return nil
}

func (n *namespaces) Status(ctx context.Context, route routes.Key) (*routes.RouteStatus, error) {
	s, err := n.status(ctx)
	if err != nil {
		return nil, err
	}
	// The folder refuses what an API server would refuse. A case whose objects are refused proves nothing.
	for _, p := range s.Problems {
		if strings.Contains(p, route.Namespace) {
			return nil, fmt.Errorf("the agent refuses an object: %s", p)
		}
	}
	return s.find(route), nil
}
