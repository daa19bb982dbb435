package watch

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	errors    *prometheus.CounterVec
	published prometheus.Counter
}

func newMetrics(r prometheus.Registerer, kinds []*kind) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	m := &metrics{
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_agent_watch_errors_total", Help: "Requests for objects that the API server refused or did not answer.",
		}, []string{"kind"}),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_agent_published_sets_total", Help: "Times that the objects read from the API server, or what is wrong with them, changed.",
		}),
	}
	r.MustRegister(m.errors, m.published, counts(kinds))
	return m
}

// counts tells how many objects of each kind there are.
type counts []*kind

func (counts) desc() *prometheus.Desc {
	return prometheus.NewDesc("sluice_agent_objects", "Objects that were read from the API server.", []string{"kind"}, nil)
}

// Describe is part of prometheus.Collector.
func (c counts) Describe(out chan<- *prometheus.Desc) { out <- c.desc() }

// Collect is part of prometheus.Collector.
func (c counts) Collect(out chan<- prometheus.Metric) {
	for _, k := range c {
		out <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(k.objects.len()), k.name)
	}
}
