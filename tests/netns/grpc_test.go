package netns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

// grpcRoute writes a GRPCRoute of the producer, bound to port 80 of the Service, whose calls are marked.
func (m *mesh) grpcRoute(name, service string, backends ...string) {
	m.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, port: 80}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-route, value: %s}]}
    backendRefs:
`, name, producer, service, name)
	for _, ref := range backends {
		backend, weight, _ := strings.Cut(ref, "=")
		fmt.Fprintf(&b, "    - {name: %s, port: 80, weight: %s}\n", backend, weight)
	}
	m.write("route-"+name+".yaml", b.String())
}

// calls makes calls of which none may fail.
func (m *mesh) calls(from *lab.Pod, c traffic.Calls) *traffic.Report {
	m.t.Helper()
	r, err := from.Calls(m.t.Context(), c)
	if err != nil {
		m.t.Fatal(err)
	}
	if r.Failed > 0 {
		m.t.Fatalf("%d of %d calls failed; the first: %+v", r.Failed, r.Requests, r.Failures[0])
	}
	return r
}

// callsRouted waits until calls over new connections are routed.
func (m *mesh) callsRouted(service string, from *lab.Pod) {
	m.t.Helper()
	m.eventually(service+" routed", 10*time.Second, func() error {
		r, err := from.Calls(m.t.Context(), traffic.Calls{Targets: targets(service), Fresh: true, Workers: 2, Calls: 4, Timeout: time.Second})
		if err != nil {
			return err
		}
		if r.Failed > 0 || r.Routed != r.OK() {
			return fmt.Errorf("%d of %d routed, %d failed %v", r.Routed, r.Requests, r.Failed, r.Failures)
		}
		return nil
	})
}

// A unary call allocates nothing in the steady state, with fields that are new in each call, which the client puts into the
// HPACK table.
func TestNoAllocationPerCall(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.grpcRoute("calls", "web", "web-v1=1", "web-v2=1")
	m.callsRouted("web", near)
	const calls = 100_000
	c := traffic.Calls{
		Targets: targets("web")[:1], Workers: 16, Calls: 20_000, Backends: "web-",
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
	m.calls(near, c) // pools, buffers and tables are made
	before := m.memstats()
	c.Calls = calls
	r := m.calls(near, c)
	after := m.memstats()
	perCall := float64(after.Mallocs-before.Mallocs) / calls
	t.Logf("%.4f allocations and %.2f bytes for each of %d calls over %d connection; half of them took at most %v",
		perCall, float64(after.TotalAlloc-before.TotalAlloc)/calls, r.Requests, r.Connections, r.P50)
	if perCall >= 0.01 {
		t.Errorf("%.4f allocations a call, want 0", perCall)
	}
	if r.Routed != calls || r.Connections != 1 {
		t.Errorf("%d of %d routed over %d connections", r.Routed, calls, r.Connections)
	}
	if share := float64(r.Backends["web-v1"]) / calls; share < 0.48 || share > 0.52 {
		t.Errorf("web-v1 had %.3f of the calls, want half", share)
	}
}

// A proxy that stops says so to its clients before it does (RFC 9113, 6.8): no call is lost.
func TestProxyStopsUnderCalls(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.grpcRoute("calls", "web", "web-v1=1")
	m.callsRouted("web", near)
	running, err := near.StartCalls(traffic.Calls{Targets: targets("web"), Workers: 16, Rate: 4000, Backends: "web-", Snapshots: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := m.proxy.Terminate(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	r := m.stop(running)
	t.Logf("%d calls over %d connections, %d routed, %d failed", r.Requests, r.Connections, r.Routed, r.Failed)
	if r.Failed > 0 {
		t.Errorf("%d of %d calls failed; the first: %+v", r.Failed, r.Requests, r.Failures[0])
	}
	if r.Routed == 0 || r.Routed == r.OK() || r.Connections != 4 {
		t.Errorf("%d of %d calls routed over %d connections: want two that were, and two that went direct", r.Routed, r.OK(), r.Connections)
	}
}

// An HTTP/2 connection that has nothing to say holds little (design: 10 KB). Each of these makes a call every ten seconds.
func TestManyHTTP2Connections(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.grpcRoute("calls", "web", "web-v1=1")
	m.callsRouted("web", near)
	const connections = 1000
	before := m.usage()
	running, err := near.StartCalls(traffic.Calls{
		Targets: slices.Repeat(targets("web")[:1], connections), Workers: connections, Rate: connections / 10, Snapshots: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.eventually("the connections are open", 60*time.Second, func() error {
		n, err := lab.Metric(m.t.Context(), m.lab.ProxyAdmin(), "sluice_active_connections")
		if err == nil && n < connections {
			err = fmt.Errorf("%v are", n)
		}
		return err
	})
	// The collector runs every two minutes at least, and makes the stacks smaller that were once needed: two of its rounds.
	for range 2 {
		if _, _, err := lab.Get(t.Context(), m.lab.ProxyAdmin(), "/debug/pprof/heap?gc=1"); err != nil {
			t.Fatal(err)
		}
	}
	after := m.memstats()
	perConnection := float64(m.usage().memory-before.memory) / connections
	t.Logf("%.1f KB each in the proxy: %d bytes of stacks, %d of heap", perConnection/1e3, after.StackInuse, after.HeapInuse)
	if perConnection > 10_000 {
		t.Errorf("%.1f KB each, want 10 at most", perConnection/1e3)
	}
	if r := m.stop(running); r.Failed > 0 || r.Connections != connections {
		t.Errorf("%d connections, %d calls failed: %+v", r.Connections, r.Failed, r.Failures)
	}
}
