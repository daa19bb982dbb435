package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Calls is a closed loop of workers that call a unary gRPC method, all of them over one connection to each target, as a gRPC
// channel does. Nothing is called twice: what fails is counted, by gRPC's codes too.
type Calls struct {
	Targets   []netip.AddrPort  `json:"targets"` // workers take turns
	Authority string            `json:"authority,omitempty"`
	Method    string            `json:"method,omitempty"`    // path, such as "/package.Service/Method"; default Method
	Headers   map[string]string `json:"headers,omitempty"`   // metadata
	Fresh     bool              `json:"fresh,omitempty"`     // a connection for each call
	Workers   int               `json:"workers,omitempty"`   // calls at a time; default 1
	Calls     int64             `json:"calls,omitempty"`     // 0: until it is told to stop
	Rate      int               `json:"rate,omitempty"`      // calls a second of all workers; 0: as fast as answers come
	Timeout   time.Duration     `json:"timeout,omitempty"`   // of one call, connecting included; default 10 s
	Snapshots time.Duration     `json:"snapshots,omitempty"` // how often to report in between; 0: never
	Backends  string            `json:"backends,omitempty"`  // prefix that every answering backend's name must have
}

// Run calls until as many calls were made as asked for or ctx ends, and returns the whole. Snapshots go to each, when it is
// not nil.
func (c Calls) Run(ctx context.Context, each func(*Report)) (*Report, error) {
	if len(c.Targets) == 0 {
		return nil, errors.New("calls: no targets")
	}
	c.Workers = max(c.Workers, 1)
	if c.Method == "" {
		c.Method = Method
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	var opened atomic.Int64
	channels := make([]*channel, len(c.Targets))
	for i, target := range c.Targets {
		channels[i] = newChannel(target, &opened)
		defer channels[i].close()
	}
	results := make(chan result, 4096)
	pace := pace{workers: c.Workers, rate: c.Rate, limit: c.Calls}
	var workers sync.WaitGroup
	for i := range c.Workers {
		workers.Go(func() {
			w := caller{calls: &c, id: i, channel: channels[i%len(channels)]}
			pace.run(ctx, i, func() { results <- w.one(ctx) })
		})
	}
	go func() {
		workers.Wait()
		close(results)
	}()
	r := collect(results, c.Snapshots, each)
	r.Connections = opened.Load()
	return r, nil
}

// channel is one connection to a target, made again after it broke.
type channel struct {
	target    netip.AddrPort
	opened    *atomic.Int64
	transport *http.Transport

	mu   sync.Mutex
	conn *http.ClientConn
}

func newChannel(target netip.AddrPort, opened *atomic.Int64) *channel {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &channel{target: target, opened: opened, transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
}

// get is the connection. fresh asks for one of the caller's own, which release closes.
func (c *channel) get(ctx context.Context, fresh bool) (conn *http.ClientConn, release func(), err error) {
	if fresh {
		if conn, err = c.dial(ctx); err != nil {
			return nil, nil, err
		}
		return conn, func() { _ = conn.Close() }, nil // the call is over: nothing can be lost
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil || c.conn.Err() != nil {
		if c.conn, err = c.dial(ctx); err != nil {
			c.conn = nil
			return nil, nil, err
		}
	}
	return c.conn, func() {}, nil
}

func (c *channel) dial(ctx context.Context) (*http.ClientConn, error) {
	conn, err := c.transport.NewClientConn(ctx, "http", c.target.String())
	if err == nil {
		c.opened.Add(1)
	}
	return conn, err
}

// leave makes the next call take another connection.
func (c *channel) leave(conn *http.ClientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

func (c *channel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close() // every call is over
	}
}

// caller makes one call after another.
type caller struct {
	calls   *Calls
	id, n   int
	channel *channel
}

// one makes one call. A call that began is always finished, whatever ctx says: its answer is wanted.
func (w *caller) one(ctx context.Context) result {
	w.n++
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.calls.Timeout)
	defer cancel()
	r := w.call(ctx)
	r.took = time.Since(start)
	if r.failure != nil {
		r.failure.At, r.failure.After, r.failure.Worker, r.failure.Target = start, r.took, w.id, w.channel.target.String()
	}
	return r
}

func (w *caller) call(ctx context.Context) result {
	for {
		conn, release, err := w.channel.get(ctx, w.calls.Fresh)
		if err != nil {
			return failedCall("connect", err)
		}
		r, sent := w.callOver(ctx, conn)
		release()
		if sent {
			return r
		}
	}
}

// callOver makes the call over a connection. False: the connection was ended by the server just now, before anything of the
// call was sent; as a gRPC channel does, it takes another one.
func (w *caller) callOver(ctx context.Context, conn *http.ClientConn) (r result, sent bool) {
	nonce := strconv.Itoa(w.id) + "-" + strconv.Itoa(w.n)
	req, err := w.request(ctx, nonce)
	if err != nil {
		return failedCall("connect", err), true
	}
	resp, err := conn.RoundTrip(req)
	switch {
	case err != nil && !w.calls.Fresh && strings.HasSuffix(err.Error(), "client conn not usable"): // net/http has no name for it
		w.channel.leave(conn)
		return result{}, false
	case err != nil:
		return failedCall("read", err), true
	}
	defer resp.Body.Close()
	return w.calls.judge(resp, nonce), true
}

func (w *caller) request(ctx context.Context, nonce string) (*http.Request, error) {
	target := w.channel.target.String()
	body := bytes.NewReader(appendMessage(nil, text(nonce)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+target+w.calls.Method, body)
	if err != nil {
		return nil, err
	}
	if w.calls.Authority != "" {
		req.Host = w.calls.Authority
	}
	for name, value := range w.calls.Headers {
		req.Header.Set(name, value)
	}
	req.ContentLength = -1 // a gRPC client states none
	req.Header.Set("Content-Type", grpcType)
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", "grpc-sluice-lab/1")
	req.Header.Set("Grpc-Timeout", strconv.FormatInt(w.calls.Timeout.Milliseconds(), 10)+"m")
	req.Header.Set(NonceField, nonce)
	return req, nil
}

// judge reads the answer and tells whether it is the one to this call, a success, and from an expected backend.
func (c *Calls) judge(resp *http.Response, nonce string) result {
	message, readErr := readMessage(resp.Body)
	r := result{status: resp.StatusCode, backend: resp.Header.Get(BackendField), routed: resp.Header.Get(RouteField) != "", grpc: true}
	code, detail, err := statusOf(resp, message == nil)
	r.code = code
	echoed := resp.Header.Get(NonceField)
	wrong := func(kind, format string, args ...any) {
		r.failure = &Failure{Kind: kind, Error: fmt.Sprintf(format, args...)}
	}
	switch {
	case errors.Is(readErr, errMessages): // as clients do: an error of the wire's
		r.code = codeInternal
		wrong("answer", "from backend %q: %v", r.backend, readErr)
	case err != nil:
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			x := failedCall("read", readErr)
			x.status, x.code = r.status, r.code
			return x
		}
		wrong("status", "from backend %q: %v", r.backend, err)
	case code != codeOK:
		wrong("status", "gRPC status %d (%s) from backend %q", code, detail, r.backend)
	case readErr != nil:
		wrong("answer", "status 0 without its message: %v", readErr)
	case r.backend != "" && echoed != nonce:
		wrong("answer", "the answer to call %q came for %q", echoed, nonce)
	case c.Backends != "" && !strings.HasPrefix(r.backend, c.Backends):
		wrong("backend", "backend %q answered", r.backend)
	default:
		if name, err := parseText(message); err != nil || name != r.backend {
			wrong("answer", "the message names %q, the metadata %q: %v", name, r.backend, err)
		}
	}
	return r
}

// statusOf is an answer's gRPC status, from its trailers or, where it is nothing but its header, from that. An HTTP status that is no
// success is what gRPC's mapping makes of it; an answer without a status is an error.
func statusOf(resp *http.Response, headerOnly bool) (code int, detail string, err error) {
	if resp.StatusCode != http.StatusOK {
		return codeOfHTTP(resp.StatusCode), "", fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	from := resp.Trailer
	if headerOnly && from.Get(statusField) == "" {
		from = resp.Header
	}
	code, err = strconv.Atoi(from.Get(statusField))
	if err != nil || !strings.HasPrefix(resp.Header.Get("Content-Type"), grpcType) {
		return codeUnknown, "", fmt.Errorf("no gRPC answer: content type %q, status %q", resp.Header.Get("Content-Type"), from.Get(statusField))
	}
	return code, from.Get("Grpc-Message"), nil
}

// codeOfHTTP is gRPC's "HTTP to gRPC status code mapping".
func codeOfHTTP(status int) int {
	switch status {
	case http.StatusBadRequest:
		return codeInternal
	case http.StatusUnauthorized:
		return codeUnauthenticated
	case http.StatusForbidden:
		return codePermissionDenied
	case http.StatusNotFound:
		return codeUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codeUnavailable
	}
	return codeUnknown
}

// failedCall is a call that had no answer. Clients see DEADLINE_EXCEEDED or UNAVAILABLE then.
func failedCall(doing string, err error) result {
	r := failed(doing, err)
	r.grpc, r.code = true, codeUnavailable
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		r.failure.Kind, r.code = "timeout", codeDeadline
	}
	return r
}
