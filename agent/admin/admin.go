// Package admin answers operators: health, metrics, what the node knows and has told its proxies, and the kill switch.
// It is served on loopback or a unix socket only.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cni/install"
)

// patience is how long the node's loop may take to answer.
const patience = 2 * time.Second

// Node is what is asked and turned.
type Node interface {
	Healthy(context.Context) error
	Ready(context.Context) error
	Status(context.Context) (*Status, error)
	Config(context.Context) (*node.Model, error)
	SetBypass(ctx context.Context, on bool) error
}

// Status is the node's, with what the node itself does not know.
type Status struct {
	*node.Status
	Version string          `json:"version,omitempty"` // of the agent
	CNI     *install.Status `json:"cni,omitempty"`     // nil: the plugin is not to be installed
}

// Address tells where to listen: "unix:PATH", or an IP address of loopback and a port. Whoever reaches it can turn the
// redirect off, so nothing else is accepted.
func Address(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return "", "", errors.New("unix: needs a path, as in unix:/run/sluice/admin.sock")
		}
		return "unix", path, nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return "", "", fmt.Errorf("%q is neither IP:PORT nor unix:PATH", s)
	}
	if !a.Addr().IsLoopback() {
		return "", "", fmt.Errorf("%s is not loopback: use 127.0.0.1, [::1] or unix:PATH", a)
	}
	return "tcp", a.String(), nil
}

// Serve answers on l until ctx is done.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) || ctx.Err() == nil {
		return fmt.Errorf("serve the admin address: %w", err)
	}
	return nil
}

// Handler answers for the node.
func Handler(n Node, metrics prometheus.Gatherer) http.Handler {
	mux := Public(n, metrics)
	mux.HandleFunc("GET /status", dump(n.Status))
	mux.HandleFunc("GET /config", dump(n.Config))
	mux.HandleFunc("POST /bypass", func(w http.ResponseWriter, r *http.Request) { bypass(n, w, r) })
	return mux
}

// Public answers whoever asks: the kubelet's probes, and Prometheus. It tells nothing of what the node was told.
func Public(n Node, metrics prometheus.Gatherer) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", check(n.Healthy))
	mux.HandleFunc("GET /readyz", check(n.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		// A datapath that does not answer costs its own series, not the others.
		ErrorHandling: promhttp.ContinueOnError,
	}))
	return mux
}

func check(ask func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		if err := ask(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func dump[T any](ask func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		v, err := ask(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		reply(w, v)
	}
}

func reply(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n')) // should it fail, the client is gone
}

func bypass(n Node, w http.ResponseWriter, r *http.Request) {
	on, err := strconv.ParseBool(r.URL.Query().Get("on"))
	if err != nil {
		http.Error(w, "say /bypass?on=true or /bypass?on=false", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	if err := n.SetBypass(ctx, on); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	reply(w, map[string]bool{"bypass": on})
}

// ErrNoAgent says that nobody answers at an admin address.
var ErrNoAgent = errors.New("no agent answers")

// Bypass asks the agent at an admin address to turn the kill switch.
func Bypass(ctx context.Context, at string, on bool) error {
	network, address, err := Address(at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
			}
			return c, nil
		},
	}}
	query := url.Values{"on": {strconv.FormatBool(on)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/bypass?"+query.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // if it cannot be read, the status has to do
		return fmt.Errorf("the agent at %s answered %s: %s", at, resp.Status, bytes.TrimSpace(why))
	}
	return nil
}
