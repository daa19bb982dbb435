package observe

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a copy of a request that a RequestMirror asked for.
const (
	MirrorSent    = "sent"    // it was answered, whatever the answer was
	MirrorFailed  = "failed"  // no endpoint answered it
	MirrorDropped = "dropped" // its body was too large, too many were under way, or the request broke off
)

// newMirrored counts copies of requests. Its series are the ports of Services that have or had routes, times three.
func newMirrored() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_mirrored_requests_total",
		Help: "Copies of requests for RequestMirror filters, by what became of them.",
	}, []string{"service", "service_namespace", "port", "result"})
}

// Mirrored records what became of a copy of a request to the Service port that rec names.
func (r *Recorder) Mirrored(rec *Record, result string) {
	r.mirrored.WithLabelValues(rec.Service.Name, rec.Service.Namespace, strconv.Itoa(int(rec.Port)), result).Inc()
}
