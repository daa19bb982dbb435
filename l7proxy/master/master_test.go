package master

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test's own program is the worker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(work(os.Args[2], os.Args[3]))
	}
	if len(os.Args) > 1 && os.Args[1] == "master" { // a master that can be killed
		exe, _ := os.Executable()
		_ = Run(make(chan os.Signal), Config{
			Path: exe, Args: []string{"worker", "worker", "serve", os.Args[2]},
			HangKill: time.Minute, Log: slog.New(slog.DiscardHandler),
		})
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// work appends a line to the record, and then does what mode says.
func work(mode, record string) int {
	f, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 9
	}
	fmt.Fprintf(f, "%d %d\n", os.Getpid(), time.Now().UnixMilli())
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	beats := os.NewFile(BeatFD, "beats")
	switch mode {
	case "crash":
		return 3
	case "serve", "stubborn":
		for {
			select {
			case <-term:
				if mode == "serve" {
					fmt.Fprintln(f, "drained")
					return 0
				}
			case <-time.After(10 * time.Millisecond):
				beats.Write([]byte{1})
			}
		}
	case "hang":
		beats.Write([]byte{1})
		select {}
	}
	return 9
}

func TestTheNextWorkerStartsWithinMilliseconds(t *testing.T) {
	m := run(t, "serve", time.Minute, time.Minute)
	pid := m.pid(t, 1)
	time.Sleep(healthy) // it did not fail at its start
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if next := m.pid(t, 2); next == pid {
		t.Error("no new worker")
	}
	if took := time.Since(killed); took > 500*time.Millisecond { // generous: what starts is a test program, with -race
		t.Errorf("the next worker was there after %v", took)
	}
	if log := m.log.String(); !strings.Contains(log, "signal: killed") {
		t.Errorf("the log does not say why the worker ended:\n%s", log)
	}
	m.stop(t)
}

func TestAWorkerThatKeepsCrashingIsSpacedOut(t *testing.T) {
	m := run(t, "crash", time.Minute, time.Minute)
	time.Sleep(700 * time.Millisecond)
	m.signals <- syscall.SIGTERM
	if err := <-m.done; err != nil && !strings.Contains(err.Error(), "exit status 3") { // one was just crashing
		t.Error(err)
	}
	// Without a delay there would be hundreds; 10+20+40+...+320 ms make six or seven.
	if n := len(m.lines(t)); n < 3 || n > 8 {
		t.Errorf("%d workers in 700 ms", n)
	}
	if log := m.log.String(); !strings.Contains(log, "exit status 3") {
		t.Errorf("the log does not say why the worker ended:\n%s", log)
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct{ before, lived, want time.Duration }{
		{0, time.Hour, 0},
		{maxDelay, healthy, 0},
		{0, time.Millisecond, firstDelay},
		{firstDelay, time.Millisecond, 2 * firstDelay},
		{900 * time.Millisecond, 0, maxDelay},
		{maxDelay, 0, maxDelay},
	} {
		if got := backoff(c.before, c.lived); got != c.want {
			t.Errorf("after %v, lived %v: %v, want %v", c.before, c.lived, got, c.want)
		}
	}
}

func TestAHungWorkerIsKilled(t *testing.T) {
	m := run(t, "hang", 300*time.Millisecond, time.Minute)
	first := m.pid(t, 1)
	m.pid(t, 2)
	if alive(first) {
		t.Error("the hung worker lives")
	}
	if log := m.log.String(); !strings.Contains(log, "accept loop is stuck") {
		t.Errorf("the log does not say so:\n%s", log)
	}
	m.signals <- syscall.SIGTERM
	m.signals <- syscall.SIGTERM // it does not drain either
	if err := <-m.done; err == nil {
		t.Error("a worker that was killed counts as drained")
	}
}

func TestAWorkerThatBeatsIsLeftAlone(t *testing.T) {
	m := run(t, "serve", 1500*time.Millisecond, time.Minute)
	m.pid(t, 1)
	time.Sleep(2 * time.Second)
	m.stop(t)
	if n := len(m.lines(t)); n != 2 { // it started, and drained
		t.Errorf("lines %q", m.lines(t))
	}
}

func TestSIGTERMDrainsTheWorker(t *testing.T) {
	m := run(t, "serve", time.Minute, time.Minute)
	m.pid(t, 1)
	m.stop(t)
	if l := m.lines(t); l[len(l)-1] != "drained" {
		t.Errorf("lines %q", l)
	}
}

func TestAWorkerThatDoesNotStopIsKilled(t *testing.T) {
	m := run(t, "stubborn", time.Minute, 200*time.Millisecond)
	pid := m.pid(t, 1)
	m.signals <- syscall.SIGTERM
	if err := <-m.done; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("error %v", err)
	}
	if alive(pid) {
		t.Error("the worker lives")
	}
}

func TestAWorkerThatCannotStart(t *testing.T) {
	signals := make(chan os.Signal, 1)
	log := &buffer{}
	done := make(chan error)
	go func() {
		done <- Run(signals, Config{Path: "/nonexistent", Args: []string{"x"}, HangKill: time.Minute, Log: slog.New(slog.NewTextHandler(log, nil))})
	}()
	time.Sleep(50 * time.Millisecond)
	signals <- syscall.SIGINT
	if err := <-done; err != nil || !strings.Contains(log.String(), "/nonexistent") {
		t.Errorf("error %v, log:\n%s", err, log)
	}
}

func TestNoWorkerOutlivesItsMaster(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(t.TempDir(), "record")
	cmd := exec.Command(exe, "master", record)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &running{record: record}
	pid := m.pid(t, 1)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(5 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the worker lives")
		}
	}
}

// running is a master under test.
type running struct {
	signals chan os.Signal
	done    chan error
	record  string
	log     *buffer
}

func run(t *testing.T, mode string, hang, stop time.Duration) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &running{signals: make(chan os.Signal, 2), done: make(chan error, 1), record: filepath.Join(t.TempDir(), "record"), log: &buffer{}}
	go func() {
		m.done <- Run(m.signals, Config{
			Path: exe, Args: []string{"worker", "worker", mode, m.record},
			HangKill: hang, StopLimit: stop, Log: slog.New(slog.NewTextHandler(m.log, nil)),
		})
	}()
	return m
}

func (m *running) stop(t *testing.T) {
	t.Helper()
	m.signals <- syscall.SIGTERM
	if err := <-m.done; err != nil {
		t.Error(err)
	}
}

func (m *running) lines(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(m.record)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

// pid waits for the n-th worker.
func (m *running) pid(t *testing.T, n int) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if l := m.lines(t); len(l) >= n {
			pid, err := strconv.Atoi(strings.Fields(l[n-1])[0])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("worker %d did not start", n)
	return 0
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
