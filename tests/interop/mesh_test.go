package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/need"
)

const (
	namespace = "shop"
	port      = 80   // of every Service
	http1Port = 8080 // of servers that speak HTTP/1.1 only
	http2Port = 8081 // of servers that speak HTTP/2 only
	grpcPort  = 9000

	// backendStreams is how many streams a server of HTTP/2 allows on a connection: fewer than a client may have.
	backendStreams = 100
)

// service is a Service, and the route that is bound to it.
type service struct {
	name        string
	pods        []string // those of its endpoints
	targetPort  uint16
	appProtocol string // none when empty
	kind        string // of the route, or empty for none
	rules       string // of the route, as YAML in one line; when empty, everything goes to the Service itself
}

// mesh is a lab with a client and three backends, one pod each.
type mesh struct {
	t      *testing.T
	lab    *lab.Lab
	agent  *lab.Process // nil when all goes direct, as is the proxy
	proxy  *lab.Process
	client *lab.Pod
	pods   map[string]*lab.Pod // one, two and three
	vips   map[string]netip.Addr
	dialer *dialer // of the client's pod
}

// start makes the pods, the Services and their routes, and waits until the client's connections to the Services with a route
// are redirected.
func start(t *testing.T, services ...service) *mesh {
	t.Helper()
	need.Root(t)
	l, err := lab.Open(lab.Options{Bin: programs})
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, lab: l, pods: map[string]*lab.Pod{}, vips: map[string]netip.Addr{}}
	t.Cleanup(m.close)
	m.write("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+namespace+"\n")
	m.client = m.addPod("client", services)
	for _, name := range []string{"one", "two", "three"} {
		m.pods[name] = m.addPod(name, services)
	}
	m.serveAll(services)
	m.dialer = newDialer(m)
	if direct() {
		return m
	}
	m.run()
	for _, s := range services {
		if s.kind != "" {
			m.redirected(s.name)
		}
	}
	return m
}

// proxied skips a test that is about the proxy alone where there is none.
func proxied(t *testing.T) {
	t.Helper()
	if direct() {
		t.Skip("skipped: SLUICE_DIRECT=1 leaves the proxy out")
	}
}

// addPod makes a pod that has a label for each Service which it is an endpoint of.
func (m *mesh) addPod(name string, services []service) *lab.Pod {
	m.t.Helper()
	labels := map[string]string{"app": name}
	for _, s := range services {
		if slices.Contains(s.pods, name) {
			labels["serves-"+s.name] = "yes"
		}
	}
	p, err := m.lab.AddPod(lab.PodSpec{Namespace: namespace, Name: name, Labels: labels})
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

func (m *mesh) serveAll(services []service) {
	m.t.Helper()
	var all []lab.Service
	for i, s := range services {
		ip := netip.AddrFrom4([4]byte{10, 96, 0, byte(10 + i)})
		m.vips[s.name] = ip
		appProtocol := ""
		if s.appProtocol != "" {
			appProtocol = ", appProtocol: " + s.appProtocol
		}
		m.write("service-"+s.name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec:
  selector: {serves-%s: "yes"}
  clusterIP: %s
  clusterIPs: [%s]
  ipFamilies: [IPv4]
  ports: [{name: main, port: %d, targetPort: %d%s}]
`, s.name, namespace, s.name, ip, ip, port, s.targetPort, appProtocol))
		served := lab.Service{Name: s.name, ClusterIPs: []netip.Addr{ip}, Port: port, TargetPort: s.targetPort}
		for _, name := range s.pods {
			served.Endpoints = append(served.Endpoints, m.pods[name])
		}
		all = append(all, served)
		if s.kind != "" {
			m.route(s)
		}
	}
	if err := m.lab.SetServices(all...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) route(s service) {
	m.t.Helper()
	rules := s.rules
	if rules == "" {
		rules = fmt.Sprintf("[{backendRefs: [{name: %s, port: %d}]}]", s.name, port)
	}
	m.write("route-"+s.name+".yaml", fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, port: %d}]
  rules: %s
`, s.kind, s.name, namespace, s.name, port, rules))
}

func (m *mesh) write(name, yaml string) {
	m.t.Helper()
	if err := m.lab.WriteManifest(name, []byte(yaml)); err != nil {
		m.t.Fatal(err)
	}
}

// run starts the agent and the proxy and waits until both are ready.
func (m *mesh) run() {
	m.t.Helper()
	var err error
	if m.agent, err = m.lab.StartAgent(); err != nil {
		m.t.Fatal(err)
	}
	if m.proxy, err = m.lab.StartProxy("--drain-timeout", "3s"); err != nil {
		m.t.Fatal(err)
	}
	for p, admin := range map[*lab.Process]string{m.agent: m.lab.AgentAdmin(), m.proxy: m.lab.ProxyAdmin()} {
		if err := m.lab.Ready(m.t.Context(), p, admin, 15*time.Second); err != nil {
			m.t.Fatal(err)
		}
	}
}

// redirected waits until a new connection to the Service comes to the proxy. What it says there is no request, which the proxy
// refuses by itself (RFC 9112 §3.2: no Host): no endpoint is asked, and none listens yet, so nobody else can answer.
func (m *mesh) redirected(service string) {
	m.t.Helper()
	m.eventually("connections to "+service+" are redirected", func() error {
		c, err := m.dialer.dial(m.t.Context(), m.target(service))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			return err
		}
		if answer, err := io.ReadAll(c); len(answer) == 0 {
			return fmt.Errorf("%s does not answer: %w", m.target(service), err)
		}
		return nil
	})
	m.quiet()
}

// quiet waits until the proxy has no connection.
func (m *mesh) quiet() {
	m.t.Helper()
	m.eventually("no connection is left", func() error {
		if n := m.metric("sluice_active_connections"); n != 0 {
			return fmt.Errorf("the proxy has %v connections", n)
		}
		return nil
	})
}

// metric adds up the series of one of the proxy's metrics.
func (m *mesh) metric(name string) float64 {
	m.t.Helper()
	v, err := lab.Metric(m.t.Context(), m.lab.ProxyAdmin(), name)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

// target is the address of a Service.
func (m *mesh) target(service string) string {
	return netip.AddrPortFrom(m.vips[service], port).String()
}

// eventually asks again until the answer is nil.
func (m *mesh) eventually(what string, ask func() error) {
	m.t.Helper()
	const limit = 10 * time.Second
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Since(began) > limit {
			m.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
	}
}

// listen opens a port in a pod. What serves it may run in the test itself: only who connects has to be in the pod.
func (m *mesh) listen(pod string, port uint16) net.Listener {
	m.t.Helper()
	var l net.Listener
	need.In(m.t, m.pods[pod].NetNS, func() error {
		var err error
		l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	return l
}

// serveHTTP serves one version of HTTP in a pod until the end of the test.
func (m *mesh) serveHTTP(pod string, version int, h http.Handler) {
	m.t.Helper()
	server := &http.Server{
		Handler: h, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: backendStreams},
		ErrorLog: log.New(io.Discard, "", 0), // h2spec's requests are errors
	}
	port := uint16(http1Port)
	switch version {
	case 1:
		server.Protocols.SetHTTP1(true)
	default:
		port = http2Port
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	l := m.listen(pod, port)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends with an error, always
	}()
	m.t.Cleanup(func() {
		server.Close()
		<-done
	})
}

// in runs a helper in the client's pod and reads its result. Its standard error comes with the error.
func (m *mesh) in(limit time.Duration, name string, into any, args ...string) error {
	m.t.Helper()
	var out bytes.Buffer
	p, err := m.client.Start(lab.Command{
		Name: name + "-" + args[0], Path: self(m.t), Args: args, Stdout: &out,
		// A program with the race detector takes a second to end otherwise.
		Env: []string{helperVariable + "=" + name, "GORACE=atexit_sleep_ms=0"},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("%s: %w in %.200s", name, err, out.Bytes())
	}
	return nil
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// close ends everything; a test that failed shows what the programs said.
func (m *mesh) close() {
	m.notRelayed()
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

// notRelayed checks that the proxy has understood all that it was sent: most tests would pass as well if it passed the bytes on
// as they are.
func (m *mesh) notRelayed() {
	m.t.Helper()
	if m.proxy == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // the test's own has ended
	defer cancel()
	n, err := lab.Metric(ctx, m.lab.ProxyAdmin(), "sluice_relayed_connections_total")
	if err != nil || n != 0 {
		m.t.Errorf("the proxy passed %v connections on without reading what is said: %v", n, err)
	}
}
