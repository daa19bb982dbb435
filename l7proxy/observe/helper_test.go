package observe

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	promodel "github.com/prometheus/common/model"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// mesh is a model to record exchanges of.
type mesh struct {
	pod     *model.Pod
	service *model.Service
}

// newMesh makes one of a pod and of a Service with two rules, of which the second has a name. Each call makes new
// pointers to the same, as a change of the model does.
func newMesh() mesh {
	backend := func(name string) model.Backend {
		return model.Backend{Weight: 1, Endpoints: model.EndpointsKey{Namespace: "shop", Name: name, Port: 8080}}
	}
	route := model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "split"}
	return mesh{
		pod: &model.Pod{UID: "1", Namespace: "shop", Name: "front-5f6d-x2z", Workload: "front"},
		service: &model.Service{Namespace: "shop", Name: "web", Ports: []model.Port{{
			Number: 80, Default: model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80},
			Producer: &model.RouteTable{Rules: []model.Rule{
				{Route: route, Index: 0, Backends: []model.Backend{backend("v1"), backend("v2")}},
				{Route: route, Index: 1, Name: "canary", Backends: []model.Backend{backend("v2")}},
			}},
		}}},
	}
}

func (m mesh) rule(i int) *model.Rule { return &m.service.Ports[0].Producer.Rules[i] }

// record is an exchange of the pod that the rule's backend answered.
func (m mesh) record(rule, backend, status int) *Record {
	r := m.rule(rule)
	return &Record{
		Client: m.pod, Service: m.service.ServiceKey, Port: 80, Rule: r, Backend: &r.Backends[backend], Status: status,
	}
}

// recorder makes a Recorder that the test's end closes.
func recorder(tb testing.TB, opts Options) (*Recorder, *prometheus.Registry) {
	tb.Helper()
	reg := prometheus.NewPedanticRegistry()
	r := New(reg, opts)
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return r, reg
}

// values are the counters and gauges, by "name{label values that are not empty, in the order of the labels' names}".
type values map[string]float64

// scrape reads the metrics in the text format, which is what people and the demo see.
func scrape(tb testing.TB, reg *prometheus.Registry) values {
	tb.Helper()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		tb.Fatalf("the metrics cannot be read: %d %s", rec.Code, rec.Body)
	}
	parser := expfmt.NewTextParser(promodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(rec.Body.Bytes()))
	if err != nil {
		tb.Fatalf("the metrics are not in the text format: %v\n%s", err, rec.Body)
	}
	out := values{}
	for name, f := range families {
		for _, m := range f.Metric {
			switch {
			case m.Counter != nil:
				out[seriesName(name, m)] = m.Counter.GetValue()
			case m.Gauge != nil:
				out[seriesName(name, m)] = m.Gauge.GetValue()
			case m.Histogram != nil:
				out[seriesName(name+"_count", m)] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return out
}

func seriesName(name string, m *dto.Metric) string {
	var of []string
	for _, l := range m.Label {
		if l.GetValue() != "" {
			of = append(of, l.GetName()+"="+l.GetValue())
		}
	}
	return name + "{" + strings.Join(of, " ") + "}"
}

// like picks those whose names begin with prefix and have each of the labels.
func (v values) like(prefix string, labels ...string) values {
	out := values{}
next:
	for name, n := range v {
		if !strings.HasPrefix(name, prefix+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(" "+strings.Trim(name[len(prefix):], "{}")+" ", " "+l+" ") {
				continue next
			}
		}
		out[name] = n
	}
	return out
}

func (v values) sum() float64 {
	sum := 0.0
	for _, n := range v {
		sum += n
	}
	return sum
}

// durations returns the only histogram of the recorder.
func durations(tb testing.TB, reg *prometheus.Registry) *dto.Histogram {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sluice_request_duration_seconds" {
			if len(f.Metric) != 1 {
				tb.Fatalf("%d histograms: want one", len(f.Metric))
			}
			return f.Metric[0].Histogram
		}
	}
	tb.Fatal("there is no histogram")
	return nil
}
