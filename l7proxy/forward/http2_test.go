package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// versions are what a client or a backend of the test speaks.
type versions struct{ http1, http2 bool }

var (
	onlyHTTP1 = versions{http1: true}
	onlyHTTP2 = versions{http2: true}
	both      = versions{true, true}
)

func (v versions) protocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(v.http1)
	p.SetUnencryptedHTTP2(v.http2)
	return p
}

// backend is a server of the standard library.
type stdBackend struct {
	addr        netip.AddrPort
	connections atomic.Int64
	http2       atomic.Int64 // requests
}

func newStdBackend(tb testing.TB, speaks versions, handler http.HandlerFunc) *stdBackend {
	tb.Helper()
	b := &stdBackend{}
	ln := listenTCP(tb)
	b.addr = netip.MustParseAddrPort(ln.Addr().String())
	srv := &http.Server{
		Protocols: speaks.protocols(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 {
				b.http2.Add(1)
			}
			handler(w, r)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				b.connections.Add(1)
			}
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // until it is closed
	}()
	tb.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return b
}

// httpClient is a client of the standard library whose connections all go to the lab.
func (l *lab) httpClient(speaks versions) *http.Client {
	t := &http.Transport{
		Protocols: speaks.protocols(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.addr)
		},
	}
	l.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// echo answers with the body and the trailers that it got.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 is it by itself
	w.Header().Set("Trailer", "X-Sum")
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("X-Host", r.Host)
	w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
	w.Header().Set("X-Path", r.URL.RequestURI())
	n, _ := io.Copy(w, r.Body)
	w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-End")))
}

// The four combinations of what client and backend speak (design: one message type), bodies and trailers streamed.
func TestRFC9113TranslationCarriesBodiesAndTrailers(t *testing.T) {
	big := make([]byte, 3<<20)
	rand.Read(big)
	for _, c := range []struct {
		name            string
		client, backend versions
		appProtocol     string
		proto           string
	}{
		{"1 to 1", onlyHTTP1, onlyHTTP1, "", "HTTP/1.1"},
		{"1 to 2", onlyHTTP1, onlyHTTP2, "kubernetes.io/h2c", "HTTP/2.0"},
		{"2 to 1", onlyHTTP2, onlyHTTP1, "", "HTTP/1.1"},
		{"2 to 2", onlyHTTP2, onlyHTTP2, "", "HTTP/2.0"},
		{"2 to both", onlyHTTP2, both, "", "HTTP/2.0"},
		{"1 to both", onlyHTTP1, both, "", "HTTP/1.1"},
		{"2 to ws", onlyHTTP2, both, "kubernetes.io/ws", "HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, everything(), Limits{})
			b := newStdBackend(t, c.backend, echo)
			l.appProtocol(webKey, c.appProtocol, b.addr)
			client := l.httpClient(c.client)
			for _, body := range [][]byte{nil, []byte("x"), big} {
				for _, sized := range []bool{true, false} {
					req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://web.shop:80/a%2fb?q=1&r", nil)
					req.Header.Set("Cookie", "a=b; c=d")
					if len(body) > 0 {
						req.Body = io.NopCloser(bytes.NewReader(body))
						if sized {
							req.ContentLength = int64(len(body))
						} else {
							req.ContentLength = -1
							req.Trailer = http.Header{"X-End": {"yes"}}
						}
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, body) {
						t.Fatalf("%d bytes came back, %v; want %d", len(got), err, len(body))
					}
					end := ""
					if len(body) > 0 && !sized {
						end = "yes"
					}
					if sum := resp.Trailer.Get("X-Sum"); sum != fmt.Sprint(len(body), end) {
						t.Errorf("the trailer is %q, want %d%s", sum, len(body), end)
					}
					for name, want := range map[string]string{
						"X-Proto": c.proto, "X-Host": "web.shop:80", "X-Cookie": "a=b; c=d", "X-Path": "/a%2fb?q=1&r",
					} {
						if got := resp.Header.Get(name); got != want {
							t.Errorf("%s is %q, want %q", name, got, want)
						}
					}
				}
			}
			client.CloseIdleConnections()
		})
	}
}

// appProtocol is apply for a Service port that has one.
func (l *lab) appProtocol(key model.EndpointsKey, protocol string, addrs ...netip.AddrPort) {
	l.apply(key, addrs...)
	set := *l.registry.Set(key).Unit()
	set.AppProtocol = protocol
	l.registry.Apply([]model.EndpointSet{set}, nil)
}

// Many calls at a time share a connection on both sides.
func TestManyStreamsShareConnections(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := newStdBackend(t, onlyHTTP2, echo)
	l.apply(webKey, b.addr)
	client := l.httpClient(onlyHTTP2)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				text := fmt.Sprint(i, " ", j)
				resp, err := client.Post("http://web/", "text/plain", strings.NewReader(text))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != text {
					t.Errorf("%q, %v; want %q", got, err, text)
				}
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	if n := b.connections.Load(); n > 2 {
		t.Errorf("%d connections to the backend", n)
	}
	if n := b.http2.Load(); n != 1000 {
		t.Errorf("%d requests at the backend, want 1000", n)
	}
}

// A backend that answers the preface as HTTP/1.1 is remembered, and the request sent again.
func TestA77NotHTTP2IsRemembered(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := newStdBackend(t, onlyHTTP1, echo)
	l.apply(webKey, b.addr)
	client := l.httpClient(onlyHTTP2)
	for range 5 {
		resp, err := client.Post("http://web/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); string(got) != "hello" || resp.Header.Get("X-Proto") != "HTTP/1.1" {
			t.Errorf("%q over %s", got, resp.Header.Get("X-Proto"))
		}
		resp.Body.Close()
		l.wantIdle(1)
	}
	client.CloseIdleConnections()
	if n := b.connections.Load(); n != 2 {
		t.Errorf("%d connections to the backend, want one that was not understood and one that was kept", n)
	}
}
