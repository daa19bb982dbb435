package handover

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func listen(t *testing.T, log io.Writer) (*Holder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "handover.sock")
	h, err := Listen(path, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, path
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSuccessorWaitsUntilTheNodeIsLetGo(t *testing.T) {
	h, path := listen(t, io.Discard)
	ctx := limited(t)
	got := make(chan error, 1)
	go func() { got <- Ask(ctx, path) }()
	asked := h.Run(ctx)
	if asked == nil {
		t.Fatal("nobody asked")
	}
	select {
	case err := <-got:
		t.Fatalf("the successor has the node before it was let go: %v", err)
	case <-time.After(50 * time.Millisecond): // the other outcome cannot be waited for
	}
	asked.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	h.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file stays: %v", err)
	}
}

func TestNobodyIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handover.sock")
	if err := Ask(limited(t), path); !errors.Is(err, ErrNobody) {
		t.Errorf("without a file: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := Ask(limited(t), path); !errors.Is(err, ErrNobody) {
		t.Errorf("with the file of one that died: %v", err)
	}
	if h, err := Listen(path, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("that file is in the way: %v", err)
	} else {
		h.Close()
	}
}

func TestHolderThatDiesHasLetGo(t *testing.T) {
	h, path := listen(t, io.Discard)
	got := make(chan error, 1)
	go func() { got <- Ask(limited(t), path) }()
	c, err := h.listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // without having read: the successor sees a reset
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestSuccessorGivesUp(t *testing.T) {
	_, path := listen(t, io.Discard) // and nobody answers
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("it took too long"))
	defer cancel()
	if err := Ask(ctx, path); err == nil || !strings.Contains(err.Error(), "does not let go of it: it took too long") {
		t.Error(err)
	}
}

func TestStrangersAreNoSuccessors(t *testing.T) {
	var log strings.Builder
	h, path := listen(t, &log)
	ctx := limited(t)
	for _, said := range []string{"GET / HTTP/1.1\r\n", "hand over", ""} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, said); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	go func() { _ = Ask(ctx, path) }()
	asked := h.Run(ctx)
	if asked == nil {
		t.Fatal("the successor was not heard after the strangers")
	}
	asked.Close()
	if n := strings.Count(log.String(), "is no successor"); n != 3 {
		t.Errorf("%d strangers were told of: %s", n, &log)
	}
}

func TestNobodyAsks(t *testing.T) {
	h, _ := listen(t, io.Discard)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h.Run(ctx) != nil {
		t.Error("somebody is said to have asked")
	}
}
