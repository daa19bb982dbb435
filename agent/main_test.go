package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/agent/admin"
)

func TestTogetherEndsWithTheFirstThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := errors.New("it is odd")
		ended := false
		err := together(t.Context(),
			func(context.Context) error { time.Sleep(time.Second); return odd },
			func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second); ended = true; return nil })
		if !errors.Is(err, odd) || errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		if !ended {
			t.Error("it did not wait for a part that takes its time")
		}
	})
}

func TestTogetherEndsWithoutAnErrorWhenToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, stop)
		start := time.Now()
		waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		if err := together(ctx, waits, waits); err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// agentAt serves an admin address and tells what was asked.
func agentAt(t *testing.T, status int) (at string, asked *[]string) {
	t.Helper()
	at = "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	l, remove, err := listenAdmin(at)
	if err != nil {
		t.Fatal(err)
	}
	asked = &[]string{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- admin.Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*asked = append(*asked, r.Method+" "+r.URL.String())
			w.WriteHeader(status)
		}), slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, remove()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(strings.TrimPrefix(at, "unix:")); !os.IsNotExist(err) {
			t.Errorf("the socket file is still there: %v", err)
		}
	})
	return at, asked
}

func TestBypassAsksTheAgent(t *testing.T) {
	at, asked := agentAt(t, http.StatusOK)
	var out bytes.Buffer
	if status := run([]string{"bypass", "on", "--admin", at}, &out); status != 0 || out.Len() != 0 {
		t.Errorf("exit status %d: %s", status, out.String())
	}
	if status := run([]string{"bypass", "off", "--admin", at}, &out); status != 0 {
		t.Errorf("exit status %d: %s", status, out.String())
	}
	if got := strings.Join(*asked, ", "); got != "POST /bypass?on=true, POST /bypass?on=false" {
		t.Errorf("the agent was asked %s", got)
	}
}

// An agent that answers has the last word: the kernel is not written to behind its back.
func TestBypassThatTheAgentRefuses(t *testing.T) {
	at, _ := agentAt(t, http.StatusServiceUnavailable)
	var out bytes.Buffer
	status := run([]string{"bypass", "on", "--admin", at, "--bpffs", t.TempDir()}, &out)
	if status != 1 || !strings.Contains(out.String(), "503") || strings.Contains(out.String(), "in the kernel") {
		t.Errorf("exit status %d: %s", status, out.String())
	}
}

// Without an agent the switch is turned in the kernel; where there is nothing of an agent either, that is said.
func TestBypassWithoutAnAgent(t *testing.T) {
	var out bytes.Buffer
	status := run([]string{"bypass", "on", "--admin", "unix:" + filepath.Join(t.TempDir(), "none"), "--bpffs", t.TempDir()}, &out)
	if status != 1 || !strings.Contains(out.String(), "the switch is turned in the kernel") || !strings.Contains(out.String(), "\nsluice-agent: ") {
		t.Errorf("exit status %d: %s", status, out.String())
	}
}

// A machine that cannot do it is told from a bad command line, and nothing is made before that is known.
func TestAMachineThatCannotDoIt(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	var out bytes.Buffer
	status := run([]string{"--manifests", dir, "--cgroup", dir, "--bpffs", filepath.Join(dir, "bpf"), "--socket", socket}, &out)
	if status != 1 || !strings.HasPrefix(out.String(), "sluice-agent: ") || strings.Contains(out.String(), "--help") {
		t.Errorf("exit status %d: %s", status, out.String())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

// The socket file of an agent that was killed is in nobody's way.
func TestListenAdminReplacesASocketThatNobodyServes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	killed.Close()
	l, remove, err := listenAdmin("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := listenAdmin("unix:" + path); err == nil {
		t.Error("two listen on one socket")
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

func TestListenAdmin(t *testing.T) {
	l, remove, err := listenAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, _, err := listenAdmin(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "admin address") {
		t.Errorf("an address that is taken: %v", err)
	}
	if _, _, err := listenAdmin("0.0.0.0:0"); err == nil {
		t.Error("an address for everybody is listened on")
	}
}
