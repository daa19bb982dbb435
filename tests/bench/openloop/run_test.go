package openloop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve starts a server and returns a load for it that says it wants ok as an answer.
func serve(t *testing.T, handler http.HandlerFunc) Load {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return Load{
		Target: netip.MustParseAddrPort(s.Listener.Addr().String()), Requests: []string{"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "GET /b HTTP/1.1\r\nHost: x\r\n\r\n"},
		Connections: 4, Rate: 500, Duration: 400 * ms,
	}
}

func TestRunSendsEveryRequestAtItsTime(t *testing.T) {
	var a, b atomic.Int32
	l := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a" {
			a.Add(1)
		} else {
			b.Add(1)
		}
		fmt.Fprint(w, "ok")
	})
	l.WarmUp = 100 * ms
	start := time.Now()
	got, err := l.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if elapsed := time.Since(start); elapsed < 490*ms {
		t.Errorf("it took %v: requests were sent before they were due", elapsed)
	}
	if got.Sent != 200 || got.Failed != 0 || got.P50 <= 0 || got.Max < got.P99 || got.P99 < got.P50 {
		t.Errorf("%+v, want 200 sent (the warm-up's 50 do not count) and none failed", got)
	}
	if a.Load() != 125 || b.Load() != 125 {
		t.Errorf("%d and %d requests of the two kinds, want 125 each", a.Load(), b.Load())
	}
}

// The server stalls all connections for 200 ms. At 500 requests a second 100 are due meanwhile.
func TestRunMeasuresFromWhenARequestWasDue(t *testing.T) {
	var stall atomic.Int64
	begin := time.Now()
	l := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(begin) > 100*ms {
			stall.CompareAndSwap(0, time.Since(begin).Nanoseconds()+(200*ms).Nanoseconds())
			time.Sleep(time.Duration(stall.Load()) - time.Since(begin))
		}
		fmt.Fprint(w, "ok")
	})
	got, err := l.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Half of all requests fall into the stall, so that half of them waited; a closed loop sees four slow ones.
	if got.Failed != 0 || got.P90 < 80*ms || got.Max < 150*ms {
		t.Errorf("%+v: the stall of 200 ms is not in the percentiles", got)
	}
}

func TestRunOpensAConnectionForEachRequest(t *testing.T) {
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	l := Load{
		Target: netip.MustParseAddrPort(s.Listener.Addr().String()), Requests: []string{"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"},
		Connections: 16, Rate: 200, Duration: 250 * ms, Fresh: true,
	}
	got, err := l.Run(t.Context())
	if err != nil || got.Sent != 50 || got.Failed != 0 || connections.Load() != 50 {
		t.Errorf("%+v, %v over %d connections, want 50 over 50", got, err, connections.Load())
	}
}

func TestRunCountsFailures(t *testing.T) {
	l := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/b" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	got, err := l.Run(t.Context())
	if err != nil || got.Sent != 200 || got.Failed != 100 || !strings.Contains(got.FirstFailure, "503") {
		t.Errorf("%+v, %v, want 100 of 200 failed by status 503", got, err)
	}
	closed := l
	closed.Target = netip.AddrPortFrom(l.Target.Addr(), unusedPort(t))
	got, err = closed.Run(t.Context())
	if err != nil || got.Sent != 200 || got.Failed != 200 || !strings.Contains(got.FirstFailure, "refused") {
		t.Errorf("nobody listens: %+v, %v, want 200 refused", got, err)
	}
}

func unusedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

func TestRunEndsWithItsContext(t *testing.T) {
	l := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	l.Duration = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 150*ms)
	defer cancel()
	start := time.Now()
	if _, err := l.Run(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
