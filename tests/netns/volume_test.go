package netns

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// Many connections, held and in a row: no error, no wrong destination, and afterwards descriptors and memory are back
// where they were.
func TestManyConnections(t *testing.T) {
	m := start(t)
	near, far := m.pods["near"], m.pods["far"]
	m.route(producer, "web", "web", "", "web-v1=1", "web-v2=1")
	m.route(producer, "api", "api", "", "api-v1=1", "api-v2=1")
	m.routed("web", near, far)
	m.routed("api", near, far)
	held, inRow := heavy(10_000, 2_000), heavy(50_000, 10_000)

	// The first connections of all make what is made once.
	row := func(n int64, service string) *traffic.Report {
		return m.good(far, traffic.Load{Targets: targets(service), Workers: 16, Requests: n, Connections: traffic.New, Backends: service + "-"})
	}
	row(500, "web")
	row(500, "api")
	before := m.usage()

	c, err := near.StartHold(traffic.Hold{Targets: targets("web", "api"), Connections: held})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-c.Reports:
		if r == nil || r.Failed > 0 {
			t.Fatalf("opening %d connections: %+v", held, r)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the connections are not open after 60 s")
	}
	during := m.usage()
	began := time.Now()
	row(int64(inRow)/2, "web")
	row(int64(inRow)/2, "api")
	perSecond := float64(inRow) / time.Since(began).Seconds()
	if r := m.stop(c); r.Failed > 0 || r.Requests != int64(2*held) || r.Routed != r.Requests {
		t.Fatalf("held connections: %+v", r)
	}
	var after usage
	m.eventually("descriptors and memory are back", 30*time.Second, func() error {
		after = m.usage()
		return after.exceeds(before)
	})
	t.Logf("%d held: %.1f KB each in the proxy; %d in a row at %.0f/s; descriptors of worker %d -> %d -> %d, of agent %d -> %d -> %d; proxy's memory in use %.1f -> %.1f -> %.1f MB",
		held, float64(during.memory-before.memory)/float64(held)/1e3, inRow, perSecond,
		before.worker, during.worker, after.worker, before.agent, during.agent, after.agent,
		float64(before.memory)/1e6, float64(during.memory)/1e6, float64(after.memory)/1e6)
}

// Every single request goes where its own connection was addressed to, with two Services, two families and three pods at once.
func TestNoConnectionReachesAnotherService(t *testing.T) {
	m := start(t)
	m.route(producer, "web", "web", "", "web-v1=1", "web-v2=1")
	m.route(producer, "api", "api", "", "api-v1=1", "api-v2=1")
	m.routed("web", m.clients...)
	m.routed("api", m.clients...)
	type load struct {
		service string
		wait    func() *traffic.Report
	}
	var loads []load
	for i, pod := range m.clients {
		service := []string{"web", "api", "web"}[i]
		c := m.begin(pod, traffic.Load{Targets: targets(service), Workers: 8, Connections: traffic.Mixed, Backends: service + "-"})
		loads = append(loads, load{service, func() *traffic.Report { return m.stop(c) }})
	}
	time.Sleep(2 * time.Second)
	for _, l := range loads {
		if r := l.wait(); r.Failed > 0 || r.Routed != r.Requests {
			t.Errorf("to %s: %d requests, %d failed, %d routed: %+v", l.service, r.Requests, r.Failed, r.Routed, r.Failures)
		}
	}
}

// Budget: no allocation for a request in the steady state, in the real process, with metrics and a route on.
func TestNoAllocationPerRequest(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.route(producer, "canary", "web", `{headers: [{name: x-canary, value: "true"}]}`, "web-v2=1")
	m.routed("web", near)
	const requests = 100_000
	l := traffic.Load{Targets: targets("web"), Workers: 16, Requests: 20_000, Backends: "web-"}
	m.good(near, l) // pools and buffers are made
	before := m.memstats()
	l.Requests = requests
	r := m.good(near, l)
	after := m.memstats()
	perRequest := float64(after.Mallocs-before.Mallocs) / requests
	t.Logf("%.4f allocations and %.2f bytes for each of %d requests, %d of them routed; half of them took at most %v",
		perRequest, float64(after.TotalAlloc-before.TotalAlloc)/requests, r.Requests, r.Routed, r.P50)
	// What is left is the opening of 16 connections, two readings of the statistics, and the beat of the liveness check.
	if perRequest >= 0.01 {
		t.Errorf("%.4f allocations a request, want 0", perRequest)
	}
	if r.Routed != requests {
		t.Errorf("%d of %d routed", r.Routed, requests)
	}
}

func (m *mesh) memstats() runtime.MemStats {
	m.t.Helper()
	var s runtime.MemStats
	m.get(m.lab.ProxyAdmin(), "/debug/memstats", &s)
	return s
}

// usage is what the programs hold: descriptors, and the proxy's bytes in use.
type usage struct {
	worker, agent int
	memory        uint64
}

func (m *mesh) usage() usage {
	m.t.Helper()
	s := m.memstats()
	return usage{worker: m.descriptors(m.worker()), agent: m.descriptors(m.agent.PID()), memory: s.HeapInuse + s.StackInuse}
}

// exceeds says what is more than before. A few descriptors may be pooled connections; memory may differ by what the
// collector has not reached yet.
func (u usage) exceeds(before usage) error {
	const descriptors, memory = 16, 8 << 20
	if u.worker > before.worker+descriptors || u.agent > before.agent+descriptors || u.memory > before.memory+memory {
		return fmt.Errorf("%+v, before it was %+v", u, before)
	}
	return nil
}
