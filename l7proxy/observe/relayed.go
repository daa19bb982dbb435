package observe

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// newRelayed counts connections whose bytes are passed on unread. Its series are the ports of Services that have or had
// routes, times a handful of reasons.
func newRelayed() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_relayed_connections_total",
		Help: "Redirected connections that were passed on byte by byte to the Service's own endpoints, by reason.",
	}, []string{"service", "service_namespace", "port", "reason"})
}

// Relayed records that a connection to the port of a Service is passed on byte by byte, and why in one of few words.
func (r *Recorder) Relayed(service model.ServiceKey, port uint16, reason string) {
	r.relayed.WithLabelValues(service.Name, service.Namespace, strconv.Itoa(int(port)), reason).Inc()
}
