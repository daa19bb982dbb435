package worker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/state"
	"github.com/sluice-mesh/sluice/tests/need"
)

// client is a connection of the pod to a Service.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, l net.Listener) *client {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return &client{t, c, bufio.NewReader(c)}
}

// resets tells whether a connection to the listener is reset, which may happen before connect(2) has returned.
func resets(t *testing.T, l net.Listener) bool {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if errors.Is(err, unix.ECONNRESET) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return (&client{t, c, bufio.NewReader(c)}).reset()
}

// ask sends a request, and returns the answer; its body is read.
func (c *client) ask() *http.Response {
	c.t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *client) want(status int) {
	c.t.Helper()
	if resp := c.ask(); resp.StatusCode != status {
		c.t.Errorf("status %d, want %d", resp.StatusCode, status)
	}
}

// reset tells whether the connection is reset.
func (c *client) reset() bool {
	_, err := c.r.ReadByte()
	return errors.Is(err, unix.ECONNRESET)
}

func TestItServesWhatTheAgentSays(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c, register := a.accept()
	if register.Protocol != model.ProtocolVersion || register.PID != os.Getpid() {
		t.Errorf("registered as %+v", register)
	}
	ready := func(want string) {
		t.Helper()
		eventually(t, "/readyz says "+want, func() bool { // the worker notes it after its ack
			status, body := w.get("/readyz")
			return (want == "ok") == (status == 200) && strings.Contains(body, want)
		})
	}
	ready("has not sent its model")
	if _, body := w.get("/metrics"); !strings.Contains(body, "sluice_proxy_ready 0") {
		t.Error("/metrics says that it is ready")
	}
	c.send(&model.Hello{Protocol: model.ProtocolVersion, PrefixV4: prefixV4, PrefixV6: prefixV6}, a.heartbeat)
	l, port := listen(t, "127.64.0.1:0")
	c.update(&model.Update{Full: true, Services: []model.Service{answers(port, 501)}})
	ready("has not sent all pods")
	c.pods(&model.Pods{Added: []model.EnrolledPod{pod("a")}}, l)
	ready("has not sent all pods")
	c.pods(&model.Pods{Complete: true})
	ready("ok")
	if status, body := w.get("/healthz"); status != 200 {
		t.Errorf("/healthz: %d %s", status, body)
	}

	kept := dial(t, l)
	kept.want(501)
	c.update(&model.Update{Services: []model.Service{answers(port, 502)}})
	kept.want(502) // an open connection sees the new table with its next request
	other := dial(t, l)
	other.want(502)
	other.Close()

	var dump state.Dump
	if _, body := w.get("/config"); json.Unmarshal([]byte(body), &dump) != nil || dump.Version != c.version || len(dump.Pods) != 1 || dump.Pods[0].Connections == 0 {
		t.Errorf("/config: %+v", dump)
	}
	kept.Close()
	eventually(t, "no connection counts that has ended", func() bool {
		_, body := w.get("/config")
		return json.Unmarshal([]byte(body), &dump) == nil && dump.Pods[0].Connections == 0
	})
	for _, line := range []string{
		"sluice_proxy_ready 1", "sluice_proxy_agent_connected 1", fmt.Sprintf("sluice_proxy_version %d", c.version), "sluice_proxy_refused_units 0",
		"go_goroutines ", "process_open_fds ", `sluice_proxy_reset_connections_total{reason="unknown"} 0`,
	} {
		if _, body := w.get("/metrics"); !strings.Contains(body, line) {
			t.Errorf("/metrics lacks %q", line)
		}
	}
}

// Upstream connections are made in the pod's namespace: from there the server is reached.
func TestRequestsReachEndpoints(t *testing.T) {
	need.Root(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }))
	defer server.Close()
	a := newAgent(t)
	start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	web := answers(port, 500)
	rule := &web.Ports[0].Producer.Rules[0]
	rule.Fail, rule.Backends = nil, []model.Backend{{Weight: 1, Endpoints: web.Ports[0].Default}}
	c.serve(l, web)
	dial(t, l).want(503) // there is none yet
	c.update(&model.Update{Endpoints: []model.EndpointSet{{
		EndpointsKey: web.Ports[0].Default, Endpoints: []model.Endpoint{{Address: netip.MustParseAddrPort(server.Listener.Addr().String())}},
	}}})
	k := dial(t, l)
	k.want(299)
	k.want(299)
}

// A40: the last route goes, and the agent takes away what it told of the Service. Connections that are open, or on their
// way, find the Service's own endpoints.
func TestA40TheLastRouteGoes(t *testing.T) {
	need.Root(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }))
	defer server.Close()
	a := newAgent(t)
	start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	web := answers(port, 501)
	own := web.Ports[0].Default
	c.serve(l, web)
	c.update(&model.Update{Endpoints: []model.EndpointSet{{
		EndpointsKey: own, Endpoints: []model.Endpoint{{Address: netip.MustParseAddrPort(server.Listener.Addr().String())}},
	}}})
	kept, quiet := dial(t, l), dial(t, l)
	kept.want(501)
	quiet.want(501)
	c.update(&model.Update{RemovedServices: []model.ServiceKey{web.ServiceKey}, RemovedEndpoints: []model.EndpointsKey{own}})
	dial(t, l).want(299) // it is passed on byte by byte
	if resp := kept.ask(); resp.StatusCode != 299 || !resp.Close {
		t.Errorf("status %d, its connection closes: %v", resp.StatusCode, resp.Close)
	}
	if _, err := quiet.r.ReadByte(); !errors.Is(err, io.EOF) { // it asks for nothing, and is closed after a grace
		t.Errorf("an idle connection: %v", err)
	}
}

// A route that is deleted and made anew: what stayed open goes on.
func TestA40ARouteComesBack(t *testing.T) {
	a := newAgent(t)
	start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	web := answers(port, 501)
	c.serve(l, web)
	kept := dial(t, l)
	kept.want(501)
	c.update(&model.Update{RemovedServices: []model.ServiceKey{web.ServiceKey}})
	c.update(&model.Update{Services: []model.Service{answers(port, 502)}})
	if resp := kept.ask(); resp.StatusCode != 502 || resp.Close {
		t.Errorf("status %d, its connection closes: %v", resp.StatusCode, resp.Close)
	}
}

// The address at which a connection comes is checked twice: it has to be a known frontend's, and the port that frontend's.
func TestWhatWasNotRedirectedIsReset(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	right, port := listen(t, "127.64.0.1:0")
	c.serve(right, answers(port, 501))
	dial(t, right).want(501)
	for i, wrong := range []struct{ at, reason string }{
		{"127.64.0.1:0", wrongPort},
		{"127.64.0.2:0", unknown},
		{"127.0.0.1:0", notRedirected},
		{"127.64.0.0:0", notRedirected}, // id 0 names nothing
	} {
		l, _ := listen(t, wrong.at)
		c.pods(&model.Pods{Added: []model.EnrolledPod{pod(fmt.Sprint("wrong", i))}}, l)
		before := w.resets(t, wrong.reason)
		if !resets(t, l) {
			t.Errorf("%s: a connection was not reset", wrong.at)
		}
		if n := w.resets(t, wrong.reason) - before; n != 1 {
			t.Errorf("%s: counted %d times as %s", wrong.at, n, wrong.reason)
		}
	}
	log := w.log.String()
	if n := strings.Count(log, "connection reset"); n != 1 || !strings.Contains(log, "reason=wrong_port pod=shop/wrong0 address=127.64.0.1:") {
		t.Errorf("%d lines of the log for 4 resets within a moment:\n%s", n, log)
	}
}

func (r *running) resets(t *testing.T, reason string) int {
	t.Helper()
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, `sluice_proxy_reset_connections_total{reason="`+reason+`"} `); ok {
			var n int
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no counter for %s", reason)
	return 0
}

// A refused unit is acked as such, with a reason; its previous version serves on.
func TestRefusalsAreAcked(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	bad := answers(port, 502)
	bad.Ports[0].Producer.Rules[0].Matches = nil
	refused := c.update(&model.Update{Services: []model.Service{bad}})
	if len(refused) != 1 || refused[0].Service == nil || *refused[0].Service != bad.ServiceKey || !strings.Contains(refused[0].Reason, "matches") {
		t.Fatalf("refused %+v", refused)
	}
	other, _ := listen(t, "127.64.0.1:0")
	refused = c.pods(&model.Pods{Added: []model.EnrolledPod{{UID: "bad", Families: pod("x").Families}}}, other)
	if len(refused) != 1 || refused[0].Pod != "bad" {
		t.Fatalf("refused %+v", refused)
	}
	dial(t, l).want(501)
	if _, body := w.get("/metrics"); !strings.Contains(body, "sluice_proxy_refused_units 2") {
		t.Error("/metrics does not tell of the refused units")
	}
	for _, line := range []string{`unit="Service shop/web"`, `unit="pod bad"`} {
		if !strings.Contains(w.log.String(), line) {
			t.Errorf("the log does not tell of %s", line)
		}
	}
}

// The agent may come late, go, and come back: what is in force serves on, and what ended meanwhile goes when the list of
// pods is complete.
func TestTheAgentComesAndGoes(t *testing.T) {
	a := newAgent(t)
	a.listener.Close()
	w := start(t, a.path)
	eventually(t, "the log tells of a missing agent", func() bool { return strings.Contains(w.log.String(), "no agent") })
	a.listen()
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	ended, _ := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	c.pods(&model.Pods{Added: []model.EnrolledPod{pod("ended")}}, ended)
	ended.Close()
	kept := dial(t, l)
	kept.want(501)

	c.conn.Close()
	a.listener.Close()
	eventually(t, "the worker knows", func() bool { return !w.agent.connected() })
	beat := a.beat()
	kept.want(501)
	dial(t, l).want(501)
	if status, body := w.get("/readyz"); status != 200 {
		t.Errorf("without an agent /readyz is %d %s", status, body)
	}
	eventually(t, "it beats without an agent", func() bool { return a.beat() > beat })

	a.listen()
	c = a.converse()
	c.update(&model.Update{Full: true, Services: []model.Service{answers(port, 502)}})
	kept.want(502)
	// It is not known yet that the pod ended: what is accepted for it is reset, sometimes before connect() has returned.
	switch k, err := net.Dial("tcp", ended.Addr().String()); {
	case err == nil:
		k.Close()
	case !errors.Is(err, syscall.ECONNRESET):
		t.Fatal(err)
	}
	c.pods(&model.Pods{Added: []model.EnrolledPod{pod("a")}, Complete: true}, l)
	kept.want(502)
	dial(t, l).want(502)
	if k, err := net.Dial("tcp", ended.Addr().String()); err == nil {
		k.Close()
		t.Error("a pod that ended while the agent was away is still accepted for")
	}
}

// It is tried again and again, and people are told once.
func TestAnAgentThatHangsUp(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	for range 5 {
		c, _ := a.accept()
		c.conn.Close()
	}
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	if n := strings.Count(w.log.String(), "no agent"); n != 1 {
		t.Errorf("%d lines of the log for one reason", n)
	}
}

// However often the agent comes, no descriptor stays open that is not used.
func TestReconnectsKeepNoDescriptor(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	l, port := listen(t, "127.64.0.1:0")
	once := func() {
		c := a.converse()
		c.serve(l, answers(port, 501))
		c.conn.Close()
		eventually(t, "the worker knows", func() bool { return !w.agent.connected() })
	}
	once()
	before := descriptors(t)
	const times = 10
	for range times {
		once()
	}
	// Each left a listener that is accepted on for two more seconds.
	if n := descriptors(t); n > before+times {
		t.Errorf("%d descriptors, before there were %d", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// An agent that does not fit is left alone, and people learn why.
func TestAnAgentThatDoesNotFit(t *testing.T) {
	hello := model.Hello{Protocol: model.ProtocolVersion, PrefixV4: prefixV4, PrefixV6: prefixV6}
	other, narrow := hello, hello
	other.Protocol++
	narrow.PrefixV4 = netip.MustParsePrefix("127.64.0.0/16")
	for name, c := range map[string]struct {
		msg  any
		fd   func(a *agent) []int
		want string
	}{
		"protocol":  {&other, func(a *agent) []int { return []int{a.heartbeat} }, "run agent and proxy of the same release"},
		"prefix":    {&narrow, func(a *agent) []int { return []int{a.heartbeat} }, "which is no /10 of IPv4"},
		"heartbeat": {&hello, func(a *agent) []int { return []int{descriptorOf(a.t, must(listen(a.t, "127.0.0.1:0")))} }, "map the heartbeat"},
		"no Hello":  {&model.Released{}, func(*agent) []int { return nil }, "not Hello"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			w := start(t, a.path)
			v, _ := a.accept()
			fds := c.fd(a)
			v.send(c.msg, fds...)
			v.gone()
			eventually(t, "the log says why: "+c.want, func() bool { return strings.Contains(w.log.String(), c.want) })
			if w.agent.connected() || w.ready() == nil {
				t.Error("it took the agent all the same")
			}
			// It does not come again and again.
			if err := a.listener.SetDeadline(time.Now().Add(2 * lastRetry)); err != nil {
				t.Fatal(err)
			}
			if k, err := a.listener.AcceptUnix(); err == nil {
				k.Close()
				t.Error("it came again at once")
			}
		})
	}
}

func must(l net.Listener, _ uint16) net.Listener { return l }

// Before the full state is in force nothing may be steered to us; from then on the loop's turns are the proof.
func TestTheHeartbeatBeginsWithTheFullState(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	c.update(&model.Update{}) // not a full one
	turns := w.pulse.turned.Load()
	eventually(t, "the loop turns", func() bool { return w.pulse.turned.Load() > turns })
	if a.beat() != 0 {
		t.Fatal("a heartbeat before the full state")
	}
	c.update(&model.Update{Full: true})
	first := a.beat() // the ack says that it is in force, so that the heartbeat has to be there
	if age := monotonic(t) - first; first == 0 || age < 0 || age > time.Second {
		t.Errorf("the first beat is %v old", age)
	}
	eventually(t, "it goes on", func() bool { return a.beat() > first })
}

// Nobody has to wait for the loop's next turn: a successor of a worker that crashed serves within milliseconds.
func TestTheHeartbeatIsThereAtOnce(t *testing.T) {
	a := newAgent(t)
	start(t, a.path)
	c := a.converse()
	c.update(&model.Update{Full: true})
	if a.beat() == 0 {
		t.Error("no heartbeat")
	}
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// A loop that is stuck does not beat, whatever else of the process lives.
func TestAStuckLoopDoesNotBeat(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	c.update(&model.Update{Full: true})
	l, _ := listen(t, "127.0.0.1:0")
	stuck, free := make(chan struct{}), make(chan struct{})
	s, err := w.loop.Add(descriptorOf(t, l), func(fd int) {
		unix.Close(fd)
		close(stuck)
		<-free
	})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, l)
	<-stuck
	before := a.beat()
	eventually(t, "it is silent", func() bool { return w.pulse.silent() > 3*beatEvery })
	c.update(&model.Update{}) // the rest of the worker works
	if a.beat() != before {
		t.Error("a beat while the loop is stuck")
	}
	w.pulse.turned.Add(-int64(stuckAfter)) // time passes
	if status, body := w.get("/healthz"); status == 200 {
		t.Errorf("/healthz: %d %s", status, body)
	}
	close(free)
	eventually(t, "it beats again", func() bool { return a.beat() > before && w.healthy() == nil })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// The first steps of a stop: the agent is told, connections are accepted until it releases us, and what is queued then
// is served. The answers say that their connection ends.
func TestDrain(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	kept := dial(t, l)
	kept.want(501)

	w.stop()
	if msg, ok := c.receive().(*model.Draining); !ok {
		t.Fatalf("got %T", msg)
	}
	if status, body := w.get("/readyz"); status == 200 || !strings.Contains(body, "stopping") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	dial(t, l).want(501) // nobody released us
	c.update(&model.Update{Services: []model.Service{answers(port, 502)}})
	kept.want(502)
	beat := a.beat()
	eventually(t, "it goes on beating", func() bool { return a.beat() > beat })

	last := dial(t, l)
	l.Close() // the agent's own copy of the listener
	c.send(&model.Released{})
	eventually(t, "the listener is closed", func() bool {
		k, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			k.Close()
		}
		return err != nil
	})
	for name, k := range map[string]*client{"kept": kept, "last": last} {
		if resp := k.ask(); resp.StatusCode != 502 || !resp.Close {
			t.Errorf("%s: status %d, its connection closes: %v", name, resp.StatusCode, resp.Close)
		}
		if _, err := k.r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: after the answer: %v", name, err)
		}
	}
	<-w.ended
	c.gone()
	if log := w.log.String(); !strings.Contains(log, "msg=drained ") || strings.Contains(log, "cut off") {
		t.Error("the log does not say that all ended in order")
	}
}

// While connections drain the agent's changes still count, the master hears of us, and the kernel does not.
func TestWhatGoesOnWhileConnectionsDrain(t *testing.T) {
	a := newAgent(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	w := start(t, a.path, func(cfg *Config) { cfg.Beats, cfg.DrainTimeout = write, limit })
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	open := dial(t, l)
	if _, err := io.WriteString(open, "GET / HTTP/1.1\r\n"); err != nil { // the rest follows later
		t.Fatal(err)
	}
	eventually(t, "it is served", func() bool { return w.server.Open() == 1 })
	w.stop()
	c.receive() // Draining
	c.send(&model.Released{})
	eventually(t, "it drains", func() bool { return strings.Contains(w.log.String(), "msg=draining") })

	late, _ := listen(t, "127.64.0.1:0")
	if refused := c.pods(&model.Pods{Added: []model.EnrolledPod{pod("late")}}, late); len(refused) != 1 || !strings.Contains(refused[0].Reason, "stopping") {
		t.Errorf("a pod that comes now: refused %+v", refused)
	}
	beat := a.beat()
	b := make([]byte, 1<<16)
	if _, err := read.Read(b); err != nil { // what was written before
		t.Fatal(err)
	}
	if _, err := read.Read(b); err != nil {
		t.Fatal(err)
	}
	if a.beat() != beat {
		t.Error("a beat to the kernel, and nobody accepts")
	}
	c.update(&model.Update{Services: []model.Service{answers(port, 502)}})
	c.conn.Close()
	if err := a.listener.SetDeadline(time.Now().Add(2 * lastRetry)); err != nil {
		t.Fatal(err)
	}
	if k, err := a.listener.AcceptUnix(); err == nil {
		k.Close()
		t.Error("it registered again while it stops")
	}
	if _, err := io.WriteString(open, "Host: web\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(open.r, nil); err != nil || resp.StatusCode != 502 {
		t.Errorf("%+v, %v", resp, err)
	}
	<-w.ended
}

// A connection that does not end is cut off when the time-out has passed, and that is no failure.
func TestDrainTakesNoLongerThanItsTimeout(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path, func(cfg *Config) { cfg.DrainTimeout = 100 * time.Millisecond })
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	open := dial(t, l)
	if _, err := io.WriteString(open, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is served", func() bool { return w.server.Open() == 1 })
	w.stop()
	c.receive() // Draining
	c.send(&model.Released{})
	if !open.reset() {
		t.Error("it was not reset")
	}
	<-w.ended
	if w.err != nil || !strings.Contains(w.log.String(), "cut off") {
		t.Errorf("ended with %v", w.err)
	}
}

func TestDrainWithoutAnAgent(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	c.update(&model.Update{Full: true})
	c.conn.Close()
	a.listener.Close()
	eventually(t, "the worker knows", func() bool { return !w.agent.connected() })
	began := time.Now()
	w.stop()
	<-w.ended
	if took := time.Since(began); took > releaseLimit/2 {
		t.Errorf("it took %v", took)
	}
}

// An agent that goes away has released us, as far as anybody can tell.
func TestDrainWhenTheAgentGoes(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	c.update(&model.Update{Full: true})
	w.stop()
	c.receive() // Draining
	c.conn.Close()
	began := time.Now()
	<-w.ended
	if took := time.Since(began); took > releaseLimit/2 {
		t.Errorf("it took %v", took)
	}
}

func TestDrainWithAnAgentThatIsSilent(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	c.update(&model.Update{Full: true})
	began := time.Now()
	w.stop()
	<-w.ended
	if took := time.Since(began); took < releaseLimit || took > 2*releaseLimit {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(w.log.String(), "did not release") {
		t.Error("the log does not say so")
	}
}

// Frames that break the rules end the conversation, not the worker.
func TestAnAgentThatTalksNonsense(t *testing.T) {
	a := newAgent(t)
	w := start(t, a.path)
	c := a.converse()
	l, port := listen(t, "127.64.0.1:0")
	c.serve(l, answers(port, 501))
	if _, err := c.conn.Write([]byte("\x00\x00\x00\x05hello")); err != nil {
		t.Fatal(err)
	}
	c.gone()
	dial(t, l).want(501)
	c = a.converse()
	c.send(&model.Register{Protocol: 1}, a.heartbeat) // which is the proxy's to send
	c.gone()
	dial(t, l).want(501)
	if w.ready() != nil {
		t.Error(w.ready())
	}
}
