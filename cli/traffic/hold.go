package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Hold opens connections, sends a request over each, keeps all of them open and idle, and at the end sends another request
// over each.
type Hold struct {
	Targets     []netip.AddrPort `json:"targets"`
	Connections int              `json:"connections"`
	Opening     int              `json:"opening,omitempty"`  // how many are opened at a time; default 64
	Backends    string           `json:"backends,omitempty"` // as in Load
	Timeout     time.Duration    `json:"timeout,omitempty"`  // of one request; default 10 s
}

// Run calls held when all connections are open and idle, and goes on when ctx ends. The report counts both rounds of
// requests.
func (h Hold) Run(ctx context.Context, held func(*Report)) (*Report, error) {
	l := Load{Targets: h.Targets, Backends: h.Backends, Timeout: h.Timeout}
	if err := l.complete(); err != nil {
		return nil, err
	}
	if h.Connections < 1 {
		return nil, errors.New("hold: no connections to open")
	}
	workers := make([]*worker, h.Connections)
	for i := range workers {
		workers[i] = &worker{load: &l, id: i, target: l.Targets[i%len(l.Targets)]}
		defer workers[i].close()
	}
	start := time.Now()
	whole := newReport()
	h.round(ctx, workers, whole)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("hold: stopped before all of %d connections were open", h.Connections)
	}
	whole.At, whole.Elapsed = time.Now(), time.Since(start)
	held(whole)
	<-ctx.Done()
	h.round(context.WithoutCancel(ctx), workers, whole)
	whole.Final, whole.At, whole.Elapsed = true, time.Now(), time.Since(start)
	return whole, nil
}

// round sends one request over each connection that is open, or that was never tried. One that failed stays closed: a new
// connection would hide that.
func (h Hold) round(ctx context.Context, workers []*worker, sum *Report) {
	opening := h.Opening
	if opening == 0 {
		opening = 64
	}
	queue := make(chan *worker)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range opening {
		group.Go(func() {
			for w := range queue {
				r := w.one(ctx)
				mu.Lock()
				sum.add(r)
				mu.Unlock()
			}
		})
	}
	for _, w := range workers {
		if ctx.Err() != nil {
			break
		}
		if w.conn != nil || w.n == 0 {
			queue <- w
		}
	}
	close(queue)
	group.Wait()
}
