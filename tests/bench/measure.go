package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/bench/config"
	"github.com/sluice-mesh/sluice/tests/bench/openloop"
	"github.com/sluice-mesh/sluice/tests/bench/report"
	"github.com/sluice-mesh/sluice/tests/bench/usage"
)

// measure takes one measurement: start, check, an open loop for the latency, a closed loop for the CPU, stop.
func (p *place) measure(ctx context.Context, j job, o options) (s report.Sample, err error) {
	nan := math.NaN()
	s = report.Sample{
		Workload: j.workload.Name, Proxy: j.proxy, Round: j.round,
		CPU: nan, RPS: nan, P50: nan, P99: nan, P999: nan, Late: nan, RSS: nan, Unused: nan, Idle: nan,
	}
	if err := p.forget(); err != nil {
		return s, err
	}
	r, err := p.start(ctx, j.proxy, j.workload)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil && r.process != nil {
			err = fmt.Errorf("%w; the end of its log:\n%s", err, r.process.Tail(8))
		}
		err = errors.Join(err, r.stop())
	}()
	if err := p.probe(ctx, r, j.workload); err != nil {
		return s, err
	}
	if j.workload.Idle {
		return s, p.idle(ctx, r, j.workload, &s)
	}
	if o.latency && !j.workload.grpc {
		if err := p.openLoop(ctx, r, j.workload, o.duration, &s); err != nil {
			return s, err
		}
	}
	profiled := p.profile(ctx, r, j, o)
	return s, errors.Join(p.closedLoop(ctx, r, j.workload, o.duration, &s), profiled())
}

// profile takes a CPU profile of Sluice's worker while the caller goes on. The result waits for it.
func (p *place) profile(ctx context.Context, r *running, j job, o options) func() error {
	if r.admin == "" || o.profile == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, o.duration+30*time.Second)
		defer cancel()
		body, status, err := lab.Get(ctx, r.admin, fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(o.duration/time.Second)))
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", status, body)
		}
		if err == nil {
			err = os.MkdirAll(o.profile, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(o.profile, fmt.Sprintf("%s.%d.pprof", j.workload.Name, j.round+1)), body, 0o644)
		}
		if err != nil {
			err = fmt.Errorf("profile Sluice's worker: %w", err)
		}
		done <- err
	}()
	return func() error { return <-done }
}

func (p *place) probe(ctx context.Context, r *running, w workload) error {
	q := probe{Target: r.target, GRPC: w.grpc, Paths: config.Paths(w.routes, w.path), Limit: 20 * time.Second}
	if r.process != nil {
		q.Shares = map[string]int{}
		for _, b := range p.backends {
			q.Shares[b.Name] = b.Weight
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.process != nil {
		go func() {
			select {
			case <-r.process.Done(): // one that refuses its configuration need not be waited for
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return p.inside(ctx, "probe", q, nil, 2*q.Limit)
}

func (p *place) openLoop(ctx context.Context, r *running, w workload, duration time.Duration, s *report.Sample) error {
	l := openloop.Load{
		Target: r.target, Connections: w.Connections, Rate: w.Rate, WarmUp: duration / 4, Duration: duration, Fresh: w.fresh,
	}
	if w.fresh {
		l.Connections = 256 // as many as it takes: the rate is what is fixed
	}
	for _, path := range config.Paths(w.routes, w.path) {
		l.Requests = append(l.Requests, config.Request(path, w.fresh))
	}
	var got openloop.Result
	if err := p.inside(ctx, "openloop", l, &got, l.WarmUp+l.Duration+openloop.Limit+10*time.Second); err != nil {
		return err
	}
	s.P50, s.P99, s.P999, s.Late = micro(got.P50), micro(got.P99), micro(got.P999), micro(got.LateP99)
	s.Failures += got.Failed
	s.FirstFailure = got.FirstFailure
	return nil
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (p *place) closedLoop(ctx context.Context, r *running, w workload, duration time.Duration, s *report.Sample) error {
	send := p.wrk
	switch {
	case w.stream:
		send = p.streams
	case w.grpc:
		send = p.h2load
	}
	before, err := read(ctx, r)
	if err != nil {
		return err
	}
	got, err := send(ctx, r, w, duration)
	if err != nil {
		return err
	}
	after, err := read(ctx, r)
	if err != nil {
		return err
	}
	s.RPS = got.rate
	if got.failures > 0 && s.FirstFailure == "" {
		s.FirstFailure = got.first
	}
	s.Failures += got.failures
	if r.process == nil {
		return nil
	}
	if err := after.wentThrough(before, got.requests); err != nil {
		return err
	}
	cpu, err := after.Since(before.Usage)
	if err != nil {
		return err
	}
	s.CPU, s.RSS = micro(cpu)/float64(got.units), megabytes(after.RSS)
	return nil
}

// reading is what a proxy has used so far, and done.
type reading struct {
	usage.Usage
	requests float64 // NaN: it does not say
}

func read(ctx context.Context, r *running) (reading, error) {
	now := reading{requests: math.NaN()}
	if r.process == nil {
		return now, nil
	}
	var err error
	if r.admin != "" {
		if now.requests, err = lab.Metric(ctx, r.admin, "sluice_requests_total"); err != nil {
			return now, err
		}
	}
	now.Usage, err = usage.Of(r.process.PID())
	return now, err
}

// wentThrough is an error when requests of the load were answered, but not through the proxy: its Service answers too when
// a connection is not redirected, and then CPU per request would be too low. Its count may be a little behind.
func (r reading) wentThrough(earlier reading, requests int) error {
	if counted := r.requests - earlier.requests; counted < 0.99*float64(requests) {
		return fmt.Errorf("the proxy counted %.0f of %d requests: the others went past it", counted, requests)
	}
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// settle is how long memory is left alone before it is read: collectors and allocators give back with a delay.
const settle = 2 * time.Second

// idle measures what connections cost that have made a request and are silent since.
func (p *place) idle(ctx context.Context, r *running, w workload, s *report.Sample) error {
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := read(ctx, r)
	if err != nil {
		return err
	}
	h := hold{Target: r.target, Connections: w.Connections, Limit: time.Minute}
	holder, err := p.startHold(ctx, h)
	if err != nil {
		return err
	}
	defer end(holder, 5*time.Second)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	after, err := read(ctx, r)
	if err != nil {
		return err
	}
	if err := after.wentThrough(before, w.Connections); err != nil {
		return err
	}
	if _, err := after.Since(before.Usage); err != nil {
		return err
	}
	s.Unused, s.RSS, s.Idle = megabytes(before.RSS), megabytes(after.RSS), float64(after.RSS-before.RSS)/1e3/float64(w.Connections)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// startHold starts the holder of connections and waits until it has them all.
func (p *place) startHold(ctx context.Context, h hold) (*lab.Process, error) {
	said := &awaited{text: held, seen: make(chan struct{})}
	options := fmt.Sprintf(`{"target":%q,"connections":%d,"limit":%d}`, h.Target, h.Connections, h.Limit)
	process, err := p.client.Start(lab.Command{Name: "hold", Path: p.self, Args: []string{inside, "hold", options}, Stdout: said})
	if err != nil {
		return nil, err
	}
	select {
	case <-said.seen:
		return process, nil
	case <-process.Done():
		return nil, fmt.Errorf("the connections are not held: %s", process.Tail(3))
	case <-time.After(h.Limit / 2):
		err = fmt.Errorf("%d connections are not open after %v", h.Connections, h.Limit/2)
	case <-ctx.Done():
		err = ctx.Err()
	}
	end(process, 0)
	return nil, err
}

// awaited is a writer that closes seen once text was written.
type awaited struct {
	text string
	seen chan struct{}

	mu  sync.Mutex
	got strings.Builder
}

func (a *awaited) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := strings.Contains(a.got.String(), a.text)
	a.got.Write(b)
	if !before && strings.Contains(a.got.String(), a.text) {
		close(a.seen)
	}
	return len(b), nil
}
