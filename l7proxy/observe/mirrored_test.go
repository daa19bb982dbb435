package observe

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Copies are counted by the port that was asked and by what became of them, and by nothing that a client can choose.
func TestMirroredRequestsAreCountedByResult(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := New(reg, Options{})
	for i, result := range []string{MirrorSent, MirrorFailed, MirrorDropped} {
		for n := range 3 - i {
			r.Mirrored(&Record{
				Client: &model.Pod{Name: strings.Repeat("c", n+1)}, Service: model.ServiceKey{Namespace: "shop", Name: "web"}, Port: 80,
				Method: "GET", Authority: strings.Repeat("a", n+1), Path: strings.Repeat("/", n+1), Status: 200 + n,
			}, result)
		}
	}
	r.Mirrored(&Record{Service: model.ServiceKey{Namespace: "shop", Name: "web"}, Port: 443}, MirrorSent)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sluice_mirrored_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			got[labels(m)] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"port=80 result=sent service=web service_namespace=shop":    3,
		"port=80 result=failed service=web service_namespace=shop":  2,
		"port=80 result=dropped service=web service_namespace=shop": 1,
		"port=443 result=sent service=web service_namespace=shop":   1,
	}
	if len(got) != len(want) {
		t.Errorf("%d series, want %d: %v", len(got), len(want), got)
	}
	for series, n := range want {
		if got[series] != n {
			t.Errorf("%s is %v, want %v", series, got[series], n)
		}
	}
}

func labels(m *dto.Metric) string {
	var out []string
	for _, l := range m.GetLabel() {
		out = append(out, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(out, " ")
}
