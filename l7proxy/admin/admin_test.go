package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

func TestTheAddressIsOfThisMachine(t *testing.T) {
	for s, want := range map[string]string{
		"127.0.0.1:15020":                   "",
		"127.3.2.1:1":                       "",
		"[::1]:15020":                       "",
		"unix:/run/sluice/admin":            "",
		"0.0.0.0:15020":                     "reachable from elsewhere",
		"[::]:15020":                        "reachable from elsewhere",
		"10.0.0.1:15020":                    "use a loopback address, such as 127.0.0.1:15020",
		":15020":                            "neither",
		"15020":                             "neither",
		"localhost:15020":                   "neither",
		"":                                  "neither",
		"unix:":                             "needs 1 to 103 bytes",
		"unix:/" + strings.Repeat("x", 110): "needs 1 to 103 bytes",
	} {
		a, err := ParseAddress(s)
		switch {
		case want == "" && (err != nil || a.String() != s):
			t.Errorf("%q: %v, error %v", s, a, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: error %v, want %q", s, err, want)
		}
	}
}

func TestWhatIsServedOnTheUnixSocket(t *testing.T) {
	s := serving(t, "unix:"+filepath.Join(t.TempDir(), "admin"))
	for path, want := range map[string]string{
		"/healthz":             "ok",
		"/readyz":              "503 not yet",
		"/config":              `"told": "this"`,
		"/metrics":             "sluice_test_total 1",
		"/debug/memstats":      `"Mallocs"`,
		"/debug/pprof/":        "goroutine",
		"/debug/pprof/cmdline": "admin.test",
	} {
		if got := s.get(t, path); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	s.ready.Store(true)
	if got := s.get(t, "/readyz"); got != "200 ok\n" {
		t.Errorf("/readyz: %q", got)
	}
	var m Memstats
	_, body, _ := strings.Cut(s.get(t, "/debug/memstats"), " ")
	if err := json.Unmarshal([]byte(body), &m); err != nil || m.Mallocs == 0 || m.HeapAlloc == 0 || m.FDs < 3 || m.PID != os.Getpid() {
		t.Errorf("%+v, error %v", m, err)
	}
}

func TestProfilesAreNotServedOverTCP(t *testing.T) {
	s := serving(t, freeAddress(t))
	if got := s.get(t, "/healthz"); got != "200 ok\n" {
		t.Errorf("/healthz: %q", got)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/memstats"} {
		if got := s.get(t, path); !strings.HasPrefix(got, "404") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// Whoever reaches a public address learns of health and metrics, and nothing of what the proxy was told.
func TestWhatIsServedPublicly(t *testing.T) {
	a, err := ParsePublic(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	s := servingAt(t, a)
	for path, want := range map[string]string{
		"/healthz": "200 ok", "/readyz": "503 not yet", "/metrics": "sluice_test_total 1",
		"/config": "404", "/debug/pprof/": "404", "/debug/memstats": "404",
	} {
		if got := s.get(t, path); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for _, bad := range []string{"", ":15023", "localhost:1", "unix:/run/x"} {
		if _, err := ParsePublic(bad); err == nil || !strings.Contains(err.Error(), "is not ADDRESS:PORT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTheSocketIsItsOwnersAndGoesAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin")
	s := serving(t, "unix:"+path)
	s.get(t, "/healthz")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", st.Mode(), err)
	}
	s.stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
}

// A successor takes the place over, whether its predecessor crashed or is still draining.
func TestASuccessorTakesTheSocketOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin")
	first := serving(t, "unix:"+path)
	first.get(t, "/healthz")
	second := serving(t, "unix:"+path)
	second.ready.Store(true)
	for deadline := time.Now().Add(5 * time.Second); second.get(t, "/readyz") != "200 ok\n"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the successor does not answer")
		}
	}
	first.stop() // does not remove what is not its own
	if got := second.get(t, "/readyz"); got != "200 ok\n" {
		t.Errorf("after its predecessor's end: %q", got)
	}
}

func TestAnAddressInUseIsTriedAgain(t *testing.T) {
	addr := freeAddress(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := serving(t, addr)
	time.Sleep(50 * time.Millisecond)
	l.Close()
	if got := s.get(t, "/healthz"); got != "200 ok\n" {
		t.Errorf("/healthz: %q", got)
	}
}

func TestAFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := listen(t.Context(), Address{unix: path}); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Error(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Errorf("the file was touched: %q, %v", data, err)
	}
}

type server struct {
	addr  Address
	ready atomic.Bool
	stop  func()
}

func serving(t *testing.T, address string) *server {
	t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	return servingAt(t, a)
}

func servingAt(t *testing.T, a Address) *server {
	t.Helper()
	s := &server{addr: a}
	reg := prometheus.NewRegistry()
	promauto.With(reg).NewCounter(prometheus.CounterOpts{Name: "sluice_test_total", Help: "A test."}).Inc()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(ctx, Config{
			Address: a, Metrics: reg, Log: slog.New(slog.DiscardHandler),
			Healthy: func() error { return nil },
			Ready: func() error {
				if s.ready.Load() {
					return nil
				}
				return errors.New("not yet")
			},
			Dump: func() any { return map[string]string{"told": "this"} },
		})
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

// get returns the status and the body. It waits for the server to start.
func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	network, addr := "tcp", s.addr.tcp.String()
	if s.addr.unix != "" {
		network, addr = "unix", s.addr.unix
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if err == nil || time.Now().After(deadline) {
					return conn, err
				}
			}
		},
	}}
	resp, err := c.Get("http://admin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status[:3] + " " + string(body)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
