// Package admin serves what people and Prometheus ask of a process: metrics, health, what it was told, profiles.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what a server answers with.
type Config struct {
	Address Address
	Metrics prometheus.Gatherer
	Healthy func() error // nil error: /healthz is 200, else 503 with the reason
	Ready   func() error // the same for /readyz
	Dump    func() any   // /config, as JSON
	Log     *slog.Logger
}

// retry is how long a server waits for an address that another process, such as its predecessor, still has.
const retry = 500 * time.Millisecond

// Run serves until ctx is done. An address that cannot be had is no reason to stop what the process is for: Run logs
// it, and tries again.
func Run(ctx context.Context, cfg Config) {
	for failed := ""; ctx.Err() == nil; {
		err := serve(ctx, cfg)
		if err == nil {
			continue
		}
		if err.Error() != failed {
			failed = err.Error()
			cfg.Log.Error("an address is not served; trying again", "address", cfg.Address.String(), "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func serve(ctx context.Context, cfg Config) error {
	l, remove, err := listen(ctx, cfg.Address)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           handler(cfg),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err = s.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, remove())
}

const freshSuffix = ".new"

// listen makes the socket. That of a unix address is for its owner only; it is made beside its place and renamed, so
// that it replaces what a predecessor left, and nobody finds it with other permissions.
func listen(ctx context.Context, a Address) (net.Listener, func() error, error) {
	var lc net.ListenConfig
	if a.unix == "" {
		l, err := lc.Listen(ctx, "tcp", a.tcp.String())
		return l, func() error { return nil }, err
	}
	if st, err := os.Lstat(a.unix); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, nil, fmt.Errorf("%s is there and is no socket: remove it, or choose another path", a.unix)
	}
	fresh := a.unix + freshSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	l, err := lc.Listen(ctx, "unix", fresh)
	if err != nil {
		return nil, nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	remove, err := publish(fresh, a.unix)
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, remove, nil
}

func publish(fresh, path string) (remove func() error, err error) {
	if err := os.Chmod(fresh, 0o600); err != nil {
		return nil, err
	}
	ours, err := os.Lstat(fresh)
	if err != nil {
		return nil, err
	}
	return func() error {
		if now, err := os.Lstat(path); err == nil && os.SameFile(now, ours) { // else a successor has its place
			return os.Remove(path)
		}
		return nil
	}, os.Rename(fresh, path)
}

func handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /healthz", check(cfg.Healthy))
	mux.HandleFunc("GET /readyz", check(cfg.Ready))
	if cfg.Address.public {
		return mux
	}
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) { answer(w, cfg.Dump()) })
	if cfg.Address.unix == "" {
		return mux
	}
	// What tells of memory, or costs a lot, is for the owner of the socket.
	mux.HandleFunc("GET /debug/memstats", func(w http.ResponseWriter, _ *http.Request) { answer(w, memstats()) })
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func check(f func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := f(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func answer(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(body, '\n'))
}

// Memstats is what /debug/memstats answers: of runtime.MemStats what tells about leaks and about what a request
// allocates, which is the difference of two answers with N requests in between.
type Memstats struct {
	PID        int
	Goroutines int
	FDs        int // open descriptors, this answer's own connection included; -1: unknown

	Mallocs    uint64 // objects allocated since the start
	TotalAlloc uint64 // bytes allocated since the start
	HeapAlloc  uint64 // bytes of objects that live or were not collected yet
	HeapInuse  uint64 // bytes of the spans that hold them
	StackInuse uint64
	Sys        uint64 // bytes taken from the system
	NumGC      uint32 // collections since the start
}

func memstats() Memstats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds := -1
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		fds = len(entries) - 1 // the folder itself was open
	}
	return Memstats{
		PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), FDs: fds,
		Mallocs: m.Mallocs, TotalAlloc: m.TotalAlloc, HeapAlloc: m.HeapAlloc, HeapInuse: m.HeapInuse,
		StackInuse: m.StackInuse, Sys: m.Sys, NumGC: m.NumGC,
	}
}
