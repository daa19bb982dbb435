package observe

import (
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// collector hands a Recorder's counters to Prometheus when it asks for them.
type collector struct {
	recorder *Recorder

	requests, duration, requestBytes, responseBytes *prometheus.Desc // with the labels of a series
	connections, activeConnections, activeRequests  *prometheus.Desc // with those of a client
	dropped                                         *prometheus.Desc
}

func newCollector(r *Recorder) *collector {
	ofSeries := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, []string{
			"client", "client_namespace", "service", "service_namespace", "port", "route", "rule", "backend", "code", "grpc_status", "failure",
		}, nil)
	}
	ofClient := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_"+name, help, []string{"client", "client_namespace"}, nil)
	}
	return &collector{
		recorder:          r,
		requests:          ofSeries("requests_total", "Requests that have ended. Code 0: the client went away before an answer."),
		duration:          ofSeries("request_duration_seconds", "From a request's first byte to its end."),
		requestBytes:      ofSeries("request_bytes_total", "Bytes of requests' bodies."),
		responseBytes:     ofSeries("response_bytes_total", "Bytes of responses' bodies."),
		connections:       ofClient("connections_total", "Redirected connections that were accepted."),
		activeConnections: ofClient("active_connections", "Redirected connections that are open."),
		activeRequests:    ofClient("active_requests", "Requests that are under way."),
		dropped: prometheus.NewDesc("sluice_access_log_dropped_total",
			"Lines of the access log that were not written: its output is too slow, or fails.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.requests, c.duration, c.requestBytes, c.responseBytes, c.connections, c.activeConnections, c.activeRequests, c.dropped,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := c.recorder.metrics
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.series))
	clients := slices.Collect(maps.Values(m.clients))
	m.mu.Unlock()
	for _, s := range append(all, m.other) {
		if t := s.totals(); t.count > 0 || s != m.other {
			c.collectSeries(ch, t, m.labels(s))
		}
	}
	for _, cl := range clients {
		t := cl.totals()
		ch <- prometheus.MustNewConstMetric(c.connections, prometheus.CounterValue, float64(t.connections), cl.key.name, cl.key.namespace)
		ch <- prometheus.MustNewConstMetric(c.activeConnections, prometheus.GaugeValue, float64(t.activeConnections), cl.key.name, cl.key.namespace)
		ch <- prometheus.MustNewConstMetric(c.activeRequests, prometheus.GaugeValue, float64(t.activeRequests), cl.key.name, cl.key.namespace)
	}
	ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(c.recorder.log.dropped.Load()))
}

func (c *collector) collectSeries(ch chan<- prometheus.Metric, t totals, labels []string) {
	ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(t.count), labels...)
	ch <- prometheus.MustNewConstMetric(c.requestBytes, prometheus.CounterValue, float64(t.requestBytes), labels...)
	ch <- prometheus.MustNewConstMetric(c.responseBytes, prometheus.CounterValue, float64(t.responseBytes), labels...)
	native := prometheus.MustNewConstNativeHistogram(c.duration, t.count, float64(t.micros)/1e6, t.native, nil, t.instant,
		schema, zeroThreshold, c.recorder.metrics.began, labels...)
	ch <- histogram{native, t.buckets()}
}

// histogram is a native histogram with classic buckets beside it: who asks in the text format gets those.
type histogram struct {
	prometheus.Metric
	classic []*dto.Bucket
}

// Write implements prometheus.Metric.
func (h histogram) Write(out *dto.Metric) error {
	if err := h.Metric.Write(out); err != nil {
		return err
	}
	out.Histogram.Bucket = h.classic
	return nil
}

// buckets are the classic buckets, each with those below it.
func (t *totals) buckets() []*dto.Bucket {
	out := make([]*dto.Bucket, len(classicBounds))
	sum := uint64(0)
	for i, n := range t.classic {
		sum += n
		out[i] = &dto.Bucket{CumulativeCount: new(sum), UpperBound: new(classicBounds[i].Seconds())}
	}
	return out
}

// labels are the values for those that newCollector names.
func (m *metrics) labels(s *series) []string {
	if s == m.other {
		return slices.Repeat([]string{other}, 11)
	}
	id := &s.identity
	return []string{
		id.client.name, id.client.namespace, id.scope.service.Name, id.scope.service.Namespace, strconv.Itoa(int(id.scope.port)),
		string(id.scope.appendRoute(nil)), id.scope.rule, string(id.scope.appendBackend(nil)), strconv.Itoa(id.status), id.grpc.String(), id.failure,
	}
}

func (s *series) totals() totals {
	t := totals{native: map[int]int64{}}
	for i := range s.cells {
		if c := s.cells[i].Load(); c != nil {
			t.add(c)
		}
	}
	return t
}

// clientTotals are what the shards of a client add up to.
type clientTotals struct {
	connections                       uint64
	activeConnections, activeRequests int64
}

func (t clientTotals) active() bool { return t.activeConnections > 0 || t.activeRequests > 0 }

func (c *client) totals() clientTotals {
	var t clientTotals
	for i := range c.shards {
		s := &c.shards[i]
		t.connections += s.connections.Load()
		t.activeConnections += s.activeConnections.Load()
		t.activeRequests += s.activeRequests.Load()
	}
	// The shards are not read at one moment: an end may be seen without its beginning.
	t.activeConnections, t.activeRequests = max(0, t.activeConnections), max(0, t.activeRequests)
	return t
}
