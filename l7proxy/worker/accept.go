package worker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/state"
)

// Why a connection is reset instead of served: values of a label.
const (
	failed        = "failed"         // the kernel refused something that it never does
	notRedirected = "not_redirected" // it was addressed to the listener itself
	unknown       = "unknown"        // its frontend is not in force
	wrongPort     = "wrong_port"     // its frontend is that of another port
	podGone       = "pod_gone"       // its pod ended
)

// accept is called by the accept loop, which waits for it: everything else happens in the connection's own goroutine.
func (w *worker) accept(fd int, pod *state.Pod) {
	w.open.Add(1)
	go w.serve(fd, pod)
}

// serve serves one connection of the pod. What happens before is in a function of its own: its frame would be in the way of
// a stack that is as small as an idle connection's can be.
func (w *worker) serve(fd int, pod *state.Pod) {
	defer w.open.Done()
	if c, port := w.receive(fd, pod); c != nil {
		defer pod.Leave(c)
		w.server.Serve(c, pod.Serving, port)
	}
}

// receive finds out what a connection of the pod was addressed to, which the pod has entered. Nil: to no frontend, and it
// was reset.
func (w *worker) receive(fd int, pod *state.Pod) (*sock.Conn, *forward.Port) {
	c, err := sock.New(fd)
	if err != nil {
		w.refused.count(failed, pod, "error", err)
		return nil, nil
	}
	local, err := c.Local()
	if err != nil {
		c.Reset()
		w.refused.count(failed, pod, "error", err)
		return nil, nil
	}
	port, why := w.destination(local)
	if why == "" && !pod.Enter(c) {
		why = podGone
	}
	if why != "" {
		c.Reset()
		w.refused.count(why, pod, "address", local)
		return nil, nil
	}
	return c, port
}

// destination tells which port a connection was addressed to, or why to none, from the address at which it was accepted.
func (w *worker) destination(local netip.AddrPort) (*forward.Port, string) {
	prefixes := w.prefixes.Load()
	if prefixes == nil {
		return nil, unknown
	}
	id, ok := prefixes.Frontend(local.Addr())
	if !ok {
		return nil, notRedirected
	}
	frontend, ok := w.state.Frontend(id)
	switch {
	case !ok:
		return nil, unknown
	case frontend.Number != local.Port():
		return nil, wrongPort
	}
	return frontend.Port, ""
}

// refusals counts connections that were reset, and logs some of them.
type refusals struct {
	total *prometheus.CounterVec
	log   *slog.Logger

	mu       sync.Mutex
	next     time.Time // before that nothing is logged
	unlogged int
}

// refusalsEvery is how far apart the lines of the log are: a client may try as often as it likes.
const refusalsEvery = 5 * time.Second

func newRefusals(log *slog.Logger) *refusals {
	r := &refusals{log: log, total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_proxy_reset_connections_total", Help: "Connections that were reset instead of served, by reason.",
	}, []string{"reason"})}
	for _, reason := range []string{failed, notRedirected, unknown, wrongPort, podGone} {
		r.total.WithLabelValues(reason)
	}
	return r
}

func (r *refusals) count(reason string, pod *state.Pod, key string, value any) {
	r.total.WithLabelValues(reason).Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Before(r.next) {
		r.unlogged++
		return
	}
	r.log.Warn("connection reset", "reason", reason, "pod", pod.String(), key, fmt.Sprint(value), "unlogged_before", r.unlogged)
	r.next, r.unlogged = now.Add(refusalsEvery), 0
}
