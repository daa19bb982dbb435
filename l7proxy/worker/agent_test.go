package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/admin"
	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var (
	prefixV4 = netip.MustParsePrefix("127.64.0.0/10")
	prefixV6 = netip.MustParsePrefix("fd6d:6573:6800::/96")
)

// limit is how long anything of a test may take.
const limit = 10 * time.Second

// running is a worker that runs in this process.
type running struct {
	*worker
	t     *testing.T
	log   *lines
	stop  context.CancelFunc
	ended chan struct{}
	err   error // once ended is closed
}

// start starts a worker for the agent that is, or will be, at the socket.
func start(t *testing.T, socket string, change ...func(*Config)) *running {
	t.Helper()
	address, err := admin.ParseAddress("unix:" + filepath.Join(t.TempDir(), "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, log: &lines{}, ended: make(chan struct{})}
	cfg := Config{AgentSocket: socket, Admin: address, DrainTimeout: limit, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, c := range change {
		c(&cfg)
	}
	if r.worker, err = newWorker(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		r.err = r.run(ctx)
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
		if r.err != nil {
			t.Errorf("the worker: %v", r.err)
		}
		if t.Failed() {
			t.Logf("the worker's log:\n%s", r.log)
		}
	})
	return r
}

// get asks the admin server.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	c := http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", strings.TrimPrefix(r.cfg.Admin.String(), "unix:"))
		},
	}}
	var resp *http.Response
	var err error
	eventually(r.t, "the admin server answers", func() bool {
		resp, err = c.Get("http://admin" + path)
		return err == nil
	})
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// agent is the agent's end, played by the test.
type agent struct {
	t         *testing.T
	path      string
	listener  *net.UnixListener
	heartbeat int
	page      []byte
	version   uint64
}

// conversation is one with a worker.
type conversation struct {
	*agent
	conn *net.UnixConn
	*channel.Conn
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, path: filepath.Join(t.TempDir(), "agent.sock")}
	var err error
	if a.heartbeat, err = unix.MemfdCreate("heartbeat", unix.MFD_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(a.heartbeat, int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if a.page, err = unix.Mmap(a.heartbeat, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Munmap(a.page)
		unix.Close(a.heartbeat)
	})
	a.listen()
	return a
}

func (a *agent) listen() {
	a.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { l.Close() })
	a.listener = l
}

// beat is what the kernel's programs would find; 0: nothing was written yet.
func (a *agent) beat() time.Duration { return time.Duration(binary.NativeEndian.Uint64(a.page)) }

// accept takes the next worker's connection, and its Register.
func (a *agent) accept() (*conversation, *model.Register) {
	a.t.Helper()
	if err := a.listener.SetDeadline(time.Now().Add(limit)); err != nil {
		a.t.Fatal(err)
	}
	c, err := a.listener.AcceptUnix()
	if err != nil {
		a.t.Fatalf("no worker came: %v", err)
	}
	a.t.Cleanup(func() { c.Close() })
	v := &conversation{agent: a, conn: c, Conn: channel.New(c)}
	r, ok := v.receive().(*model.Register)
	if !ok {
		a.t.Fatal("the first message is not Register")
	}
	return v, r
}

// converse accepts and says Hello.
func (a *agent) converse() *conversation {
	a.t.Helper()
	c, _ := a.accept()
	c.send(&model.Hello{Protocol: model.ProtocolVersion, Node: "n", PrefixV4: prefixV4, PrefixV6: prefixV6}, a.heartbeat)
	return c
}

func (c *conversation) receive() any {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	msg, fds, err := c.Receive()
	closeAll(fds)
	if err != nil {
		c.t.Fatalf("nothing came from the worker: %v", err)
	}
	return msg
}

func (c *conversation) send(msg any, fds ...int) {
	c.t.Helper()
	if err := c.Send(msg, fds...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conversation) acked(version uint64) []model.Refusal {
	c.t.Helper()
	ack, ok := c.receive().(*model.Ack)
	if !ok || ack.Version != version {
		c.t.Fatalf("got %+v, want the ack of %d", ack, version)
	}
	return ack.Refused
}

func (c *conversation) update(u *model.Update) []model.Refusal {
	c.t.Helper()
	c.version++
	u.Version = c.version
	c.send(u)
	return c.acked(u.Version)
}

// pods sends pods, each with one listener, and takes the ack.
func (c *conversation) pods(m *model.Pods, listeners ...net.Listener) []model.Refusal {
	c.t.Helper()
	c.version++
	m.Version = c.version
	var fds []int
	defer func() { closeAll(fds) }()
	for _, l := range listeners {
		netns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		fds = append(fds, netns, descriptorOf(c.t, l))
	}
	c.send(m, fds...)
	return c.acked(m.Version)
}

// serve tells the worker all that there is: Services, and one pod with a listener.
func (c *conversation) serve(l net.Listener, services ...model.Service) {
	c.t.Helper()
	if refused := c.update(&model.Update{Full: true, Services: services}); len(refused) > 0 {
		c.t.Fatalf("refused: %+v", refused)
	}
	if refused := c.pods(&model.Pods{Added: []model.EnrolledPod{pod("a")}, Complete: true}, l); len(refused) > 0 {
		c.t.Fatalf("refused: %+v", refused)
	}
}

// gone waits for the worker to close the conversation.
func (c *conversation) gone() {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	if msg, _, err := c.Receive(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("got %+v, %v; want the end", msg, err)
	}
}

func pod(uid string) model.EnrolledPod {
	return model.EnrolledPod{UID: uid, Namespace: "shop", Name: uid, Families: []model.Family{model.IPv4}}
}

// answers is a Service on the port under id 1, all of whose requests get the status.
func answers(port uint16, status int) model.Service {
	return model.Service{Namespace: "shop", Name: "web", Ports: []model.Port{{
		Number: port, Default: model.EndpointsKey{Namespace: "shop", Name: "web", Port: port},
		Frontends: []model.Frontend{{ID: 1, Address: netip.MustParseAddr("10.96.0.1")}},
		Producer: &model.RouteTable{Explicit: true, Rules: []model.Rule{{
			Route:   model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "all"},
			Matches: []model.Match{{Path: model.PathMatch{Type: model.PathPrefix, Value: "/"}}},
			Fail:    &model.Failure{Status: status, Reason: "the test says so"},
		}}},
	}}}
}

// listen makes a pod's listener. An address of the prefix that is on the loopback is what the kernel's programs make of
// a frontend's.
func listen(t *testing.T, at string) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func descriptorOf(t *testing.T, l net.Listener) (fd int) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctlErr := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return fd
}

func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ask(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", limit, what)
		}
	}
}
