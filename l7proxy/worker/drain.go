package worker

import (
	"context"
	"time"
)

// releaseLimit is how long the agent may take to keep new connections from us.
const releaseLimit = 2 * time.Second

// drain lets everything come to an end: first no connection is steered to us any more, then what is queued is accepted,
// and then what is open ends, or is cut off when the time-out has passed.
func (w *worker) drain(running context.Context) {
	began := time.Now()
	w.draining.Store(true)
	limit := time.After(releaseLimit)
	select {
	case <-w.agent.leave():
	case <-limit:
		w.cfg.Log.Warn("the agent did not release this proxy: connections that come now may wait for the next one", "limit", releaseLimit.String())
	}
	w.state.Close()
	if err := w.pulse.close(); err != nil {
		w.cfg.Log.Warn("the heartbeat is not let go of", "error", err)
	}
	w.cfg.Log.Info("draining", "open", w.server.Open(), "limit", w.cfg.DrainTimeout.String())

	ctx, cancel := context.WithTimeout(running, w.cfg.DrainTimeout)
	defer cancel()
	err := w.server.Drain(ctx)
	// Who was accepted last may come to the server only now.
	ended := make(chan struct{})
	go func() {
		w.open.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	if err != nil || ctx.Err() != nil {
		w.cfg.Log.Warn("drained; connections that did not end were cut off", "after", time.Since(began).Round(time.Millisecond).String())
		return
	}
	w.cfg.Log.Info("drained", "after", time.Since(began).Round(time.Millisecond).String())
}
