package observe

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name   string
		record func(mesh) *Record
		change func(*mesh) // of the model, at once after the record
		gone   bool
	}{
		{"nothing changed", func(m mesh) *Record { return m.record(0, 0, 200) }, func(*mesh) {}, false},
		{"the same with other pointers", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { *m = newMesh() }, false},
		{"another pod of the workload", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { m.pod = &model.Pod{Namespace: "shop", Name: "front-2", Workload: "front"} }, false},
		{"the workload is gone", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { m.pod = &model.Pod{Namespace: "shop", Name: "back-1", Workload: "back"} }, true},
		{"the workload of that name is another namespace's", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { m.pod = &model.Pod{Namespace: "zoo", Name: "front-1", Workload: "front"} }, true},
		{"an unknown client", func(m mesh) *Record { r := m.record(0, 0, 200); r.Client = nil; return r },
			func(*mesh) {}, false},
		{"the Service is gone", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { m.service = &model.Service{Namespace: "shop", Name: "x"} }, true},
		{"the port is gone", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { *m = newMesh(); m.service.Ports[0].Number = 81 }, true},
		{"the rule is gone", func(m mesh) *Record { return m.record(1, 0, 200) },
			func(m *mesh) {
				*m = newMesh()
				m.service.Ports[0].Producer.Rules = m.service.Ports[0].Producer.Rules[:1]
			}, true},
		{"another rule is gone", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) {
				*m = newMesh()
				m.service.Ports[0].Producer.Rules = m.service.Ports[0].Producer.Rules[:1]
			}, false},
		{"the rule is a consumer's", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) {
				*m = newMesh()
				p := &m.service.Ports[0]
				p.Consumers, p.Producer = map[string]*model.RouteTable{"shop": p.Producer}, nil
			}, false},
		{"the backend is gone", func(m mesh) *Record { return m.record(0, 0, 200) },
			func(m *mesh) { *m = newMesh(); m.rule(0).Backends = m.rule(0).Backends[1:] }, true},
		{"no rule matched", func(m mesh) *Record { r := m.record(0, 0, 404); r.Rule, r.Backend = nil, nil; return r },
			func(*mesh) {}, false},
		{"no rule matched, and the Service is gone",
			func(m mesh) *Record { r := m.record(0, 0, 404); r.Rule, r.Backend = nil, nil; return r },
			func(m *mesh) { m.service = &model.Service{Namespace: "shop", Name: "x"} }, true},
		{"passed through to the Service's own endpoints", func(m mesh) *Record {
			r := m.record(0, 0, 200)
			r.Rule, r.Backend = nil, &model.Backend{Endpoints: m.service.Ports[0].Default}
			return r
		}, func(*mesh) {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, reg := recorder(t, Options{})
			m := newMesh()
			rec := c.record(m)
			r.Done(rec)
			c.change(&m)
			now := time.Now()
			prune := func(after time.Duration) {
				r.Prune(now.Add(after), []*model.Pod{m.pod}, []*model.Service{m.service})
			}
			prune(0)
			prune(linger - time.Second)
			if n := scrape(t, reg).like("sluice_requests_total").sum(); n != 1 {
				t.Errorf("before five minutes %v requests are counted: want 1", n)
			}
			prune(linger)
			want := 1.0
			if c.gone {
				want = 0
			}
			if n := scrape(t, reg).like("sluice_requests_total").sum(); n != want {
				t.Errorf("after five minutes %v requests are counted: want %v", n, want)
			}
			r.Done(rec) // a straggler
			if n := scrape(t, reg).like("sluice_requests_total").sum(); n != want+1 {
				t.Errorf("thereafter %v requests are counted: want %v", n, want+1)
			}
		})
	}
}

func TestWhatComesBackInTimeIsKept(t *testing.T) {
	r, reg := recorder(t, Options{})
	m := newMesh()
	r.Done(m.record(0, 0, 200))
	now := time.Now()
	pods := []*model.Pod{m.pod}
	r.Prune(now, pods, nil)
	r.Prune(now.Add(linger-2*time.Second), pods, []*model.Service{m.service}) // the route is back
	r.Prune(now.Add(linger), pods, nil)                                       // and gone: five minutes begin anew
	r.Prune(now.Add(2*linger-2*time.Second), pods, nil)
	if n := scrape(t, reg).like("sluice_requests_total").sum(); n != 1 {
		t.Errorf("%v requests are counted: want 1", n)
	}
	r.Prune(now.Add(2*linger), pods, nil)
	if got := scrape(t, reg).like("sluice_requests_total"); len(got) != 0 {
		t.Errorf("after five minutes there still is %v", got)
	}
}

func TestPruneKeepsAClientThatHasSomethingOpen(t *testing.T) {
	r, reg := recorder(t, Options{})
	pod := newMesh().pod
	now := time.Now()
	r.ConnectionOpened(pod)
	r.Prune(now, nil, nil)
	r.Prune(now.Add(linger), nil, nil)
	r.ConnectionClosed(pod)
	want := values{"sluice_connections_total{client=front client_namespace=shop}": 1}
	if got := scrape(t, reg); got.like("sluice_active_connections").sum() != 0 || got.like("sluice_connections_total").sum() != 1 {
		t.Errorf("%v: want none active and %v", got, want)
	}
	r.Prune(now.Add(2*linger), nil, nil) // here it notices first
	r.Prune(now.Add(3*linger), nil, nil)
	if got := scrape(t, reg).like("sluice_connections_total"); len(got) != 0 {
		t.Errorf("after five minutes there still is %v", got)
	}
	if n := r.metrics.pods.count; n != 0 {
		t.Errorf("%d pods are kept in memory", n)
	}
}

// A handle keeps a rule, and with it all of its Service, in memory.
func TestPruneLetsGoOfOldPointersAtOnce(t *testing.T) {
	r, reg := recorder(t, Options{})
	next := newMesh()
	service, pod := func() (weak.Pointer[model.Service], weak.Pointer[model.Pod]) {
		old := newMesh()
		byRule, passed, byPod := old.record(0, 0, 200), old.record(0, 0, 200), next.record(0, 0, 200)
		byRule.Client = next.pod
		passed.Client, passed.Rule = next.pod, nil // to a backend that is old
		byPod.Client = old.pod
		for _, rec := range []*Record{byRule, passed, byPod} {
			r.Done(rec)
		}
		r.ConnectionOpened(old.pod)
		r.ConnectionClosed(old.pod)
		return weak.Make(old.service), weak.Make(old.pod)
	}()
	r.Done(next.record(0, 0, 200))
	noRule := next.record(0, 0, 404)
	noRule.Rule, noRule.Backend = nil, nil
	r.Done(noRule)
	r.Prune(time.Now(), []*model.Pod{next.pod}, []*model.Service{next.service})
	runtime.GC()
	if service.Value() != nil || pod.Value() != nil {
		t.Error("an old version of the model is kept in memory")
	}
	if n := r.metrics.handles.count; n != 2 {
		t.Errorf("%d handles: want that of the rule in force, and that of no rule", n)
	}
	if n := scrape(t, reg).like("sluice_requests_total").sum(); n != 5 {
		t.Errorf("%v requests are counted: want 5", n)
	}
}

func TestPruneMakesRoomForOthers(t *testing.T) {
	m := newMesh()
	r, reg := recorder(t, Options{MaxSeries: 1})
	gone := m.record(0, 0, 200)
	gone.Service.Name = "gone"
	gone.Rule, gone.Backend = nil, nil
	r.Done(gone)
	r.Done(m.record(0, 0, 200)) // other
	now := time.Now()
	for _, after := range []time.Duration{0, linger} {
		r.Prune(now.Add(after), []*model.Pod{m.pod}, []*model.Service{m.service})
	}
	r.Done(m.record(0, 0, 200))
	got := scrape(t, reg)
	if got.like("sluice_requests_total", "service=web").sum() != 1 || got.like("sluice_requests_total", "service=other").sum() != 1 {
		t.Errorf("%v: want one each of web and of other", got.like("sluice_requests_total"))
	}
}

// Changes may come by the hundred: what Prune costs must not.
func TestPruneWorksOnceASecond(t *testing.T) {
	r, _ := recorder(t, Options{})
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		works bool
	}{
		{0, true}, {0, false}, {pruneEvery - 1, false}, {pruneEvery, true}, {2*pruneEvery - 1, false}, {2 * pruneEvery, true},
		{0, true}, // the clock was set back
	} {
		r.Done(newMesh().record(0, 0, 200))
		r.Prune(now.Add(c.after), nil, nil)
		if works := r.metrics.handles.count == 0; works != c.works {
			t.Errorf("after %v it lets go of old handles: %v, want %v", c.after, works, c.works)
		}
	}
}
