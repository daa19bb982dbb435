package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run.
type Command struct {
	Name   string // of the process in the lab: its log is called after it
	Path   string
	Args   []string
	Env    []string  // added to ours
	Stdout io.Writer // default: the log, where its standard error always goes
}

// Process is a program that was started. It is killed when the lab closes or its owner dies.
type Process struct {
	Name string

	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Start runs a program in the pod: in its network namespace and its cgroup.
func (p *Pod) Start(c Command) (*Process, error) { return p.lab.start(p.thread, p.Cgroup, c) }

// Start runs a program on the node: in the network namespace that the lab was opened in, in a cgroup of the given name
// beside the pods'.
func (l *Lab) Start(cgroup string, c Command) (*Process, error) {
	dir := filepath.Join(l.Cgroup, cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	return l.start(l.host, dir, c)
}

func (l *Lab) start(t *thread, cgroup string, c Command) (*Process, error) {
	p := &Process{Name: c.Name, log: l.Log(c.Name), done: make(chan struct{})}
	group, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	defer group.Close()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	defer log.Close()
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Dir = l.Dir
	p.cmd.Stderr = log
	p.cmd.Stdout = c.Stdout
	if c.Stdout == nil {
		p.cmd.Stdout = log
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(group.Fd()),
		Setpgid:   true,            // Ctrl-C is for us: we end the others in order
		Pdeathsig: syscall.SIGKILL, // of the thread, which lives as long as the lab or the pod
	}
	if err := t.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", c.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	l.mu.Lock()
	l.processes = append(l.processes, p)
	l.mu.Unlock()
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and all of its output is written.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end of the process, as long as ctx allows, and returns how it ended: nil for exit code 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", p.Name, context.Cause(ctx))
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w%s", p.Name, p.err, p.tail())
	}
	return nil
}

// Terminate sends SIGTERM, waits for the end, and kills the process when the limit has passed, which is an error.
func (p *Process) Terminate(limit time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := p.Wait(ctx)
	if ctx.Err() != nil {
		return errors.Join(err, p.Signal(syscall.SIGKILL))
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil // it does not handle the signal, and has nothing to do at the end
	}
	return err
}

// Tail is the end of what the process wrote, at most n lines.
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// tail is for the end of an error: what the process last said.
func (p *Process) tail() string {
	t := p.Tail(8)
	if t == "" {
		return "; it wrote nothing"
	}
	return "; the end of its log:\n  " + strings.ReplaceAll(t, "\n", "\n  ")
}
