// Package openloop sends requests at a fixed rate, whatever becomes of the answers, and measures each from the moment at
// which it should have been sent. A proxy that stalls for a second so has a second in its percentiles once for every
// request that was due meanwhile; a closed loop would have waited with it and seen one slow answer (coordinated omission).
package openloop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Load says what to send. It travels as JSON to the process that sends it.
type Load struct {
	Target      netip.AddrPort `json:"target"`
	Requests    []string       `json:"requests"` // whole requests without a body, sent one after another, over and over
	Connections int            `json:"connections"`
	Rate        float64        `json:"rate"`    // requests a second, of all connections together
	WarmUp      time.Duration  `json:"warm_up"` // at the start; not recorded
	Duration    time.Duration  `json:"duration"`
	// Fresh: a new connection for each request, which asks for its end; Connections is how many there may be at once.
	Fresh bool `json:"fresh"`
}

// Limit is how long Run waits for answers after the last request was due. What is missing then has failed.
const Limit = 5 * time.Second

// Validate says what is wrong with the load.
func (l *Load) Validate() error {
	switch {
	case !l.Target.IsValid():
		return errors.New("no target")
	case len(l.Requests) == 0:
		return errors.New("no requests")
	case l.Connections < 1 || l.Connections > 20000:
		return fmt.Errorf("%d connections: want 1 to 20000", l.Connections)
	case l.Rate <= 0 || l.Rate > 1e6:
		return fmt.Errorf("a rate of %g: want more than 0, and 1000000 at most", l.Rate)
	case l.Duration <= 0 || l.Duration > 10*time.Minute || l.WarmUp < 0 || l.WarmUp > time.Minute:
		return fmt.Errorf("a duration of %v after %v: want 10m at most, after 1m at most", l.Duration, l.WarmUp)
	}
	return nil
}

// due is when request k should be sent, from the start.
func (l *Load) due(k int) time.Duration { return time.Duration(float64(k) / l.Rate * 1e9) }

// total is how many requests there are, those of the warm-up included.
func (l *Load) total() int { return int((l.WarmUp + l.Duration).Seconds() * l.Rate) }

// Result is what came of a load.
type Result struct {
	Sent         int    `json:"sent"` // recorded ones, failed ones included
	Failed       int    `json:"failed"`
	FirstFailure string `json:"first_failure,omitempty"`
	Latency
	// LateP99 is how late our own timer was for requests that nothing kept waiting, 99th percentile: what of the
	// latencies is the generator's own.
	LateP99 time.Duration `json:"late_p99"`
}

// Latency is the distribution of the times from when a request should have been sent to the end of its answer.
type Latency struct {
	P50  time.Duration `json:"p50"`
	P90  time.Duration `json:"p90"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p999"`
	Max  time.Duration `json:"max"`
}

// Distribution sorts what was measured and reads the percentiles.
func Distribution(times []time.Duration) Latency {
	slices.Sort(times)
	return Latency{
		P50: Percentile(times, 0.5), P90: Percentile(times, 0.9), P99: Percentile(times, 0.99),
		P999: Percentile(times, 0.999), Max: Percentile(times, 1),
	}
}

// Percentile is the smallest of the sorted values that at least the share p of them does not exceed (nearest rank).
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	n := float64(len(sorted))
	rank := int(p * n)
	if float64(rank) < p*n-1e-9 {
		rank++
	}
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// line is the queue of one connection: at most one request is on the wire, later ones wait and keep the time at which
// they were due. Times are from the start of the load.
type line struct {
	waiting []time.Duration
	sent    time.Duration // when the one on the wire was due
	busy    bool
}

// add queues a request that is due.
func (l *line) add(due time.Duration) { l.waiting = append(l.waiting, due) }

// next takes the request to send now, if the connection is free and one waits.
func (l *line) next() (due time.Duration, ok bool) {
	if l.busy || len(l.waiting) == 0 {
		return 0, false
	}
	l.sent, l.busy = l.waiting[0], true
	l.waiting = l.waiting[:copy(l.waiting, l.waiting[1:])]
	return l.sent, true
}

// answered ends the request on the wire and says how long its user has waited.
func (l *line) answered(now time.Duration) time.Duration {
	l.busy = false
	return now - l.sent
}
