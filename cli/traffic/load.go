package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Connections says how a worker uses connections.
type Connections string

// The ways of using connections.
const (
	KeepAlive Connections = "keep-alive" // one for all of a worker's requests
	New       Connections = "new"        // one for each request
	Mixed     Connections = "mixed"      // workers take turns at the two
)

// Load is a closed loop of workers that send requests and judge the answers. Nothing is sent twice: what fails is counted.
type Load struct {
	Targets     []netip.AddrPort  `json:"targets"` // workers take turns
	Host        string            `json:"host,omitempty"`
	Path        string            `json:"path,omitempty"` // default "/"
	Headers     map[string]string `json:"headers,omitempty"`
	Connections Connections       `json:"connections,omitempty"` // default KeepAlive
	Workers     int               `json:"workers,omitempty"`     // default 1
	Requests    int64             `json:"requests,omitempty"`    // 0: until it is told to stop
	Rate        int               `json:"rate,omitempty"`        // requests a second of all workers; 0: as fast as answers come
	Timeout     time.Duration     `json:"timeout,omitempty"`     // of one request, connecting included; default 10 s
	Snapshots   time.Duration     `json:"snapshots,omitempty"`   // how often to report in between; 0: never
	Statuses    []int             `json:"statuses,omitempty"`    // what counts as success; default 200
	Backends    string            `json:"backends,omitempty"`    // prefix that every answering backend's name must have
}

// Report is what came of a load, or, as a snapshot, what came since the one before.
type Report struct {
	At       time.Time        `json:"at"`
	Elapsed  time.Duration    `json:"elapsed"`
	Requests int64            `json:"requests"` // all, failed ones included
	Failed   int64            `json:"failed"`
	Backends map[string]int64 `json:"backends"` // successes by who answered
	Routed   int64            `json:"routed"`   // successes whose request a route had marked
	Statuses map[int]int64    `json:"statuses"`
	Codes    map[int]int64    `json:"codes,omitempty"` // gRPC's, of calls: what a client would see
	Failures []Failure        `json:"failures"`        // the first of them
	P50      time.Duration    `json:"p50"`
	P99      time.Duration    `json:"p99"`
	Longest  time.Duration    `json:"longest"`
	Final    bool             `json:"final"`

	Connections int64 `json:"connections,omitempty"` // that calls were made over; in the final report
}

// Failure is one request that failed.
type Failure struct {
	At     time.Time     `json:"at"`
	After  time.Duration `json:"after"`
	Worker int           `json:"worker"`
	Target string        `json:"target"`
	Kind   string        `json:"kind"` // connect, refused, reset, timeout, answer, status, backend
	Error  string        `json:"error"`
}

// OK is how many requests succeeded.
func (r *Report) OK() int64 { return r.Requests - r.Failed }

// Share is the part of the successes, between 0 and 1, that the backend answered.
func (r *Report) Share(backend string) float64 {
	if r.OK() == 0 {
		return 0
	}
	return float64(r.Backends[backend]) / float64(r.OK())
}

// Run sends requests until as many were sent as asked for or ctx ends, and returns the whole. Snapshots go to each, when
// it is not nil.
func (l Load) Run(ctx context.Context, each func(*Report)) (*Report, error) {
	if err := l.complete(); err != nil {
		return nil, err
	}
	results := make(chan result, 4096)
	pace := pace{workers: l.Workers, rate: l.Rate, limit: l.Requests}
	var workers sync.WaitGroup
	for i := range l.Workers {
		workers.Go(func() {
			w := &worker{load: &l, id: i, target: l.Targets[i%len(l.Targets)]}
			defer w.close()
			fresh := l.Connections == New || l.Connections == Mixed && i%2 == 1
			pace.run(ctx, i, func() {
				results <- w.one(ctx)
				if fresh {
					w.close()
				}
			})
		})
	}
	go func() {
		workers.Wait()
		close(results)
	}()
	return collect(results, l.Snapshots, each), nil
}

func (l *Load) complete() error {
	if len(l.Targets) == 0 {
		return errors.New("load: no targets")
	}
	l.Workers = max(l.Workers, 1)
	if l.Path == "" {
		l.Path = "/"
	}
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	if len(l.Statuses) == 0 {
		l.Statuses = []int{http.StatusOK}
	}
	switch l.Connections {
	case "":
		l.Connections = KeepAlive
	case KeepAlive, New, Mixed:
	default:
		return fmt.Errorf("load: connections %q: want %s, %s or %s", l.Connections, KeepAlive, New, Mixed)
	}
	return nil
}

// result is one request's.
type result struct {
	backend string
	routed  bool
	status  int
	grpc    bool // code counts
	code    int
	took    time.Duration
	failure *Failure
}

// collect adds up results until the channel is closed.
func collect(results <-chan result, snapshots time.Duration, each func(*Report)) *Report {
	start := time.Now()
	whole, part := newReport(), newReport()
	var tick <-chan time.Time
	if snapshots > 0 && each != nil {
		t := time.NewTicker(snapshots)
		defer t.Stop()
		tick = t.C
	}
	var took []time.Duration
	for {
		select {
		case r, more := <-results:
			if !more {
				whole.Final, whole.At, whole.Elapsed = true, time.Now(), time.Since(start)
				whole.latencies(took)
				return whole
			}
			whole.add(r)
			part.add(r)
			took = append(took, r.took)
		case now := <-tick:
			part.At, part.Elapsed = now, now.Sub(start)
			each(part)
			part = newReport()
		}
	}
}

func newReport() *Report {
	return &Report{Backends: map[string]int64{}, Statuses: map[int]int64{}, Codes: map[int]int64{}}
}

func (r *Report) add(x result) {
	const keep = 50
	r.Requests++
	if x.status != 0 {
		r.Statuses[x.status]++
	}
	if x.grpc {
		r.Codes[x.code]++
	}
	if x.failure != nil {
		r.Failed++
		if len(r.Failures) < keep {
			r.Failures = append(r.Failures, *x.failure)
		}
		return
	}
	r.Backends[x.backend]++
	if x.routed {
		r.Routed++
	}
}

func (r *Report) latencies(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	r.P50, r.P99, r.Longest = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
}

// pace says when workers go on: at a rate, until enough was sent.
type pace struct {
	workers int
	rate    int   // a second, of all workers; 0: at once
	limit   int64 // of all workers; 0: none
	sent    atomic.Int64
}

// run is one worker's: it calls one until enough was sent or ctx ends.
func (p *pace) run(ctx context.Context, id int, one func()) {
	var every time.Duration
	if p.rate > 0 {
		every = time.Second * time.Duration(p.workers) / time.Duration(p.rate)
	}
	next := time.Now().Add(every * time.Duration(id) / time.Duration(p.workers))
	for ctx.Err() == nil {
		if every > 0 {
			if !sleepUntil(ctx, next) {
				return
			}
			next = next.Add(every)
		}
		if p.limit > 0 && p.sent.Add(1) > p.limit {
			return
		}
		one()
	}
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// worker sends one request after another.
type worker struct {
	load   *Load
	id     int
	target netip.AddrPort

	conn net.Conn
	br   *bufio.Reader
	n    int
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// one sends one request. A request that began is always finished, whatever ctx says: its answer is wanted.
func (w *worker) one(ctx context.Context) result {
	start := time.Now()
	r := w.exchange(context.WithoutCancel(ctx), start.Add(w.load.Timeout))
	r.took = time.Since(start)
	if r.failure != nil {
		r.failure.At, r.failure.After, r.failure.Worker, r.failure.Target = start, r.took, w.id, w.target.String()
		w.close()
	}
	return r
}

func (w *worker) exchange(ctx context.Context, deadline time.Time) result {
	w.n++
	if w.conn == nil {
		d := net.Dialer{Deadline: deadline}
		c, err := d.DialContext(ctx, "tcp", w.target.String())
		if err != nil {
			return failed("connect", err)
		}
		w.conn, w.br = c, bufio.NewReader(c)
	}
	if err := w.conn.SetDeadline(deadline); err != nil {
		return failed("connect", err)
	}
	nonce := strconv.Itoa(w.id) + "-" + strconv.Itoa(w.n)
	if _, err := w.conn.Write(w.head(nonce)); err != nil {
		return failed("write", err)
	}
	answer, err := http.ReadResponse(w.br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return failed("read", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return failed("read", err)
	}
	if answer.Close {
		w.close()
	}
	return w.load.judge(answer, nonce)
}

func (w *worker) head(nonce string) []byte {
	host := w.load.Host
	if host == "" {
		host = w.target.String()
	}
	b := make([]byte, 0, 512)
	b = fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n", w.load.Path, host, NonceField, nonce)
	for name, value := range w.load.Headers {
		b = fmt.Appendf(b, "%s: %s\r\n", name, value)
	}
	return append(b, "\r\n"...)
}

// judge tells whether the answer is the one to this request, of an expected status and from an expected backend.
func (l *Load) judge(answer *http.Response, nonce string) result {
	r := result{status: answer.StatusCode, backend: answer.Header.Get(BackendField), routed: answer.Header.Get(RouteField) != ""}
	echoed := answer.Header.Get(NonceField)
	switch {
	case !slices.Contains(l.Statuses, r.status):
		r.failure = &Failure{Kind: "status", Error: fmt.Sprintf("status %d from backend %q", r.status, r.backend)}
	case r.backend != "" && echoed != nonce:
		r.failure = &Failure{Kind: "answer", Error: fmt.Sprintf("the answer to request %q came for %q", echoed, nonce)}
	case l.Backends != "" && !strings.HasPrefix(r.backend, l.Backends):
		r.failure = &Failure{Kind: "backend", Error: fmt.Sprintf("backend %q answered", r.backend)}
	}
	return r
}

func failed(doing string, err error) result {
	kind := doing
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		kind = "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		kind = "refused"
	case doing != "connect" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
		kind = "reset"
	}
	return result{failure: &Failure{Kind: kind, Error: doing + ": " + err.Error()}}
}
