// Package initd is the first process of a pid namespace: it starts programs, reaps what is left to it, and says what has ended.
package initd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init is the first process. Make one with New, before anything else is started: from then on package os/exec is of no use,
// because Init waits for all children.
type Init struct {
	log *slog.Logger

	mu      sync.Mutex
	running map[int]chan<- unix.WaitStatus
}

// New begins to reap.
func New(log *slog.Logger) *Init {
	i := &Init{log: log, running: map[int]chan<- unix.WaitStatus{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			i.reap()
		}
	}()
	return i
}

func (i *Init) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		// A child is entered under the lock that it was started under, so it is found here however soon it ends.
		i.mu.Lock()
		done := i.running[pid]
		delete(i.running, pid)
		i.mu.Unlock()
		if done != nil {
			done <- status
		}
	}
}

// Program is what is started.
type Program struct {
	Path string
	Args []string // without its name
	Log  string   // file that it writes to
}

// Start starts a program. What it returned with comes once, when it has ended.
func (i *Init) Start(p Program) (<-chan unix.WaitStatus, error) {
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	process, err := os.StartProcess(p.Path, append([]string{p.Path}, p.Args...), &os.ProcAttr{Dir: "/", Files: []*os.File{nil, out, out}})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	done := make(chan unix.WaitStatus, 1)
	i.running[process.Pid] = done
	return done, process.Release()
}

// Keep starts a program that has to go on; its end is logged with the end of what it wrote.
func (i *Init) Keep(ctx context.Context, p Program) error {
	done, err := i.Start(p)
	if err != nil {
		return err
	}
	go func() {
		status := <-done
		if ctx.Err() == nil {
			i.log.Error("a program has ended that should not", "program", p.Path, "exit_code", status.ExitStatus(), "signal", status.Signal(), "said", tail(p.Log))
		}
	}()
	return nil
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
