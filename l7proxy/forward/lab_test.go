package forward

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// lab is a Server between clients and backends of the test, in this process and over real sockets. When the test is over
// it checks that nothing of what was lent is missing.
type lab struct {
	tb       testing.TB
	server   *Server
	client   *Client
	port     *Port
	registry *upstream.Registry
	pools    *upstream.Pools
	metrics  *prometheus.Registry
	recorder *observe.Recorder
	records  records
	addr     string // where clients connect to

	sets    map[model.EndpointsKey][]netip.AddrPort
	seen    []*upstream.Endpoint
	clients []*Client
}

// setup is what a lab is made of. The zero value is a lab whose port has no table.
type setup struct {
	table  *model.RouteTable
	limits Limits
	pools  upstream.Limits
	log    io.Writer
	port   func(*model.Port) // changes the port before it is compiled
}

var webKey = model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80}

// newLab serves the route table, with limits. Backends are to be added.
func newLab(tb testing.TB, table *model.RouteTable, limits Limits) *lab {
	tb.Helper()
	return setup{table: table, limits: limits}.start(tb)
}

func (s setup) start(tb testing.TB) *lab {
	tb.Helper()
	checkLeaks(tb)
	l := &lab{
		tb: tb, pools: upstream.NewPools(s.pools), metrics: prometheus.NewRegistry(), records: make(records, 1<<10),
		sets: map[model.EndpointsKey][]netip.AddrPort{},
	}
	l.registry = upstream.NewRegistry(l.pools)
	l.apply(webKey)
	level := observe.All
	if _, ok := tb.(*testing.B); ok {
		level = observe.Off
	}
	l.recorder = observe.New(l.metrics, observe.Options{AccessLog: level, Output: l.records})
	log := slog.New(slog.NewTextHandler(cmp.Or(s.log, io.Writer(noBugs{tb})), &slog.HandlerOptions{Level: slog.LevelDebug}))
	l.server = NewServer(Config{Recorder: l.recorder, Limits: s.limits, HTTP2: l.pools.HTTP2(), Log: log})
	l.client = l.newClient("shop", "client")
	keeping, stop := context.WithCancel(context.Background())
	var keeper sync.WaitGroup
	keeper.Go(func() { l.pools.HTTP2().Keeper.Run(keeping) })
	tb.Cleanup(func() {
		stop()
		keeper.Wait()
	})
	unit := unitOf(s.table)
	if s.port != nil {
		s.port(&unit.Ports[0])
	}
	l.port = NewPort(l.compile(unit), 80)
	tb.Cleanup(l.close)
	l.addr = l.listen(l.client)
	return l
}

// noBugs is a log's output that fails the test where a panic was caught.
type noBugs struct{ tb testing.TB }

func (n noBugs) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("the proxy has a bug")) {
		n.tb.Errorf("%s", p)
	}
	return len(p), nil
}

// newClient is a client pod.
func (l *lab) newClient(namespace, name string) *Client {
	c := &Client{
		Pod:      &model.Pod{UID: namespace + name, Namespace: namespace, Name: name},
		Upstream: upstream.NewClient(-1, l.pools),
	}
	l.clients = append(l.clients, c)
	return c
}

// unitOf is the Service shop/web, whose port 80 has the table.
func unitOf(table *model.RouteTable) *model.Service {
	return &model.Service{Namespace: "shop", Name: "web", Ports: []model.Port{{
		Number: 80, Default: webKey, Producer: table,
		Frontends: []model.Frontend{{ID: 1, Address: netip.MustParseAddr("10.96.0.10")}},
	}}}
}

func (l *lab) compile(unit *model.Service) *Service {
	l.tb.Helper()
	if err := unit.Validate(); err != nil {
		l.tb.Fatal(err)
	}
	s, err := Compile(unit, l.registry.Set)
	if err != nil {
		l.tb.Fatal(err)
	}
	return s
}

// apply makes the addresses the endpoints of a set.
func (l *lab) apply(key model.EndpointsKey, addrs ...netip.AddrPort) {
	l.sets[key] = addrs
	set := model.EndpointSet{EndpointsKey: key}
	for _, a := range addrs {
		set.Endpoints = append(set.Endpoints, model.Endpoint{Address: a})
	}
	l.registry.Apply([]model.EndpointSet{set}, nil)
	for _, e := range l.registry.Set(key).Endpoints() {
		if !slices.Contains(l.seen, e) {
			l.seen = append(l.seen, e)
		}
	}
}

// origin makes a backend and adds it to shop/web:80.
func (l *lab) origin() *origin {
	l.tb.Helper()
	return l.originOf(webKey)
}

func (l *lab) originOf(key model.EndpointsKey) *origin {
	l.tb.Helper()
	b := newOrigin(l.tb)
	l.apply(key, append(l.sets[key], b.addr)...)
	return b
}

// listen accepts connections of a client pod, as the worker does, and returns where.
func (l *lab) listen(client *Client) string {
	l.tb.Helper()
	return l.listenOn(client, l.port)
}

func (l *lab) listenOn(client *Client, port *Port) string {
	l.tb.Helper()
	ln := listenTCP(l.tb)
	go func() {
		for {
			fd, err := acceptFD(ln)
			if err != nil {
				return
			}
			if conn, err := sock.New(fd); err == nil {
				go l.server.Serve(conn, client, port)
			}
		}
	}()
	if client != l.client {
		l.tb.Cleanup(client.Upstream.Close)
	}
	return ln.Addr().String()
}

// newest is the connection that came last, nil when none is open.
func (l *lab) newest() *session {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	return l.server.sessions
}

// close waits until everything has come to an end, and checks that each thing that was counted up was counted down.
func (l *lab) close() {
	if !eventually(func() bool { return l.server.Open() == 0 }) {
		l.tb.Errorf("%d connections are still served", l.server.Open())
	}
	for _, c := range l.clients {
		c.Upstream.Close()
		for what, n := range map[string]func() int64{
			"connections": c.connections.Load, "requests under way": c.requests.Load, "bytes buffered": c.buffered.Load,
			"copies under way": c.copies.Load, "bytes gathered": c.gathered.Load,
		} {
			if !eventually(func() bool { return n() == 0 }) {
				l.tb.Errorf("the client pod %s has %d %s at the end", c.Pod.Name, n(), what)
			}
		}
	}
	for _, e := range l.seen {
		if !eventually(func() bool { return e.Outstanding() == 0 }) {
			l.tb.Errorf("endpoint %s has %d outstanding at the end", e.Address, e.Outstanding())
		}
	}
	for _, gauge := range []string{"sluice_active_connections", "sluice_active_requests"} {
		if v := l.metric(gauge); v != 0 {
			l.tb.Errorf("%s is %v at the end", gauge, v)
		}
	}
	if err := l.recorder.Close(); err != nil {
		l.tb.Errorf("close the recorder: %v", err)
	}
}

// metric is the sum of a metric's series, or of those that have all of the labels' values.
func (l *lab) metric(name string, values ...string) (sum float64) {
	l.tb.Helper()
	families, err := l.metrics.Gather()
	if err != nil {
		l.tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := func(v string) bool {
				return slices.ContainsFunc(m.GetLabel(), func(p *dto.LabelPair) bool { return p.GetValue() == v })
			}
			if slices.ContainsFunc(values, func(v string) bool { return !has(v) }) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// wantRelayed: so many connections were relayed, all of them for that reason.
func (l *lab) wantRelayed(n float64, reason string) {
	l.tb.Helper()
	const name = "sluice_relayed_connections_total"
	if got, all := l.metric(name, "shop", "web", "80", reason), l.metric(name); got != n || all != n {
		l.tb.Errorf("%v connections were relayed for the reason %s, of %v; want %v", got, reason, all, n)
	}
}

// everything sends all requests to shop/web:80.
func everything() *model.RouteTable { return routes(ruleFor("/", to(webKey))) }

// routes is the table of a route which names its port.
func routes(rules ...model.Rule) *model.RouteTable {
	for i := range rules {
		rules[i].Index = i
	}
	return &model.RouteTable{Explicit: true, Rules: rules}
}

func ruleFor(prefix string, backends ...model.Backend) model.Rule {
	return model.Rule{
		Route:    model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "all"},
		Matches:  []model.Match{{Path: model.PathMatch{Type: model.PathPrefix, Value: prefix}}},
		Backends: backends,
	}
}

func to(key model.EndpointsKey) model.Backend { return model.Backend{Weight: 1, Endpoints: key} }

// record is a line of the access log.
type record struct {
	Method, Authority, Path, Failure, Endpoint, Route, Rule, Backend, Service string

	ClientPod     string `json:"client_pod"`
	RequestBytes  int    `json:"request_bytes"`
	ResponseBytes int    `json:"response_bytes"`

	Status, Attempts, Port int

	GRPC string `json:"grpc_status"`
}

// records is the access log's output: a test takes one after the other. What nobody takes is dropped.
type records chan record

func (r records) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			return 0, err
		}
		select {
		case r <- rec:
		default:
		}
	}
	return len(p), nil
}

// record waits for the next exchange that has ended.
func (l *lab) record() record {
	l.tb.Helper()
	select {
	case rec := <-l.records:
		return rec
	case <-time.After(patience):
		l.tb.Fatal("no exchange was recorded")
		return record{}
	}
}

// patience is how long a test waits for what has to come. No test relies on it to pass.
const patience = 10 * time.Second

// eventually looks until ok says yes.
func eventually(ok func() bool) bool {
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// checkLeaks fails the test when it leaves goroutines or sockets behind. It is called before anything is made.
func checkLeaks(tb testing.TB) {
	goroutines, sockets := runtime.NumGoroutine(), openSockets(tb)
	tb.Cleanup(func() {
		if eventually(func() bool { return runtime.NumGoroutine() <= goroutines && openSockets(tb) <= sockets }) {
			return
		}
		stacks := make([]byte, 1<<16)
		stacks = stacks[:runtime.Stack(stacks, true)]
		tb.Errorf("goroutines %d -> %d, sockets %d -> %d:\n%s", goroutines, runtime.NumGoroutine(), sockets, openSockets(tb), stacks)
	})
}

// openSockets counts sockets only: the pipes that splicing needs are kept for the next one.
func openSockets(tb testing.TB) (n int) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(dir + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func listenTCP(tb testing.TB) *net.TCPListener {
	tb.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ln.Close() })
	return ln
}

// acceptFD accepts as the accept loop does: what it returns is a bare descriptor.
func acceptFD(ln *net.TCPListener) (fd int, err error) {
	c, err := ln.AcceptTCP()
	if err != nil {
		return -1, err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(accepted uintptr) { fd, dupErr = unix.FcntlInt(accepted, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, cmp.Or(err, dupErr)
}
