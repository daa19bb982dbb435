package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/agent/push"
)

// metrics are those of the agent. The datapath's counters are read when they are asked for.
type metrics struct {
	frontends    prometheus.Gauge
	pods         *prometheus.GaugeVec
	proxies      *prometheus.GaugeVec
	refused      prometheus.Gauge
	live         *prometheus.GaugeVec
	kernelErrors *prometheus.CounterVec
	reset        prometheus.Counter
	compile      prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, n *Node) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_agent_" + name, Help: help})
	}
	byLabel := func(name, help, label string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_agent_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		frontends: gauge("frontends", "Frontends in the kernel."),
		pods:      byLabel("pods", "Pods of the node by state.", "state"),
		proxies:   byLabel("proxies", "Registered proxies by state.", "state"),
		refused:   gauge("refused_units", "Units of which a proxy refused the version that it should have."),
		live:      byLabel("liveness", "1 for the state that the node's proxy is in.", "state"),
		kernelErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_agent_kernel_errors_total", Help: "Steps that the kernel refused. They are repeated.",
		}, []string{"step"}),
		reset: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_agent_reset_connections_total", Help: "Redirected connections that no proxy accepted.",
		}),
		compile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_agent_compile_seconds", Help: "Time to compile the objects.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	reg.MustRegister(m.frontends, m.pods, m.proxies, m.refused, m.live, m.kernelErrors, m.reset, m.compile,
		&counters{node: n, desc: prometheus.NewDesc("sluice_agent_datapath_events_total",
			"What the programs in the kernel decided, by event.", []string{"event"}, nil)})
	return m
}

// update sets the gauges.
func (m *metrics) update(n *Node, proxies []push.Proxy) {
	m.frontends.Set(float64(len(n.frontends.may)))
	for _, s := range []string{StateServing, StateWaiting, StateFailed, StateEnding, StateExcluded} {
		m.pods.WithLabelValues(s).Set(0)
	}
	for _, p := range n.describePods() {
		m.pods.WithLabelValues(p.State).Inc()
	}
	m.proxies.Reset()
	refused := 0
	for _, p := range proxies {
		m.proxies.WithLabelValues(stateOf(p)).Inc()
		refused += len(p.Refused)
	}
	m.refused.Set(float64(refused))
	for _, s := range []State{Waiting, Up, Down} {
		m.live.WithLabelValues(s.String()).Set(0)
	}
	m.live.WithLabelValues(n.live.state.String()).Set(1)
}

// counters collects the datapath's counters.
type counters struct {
	node *Node
	desc *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *counters) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *counters) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var values map[string]uint64
	var err error
	if callErr := c.node.call(ctx, func() { values, err = c.node.kernel.Counters() }); callErr != nil {
		ch <- prometheus.NewInvalidMetric(c.desc, callErr) // the others may be written to later
		return
	}
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.desc, err)
		return
	}
	for event, v := range values {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(v), event)
	}
}
