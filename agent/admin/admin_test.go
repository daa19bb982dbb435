package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cni/install"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// fakeNode answers what it is told to.
type fakeNode struct {
	healthy, ready, err error
	hangs               bool
	bypassed            []bool
}

func (n *fakeNode) wait(ctx context.Context, err error) error {
	if n.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (n *fakeNode) Healthy(ctx context.Context) error { return n.wait(ctx, n.healthy) }
func (n *fakeNode) Ready(ctx context.Context) error   { return n.wait(ctx, n.ready) }

func (n *fakeNode) Status(ctx context.Context) (*Status, error) {
	s := &node.Status{Node: "n1", Proxies: []node.ProxyStatus{{ID: 7, State: "serving"}}}
	return &Status{Status: s, CNI: &install.Status{State: install.Missing}}, n.wait(ctx, n.err)
}

func (n *fakeNode) Config(ctx context.Context) (*node.Model, error) {
	return &node.Model{Services: []*model.Service{{Namespace: "shop", Name: "web"}}}, n.wait(ctx, n.err)
}

func (n *fakeNode) SetBypass(ctx context.Context, on bool) error {
	if err := n.wait(ctx, n.err); err != nil {
		return err
	}
	n.bypassed = append(n.bypassed, on)
	return nil
}

func ask(t *testing.T, n Node, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(n, prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody))
	return w
}

func TestHandlers(t *testing.T) {
	odd := errors.New("it is odd")
	for name, c := range map[string]struct {
		node           fakeNode
		method, target string
		status         int
		body           string // is part of it
	}{
		"healthy":                 {fakeNode{ready: odd, err: odd}, "GET", "/healthz", 200, "ok\n"},
		"not healthy":             {fakeNode{healthy: odd}, "GET", "/healthz", 503, "it is odd\n"},
		"ready":                   {fakeNode{healthy: odd, err: odd}, "GET", "/readyz", 200, "ok\n"},
		"not ready":               {fakeNode{ready: odd}, "GET", "/readyz", 503, "it is odd\n"},
		"status":                  {fakeNode{}, "GET", "/status", 200, `"node": "n1"`},
		"status of the plugin":    {fakeNode{}, "GET", "/status", 200, `"state": "missing"`},
		"no status":               {fakeNode{err: odd}, "GET", "/status", 503, "it is odd\n"},
		"config":                  {fakeNode{}, "GET", "/config", 200, `"name": "web"`},
		"no config":               {fakeNode{err: odd}, "GET", "/config", 503, "it is odd\n"},
		"bypass on":               {fakeNode{}, "POST", "/bypass?on=true", 200, `"bypass": true`},
		"bypass off":              {fakeNode{}, "POST", "/bypass?on=false", 200, `"bypass": false`},
		"bypass without a word":   {fakeNode{}, "POST", "/bypass", 400, "say /bypass?on=true or /bypass?on=false\n"},
		"bypass with a wrong one": {fakeNode{}, "POST", "/bypass?on=maybe", 400, "say /bypass?on=true or /bypass?on=false\n"},
		"bypass that fails":       {fakeNode{err: odd}, "POST", "/bypass?on=true", 503, "it is odd\n"},
		"bypass is no question":   {fakeNode{}, "GET", "/bypass?on=true", 405, ""},
		"status is no command":    {fakeNode{}, "POST", "/status", 405, ""},
		"anything else":           {fakeNode{}, "GET", "/", 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(t, &c.node, c.method, c.target)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if json := w.Header().Get("Content-Type") == "application/json"; json != (c.status == 200 && strings.HasPrefix(c.body, `"`)) {
				t.Errorf("the type is %q", w.Header().Get("Content-Type"))
			}
			if turned := len(c.node.bypassed); (turned > 0) != (c.status == 200 && c.method == "POST") {
				t.Errorf("the switch was turned %d times", turned)
			}
		})
	}
}

// Whoever reaches the public address learns of health and metrics, and turns nothing.
func TestPublicIsForProbesAndMetrics(t *testing.T) {
	n := &fakeNode{}
	for target, want := range map[string]int{
		"GET /healthz": 200, "GET /readyz": 200, "GET /metrics": 200, "GET /status": 404, "GET /config": 404, "POST /bypass?on=true": 404,
	} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		Public(n, prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
	}
	if len(n.bypassed) > 0 {
		t.Error("the switch was turned")
	}
}

func TestDumpsAreJSON(t *testing.T) {
	var status struct {
		Proxies []struct {
			ID    uint64
			State string
		}
	}
	body := ask(t, &fakeNode{}, "GET", "/status").Body.Bytes()
	if err := json.Unmarshal(body, &status); err != nil || len(status.Proxies) != 1 || status.Proxies[0].State != "serving" {
		t.Errorf("%v: %s", err, body)
	}
	if !strings.HasSuffix(string(body), "}\n") {
		t.Errorf("a terminal would not show the end of %q", body)
	}
}

// A loop that does not come round is an answer, not a request that hangs.
func TestANodeThatDoesNotAnswer(t *testing.T) {
	for _, target := range []string{"GET /healthz", "GET /readyz", "GET /status", "GET /config", "POST /bypass?on=true"} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			method, path, _ := strings.Cut(target, " ")
			w := ask(t, &fakeNode{hangs: true}, method, path)
			if took := time.Since(start); w.Code != 503 || took != patience {
				t.Errorf("%s: %d after %v: %s", target, w.Code, took, w.Body)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	good := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_agent_good", Help: "Good."})
	good.Set(3)
	desc := prometheus.NewDesc("sluice_agent_bad", "Bad.", nil, nil)
	registry.MustRegister(good, failing{desc})
	w := httptest.NewRecorder()
	Handler(&fakeNode{}, registry).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", http.NoBody))
	// What cannot be read costs its own series only.
	if w.Code != 200 || !strings.Contains(w.Body.String(), "sluice_agent_good 3\n") || strings.Contains(w.Body.String(), "sluice_agent_bad") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

type failing struct{ desc *prometheus.Desc }

func (f failing) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }
func (f failing) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(f.desc, errors.New("it cannot be read"))
}

// Whoever reaches the address can turn the redirect off.
func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:15021":        "tcp 127.0.0.1:15021",
		"127.8.0.1:1":            "tcp 127.8.0.1:1",
		"[::1]:15021":            "tcp [::1]:15021",
		"unix:/run/sluice.sock":  "unix /run/sluice.sock",
		"unix:relative":          "unix relative",
		"unix:":                  "unix: needs a path, as in unix:/run/sluice/admin.sock",
		"0.0.0.0:15021":          "0.0.0.0:15021 is not loopback: use 127.0.0.1, [::1] or unix:PATH",
		"[::]:15021":             "[::]:15021 is not loopback: use 127.0.0.1, [::1] or unix:PATH",
		"10.0.0.1:15021":         "10.0.0.1:15021 is not loopback: use 127.0.0.1, [::1] or unix:PATH",
		"[::ffff:10.0.0.1]:1":    "[::ffff:10.0.0.1]:1 is not loopback: use 127.0.0.1, [::1] or unix:PATH",
		":15021":                 `":15021" is neither IP:PORT nor unix:PATH`,
		"localhost:15021":        `"localhost:15021" is neither IP:PORT nor unix:PATH`,
		"127.0.0.1":              `"127.0.0.1" is neither IP:PORT nor unix:PATH`,
		"/run/sluice/admin.sock": `"/run/sluice/admin.sock" is neither IP:PORT nor unix:PATH`,
		"":                       `"" is neither IP:PORT nor unix:PATH`,
	} {
		network, address, err := Address(in)
		got := network + " " + address
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// serve answers on a unix socket until the test ends.
func serve(t *testing.T, n Node) (at string, done <-chan error) {
	t.Helper()
	at = filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, Handler(n, prometheus.NewRegistry()), slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return "unix:" + at, ended
}

func TestBypassTurnsTheSwitchOfAnAgent(t *testing.T) {
	n := &fakeNode{}
	at, _ := serve(t, n)
	for _, on := range []bool{true, false} {
		if err := Bypass(t.Context(), at, on); err != nil {
			t.Error(err)
		}
	}
	if len(n.bypassed) != 2 || !n.bypassed[0] || n.bypassed[1] {
		t.Errorf("the switch was turned %v", n.bypassed)
	}
}

func TestBypassTellsWhyItFailed(t *testing.T) {
	at, _ := serve(t, &fakeNode{err: errors.New("the map is gone")})
	err := Bypass(t.Context(), at, true)
	if err == nil || errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "the map is gone") {
		t.Errorf("the error is %v", err)
	}
	if err := Bypass(t.Context(), "unix:"+filepath.Join(t.TempDir(), "none"), true); !errors.Is(err, ErrNoAgent) {
		t.Errorf("where nobody is: %v", err)
	}
	if err := Bypass(t.Context(), "10.0.0.1:15021", true); err == nil || errors.Is(err, ErrNoAgent) {
		t.Errorf("an address that cannot be an agent's: %v", err)
	}
}

// A listener that fails is an error; the end of the context is none (serve checks that).
func TestServeTellsWhenItCannot(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it ended with %v", err)
	}
}
