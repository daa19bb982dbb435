package observe

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func benchRecord() *Record {
	rec := newMesh().record(0, 0, 200)
	rec.Endpoint, rec.Attempts = netip.MustParseAddrPort("10.244.1.17:8080"), 1
	rec.Method, rec.Authority, rec.Path = "GET", "web.shop", "/api/v1/items?page=2"
	rec.Start, rec.Duration, rec.ResponseBytes = time.Now(), 123*time.Microsecond, 512
	return rec
}

// All Ps use one series. With -cpu 1,2 it has to cost half with two, as ns/op are of wall time.
func BenchmarkDone(b *testing.B) {
	r, _ := recorder(b, Options{})
	rec := benchRecord()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		own := *rec
		for pb.Next() {
			r.Done(&own)
		}
	})
}

func BenchmarkRequestStartedAndEnded(b *testing.B) {
	r, _ := recorder(b, Options{})
	pod := benchRecord().Client
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.RequestStarted(pod)
			r.RequestEnded(pod)
		}
	})
}

// What a line of the access log costs its exchange. The benchmark is faster than any load: the queue is emptied by hand.
func BenchmarkAccessLogLine(b *testing.B) {
	l := newAccessLog(nil, 64)
	rec := benchRecord()
	b.ReportAllocs()
	for b.Loop() {
		l.put(rec)
		l.release(<-l.lines)
	}
}

// For comparison with BenchmarkDone: one Observe of client_golang's, its series at hand.
func BenchmarkClientGolangObserve(b *testing.B) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: prometheus.DefBuckets, NativeHistogramBucketFactor: 1.1})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.Observe(0.000123)
		}
	})
}

// manyRules is a model of 1,000 Services with 5 rules each; a record of each rule is done.
func manyRules(r *Recorder) (pods []*model.Pod, services []*model.Service) {
	pod := newMesh().pod
	for i := range 1000 {
		m := newMesh()
		m.service.Name = fmt.Sprint("web-", i)
		table := m.service.Ports[0].Producer
		for len(table.Rules) < 5 {
			rule := table.Rules[0]
			rule.Index = len(table.Rules)
			table.Rules = append(table.Rules, rule)
		}
		for j := range table.Rules {
			rec := m.record(j, 0, 200)
			rec.Client = pod
			r.Done(rec)
		}
		services = append(services, m.service)
	}
	return []*model.Pod{pod}, services
}

func BenchmarkPrune5000Rules(b *testing.B) {
	r, _ := recorder(b, Options{})
	pods, services := manyRules(r)
	now := time.Now()
	for b.Loop() {
		now = now.Add(pruneEvery)
		r.Prune(now, pods, services)
	}
}

func BenchmarkCollect5000Series(b *testing.B) {
	reg := prometheus.NewRegistry()
	r := New(reg, Options{})
	manyRules(r)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
