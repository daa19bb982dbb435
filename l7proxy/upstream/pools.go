package upstream

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// Limits bound the connections that are kept idle. Zero values have the defaults that are named here.
type Limits struct {
	PerEndpoint int // of one client pod to one endpoint: 256
	PerClient   int // of one client pod: 1024
	PerWorker   int // of all client pods: 8192. Beyond it a client pod may still keep 8 of its own

	// Life is how long a connection is kept idle: 4 s, less than the shortest keep-alive times that servers are known
	// to have (5 s), so that a request seldom meets a server that is just closing.
	Life time.Duration
	// CheckAfter is how long a connection may be idle and still be used unseen: 5 ms. A longer idle one is looked at
	// for the server's FIN first, which costs a system call.
	CheckAfter time.Duration
	// HTTP2Life is how long the HTTP/2 connections to an endpoint are kept without a stream: 30 s.
	HTTP2Life time.Duration
	// Subset is how many endpoints of a set one client pod uses: 100.
	Subset int
}

// guaranteed is what a client may keep whatever the others do, so that the load of one pod does not undo the pools of
// another.
const guaranteed = 8

func (l Limits) withDefaults() Limits {
	return Limits{
		PerEndpoint: cmp.Or(l.PerEndpoint, 256),
		PerClient:   cmp.Or(l.PerClient, 1024),
		PerWorker:   cmp.Or(l.PerWorker, 8192),
		Life:        cmp.Or(l.Life, 4*time.Second),
		CheckAfter:  cmp.Or(l.CheckAfter, 5*time.Millisecond),
		HTTP2Life:   cmp.Or(l.HTTP2Life, 30*time.Second),
		Subset:      cmp.Or(l.Subset, 100),
	}
}

// Pools is what the clients of a worker share: the limits, the count of idle connections and the reaper (Run).
type Pools struct {
	limits Limits
	start  time.Time // durations since then are the clock: cheaper to read and to keep than a time.Time
	idle   atomic.Int64
	woken  chan struct{}
	http2  *http2.Config
	log    *slog.Logger

	mu      sync.Mutex
	clients []*Client
}

// NewPools makes Pools without clients. Nothing of what they keep grows old unless Run runs.
func NewPools(limits Limits) *Pools {
	return &Pools{
		limits: limits.withDefaults(), start: time.Now(), woken: make(chan struct{}, 1),
		http2: &http2.Config{Buffers: &http2.Buffers{}, Keeper: http2.NewKeeper()}, log: slog.New(slog.DiscardHandler),
	}
}

// HTTP2 is what all HTTP/2 connections of the worker share, those of clients as well. Run runs its Keeper.
func (p *Pools) HTTP2() *http2.Config { return p.http2 }

// Log makes the pools say why connections end.
func (p *Pools) Log(log *slog.Logger) { p.log = log }

// Idle is the number of connections that are kept idle now.
func (p *Pools) Idle() int64 { return p.idle.Load() }

// Run closes connections that were idle for too long, or whose endpoint left, until ctx is done.
func (p *Pools) Run(ctx context.Context) {
	var keeper sync.WaitGroup
	defer keeper.Wait()
	keeper.Go(func() { p.http2.Keeper.Run(ctx) })
	tick := time.NewTicker(p.limits.Life / 8)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.woken:
		}
		p.reap()
	}
}

// wake makes Run look at once, without waiting for its next turn.
func (p *Pools) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *Pools) reap() {
	p.mu.Lock()
	clients := slices.Clone(p.clients)
	p.mu.Unlock()
	now := p.now()
	for _, c := range clients {
		c.reap(now - p.limits.Life)
		c.reapMuxes(now, false)
	}
}

func (p *Pools) now() time.Duration { return time.Since(p.start) }

func (p *Pools) add(c *Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients = append(p.clients, c)
}

func (p *Pools) remove(c *Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients = slices.DeleteFunc(p.clients, func(o *Client) bool { return o == c })
}
