package forward

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http1"
	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Limits bound what one client pod may use, and how long things may take. Zero values have the defaults named here.
type Limits struct {
	Connections int64 // of one client pod: 20,000
	Requests    int64 // of one client pod at the same time: 8,192. While it stalls, each holds two buffers of 16 KiB, and 8 KiB of small chunks

	Buffered int64 // bytes of bodies of one client pod that wait for a slow receiver, over HTTP/2: 256 MiB

	Head    int           // bytes of a head: 64 KiB
	Target  int           // bytes of a request's target: 16 KiB
	HeadIn  time.Duration // from a request's first byte to the end of its head: 10 s
	Connect time.Duration // to an endpoint: 5 s
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections: cmp.Or(l.Connections, 20_000),
		Requests:    cmp.Or(l.Requests, 8192),
		Buffered:    cmp.Or(l.Buffered, 256<<20),
		Head:        cmp.Or(l.Head, 64<<10),
		Target:      cmp.Or(l.Target, 16<<10),
		HeadIn:      cmp.Or(l.HeadIn, 10*time.Second),
		Connect:     cmp.Or(l.Connect, 5*time.Second),
	}
}

// Client is a pod whose connections are served: one value for each pod, which its connections share.
type Client struct {
	Pod      *model.Pod
	Upstream *upstream.Client

	connections atomic.Int64
	requests    atomic.Int64
	buffered    atomic.Int64 // bytes
	copies      atomic.Int64 // of requests, that are under way
	gathered    atomic.Int64 // bytes of bodies, for copies that were not sent yet
}

// Config is what a Server needs.
type Config struct {
	Recorder *observe.Recorder
	Limits   Limits
	HTTP2    *http2.Config // what all HTTP/2 connections share; nil: those of clients have one of their own, which nobody looks after
	Log      *slog.Logger
}

// Server serves connections. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	limits  http1.Limits
	buffers http1.Buffers
	pipes   sock.Pipes
	spare   sync.Pool // of *exchange
	calls   sync.Pool // of *call
	copying copying

	draining atomic.Bool
	open     atomic.Int64

	mu       sync.Mutex
	sessions *session // linked by next and before
}

// NewServer makes a Server.
func NewServer(cfg Config) *Server {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	own := http2.Config{Buffers: &http2.Buffers{}}
	if cfg.HTTP2 != nil {
		own = *cfg.HTTP2
	}
	own.Limits.HeaderList, own.Limits.Target = cfg.Limits.Head, cfg.Limits.Target
	cfg.HTTP2 = &own
	return &Server{cfg: cfg, limits: http1.Limits{Head: cfg.Limits.Head, Target: cfg.Limits.Target}}
}

// Open is the number of connections that are served now.
func (s *Server) Open() int64 { return s.open.Load() }

// Serve serves a connection of the client, which was addressed to the port, until it ends, and closes it. A panic costs
// this connection only.
func (s *Server) Serve(c *sock.Conn, client *Client, p *Port) {
	n := &session{server: s, conn: c, client: client, port: p}
	n.in.Reset(c, &s.buffers)
	s.enter(n)
	s.cfg.Recorder.ConnectionOpened(client.Pod)
	client.connections.Add(1)
	defer s.served(n)
	n.serve()
}

// panicked logs what recover returned.
func (s *Server) panicked(v any) {
	s.cfg.Log.Error("a connection was dropped: the proxy has a bug; please report it", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// caught takes what recover returned in a goroutine beside a session's own: a panic there costs its two connections.
func (s *Server) caught(v any, a, b *sock.Conn) {
	if v == nil {
		return
	}
	s.panicked(v)
	a.Reset()
	b.Reset()
}

// served is the end of a connection, however it came.
func (s *Server) served(n *session) {
	if v := recover(); v != nil {
		s.cfg.Log.Error("a connection was dropped: the proxy has a bug; please report it", "panic", fmt.Sprint(v),
			"pod", n.client.Pod.Namespace+"/"+n.client.Pod.Name, "stack", string(debug.Stack()))
		n.conn.Reset()
		n.exchange.abandon()
	}
	_ = n.conn.Close() // it may be closed already
	n.in.Reset(nil, &s.buffers)
	n.client.connections.Add(-1)
	s.cfg.Recorder.ConnectionClosed(n.client.Pod)
	s.leave(n)
}

func (s *Server) enter(n *session) {
	s.open.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n.next = s.sessions
	if n.next != nil {
		n.next.before = n
	}
	s.sessions = n
}

func (s *Server) leave(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.next != nil {
		n.next.before = n.before
	}
	if n.before != nil {
		n.before.next = n.next
	} else {
		s.sessions = n.next
	}
	s.open.Add(-1)
}

const (
	drainLook = 20 * time.Millisecond
	// idleGrace is how long a connection may stay idle once the server drains: its client may be about to send a
	// request, which is better answered with "Connection: close" than met by the end of the connection.
	idleGrace = time.Second
)

// Drain lets what is open come to an end: answers say that their connection closes, and connections that are idle are
// closed after a grace. It returns when nothing is open any more or ctx is done; what is left then is reset.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	began := time.Now()
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	for s.Open() > 0 {
		select {
		case <-tick.C:
			if time.Since(began) >= idleGrace {
				s.closeIdle()
			}
		case <-ctx.Done():
			s.copying.end(nil)
			return s.resetAll()
		}
	}
	return nil
}

// closeIdle ends the connections that wait for a request: their reads find that time is over. The lock keeps a session
// that has just got one from going on before its deadline is set, which it then lifts.
func (s *Server) closeIdle() { s.closeIdleOf(nil) }

// closeIdleOf is closeIdle for the connections of a port, nil is any. It tells whether it found some that are not idle.
func (s *Server) closeIdleOf(p *Port) (others bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := s.sessions; n != nil; n = n.next {
		switch {
		case p != nil && n.port != p:
		case n.drain():
			others = true
		case n.state.CompareAndSwap(idle, closing):
			_ = n.conn.SetReadDeadline(time.Unix(1, 0)) // fails when it was closed meanwhile
		default:
			others = true
		}
	}
	return others
}

// Retire lets the connections of a port come to an end that is not redirected any more, so that they come back direct:
// answers say that their connection closes, and connections that are idle are closed after a grace. It does not wait.
func (s *Server) Retire(p *Port) {
	p.retired.Store(true)
	var look func()
	look = func() {
		if p.retired.Load() && s.closeIdleOf(p) {
			time.AfterFunc(idleGrace, look)
		}
	}
	time.AfterFunc(idleGrace, look)
}

// Cut resets whatever the pod of these upstream connections has open: it has ended, and nothing of ours may keep its
// network namespace.
func (s *Server) Cut(pod *upstream.Client) {
	s.cutSessions(pod)
	s.copying.end(pod) // after those who make more
}

func (s *Server) cutSessions(pod *upstream.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := s.sessions; n != nil; n = n.next {
		if n.client.Upstream == pod {
			n.cut()
		}
	}
}

func (s *Server) resetAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 0
	for n := s.sessions; n != nil; n = n.next {
		left++
		n.cut()
	}
	if left == 0 {
		return nil
	}
	return fmt.Errorf("%d connections did not end in time and were reset", left)
}
