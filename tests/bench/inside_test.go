package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/config"
)

// serve starts a server and returns its address.
func serve(t *testing.T, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// proxy answers as one should that gives v1 so many of 100 requests.
func proxy(share int) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(config.MatchName) != config.MatchValue || r.Host != config.Host {
			http.NotFound(w, r)
			return
		}
		backend := "v2"
		if int(n.Add(1)*7%100) < share {
			backend = "v1"
		}
		w.Header().Set("x-backend", backend)
	}
}

func TestProbeTakesNothingButAProxyThatRoutes(t *testing.T) {
	anything := func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("x-backend", "v1") }
	nothing := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	weights := map[string]int{"v1": 80, "v2": 20}
	const never, soon = 200 * time.Millisecond, 10 * time.Second
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		shares  map[string]int
		limit   time.Duration
		want    string // in the error; "": there is none
	}{
		{"a proxy", proxy(80), weights, soon, ""},
		{"no proxy", anything, nil, soon, ""},
		{"a Service that answers by itself", anything, weights, never, "status 200, want 404"},
		{"one that answers nothing", nothing, weights, never, "status 503"},
		{"other weights", proxy(50), weights, soon, "want 80 %"},
	} {
		target := serve(t, c.handler)
		p := probe{Target: target, Paths: []string{"/a", "/b"}, Limit: c.limit, Shares: c.shares}
		err := p.run(t.Context())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// caller answers calls as a proxy should that gives v1 so many of 100: h is done to what it answers.
func caller(share int, h func(http.Header)) http.HandlerFunc {
	next := proxy(share)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Method != http.MethodPost || r.Header.Get("Te") != "trailers" || r.Header.Get("Content-Type") != "application/grpc" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if r.Header.Get(config.MatchName) == config.MatchValue {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
			h(w.Header())
		}
		next(w, r)
		if r.Header.Get(config.MatchName) == config.MatchValue {
			_, _ = io.Copy(w, r.Body)
		}
	}
}

func TestProbeOfCallsTakesNothingButAProxyThatRoutes(t *testing.T) {
	weights := map[string]int{"v1": 80, "v2": 20}
	const never, soon = 200 * time.Millisecond, 10 * time.Second
	routes := caller(80, func(http.Header) {})
	unimplemented := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(config.MatchName) == "" {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		routes(w, r)
	}
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		shares  map[string]int
		limit   time.Duration
		want    string // in the error; "": there is none
	}{
		{"a proxy", routes, weights, soon, ""},
		{"one that says UNIMPLEMENTED", unimplemented, weights, soon, ""},
		{"no proxy", routes, nil, soon, ""},
		{"a Service that answers by itself", func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set(config.MatchName, config.MatchValue)
			routes(w, r)
		}, weights, never, "status 200, want 404"},
		{"a status that is no success", caller(80, func(h http.Header) { h.Set(http.TrailerPrefix+"Grpc-Status", "14") }), nil, never, "want the message"},
		{"no trailers", caller(80, func(h http.Header) { h.Del(http.TrailerPrefix + "Grpc-Status") }), nil, never, "want the message"},
		{"no message", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0") }, nil, never, "want the message"},
		{"other weights", caller(50, func(http.Header) {}), weights, soon, "want 80 %"},
	} {
		s := httptest.NewUnstartedServer(c.handler)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		p := probe{Target: netip.MustParseAddrPort(s.Listener.Addr().String()), GRPC: true, Paths: []string{config.GRPCPath}, Limit: c.limit, Shares: c.shares}
		err := p.run(t.Context())
		s.Close()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestProbeWaitsForAProxyThatIsLate(t *testing.T) {
	var asked atomic.Int32
	ready := proxy(100)
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 5 {
			ready(w, r)
		}
	})
	p := probe{Target: target, Paths: []string{"/"}, Limit: 10 * time.Second, Shares: map[string]int{"v1": 100}}
	if err := p.run(t.Context()); err != nil || asked.Load() < 300 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
}

// holdable is a server of the small answer that counts the connections which are open.
func holdable(t *testing.T, status int) (*atomic.Int32, netip.AddrPort) {
	t.Helper()
	open := new(atomic.Int32)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintln(w, "little to say")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return open, netip.MustParseAddrPort(s.Listener.Addr().String())
}

func TestHoldKeepsItsConnectionsUntilToldToEnd(t *testing.T) {
	open, target := holdable(t, http.StatusOK)
	h := hold{Target: target, Connections: 7, Limit: time.Minute}
	said := &awaited{text: held, seen: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx, said) }()
	select {
	case <-said.seen:
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	if got := open.Load(); got != 7 {
		t.Errorf("%d connections are open, want 7", got)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended without being told: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHoldWantsAnAnswerOnEachConnection(t *testing.T) {
	_, target := holdable(t, http.StatusServiceUnavailable)
	h := hold{Target: target, Connections: 2, Limit: time.Minute}
	if err := h.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v, want the answer in it", err)
	}
}

// Whatever pieces a pipe makes of it, what was awaited is seen, once.
func TestAwaitedSeesTextInPieces(t *testing.T) {
	a := &awaited{text: held, seen: make(chan struct{})}
	for i, piece := range []string{"x he", "l", "d\nheld\n", "held"} {
		if n, err := a.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		select {
		case <-a.seen:
			if i < 2 {
				t.Fatalf("seen after piece %d", i)
			}
		default:
			if i >= 2 {
				t.Fatalf("not seen after piece %d", i)
			}
		}
	}
}

// Requests that its Service answered in the proxy's place would make it look cheap.
func TestRequestsThatWentPastTheProxyAreAnError(t *testing.T) {
	for _, c := range []struct {
		before, after float64
		ok            bool
	}{{10, 1010, true}, {10, 1001, true}, {10, 990, false}, {0, 0, false}, {math.NaN(), math.NaN(), true}} {
		err := reading{requests: c.after}.wentThrough(reading{requests: c.before}, 1000)
		if (err == nil) != c.ok {
			t.Errorf("it counted from %g to %g while 1000 were answered: %v", c.before, c.after, err)
		}
	}
}
