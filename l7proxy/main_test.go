package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// asProgram makes the test's own program run as sluice-proxy, and its workers too, which inherit it.
const asProgram = "SLUICE_TEST_PROXY"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestExitStatusAndWords(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--version", 0, "sluice-proxy "},
		{"worker --version", 0, "sluice-proxy "},
		{"--help", 0, "-drain-timeout"},
		{"--nonsense", 2, "sluice-proxy: flag provided but not defined: -nonsense (see --help)\n"},
		{"nonsense", 2, "sluice-proxy: \"nonsense\" is no flag (see --help)\n"},
		{"--admin 0.0.0.0:80", 2, "sluice-proxy: --admin: admin address \"0.0.0.0:80\": it is reachable from elsewhere"},
		{"--admin nowhere", 2, "neither ADDRESS:PORT"},
		{"--serve nowhere", 2, "--serve: address \"nowhere\": it is not ADDRESS:PORT"},
		{"--agent-socket=", 2, "--agent-socket is empty"},
		{"--access-log some", 2, "it is off, errors or all"},
		{"--log-level loud", 2, "log-level"},
		{"--drain-timeout -1s", 2, "--drain-timeout -1s is negative"},
		{"--drain-timeout soon", 2, "drain-timeout"},
		{"--hang-kill 300ms", 2, "at least 1s"},
		{"--threads -1", 2, "--threads -1 is negative"},
		{"--max-head 0", 2, "have to be more than 0"},
		{"worker --threads -1", 2, "--threads -1 is negative"},
	} {
		var out, errOut bytes.Buffer
		status := run(strings.Fields(c.args), &out, &errOut)
		said := out.String() + errOut.String()
		if status != c.status || !strings.Contains(said, c.want) {
			t.Errorf("%s: status %d, %q; want %d, %q", c.args, status, said, c.status, c.want)
		}
		if status == 2 && (out.Len() > 0 || strings.Count(said, "\n") != 1) {
			t.Errorf("%s: more than one line on standard error: %q", c.args, said)
		}
	}
}

func TestFlags(t *testing.T) {
	s, err := parse(strings.Fields("--agent-socket /a --admin unix:/b --drain-timeout 3s --access-log all --log-level warn --threads 3 --hang-kill 7s "+
		"--max-connections 1 --max-requests 2 --max-head 3 --max-target 4 --head-timeout 5s --connect-timeout 6s"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	w, l := s.worker, s.worker.Limits
	got := fmt.Sprint(w.AgentSocket, w.Admin, w.DrainTimeout, w.AccessLog, s.logLevel, s.threads, s.hangKill, l.Connections, l.Requests, l.Head, l.Target, l.HeadIn, l.Connect)
	if want := "/aunix:/b 3s 2 WARN 3 7s 1 2 3 4 5s 6s"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s, err = parse(nil, io.Discard)
	if w := s.worker; err != nil || w.AgentSocket != "/run/sluice/agent.sock" || w.Admin.String() != "127.0.0.1:15020" || w.DrainTimeout != 25*time.Second || s.hangKill != 10*time.Second {
		t.Errorf("%+v, %v", s, err)
	}
}

// program is sluice-proxy as it runs, and its agent, which the test plays.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	agent  *net.UnixListener
	admin  string
	stderr *output
}

type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

const limit = 20 * time.Second

func startProgram(t *testing.T, flags ...string) *program {
	t.Helper()
	return startPrinting(t, nil, flags...)
}

// startPrinting starts it with its standard error going there.
func startPrinting(t *testing.T, stderr *os.File, flags ...string) *program {
	t.Helper()
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "agent.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &program{t: t, agent: l, admin: filepath.Join(dir, "admin.sock"), stderr: &output{}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(self, append([]string{"--agent-socket", l.Addr().String(), "--admin", "unix:" + p.admin}, flags...)...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stderr = p.stderr
	if stderr != nil {
		p.cmd.Stderr = stderr
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()         // likewise; workers end with it
		if t.Failed() {
			t.Logf("it said:\n%s", p.stderr)
		}
	})
	return p
}

// conversation is one with a worker.
type conversation struct {
	t    *testing.T
	conn *net.UnixConn
	*channel.Conn
	pid int
}

// worker takes the next worker's registration.
func (p *program) worker() *conversation {
	p.t.Helper()
	if err := p.agent.SetDeadline(time.Now().Add(limit)); err != nil {
		p.t.Fatal(err)
	}
	c, err := p.agent.AcceptUnix()
	if err != nil {
		p.t.Fatalf("no worker came: %v", err)
	}
	p.t.Cleanup(func() { c.Close() })
	v := &conversation{t: p.t, conn: c, Conn: channel.New(c)}
	msg, err := v.next()
	register, ok := msg.(*model.Register)
	if !ok {
		p.t.Fatalf("got %+v, %v", msg, err)
	}
	v.pid = register.PID
	return v
}

func (c *conversation) next() (any, error) {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	msg, fds, err := c.Receive()
	for _, fd := range fds {
		unix.Close(fd)
	}
	return msg, err
}

// serve tells the worker of a node without pods.
func (c *conversation) serve() {
	c.t.Helper()
	heartbeat, err := unix.MemfdCreate("heartbeat", unix.MFD_CLOEXEC)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(heartbeat)
	hello := &model.Hello{Protocol: model.ProtocolVersion, PrefixV4: netip.MustParsePrefix("127.64.0.0/10"), PrefixV6: netip.MustParsePrefix("fd6d:6573:6800::/96")}
	err = errors.Join(unix.Ftruncate(heartbeat, int64(os.Getpagesize())), c.Send(hello, heartbeat), c.Send(&model.Update{Version: 1, Full: true}))
	if err != nil {
		c.t.Fatal(err)
	}
	if msg, err := c.next(); err != nil || msg.(*model.Ack).Version != 1 {
		c.t.Fatalf("%+v, %v", msg, err)
	}
	if err := c.Send(&model.Pods{Version: 2, Complete: true}); err != nil {
		c.t.Fatal(err)
	}
	if msg, err := c.next(); err != nil || msg.(*model.Ack).Version != 2 {
		c.t.Fatalf("%+v, %v", msg, err)
	}
}

// ended waits for the end of the worker: the kernel closes its end of the conversation.
func (c *conversation) ended() {
	c.t.Helper()
	if msg, err := c.next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("got %+v, %v; want the end", msg, err)
	}
}

func (p *program) ready() {
	p.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", p.admin) }}}
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		resp, err := c.Get("http://admin/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not ready: %v", err)
		}
	}
}

// wait waits for the end of the master and returns its exit status.
func (p *program) wait() int {
	p.t.Helper()
	_ = p.cmd.Wait() // the status tells
	return p.cmd.ProcessState.ExitCode()
}

// A worker is followed by the next one, and SIGTERM lets the last one drain.
func TestTheProgram(t *testing.T) {
	p := startProgram(t, "--drain-timeout", "3s", "--threads", "1")
	first := p.worker()
	if first.pid == p.cmd.Process.Pid {
		t.Error("the master serves itself")
	}
	first.serve()
	p.ready()
	if err := syscall.Kill(first.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first.ended()
	second := p.worker()
	if second.pid == first.pid {
		t.Error("no other worker")
	}
	second.serve()
	p.ready()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if msg, err := second.next(); err != nil {
		t.Fatal(err)
	} else if _, ok := msg.(*model.Draining); !ok {
		t.Fatalf("got %T", msg)
	}
	if err := second.Send(&model.Released{}); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	second.ended()
}

// The worker does not outlive its master.
func TestTheWorkerEndsWithItsMaster(t *testing.T) {
	p := startProgram(t)
	w := p.worker()
	w.serve()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.ended()
}

// A worker that hangs is killed and followed by another: it gets the pipe that its beats go into.
func TestAHungWorkerIsReplaced(t *testing.T) {
	p := startProgram(t, "--hang-kill", "1s")
	w := p.worker()
	w.serve()
	if err := syscall.Kill(w.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if next := p.worker(); next.pid == w.pid {
		t.Error("no other worker")
	}
}

// A worker that beats is left alone, also when it has nothing to do.
func TestAWorkerThatWorksIsLeftAlone(t *testing.T) {
	p := startProgram(t, "--hang-kill", "1s")
	w := p.worker()
	w.serve()
	if err := p.agent.SetDeadline(time.Now().Add(2500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := p.agent.AcceptUnix(); err == nil {
		c.Close()
		t.Error("another worker came")
	}
}

// Whoever reads what it prints may end.
func TestItOutlivesItsReader(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startPrinting(t, write)
	write.Close()
	w := p.worker()
	read.Close()
	w.serve()
	if err := syscall.Kill(w.pid, syscall.SIGKILL); err != nil { // of which the master tells
		t.Fatal(err)
	}
	p.worker().serve()
	p.ready()
}
