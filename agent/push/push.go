// Package push gives each proxy of the node its model and its listeners, and knows what each of them acked.
//
// A proxy connects to a unix socket and registers. It gets Hello, a full Update, and, once it was admitted, the pods;
// from then on whatever changes. One message is out at a time: the next one is computed when the ack comes, from what
// the proxy has and what it should have by then, so changes coalesce by themselves and acks cannot be out of order.
package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// State is all that a proxy should have. It is immutable once it was set, and a unit that did not change keeps its
// pointer: that is how a change is seen.
type State struct {
	Services  map[model.ServiceKey]*model.Service
	Endpoints map[model.EndpointsKey]*model.EndpointSet
	Pods      map[string]*Pod // by UID
}

// Pod is an enrolled pod as a proxy is told of it.
type Pod struct {
	model.EnrolledPod
	// Descriptors returns duplicates, which the caller closes: of the network namespace, then of the listener of each
	// family. It fails once the pod was released.
	Descriptors func() ([]int, error)
}

// Proxy is one registered proxy, as it was at one moment. The maps are never edited.
type Proxy struct {
	ID     uint64 // rises: the largest is the newest
	PID    int
	Cgroup uint64 // id of the cgroup that it runs in
	Since  time.Time

	Synced   bool // it acked the full Update
	Admitted bool // it may have listeners
	Ready    bool // and it acked every pod that there was: it serves

	Draining bool      // it is about to stop
	DrainAt  time.Time // since when
	Released bool      // it was told that nothing is steered to it any more

	Services map[model.ServiceKey]*model.Service // what it has in force
	Pods     map[string]*Pod
	Refused  []model.Refusal // units of which the version that it should have was refused
}

// Accepts tells whether connections may end up with the proxy: it has listeners, or is about to get them.
func (p *Proxy) Accepts() bool { return p.Synced && !p.Released }

// Config is what a Server needs. Zero limits have defaults.
type Config struct {
	Socket             string // path of the unix socket
	Node, Zone         string
	PrefixV4, PrefixV6 netip.Prefix  // where redirected connections arrive
	HeartbeatFD        int           // borrowed as long as the Server runs
	Proc               string        // where procfs is mounted, /proc
	Cgroup             string        // a folder of the cgroup2 hierarchy that proxies are in
	RegisterLimit      time.Duration // from connect to Register, 2 s
	AckLimit           time.Duration // from a message to its ack, and for one write, 10 s
	RetryPods          time.Duration // after which a refused pod is offered again, 5 s
	Log                *slog.Logger
}

// Server owns the socket and the conversations. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config
	listener *net.UnixListener
	remove   func() error // of the socket file
	version  atomic.Uint64
	changed  chan struct{}
	identify func(pidfd int) (Peer, error)

	mu       sync.Mutex
	state    *State // nil until the first Set
	sessions map[uint64]*session
	lastID   uint64
}

// Listen makes the socket. A socket file that nobody serves is replaced; one that is served is an error.
func Listen(cfg Config) (*Server, error) {
	l, remove, err := ListenUnix(cfg.Socket)
	if err != nil {
		return nil, err
	}
	s := newServer(cfg)
	s.listener, s.remove = l, remove
	return s, nil
}

func newServer(cfg Config) *Server {
	cfg.RegisterLimit = orDefault(cfg.RegisterLimit, 2*time.Second)
	cfg.AckLimit = orDefault(cfg.AckLimit, 10*time.Second)
	cfg.RetryPods = orDefault(cfg.RetryPods, 5*time.Second)
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, changed: make(chan struct{}, 1), sessions: map[uint64]*session{},
		identify: func(pidfd int) (Peer, error) { return peerOf(pidfd, cfg.Proc, cfg.Cgroup) },
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// Close closes the socket and removes its file.
func (s *Server) Close() error {
	s.listener.Close() // Run may have done so
	return s.remove()
}

// Run serves until ctx is done. Then it ends the conversations, which proxies outlive.
func (s *Server) Run(ctx context.Context) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	for {
		c, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", s.cfg.Socket, err)
		case err != nil: // such as too many open files: it passes
			s.cfg.Log.Error("a proxy cannot be accepted", "socket", s.cfg.Socket, "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		sessions.Go(func() { s.accepted(ctx, c) })
	}
}

func (s *Server) accepted(ctx context.Context, c *net.UnixConn) {
	s.serve(ctx, &wire{UnixConn: c, Conn: channel.New(c), limit: s.cfg.AckLimit})
}

// wire is a channel whose writes have a limit.
type wire struct {
	*net.UnixConn
	*channel.Conn
	limit time.Duration
}

func (w *wire) Close() error { return w.UnixConn.Close() }

func (w *wire) Send(msg any, fds ...int) error {
	if err := w.SetWriteDeadline(time.Now().Add(w.limit)); err != nil {
		return err
	}
	return w.Conn.Send(msg, fds...)
}

// Set says what every proxy should have from now on.
func (s *Server) Set(state *State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	for _, c := range s.sessions {
		c.mark()
	}
}

// Admit lets a proxy that is Synced have the listeners. Until then it gets no pods.
func (s *Server) Admit(id uint64) {
	s.with(id, func(c *session) { c.view.Admitted = true })
}

// Release tells a proxy that is Draining that nothing is steered to it any more.
func (s *Server) Release(id uint64) {
	s.with(id, func(c *session) { c.view.Released = true })
}

func (s *Server) with(id uint64, edit func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.sessions[id]; ok {
		edit(c)
		c.mark()
	}
}

// Changed is marked whenever Proxies has something new to say.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) mark() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Proxies returns those that are registered, the oldest first.
func (s *Server) Proxies() []Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Proxy, 0, len(s.sessions))
	for _, c := range s.sessions {
		all = append(all, c.snapshot())
	}
	slices.SortFunc(all, func(a, b Proxy) int { return int(a.ID) - int(b.ID) })
	return all
}
