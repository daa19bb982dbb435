package forward

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// lab is a Server in front of backends, in this process and over real sockets.
type lab struct {
	tb       testing.TB
	server   *Server
	client   *Client
	port     *Port
	registry *upstream.Registry
	addr     string // where clients connect to
}

var webKey = model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80}

// newLab serves the route table, with the given backends as the endpoints of shop/web:80.
func newLab(tb testing.TB, table *model.RouteTable, limits Limits, backends ...string) *lab {
	tb.Helper()
	pools := upstream.NewPools(upstream.Limits{})
	l := &lab{tb: tb, registry: upstream.NewRegistry(pools)}
	l.endpoints(webKey, backends...)
	recorder := observe.New(prometheus.NewRegistry(), observe.Options{})
	tb.Cleanup(func() { recorder.Close() })
	l.server = NewServer(Config{Recorder: recorder, Limits: limits, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	l.client = &Client{Pod: &model.Pod{UID: "u", Namespace: "shop", Name: "client"}, Upstream: upstream.NewClient(-1, pools)}
	tb.Cleanup(l.client.Upstream.Close)
	s, err := Compile(l.unit(table), l.registry.Set)
	if err != nil {
		tb.Fatal(err)
	}
	l.port = NewPort(s, 80)
	l.listen()
	return l
}

func (l *lab) unit(table *model.RouteTable) *model.Service {
	return &model.Service{ServiceKey: model.ServiceKey{Namespace: "shop", Name: "web"}, Ports: []model.Port{{
		Number: 80, Default: webKey, Producer: table,
		Frontends: []model.Frontend{{ID: 1, Address: netip.MustParseAddr("10.96.0.10")}},
	}}}
}

func (l *lab) endpoints(key model.EndpointsKey, backends ...string) {
	set := model.EndpointSet{EndpointsKey: key}
	for _, b := range backends {
		set.Endpoints = append(set.Endpoints, model.Endpoint{Address: netip.MustParseAddrPort(b)})
	}
	l.registry.Apply([]model.EndpointSet{set}, nil)
}

// listen accepts as the worker does.
func (l *lab) listen() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.tb.Fatal(err)
	}
	l.addr = ln.Addr().String()
	l.tb.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				continue
			}
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			f.Close()
			if err != nil || unix.SetNonblock(fd, true) != nil {
				continue
			}
			conn, err := sock.Accepted(fd)
			if err != nil {
				continue
			}
			go l.server.Serve(conn, l.client, l.port)
		}
	}()
}

// everything sends all requests to shop/web:80.
func everything() *model.RouteTable {
	return &model.RouteTable{Explicit: true, Rules: []model.Rule{{
		Route:    model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "all"},
		Matches:  []model.Match{{Path: model.PathMatch{Type: model.PathPrefix, Value: "/"}}},
		Backends: []model.Backend{{Weight: 1, Endpoints: webKey}},
	}}}
}

func (l *lab) dial() net.Conn {
	l.tb.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		l.tb.Fatal(err)
	}
	return c
}

func TestGetAndPostOnOneConnection(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Path", r.URL.Path)
		w.Write(append([]byte("got "), body...))
	}))
	defer backend.Close()
	l := newLab(t, everything(), Limits{}, backend.Listener.Addr().String())
	c := l.dial()
	r := bufio.NewReader(c)
	for _, request := range []string{
		"GET /a HTTP/1.1\r\nHost: web\r\n\r\n",
		"POST /b HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello",
		"POST /c HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		body, err := io.ReadAll(resp.Body)
		t.Logf("%d %q %v", resp.StatusCode, body, err)
		if resp.StatusCode != 200 {
			t.Errorf("%q: status %d", request, resp.StatusCode)
		}
	}
}

// BenchmarkExchange is one request and its answer over real sockets, through the Server to a backend in this process.
func BenchmarkExchange(b *testing.B) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok"); err != nil {
						return
					}
				}
			}()
		}
	}()
	l := newLab(b, everything(), Limits{}, backend.Addr().String())
	c := l.dial()
	request := []byte("GET /a/b?c=d HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: bench/1\r\nAccept: */*\r\nX-Canary: true\r\n\r\n")
	answer := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
}
