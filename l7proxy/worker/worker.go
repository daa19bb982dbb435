// Package worker is the process that serves: it joins the parts of the proxy, does what the agent says, and drains when
// it is told to stop.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/l7proxy/admin"
	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/state"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Config is what a worker needs.
type Config struct {
	AgentSocket  string // path of the unix socket
	Admin        admin.Address
	Serve        admin.Address // health and metrics for whoever asks; zero: nowhere
	DrainTimeout time.Duration // of connections that are open when the worker is told to stop
	Limits       forward.Limits
	AccessLog    observe.AccessLog
	Output       io.Writer // of the access log
	Beats        *os.File  // the master's pipe; nil: nobody watches
	Log          *slog.Logger
}

// worker is one that runs.
type worker struct {
	cfg      Config
	metrics  *prometheus.Registry
	pulse    *pulse
	loop     *inbound.Loop
	pools    *upstream.Pools
	state    *state.State
	server   *forward.Server
	recorder *observe.Recorder
	refused  *refusals
	agent    link

	prefixes atomic.Pointer[inbound.Prefixes] // nil before the first Hello
	full     atomic.Bool                      // a full Update is in force, and acked
	complete atomic.Bool                      // all pods are in force, and acked
	draining atomic.Bool

	changed chan struct{}  // marked when there are other pods or Services
	open    sync.WaitGroup // connections, each from its accept to its end
}

// Run serves until ctx is done, and then drains, which takes no longer than the agent's release and DrainTimeout. An
// error says why it cannot serve. Whoever calls it ends the process then: what pods keep open is not closed one by one.
func Run(ctx context.Context, cfg Config) error {
	w, err := newWorker(cfg)
	if err != nil {
		return err
	}
	return w.run(ctx)
}

func (w *worker) run(ctx context.Context) (err error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // the parts work while connections drain
	var parts sync.WaitGroup
	defer func() {
		stop()
		parts.Wait()
		err = errors.Join(err, w.loop.Free(), w.recorder.Close())
	}()
	failed := make(chan error, 1)
	parts.Go(func() {
		w.pulse.beat(true) // it runs
		failed <- w.loop.Run(running)
	})
	parts.Go(func() { w.pools.Run(running) })
	parts.Go(func() { w.prune(running) })
	parts.Go(func() { w.follow(running) })
	for _, address := range []admin.Address{w.cfg.Admin, w.cfg.Serve} {
		if !address.IsZero() {
			parts.Go(func() { w.answer(running, address) })
		}
	}
	select {
	case err := <-failed:
		return fmt.Errorf("accepting ended: %w", err)
	case <-ctx.Done():
	}
	w.drain(running)
	return nil
}

// answer serves what operators, probes and Prometheus ask.
func (w *worker) answer(ctx context.Context, at admin.Address) {
	admin.Run(ctx, admin.Config{
		Address: at, Metrics: w.metrics, Log: w.cfg.Log,
		Healthy: w.healthy, Ready: w.ready, Dump: func() any { return w.state.Dump() },
	})
}

func newWorker(cfg Config) (*worker, error) {
	w := &worker{cfg: cfg, metrics: prometheus.NewRegistry(), changed: make(chan struct{}, 1)}
	var err error
	if w.pulse, err = newPulse(cfg.Beats); err != nil {
		return nil, err
	}
	if w.loop, err = inbound.New(w.pulse.beat, cfg.Log); err != nil {
		return nil, err
	}
	w.pools = upstream.NewPools(upstream.Limits{})
	w.pools.Log(cfg.Log)
	w.recorder = observe.New(w.metrics, observe.Options{AccessLog: cfg.AccessLog, Output: cfg.Output})
	w.server = forward.NewServer(forward.Config{Recorder: w.recorder, Limits: cfg.Limits, HTTP2: w.pools.HTTP2(), Log: cfg.Log})
	w.state = state.New(state.Config{
		Registry: upstream.NewRegistry(w.pools), Pools: w.pools, Inbound: w.loop, Log: cfg.Log,
		Accept: w.accept, Retired: w.server.Retire,
		Gone: func(p *state.Pod) { w.server.Cut(p.Serving.Upstream); w.mark() },
	})
	w.refused = newRefusals(cfg.Log)
	w.register()
	return w, nil
}

// healthy tells whether connections are accepted. A process whose loop is stuck still answers here.
func (w *worker) healthy() error {
	if since := w.pulse.silent(); since > stuckAfter {
		return fmt.Errorf("the accept loop is stuck since %v", since.Round(time.Millisecond))
	}
	return nil
}

// ready tells whether the worker serves all that there is. An agent that went away does not change that: what is in
// force serves on.
func (w *worker) ready() error {
	switch {
	case w.draining.Load():
		return errors.New("stopping: what is open comes to an end")
	case !w.full.Load():
		return errors.New("the agent has not sent its model yet")
	case !w.complete.Load():
		return errors.New("the agent has not sent all pods yet")
	}
	return nil
}

func (w *worker) mark() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// pruneEvery is how often metrics are pruned without a change, and pruneHoldOff how long changes gather.
const (
	pruneEvery   = time.Minute
	pruneHoldOff = time.Second
)

// prune has the metrics of what is gone forgotten, until ctx is done.
func (w *worker) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.changed:
		}
		pods, services := w.state.Models()
		w.recorder.Prune(time.Now(), pods, services)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pruneHoldOff):
		}
	}
}
