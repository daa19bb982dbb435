package observe

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestRelayedConnectionsAreCountedByReason(t *testing.T) {
	r := New(prometheus.NewRegistry(), Options{})
	web := model.ServiceKey{Namespace: "shop", Name: "web"}
	r.Relayed(web, 80, "tls")
	r.Relayed(web, 80, "tls")
	r.Relayed(web, 443, "other")
	for labels, want := range map[[2]string]float64{{"80", "tls"}: 2, {"443", "other"}: 1, {"443", "tls"}: 0} {
		var m dto.Metric
		if err := r.relayed.WithLabelValues("web", "shop", labels[0], labels[1]).Write(&m); err != nil {
			t.Fatal(err)
		}
		if got := m.Counter.GetValue(); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
}
