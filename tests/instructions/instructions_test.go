// Package instructions counts the instructions that one exchange takes, which does not depend on the machine's mood, and
// fails when they are more than a committed baseline plus a tolerance.
package instructions

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/sock"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

const (
	// tolerance over the baseline. What is counted differs from run to run by less than 1 %.
	tolerance = 0.05
	baseline  = "testdata/per_exchange.txt"

	backendVariable = "SLUICE_INSTRUCTIONS_BACKEND" // set: be the proxy in front of that address
	updateVariable  = "SLUICE_UPDATE"               // set: write the baseline
)

// TestMain is the proxy in the process that is counted.
func TestMain(m *testing.M) {
	if backend := os.Getenv(backendVariable); backend != "" {
		if err := serveOne(backend); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveOne is the proxy: it serves one connection, at an address that it prints, with a route, a filter, two backends
// and metrics.
func serveOne(backend string) error {
	runtime.GOMAXPROCS(1)
	pools := upstream.NewPools(upstream.Limits{Life: time.Hour, CheckAfter: time.Hour})
	registry := upstream.NewRegistry(pools)
	key := model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80}
	registry.Apply([]model.EndpointSet{{EndpointsKey: key, Endpoints: []model.Endpoint{{Address: netip.MustParseAddrPort(backend)}}}}, nil)
	rule := func(index int, m model.Match) model.Rule {
		m.Path = model.PathMatch{Type: model.PathPrefix, Value: "/"}
		return model.Rule{
			Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "web"}, Index: index, Matches: []model.Match{m},
			Filters:  []model.Filter{{RequestHeaders: &model.HeaderEdit{Set: []model.Header{{Name: "X-Route", Value: "web"}}}}},
			Backends: []model.Backend{{Weight: 90, Endpoints: key}, {Weight: 10, Endpoints: key}},
		}
	}
	unit := &model.Service{Namespace: "shop", Name: "web", Ports: []model.Port{{
		Number: 80, Default: key, Producer: &model.RouteTable{Explicit: true, Rules: []model.Rule{
			rule(0, model.Match{Headers: []model.ValueMatch{{Name: "x-canary", Type: model.Exact, Value: "true"}}}), rule(1, model.Match{}),
		}},
	}}}
	s, err := forward.Compile(unit, registry.Set)
	if err != nil {
		return err
	}
	server := forward.NewServer(forward.Config{Recorder: observe.New(prometheus.NewRegistry(), observe.Options{})})
	client := &forward.Client{Pod: &model.Pod{UID: "u", Namespace: "shop", Name: "client"}, Upstream: upstream.NewClient(-1, pools)}
	c, err := acceptOne()
	if err != nil {
		return err
	}
	server.Serve(c, client, forward.NewPort(s, 80))
	return nil
}

func acceptOne() (*sock.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	fmt.Println(l.Addr())
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err, unix.SetNonblock(fd, true), f.Close(), c.Close(), l.Close()); err != nil {
		return nil, err
	}
	return sock.New(fd)
}

func TestInstructionsPerExchange(t *testing.T) {
	if os.Getenv("SLUICE_INSTRUCTIONS") != "1" {
		t.Skip("skipped: it builds a program and counts it under valgrind; `make instructions` runs it")
	}
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatal("missing on this machine: valgrind, which `make instructions` installs")
		}
		t.Skip("skipped: valgrind is not installed")
	}
	backend := startBackend(t)
	const few, many = 200, 2200
	program := build(t)
	count := func(requests int) float64 { return float64(countInstructions(t, valgrind, program, backend, requests)) }
	got := (count(many) - count(few)) / (many - few)
	t.Logf("%.0f instructions in user space, the runtime's own not counted, for each exchange", got)
	if os.Getenv(updateVariable) != "" {
		if err := os.WriteFile(baseline, []byte(fmt.Sprintf("%.0f\n", got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(baseline)
	if err != nil {
		t.Fatal(err)
	}
	want, err := strconv.ParseFloat(strings.TrimSpace(string(content)), 64)
	if err != nil {
		t.Fatal(err)
	}
	if got > want*(1+tolerance) {
		t.Errorf("%.0f instructions for each exchange, %s allows %.0f and %.0f %%: make it cheaper, or run `make instructions UPDATE=1` and say why",
			got, baseline, want, 100*tolerance)
	}
}

// build makes this test binary anew: the one that runs has no symbols, by which the runtime's functions are known.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "proxy")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the proxy: %v\n%s", err, out)
	}
	return program
}

// startBackend answers every request in this process, which is not counted.
func startBackend(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer := []byte("HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil || req.Header.Get("X-Route") != "web" {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// countInstructions runs the proxy under cachegrind for a number of requests on one connection. The runtime's own
// instructions are left out: how often the scheduler looks around depends on how long the client takes.
func countInstructions(t *testing.T, valgrind, program, backend string, requests int) uint64 {
	t.Helper()
	result := filepath.Join(t.TempDir(), "cachegrind.out")
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file="+result, program)
	cmd.Env = append(os.Environ(), backendVariable+"="+backend, "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, readErr := bufio.NewReader(out).ReadString('\n')
	if readErr == nil {
		err = exchange(strings.TrimSpace(addr), requests)
	}
	if err := errors.Join(readErr, err, cmd.Wait()); err != nil {
		t.Fatalf("%v; it said:\n%s", err, said.String())
	}
	content, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	n, err := sum(string(content))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sum adds up what cachegrind counted outside the runtime. Its file has lines "fn=NAME", each followed by lines
// "LINE INSTRUCTIONS".
func sum(result string) (total uint64, err error) {
	ours, runtimes := false, 0
	for line := range strings.Lines(result) {
		if name, ok := strings.CutPrefix(line, "fn="); ok {
			ours = !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "internal/runtime/")
			if !ours {
				runtimes++
			}
			continue
		}
		at, count, ok := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := strconv.ParseUint(at, 10, 32); err != nil || !ok || !ours {
			continue
		}
		n, err := strconv.ParseUint(count, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cachegrind's result has the line %q: %w", line, err)
		}
		total += n
	}
	if total == 0 || runtimes == 0 {
		return 0, errors.New("cachegrind's result has no counts, or the program has no symbols")
	}
	return total, nil
}

// exchange sends the requests one after another.
func exchange(addr string, requests int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	for range requests {
		if _, err := io.WriteString(c, "GET /path/of/it?query=1 HTTP/1.1\r\nHost: web.shop.svc\r\nUser-Agent: client/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			return fmt.Errorf("status %d, %w", resp.StatusCode, err)
		}
	}
	return nil
}

// The baseline's folder is there for a first run of SLUICE_UPDATE.
func TestBaselineIsANumber(t *testing.T) {
	content, err := os.ReadFile(filepath.FromSlash(baseline))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.ParseFloat(strings.TrimSpace(string(content)), 64); err != nil || n <= 0 {
		t.Errorf("%q: %v", content, err)
	}
}
