package ask

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers on a unix socket, and returns its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return "unix:" + path
}

func local(t *testing.T, at string) Program {
	t.Helper()
	p, err := Local("agent", at)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReady(t *testing.T) {
	for _, c := range []struct {
		code        int
		why, failed string
	}{
		{http.StatusOK, "", ""},
		{http.StatusServiceUnavailable, "why", ""},
		{http.StatusNotFound, "", "answered 404 Not Found to /readyz: why"},
	} {
		at := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				t.Errorf("asked for %s", r.URL)
			}
			http.Error(w, "why", c.code)
		})
		why, err := local(t, at).Ready(t.Context())
		if why != c.why || (err == nil) != (c.failed == "") || err != nil && !strings.Contains(err.Error(), c.failed) {
			t.Errorf("%d: %q, %v", c.code, why, err)
		}
	}
}

func TestBypass(t *testing.T) {
	var asked []string
	at := serve(t, func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Method+" "+r.URL.String()) })
	for _, on := range []bool{true, false} {
		if err := local(t, at).Bypass(t.Context(), on); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(asked, ", "); got != "POST /bypass?on=true, POST /bypass?on=false" {
		t.Error(got)
	}
}

// An error says who was asked, why there was no answer, and what to do, and can be told from an answer that is no.
func TestNoAnswer(t *testing.T) {
	at := "unix:" + filepath.Join(t.TempDir(), "none")
	err := local(t, at).Get(t.Context(), "/status", new(Status))
	none, is := errors.AsType[*NoAnswer](err)
	if !is || !strings.HasSuffix(none.Cause.Error(), "connect: no such file or directory") {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"no agent answers at " + at, "--agent names another"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
	hangs := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := local(t, hangs).Ready(ctx); err == nil || !strings.Contains(err.Error(), "it took too long") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("{"))
	})
	if err := local(t, cut).Get(t.Context(), "/status", new(Status)); err == nil || !strings.Contains(err.Error(), "read its answer") {
		t.Errorf("%v", err)
	}
}

func TestAddress(t *testing.T) {
	for _, at := range []string{"localhost", "127.0.0.1", "/run/x", ""} {
		if _, err := Local("proxy", at); err == nil || !strings.Contains(err.Error(), "--proxy: ") {
			t.Errorf("%q: %v", at, err)
		}
	}
	for _, at := range []string{"127.0.0.1:1", "[::1]:1", "unix:/x"} {
		if _, err := Local("proxy", at); err != nil {
			t.Errorf("%q: %v", at, err)
		}
	}
}
