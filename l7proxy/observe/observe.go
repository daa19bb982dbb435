// Package observe turns one record per exchange into metrics and an access log.
package observe

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Record is what is known of one exchange when it has ended. Its strings may be views: Done keeps none of them.
type Record struct {
	Client   *model.Pod // who sent the request; nil: unknown
	Service  model.ServiceKey
	Port     uint16         // of the Service
	Rule     *model.Rule    // one of that port's; nil: none matched, or none applied
	Backend  *model.Backend // nil: none was chosen
	Endpoint netip.AddrPort // the last that was tried; the zero value: none

	Method, Authority, Path string // as the client sent them
	Status                  int    // what the client got; 0: nothing
	GRPC                    GRPC   // how a gRPC call ended
	RequestBytes            int64  // of the body, towards the backend
	ResponseBytes           int64  // of the body, towards the client
	Start                   time.Time
	Duration                time.Duration
	Attempts                int    // connections to endpoints that were tried
	Failure                 string // short code of who failed, one of few: it is a label; "": nobody did
}

// GRPC is the status of a gRPC call, which is known when the answer says it.
type GRPC struct {
	Known bool
	Code  uint8 // 0 to 16
}

// AccessLog says which exchanges are logged.
type AccessLog int

// The levels of the access log.
const (
	Off    AccessLog = iota
	Errors           // those with a failure or a status of 500 and above
	All
)

// ParseAccessLog reads off, errors or all.
func ParseAccessLog(s string) (AccessLog, error) {
	switch s {
	case "off":
		return Off, nil
	case "errors":
		return Errors, nil
	case "all":
		return All, nil
	}
	return Off, fmt.Errorf("access log %q: it is off, errors or all", s)
}

// logs tells whether an exchange is logged.
func (a AccessLog) logs(rec *Record) bool {
	switch a {
	case All:
		return true
	case Errors:
		return rec.Failure != "" || rec.Status >= 500
	default:
		return false
	}
}

// Options configure a Recorder.
type Options struct {
	AccessLog AccessLog
	Output    io.Writer // of the access log; needed unless AccessLog is Off
	MaxSeries int       // sets of labels of exchanges, and of clients; 0: 10,000
	MaxQueue  int       // lines of the access log that wait for Output, of 1 KiB on average; 0: 4,096
}

// Recorder keeps the metrics and the access log. It is safe for concurrent use.
type Recorder struct {
	level    AccessLog
	log      *accessLog
	metrics  *metrics
	relayed  *prometheus.CounterVec
	mirrored *prometheus.CounterVec
}

// New makes a Recorder and registers its metrics with reg. Close ends it.
func New(reg prometheus.Registerer, opts Options) *Recorder {
	r := &Recorder{
		level:    opts.AccessLog,
		log:      newAccessLog(opts.Output, cmp.Or(opts.MaxQueue, 4096)),
		metrics:  newMetrics(cmp.Or(opts.MaxSeries, 10_000)),
		relayed:  newRelayed(),
		mirrored: newMirrored(),
	}
	reg.MustRegister(newCollector(r), r.relayed, r.mirrored)
	if r.level != Off {
		r.log.start()
	}
	return r
}

// Done records an exchange that has ended. It never waits for the access log, and allocates only for what it has not
// seen before.
func (r *Recorder) Done(rec *Record) {
	r.metrics.done(rec)
	if r.level.logs(rec) {
		r.log.put(rec)
	}
}

// ConnectionOpened counts a client's connection as active, until ConnectionClosed.
func (r *Recorder) ConnectionOpened(pod *model.Pod) {
	c := r.metrics.activity(pod)
	c.connections.Add(1)
	c.activeConnections.Add(1)
}

// ConnectionClosed ends what ConnectionOpened began.
func (r *Recorder) ConnectionClosed(pod *model.Pod) {
	r.metrics.activity(pod).activeConnections.Add(-1)
}

// RequestStarted counts a request as active, until RequestEnded.
func (r *Recorder) RequestStarted(pod *model.Pod) {
	r.metrics.activity(pod).activeRequests.Add(1)
}

// RequestEnded ends what RequestStarted began.
func (r *Recorder) RequestEnded(pod *model.Pod) {
	r.metrics.activity(pod).activeRequests.Add(-1)
}

// Prune forgets the series of pods and rules that are no longer in force, five minutes after it noticed first.
// Call it after each change and every minute; it does its work once a second at most. It knows pods and rules by the
// pointers that Records have.
func (r *Recorder) Prune(now time.Time, pods []*model.Pod, services []*model.Service) {
	r.metrics.prune(now, pods, services)
}

// Close writes what the access log still has and stops it. It gives up on an Output that does not take it within two
// seconds. Exchanges that end later are counted, but not logged.
func (r *Recorder) Close() error {
	if r.level == Off {
		return nil
	}
	return r.log.close()
}
