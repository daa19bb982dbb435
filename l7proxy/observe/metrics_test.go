package observe

import (
	"fmt"
	"hash/maphash"
	"maps"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestLabels(t *testing.T) {
	m := newMesh()
	invalid := model.Backend{Weight: 1, Invalid: "no such Service"}
	for _, c := range []struct {
		name string
		edit func(*Record)
		want string
	}{
		{"all of them", func(*Record) {},
			"backend=shop/v1:8080 client=front client_namespace=shop code=200 port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"a rule with a name", func(r *Record) { r.Rule = m.rule(1); r.Backend = &m.rule(1).Backends[0] },
			"backend=shop/v2:8080 client=front client_namespace=shop code=200 port=80 route=HTTPRoute/shop/split rule=canary service=web service_namespace=shop"},
		{"a pod without workload", func(r *Record) { r.Client = &model.Pod{Namespace: "shop", Name: "alone"} },
			"backend=shop/v1:8080 client=alone client_namespace=shop code=200 port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"an unknown client", func(r *Record) { r.Client = nil },
			"backend=shop/v1:8080 code=200 port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"no rule matched", func(r *Record) { r.Rule, r.Backend, r.Status = nil, nil, 404 },
			"client=front client_namespace=shop code=404 port=80 service=web service_namespace=shop"},
		{"no backend was chosen", func(r *Record) { r.Backend, r.Status, r.Failure = nil, 500, "no_backend" },
			"client=front client_namespace=shop code=500 failure=no_backend port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"an invalid backend", func(r *Record) { r.Backend, r.Status = &invalid, 500 },
			"client=front client_namespace=shop code=500 port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"the client went away", func(r *Record) { r.Status, r.Failure = 0, "client" },
			"backend=shop/v1:8080 client=front client_namespace=shop code=0 failure=client port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"a gRPC call that is OK", func(r *Record) { r.GRPC = GRPC{Known: true} },
			"backend=shop/v1:8080 client=front client_namespace=shop code=200 grpc_status=0 port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"another port", func(r *Record) { r.Port = 8443 },
			"backend=shop/v1:8080 client=front client_namespace=shop code=200 port=8443 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
		{"no UTF-8", func(r *Record) { r.Client = &model.Pod{Namespace: "shop", Workload: "fr\xffont"}; r.Failure = "\xfe" },
			"backend=shop/v1:8080 client=fr\uFFFDont client_namespace=shop code=200 failure=\uFFFD port=80 route=HTTPRoute/shop/split rule=0 service=web service_namespace=shop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, reg := recorder(t, Options{})
			rec := m.record(0, 0, 200)
			c.edit(rec)
			rec.Method, rec.Authority, rec.Path = "BREW", "no-label.example", "/no/label"
			rec.RequestBytes, rec.ResponseBytes, rec.Duration = 7, 11, time.Millisecond
			r.Done(rec)
			r.Done(rec)
			want := values{
				"sluice_requests_total{" + c.want + "}":                 2,
				"sluice_request_bytes_total{" + c.want + "}":            14,
				"sluice_response_bytes_total{" + c.want + "}":           22,
				"sluice_request_duration_seconds_count{" + c.want + "}": 2,
				"sluice_access_log_dropped_total{}":                     0,
			}
			if diff := cmp.Diff(want, scrape(t, reg)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// Done keeps no view: the buffer that the strings are in belongs to a connection.
func TestViewsAreNotKept(t *testing.T) {
	m := newMesh()
	r, reg := recorder(t, Options{})
	buffer := []byte("shopweb upstream_reset")
	view := func(from, to int) string { return unsafe.String(&buffer[from], to-from) }
	rec := m.record(0, 0, 502)
	rec.Rule, rec.Backend = nil, nil
	rec.Service = model.ServiceKey{Namespace: view(0, 4), Name: view(4, 7)}
	rec.Failure = view(8, len(buffer))
	r.Done(rec)
	copy(buffer, "SHOPWEB UPSTREAM_RESET") // the next request
	r.Done(rec)
	copy(buffer, "shopweb upstream_reset")
	r.Done(rec)
	got := scrape(t, reg)
	for labels, want := range map[string]float64{
		"failure=upstream_reset port=80 service=web service_namespace=shop": 2,
		"failure=UPSTREAM_RESET port=80 service=WEB service_namespace=SHOP": 1,
	} {
		name := "sluice_requests_total{client=front client_namespace=shop code=502 " + labels + "}"
		if got[name] != want {
			t.Errorf("%s is %v: want %v, in %v", name, got[name], want, got.like("sluice_requests_total"))
		}
	}
}

// A view that a handle kept would keep its buffer in memory.
func TestBuffersOfViewsAreNotKept(t *testing.T) {
	r, _ := recorder(t, Options{})
	buffer := func() weak.Pointer[[4096]byte] {
		b := new([4096]byte)
		view := unsafe.String(&b[0], 100)
		rec := newMesh().record(0, 0, 502)
		rec.Failure = view
		r.Done(rec)
		rec.Rule, rec.Backend, rec.Failure = nil, nil, ""
		rec.Service = model.ServiceKey{Namespace: view, Name: "web"}
		r.Done(rec)
		rec.Service = model.ServiceKey{Namespace: "shop", Name: view}
		r.Done(rec)
		return weak.Make(b)
	}()
	runtime.GC()
	if buffer.Value() != nil {
		t.Error("a buffer is kept in memory")
	}
	runtime.KeepAlive(r)
}

// Where no rule tells them apart, the exchange itself has to.
func TestExchangesWithoutRuleAreToldApart(t *testing.T) {
	m := newMesh()
	r, reg := recorder(t, Options{})
	all := map[string]func(*Record){
		"service=web":                func(*Record) {},
		"service=api":                func(rec *Record) { rec.Service.Name = "api" },
		"service_namespace=zoo":      func(rec *Record) { rec.Service.Namespace = "zoo" },
		"port=8443":                  func(rec *Record) { rec.Port = 8443 },
		"code=0":                     func(rec *Record) { rec.Status = 0 },
		"grpc_status=12":             func(rec *Record) { rec.GRPC = GRPC{Known: true, Code: 12} },
		"failure=client":             func(rec *Record) { rec.Failure = "client" },
		"client=alone":               func(rec *Record) { rec.Client = &model.Pod{Namespace: "shop", Name: "alone"} },
		"backend=shop/web:80":        func(rec *Record) { rec.Backend = &model.Backend{Endpoints: m.service.Ports[0].Default} },
		"route=HTTPRoute/shop/split": func(rec *Record) { rec.Rule = m.rule(0) },
	}
	for range 3 {
		for _, edit := range all {
			rec := m.record(0, 0, 404)
			rec.Rule, rec.Backend = nil, nil
			edit(rec)
			r.Done(rec)
		}
	}
	got := scrape(t, reg).like("sluice_requests_total")
	if len(got) != len(all) {
		t.Errorf("%d series: want %d", len(got), len(all))
	}
	for l := range all {
		if n := got.like("sluice_requests_total", l).sum(); n != 3 && l != "service=web" {
			t.Errorf("%v requests with %s: want 3", n, l)
		}
	}
}

// Two that ask for the same at once get the same, and it is stored once.
func TestResolveIsDoneOnce(t *testing.T) {
	r, _ := recorder(t, Options{})
	rec := newMesh().record(0, 0, 200)
	first, second := r.metrics.resolve(handleOf(rec), rec), r.metrics.resolve(handleOf(rec), rec)
	if first != second || r.metrics.handles.count != 1 {
		t.Errorf("%p and %p, by %d handles", first, second, r.metrics.handles.count)
	}
	one, two := r.metrics.resolveClient(rec.Client), r.metrics.resolveClient(rec.Client)
	if one != two || r.metrics.pods.count != 1 {
		t.Errorf("%p and %p, by %d pods", one, two, r.metrics.pods.count)
	}
}

func TestAChangeOfTheModelContinuesTheSeries(t *testing.T) {
	r, reg := recorder(t, Options{})
	for range 3 {
		m := newMesh()
		r.Done(m.record(0, 0, 200))
		r.ConnectionOpened(m.pod)
	}
	got := scrape(t, reg)
	if requests := got.like("sluice_requests_total"); len(requests) != 1 || requests.sum() != 3 {
		t.Errorf("requests are %v: want 3 in one series", requests)
	}
	if connections := got.like("sluice_connections_total"); len(connections) != 1 || connections.sum() != 3 {
		t.Errorf("connections are %v: want 3 in one series", connections)
	}
}

func TestConnectionsAndRequestsThatAreActive(t *testing.T) {
	r, reg := recorder(t, Options{})
	front, twin := newMesh().pod, newMesh().pod // of one workload
	alone := &model.Pod{Namespace: "tools", Name: "alone"}
	for _, p := range []*model.Pod{front, twin, twin, alone, nil} {
		r.ConnectionOpened(p)
		r.RequestStarted(p)
	}
	r.ConnectionClosed(front)
	r.RequestEnded(twin)
	r.RequestEnded(twin)
	r.RequestEnded(alone)
	want := values{
		"sluice_connections_total{client=front client_namespace=shop}":   3,
		"sluice_active_connections{client=front client_namespace=shop}":  2,
		"sluice_active_requests{client=front client_namespace=shop}":     1,
		"sluice_connections_total{client=alone client_namespace=tools}":  1,
		"sluice_active_connections{client=alone client_namespace=tools}": 1,
		"sluice_active_requests{client=alone client_namespace=tools}":    0,
		"sluice_connections_total{}":                                     1,
		"sluice_active_connections{}":                                    1,
		"sluice_active_requests{}":                                       1,
		"sluice_access_log_dropped_total{}":                              0,
	}
	if diff := cmp.Diff(want, scrape(t, reg)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestBeyondTheLimitSeriesAreOther(t *testing.T) {
	m := newMesh()
	r, reg := recorder(t, Options{MaxSeries: 2})
	for status := 200; status < 210; status++ {
		r.Done(m.record(0, 0, status))
		r.Done(m.record(0, 0, status))
	}
	for i := range 5 {
		r.ConnectionOpened(&model.Pod{Namespace: "shop", Name: fmt.Sprint("pod-", i)})
	}
	got := scrape(t, reg)
	requests := got.like("sluice_requests_total")
	const name = "sluice_requests_total{backend=other client=other client_namespace=other code=other failure=other grpc_status=other port=other route=other rule=other service=other service_namespace=other}"
	if len(requests) != 3 || requests.sum() != 20 || requests[name] != 16 {
		t.Errorf("requests are %v: want 2 each with codes 200 and 201, and 16 of other", requests)
	}
	if n := len(got.like("sluice_request_duration_seconds_count")); n != 3 {
		t.Errorf("%d histograms: want 3", n)
	}
	connections := got.like("sluice_connections_total")
	if len(connections) != 3 || connections["sluice_connections_total{client=other client_namespace=other}"] != 3 {
		t.Errorf("connections are %v: want one each of two clients, and 3 of other", connections)
	}
}

// What is subtracted has to find what was added.
func TestAClientThatIsOtherStaysOther(t *testing.T) {
	r, reg := recorder(t, Options{MaxSeries: 2})
	var pods []*model.Pod
	for _, name := range []string{"a", "b", "c"} {
		pods = append(pods, &model.Pod{Namespace: "shop", Name: name})
		r.ConnectionOpened(pods[len(pods)-1])
	}
	r.ConnectionClosed(pods[0])
	r.ConnectionClosed(pods[1])
	now := time.Now()
	r.Prune(now, pods[2:], nil)
	r.Prune(now.Add(linger), nil, nil) // the series of two go, and make room; the third pod has ended too
	r.ConnectionClosed(pods[2])
	for name, n := range scrape(t, reg).like("sluice_active_connections") {
		if n != 0 {
			t.Errorf("%s is %v when none is open", name, n)
		}
	}
}

// The series of the others goes when none of them has anything open; who comes again is counted.
func TestOtherClientsComeBack(t *testing.T) {
	r, reg := recorder(t, Options{MaxSeries: 1})
	pods := []*model.Pod{{Namespace: "shop", Name: "a"}, {Namespace: "shop", Name: "b"}}
	for _, p := range pods {
		r.ConnectionOpened(p)
		r.ConnectionClosed(p)
	}
	now := time.Now()
	r.Prune(now, pods, nil)
	r.Prune(now.Add(linger), pods, nil)
	r.ConnectionOpened(pods[1])
	want := values{
		"sluice_active_connections{client=a client_namespace=shop}": 0, "sluice_active_connections{client=other client_namespace=other}": 1,
	}
	if diff := cmp.Diff(want, scrape(t, reg).like("sluice_active_connections")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A model that changes all the time must not make the handles many.
func TestHandlesAreBounded(t *testing.T) {
	r, reg := recorder(t, Options{MaxSeries: 4})
	const rounds = 200
	for range rounds {
		r.Done(newMesh().record(0, 0, 200))
		if n := r.metrics.handles.count; n > 4*handlesPerSeries {
			t.Fatalf("%d handles for one series", n)
		}
	}
	if n := scrape(t, reg).like("sluice_requests_total").sum(); n != rounds {
		t.Errorf("%v requests are counted: want %d", n, rounds)
	}
}

func TestConcurrentExchangesAreAllCounted(t *testing.T) {
	const goroutines, each = 8, 2000
	r, reg := recorder(t, Options{})
	pods := []*model.Pod{newMesh().pod, newMesh().pod, {Namespace: "shop", Name: "alone"}}
	model1, model2 := newMesh(), newMesh()
	services := [][]*model.Service{{model1.service}, {model2.service}}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				r.Prune(time.Now(), pods, services[i%2]) // each makes the other's handles old
				scrape(t, reg)
			}
		}
	})
	for g := range goroutines {
		writers.Go(func() {
			for i := range each {
				pod := pods[(g+i)%len(pods)]
				r.ConnectionOpened(pod)
				r.RequestStarted(pod)
				rec := []mesh{model1, model2}[i/10%2].record(i%2, 0, 200+i%7)
				rec.Client, rec.Duration, rec.RequestBytes, rec.ResponseBytes = pod, time.Duration(i)*time.Microsecond, 1, 2
				r.Done(rec)
				r.RequestEnded(pod)
				r.ConnectionClosed(pod)
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	got := scrape(t, reg)
	for name, want := range map[string]float64{
		"sluice_requests_total": goroutines * each, "sluice_request_duration_seconds_count": goroutines * each,
		"sluice_request_bytes_total": goroutines * each, "sluice_response_bytes_total": 2 * goroutines * each,
		"sluice_connections_total": goroutines * each, "sluice_active_connections": 0, "sluice_active_requests": 0,
	} {
		if n := got.like(name).sum(); n != want {
			t.Errorf("%s is %v in all: want %v", name, n, want)
		}
	}
	if n := len(got.like("sluice_requests_total")); n != 2*2*7 { // clients, rules, codes
		t.Errorf("%d series: want 28", n)
	}
}

func TestNoAllocationInTheSteadyState(t *testing.T) {
	m := newMesh()
	rec := m.record(0, 0, 200)
	rec.Duration, rec.ResponseBytes = time.Millisecond, 100
	rec.Method, rec.Authority, rec.Path = "GET", "web.shop", "/items/\"?q=\u00e9"
	noRule := m.record(0, 0, 404)
	noRule.Rule, noRule.Backend, noRule.Failure = nil, nil, "no_rule"
	r, _ := recorder(t, Options{})
	if n := testing.AllocsPerRun(1000, func() {
		r.ConnectionOpened(m.pod)
		r.RequestStarted(m.pod)
		r.Done(rec)
		r.Done(noRule)
		r.RequestEnded(m.pod)
		r.ConnectionClosed(m.pod)
	}); n != 0 {
		t.Errorf("%v allocations for two exchanges: want none", n)
	}
	if raceEnabled {
		return // the race detector has a sync.Pool lose some of the lines' buffers
	}
	l := newAccessLog(nil, 4)
	if n := testing.AllocsPerRun(1000, func() {
		l.put(rec)
		l.put(noRule)
		l.release(<-l.lines)
		l.release(<-l.lines)
	}); n != 0 {
		t.Errorf("%v allocations for two lines: want none", n)
	}
}

func TestNeighboursDoNotShareACacheLine(t *testing.T) {
	for name, size := range map[string]uintptr{
		"cell": unsafe.Sizeof(cell{}), "octave": unsafe.Sizeof(octave{}), "activity": unsafe.Sizeof(activity{}),
	} {
		if size%64 != 0 {
			t.Errorf("%s has %d bytes: want whole cache lines of 64", name, size)
		}
	}
}

func TestTableAgainstAMap(t *testing.T) {
	table, want := newTable[int, int](), map[int]*int{}
	check := func() {
		t.Helper()
		got := map[int]*int{}
		for e := range table.entries {
			got[e.key] = e.value
		}
		if !maps.Equal(got, want) || table.count != len(want) {
			t.Fatalf("%d entries, and count %d: want %d", len(got), table.count, len(want))
		}
		for k := range 400 {
			if table.get(k) != want[k] {
				t.Fatalf("key %d: %p, want %p", k, table.get(k), want[k])
			}
		}
	}
	for k := range 300 {
		want[k] = new(k)
		table.put(k, want[k])
	}
	check()
	table.keep(func(k int, v *int) bool { return k%3 == 0 && *v == k })
	maps.DeleteFunc(want, func(k int, _ *int) bool { return k%3 != 0 })
	check()
	table.keep(func(int, *int) bool { return false })
	clear(want)
	check()
	want[1] = new(1)
	table.put(1, want[1])
	check()
}

func TestTableComparesKeysOfTheSameHash(t *testing.T) {
	table := newTable[int, int]()
	e := &entry[int, int]{key: 2, hash: maphash.Comparable(table.seed, 1), value: new(2)}
	place(*table.slots.Load(), e)
	if got := table.get(1); got != nil {
		t.Errorf("key 1 has the value of key 2: %d", *got)
	}
	want := new(1)
	table.put(1, want)
	if got := table.get(1); got != want {
		t.Errorf("key 1 has %p: want %p", got, want)
	}
}
