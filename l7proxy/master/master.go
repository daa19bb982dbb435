// Package master keeps one worker running: it starts the next when one ends, kills one that hangs, and passes on the
// wish to stop. It serves nothing itself, so that there is little in it that can fail.
package master

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// BeatFD is the descriptor at which a worker finds the pipe for the bytes that prove its progress.
const BeatFD = 3

// Config is what a master needs to know.
type Config struct {
	Path string   // of the worker's program, such as /proc/self/exe: it stays the same when the file is replaced
	Args []string // of the worker, its name included

	// HangKill is how long a worker may be silent. Time during which the master did not run either does not count.
	HangKill time.Duration
	// StopLimit is how long a worker may take to stop.
	StopLimit time.Duration
	Log       *slog.Logger
}

// Run keeps a worker running until a signal comes. The first one is passed on as SIGTERM, and Run waits for the worker
// to drain; the second one kills it. The error says what was wrong with the last worker's end.
func Run(signals <-chan os.Signal, cfg Config) error {
	// The kernel kills a worker when the thread that started it ends (PR_SET_PDEATHSIG), so that one has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	delay := time.Duration(0)
	for {
		started := time.Now()
		w, err := start(cfg)
		if err != nil {
			cfg.Log.Error("the worker cannot be started", "error", err)
		} else if stopped, err := w.wait(signals, cfg); stopped {
			return err
		}
		delay = backoff(delay, time.Since(started))
		select {
		case s := <-signals:
			cfg.Log.Info("stopping; no worker runs", "signal", s.String())
			return nil
		case <-time.After(delay):
		}
	}
}

const (
	firstDelay = 10 * time.Millisecond
	maxDelay   = time.Second
	healthy    = time.Second // a worker that lived this long did not fail at its start
)

// backoff returns how long to wait for the next worker. The first one after a crash starts at once; only workers that
// keep failing at their start are spaced out.
func backoff(before, lived time.Duration) time.Duration {
	switch {
	case lived >= healthy:
		return 0
	case before == 0:
		return firstDelay
	}
	return min(2*before, maxDelay)
}

// worker is one that runs.
type worker struct {
	cmd     *exec.Cmd
	started time.Time
	beats   atomic.Int64
	ended   chan error
}

func start(cfg Config) (*worker, error) {
	r, beats, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the pipe for its beats: %w", err)
	}
	defer beats.Close()
	w := &worker{
		cmd: &exec.Cmd{
			Path: cfg.Path, Args: cfg.Args, Stdout: os.Stdout, Stderr: os.Stderr,
			ExtraFiles:  []*os.File{beats}, // BeatFD
			SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		},
		started: time.Now(),
		ended:   make(chan error, 1),
	}
	if err := w.cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	cfg.Log.Info("worker started", "pid", w.cmd.Process.Pid)
	go w.count(r)
	go func() { w.ended <- w.cmd.Wait() }()
	return w, nil
}

// count counts beats until the worker ends.
func (w *worker) count(r *os.File) {
	defer r.Close()
	for buf := make([]byte, 64); ; {
		n, err := r.Read(buf)
		w.beats.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// ticks is in how many parts HangKill is watched: a pause of the whole container counts as one of them.
const ticks = 10

// wait watches a worker until it ends. Stopped tells that it was meant to.
func (w *worker) wait(signals <-chan os.Signal, cfg Config) (stopped bool, err error) {
	log := cfg.Log.With("pid", w.cmd.Process.Pid)
	tick := time.NewTicker(cfg.HangKill / ticks)
	defer tick.Stop()
	var limit <-chan time.Time
	silent, seen := 0, int64(0)
	for {
		select {
		case err := <-w.ended:
			how := w.end(err)
			if stopped && err == nil {
				log.Info("worker ended", "how", how)
				return true, nil
			}
			log.Error("worker ended", "how", how, "after", time.Since(w.started).Round(time.Millisecond).String())
			return stopped, fmt.Errorf("the worker ended: %s", how)
		case s := <-signals:
			if stopped {
				log.Warn("killing the worker: a second signal came while it drains", "signal", s.String())
				w.signal(syscall.SIGKILL, log)
				continue
			}
			stopped = true
			log.Info("stopping the worker", "signal", s.String(), "limit", cfg.StopLimit.String())
			w.signal(syscall.SIGTERM, log)
			limit = time.After(cfg.StopLimit)
		case <-limit:
			log.Warn("killing the worker: it did not stop in time", "limit", cfg.StopLimit.String())
			w.signal(syscall.SIGKILL, log)
		case <-tick.C:
			beats := w.beats.Load()
			if silent++; beats != seen {
				silent, seen = 0, beats
			}
			if silent == ticks {
				log.Error("killing the worker: its accept loop is stuck", "silent", cfg.HangKill.String())
				w.signal(syscall.SIGKILL, log)
			}
		}
	}
}

func (w *worker) signal(s syscall.Signal, log *slog.Logger) {
	if err := w.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		log.Error("the worker cannot be signalled", "signal", s.String(), "error", err)
	}
}

// end says how a worker ended.
func (w *worker) end(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ProcessState.String()
	}
	if err != nil {
		return err.Error()
	}
	return w.cmd.ProcessState.String()
}
