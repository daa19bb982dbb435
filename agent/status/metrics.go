package status

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of what is written to the API server.
type metrics struct {
	leader    prometheus.Gauge
	pending   prometheus.Gauge
	writes    *prometheus.CounterVec
	conflicts prometheus.Counter
	failures  *prometheus.CounterVec
	refusing  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_agent_status_" + name, Help: help})
	}
	count := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_agent_status_" + name, Help: help}, []string{"object"})
	}
	m := &metrics{
		leader:   gauge("leader", "1 while this agent is the one that writes the statuses of routes."),
		pending:  gauge("pending", "Routes whose status waits to be written by this agent."),
		refusing: gauge("refusing_nodes", "Nodes whose proxies refused something, as the elected agent knows."),
		writes:   count("writes_total", "Writes to the API server, by what was written."),
		failures: count("failures_total", "Writes that failed, by what was to be written. They are repeated."),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_agent_status_conflicts_total", Help: "Statuses that somebody else wrote at the same time. They are read again.",
		}),
	}
	reg.MustRegister(m.leader, m.pending, m.writes, m.conflicts, m.failures, m.refusing)
	return m
}

// What is written, as the label says it.
const (
	ofRoute = "route"
	ofLease = "lease"
	ofEvent = "event"
	ofMesh  = "mesh"
)

// count notes the outcome of a write.
func (m *metrics) count(object string, err error) {
	if err != nil {
		m.failures.WithLabelValues(object).Inc()
		return
	}
	m.writes.WithLabelValues(object).Inc()
}
