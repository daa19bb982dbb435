package worker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// register registers the metrics of the worker itself; what it serves is package observe's.
func (w *worker) register() {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_proxy_" + name, Help: help}, read)
	}
	w.metrics.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), w.refused.total,
		gauge("ready", "1 when all that the agent wants is in force and the proxy does not stop.", func() float64 { return truth(w.ready() == nil) }),
		gauge("agent_connected", "1 while the agent is connected.", func() float64 { return truth(w.agent.connected()) }),
		gauge("version", "Of the agent's last message that was applied.", func() float64 { return float64(w.state.Version()) }),
		gauge("refused_units", "Units of which another version is in force than the agent wants, or none.",
			func() float64 { return float64(w.state.Refused()) }),
		gauge("accept_silence_seconds", "Since the accept loop turned last.", func() float64 { return w.pulse.silent().Seconds() }),
		gauge("open_connections", "Connections of clients that are served.", func() float64 { return float64(w.server.Open()) }),
		gauge("idle_upstream_connections", "Connections to endpoints that are kept for the next request.",
			func() float64 { return float64(w.pools.Idle()) }),
	)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
