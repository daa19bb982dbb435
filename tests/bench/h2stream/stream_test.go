package h2stream

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// serve runs an HTTP/2 server and gives a load for it.
func serve(t *testing.T, handler http.HandlerFunc) Load {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return Load{
		Target: netip.MustParseAddrPort(s.Listener.Addr().String()), Connections: 2, Streams: 3, Duration: 100 * time.Millisecond, Message: 16,
		Fields: [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/a/b"}, {":authority", "x"}, {"x-bench", "yes"}},
	}
}

// echo answers each piece at once, after what edit makes of it, and with the gRPC status at the end.
func echo(status string, edit func([]byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.Header.Get("X-Bench") != "yes" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(http.StatusOK)
		for piece := make([]byte, 100); ; {
			n, err := r.Body.Read(piece)
			edit(piece[:n])
			_, _ = w.Write(piece[:n])
			_ = rc.Flush()
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
	}
}

func TestMessagesGoAndComeOneAtATime(t *testing.T) {
	l := serve(t, echo("0", func([]byte) {}))
	r, err := l.Run(t.Context())
	if err != nil || r.Failed != 0 || r.First != "" || r.Messages < 6 {
		t.Errorf("%+v, %v", r, err)
	}
	if r.Elapsed < l.Duration || r.Elapsed > l.Duration+Limit/2 {
		t.Errorf("it took %v: the streams have to end when the time is over", r.Elapsed)
	}
}

func TestWhatIsWrongIsCounted(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		failed  int
		first   string
	}{
		"another message": {echo("0", func(b []byte) {
			if len(b) > 0 {
				b[len(b)-1] = 'x'
			}
		}), 6, "came back as"},
		"a status":           {echo("14", func([]byte) {}), 6, `gRPC status "14"`},
		"no status":          {echo("", func([]byte) {}), 6, `gRPC status ""`},
		"404":                {http.NotFound, 6, `status "404"`},
		"a reset":            {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 6, "was reset"},
		"an end too early":   {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", "0") }, 6, "ended the stream: false"},
		"an end, no trailer": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("x")) }, 6, "without trailers"},
	} {
		l := serve(t, c.handler)
		r, err := l.Run(t.Context())
		if err != nil || r.Failed != c.failed || !strings.Contains(r.First, c.first) {
			t.Errorf("%s: %+v, %v, want %d failed, the first for %q", name, r, err, c.failed, c.first)
		}
	}
}

func TestConnectionsThatFailAreCounted(t *testing.T) {
	l := serve(t, http.NotFound)
	l.Target = netip.MustParseAddrPort("127.0.0.1:1")
	r, err := l.Run(t.Context())
	if err != nil || r.Failed != 6 || !strings.Contains(r.First, "refused") {
		t.Errorf("%+v, %v", r, err)
	}
	l.Message = 7
	if _, err := l.Run(t.Context()); err == nil {
		t.Error("messages of 7 bytes have no room for a number")
	}
}
