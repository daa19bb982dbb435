package traffic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCallsOfAllWorkersShareOneConnection(t *testing.T) {
	v1, path := serve(t, "echo-v1")
	r, err := Calls{Targets: []netip.AddrPort{v1}, Workers: 8, Calls: 400, Headers: map[string]string{RouteField: "yes"}}.Run(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]int64{codeOK: 400}
	if r.Connections != 1 || r.Failed != 0 || r.Backends["echo-v1"] != 400 || r.Routed != 400 || !maps.Equal(r.Codes, want) || !r.Final {
		t.Errorf("%+v", r)
	}
	clients := map[string]int{}
	for len(clients) == 0 { // the server's log is written in turns
		for _, s := range readLog(t, path) {
			if s.Target == Method && s.Method == http.MethodPost {
				clients[s.Client]++
			}
		}
	}
	if len(clients) != 1 {
		t.Errorf("the server saw calls from %v, want one connection", clients)
	}
}

func TestCallsUseAConnectionForEachTargetOrEachCall(t *testing.T) {
	v1, _ := serve(t, "echo-v1")
	v2, _ := serve(t, "echo-v2")
	for _, c := range []struct {
		fresh bool
		want  int64
	}{{false, 2}, {true, 60}} {
		r, err := Calls{Targets: []netip.AddrPort{v1, v2}, Workers: 4, Calls: 60, Fresh: c.fresh, Backends: "echo-"}.Run(t.Context(), nil)
		if err != nil || r.Connections != c.want || r.Failed != 0 || r.Backends["echo-v1"] == 0 || r.Backends["echo-v1"]+r.Backends["echo-v2"] != 60 {
			t.Errorf("fresh %v: %+v, %v, want %d connections", c.fresh, r, err, c.want)
		}
	}
}

// Calls with a connection each leave none behind.
func TestFreshConnectionsAreClosed(t *testing.T) {
	var mu sync.Mutex
	open, opened := 0, 0
	closed := make(chan struct{}, 100)
	s := httptest.NewUnstartedServer(Server{Name: "echo"}.handler(&seenLog{w: bufio.NewWriter(io.Discard)}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			open, opened = open+1, opened+1
		case http.StateClosed:
			open--
			closed <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	if _, err := (Calls{Targets: []netip.AddrPort{netip.MustParseAddrPort(s.Listener.Addr().String())}, Fresh: true, Calls: 5}).Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatal("a connection is left open")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if open != 0 || opened != 5 {
		t.Errorf("%d of %d connections are open, want 0 of 5", open, opened)
	}
}

// One port, as the Services of the examples have it.
func TestServerAnswersHTTP1AndHTTP2OnOnePort(t *testing.T) {
	addr, _ := serve(t, "web-v1")
	for proto, set := range map[string]func(*http.Protocols, bool){"HTTP/1.1": (*http.Protocols).SetHTTP1, "HTTP/2.0": (*http.Protocols).SetUnencryptedHTTP2} {
		p := new(http.Protocols)
		set(p, true)
		c := http.Client{Transport: &http.Transport{Protocols: p}}
		resp, err := c.Get("http://" + addr.String() + "/status/418")
		if err != nil {
			t.Fatal(err)
		}
		var a Answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		c.CloseIdleConnections()
		if resp.Proto != proto || resp.StatusCode != 418 || a.Backend != "web-v1" || a.Target != "/status/418" {
			t.Errorf("%s %d, %+v, want %s 418 of web-v1", resp.Proto, resp.StatusCode, a, proto)
		}
	}
}

// h2c serves HTTP/2 without TLS.
func h2c(t *testing.T, handler http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// answers serves one gRPC answer: fields and a body, then trailers.
func answers(t *testing.T, body string, fields ...string) netip.AddrPort {
	return h2c(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", grpcType)
		w.Header().Set(NonceField, r.Header.Get(NonceField))
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.Write([]byte(body))
	})
}

// What is no success has to be counted, as the code that a client sees and as its kind.
func TestCallsCountWhatIsWrong(t *testing.T) {
	good, _ := serve(t, "echo-v1")
	ok := string(appendMessage(nil, text("echo-v1")))
	const trailer = http.TrailerPrefix + statusField
	status := func(n int) netip.AddrPort {
		return h2c(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) })
	}
	silent := h2c(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	reset := h2c(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	tests := []struct {
		name, kind string
		code       int
		calls      Calls
	}{
		{"nobody listens", "refused", codeUnavailable, Calls{Targets: []netip.AddrPort{freeAddr(t)}}},
		{"a status in the header only", "status", 14, Calls{Targets: []netip.AddrPort{good}, Method: "/sluice.lab.Echo/Fail14"}},
		{"a path that is no method", "status", codeUnimplemented, Calls{Targets: []netip.AddrPort{good}, Method: "/Name"}},
		{"a status in the trailers", "status", 9, Calls{Targets: []netip.AddrPort{answers(t, "", trailer, "9")}}},
		{"HTTP 404", "status", codeUnimplemented, Calls{Targets: []netip.AddrPort{status(404)}}},
		{"HTTP 503", "status", codeUnavailable, Calls{Targets: []netip.AddrPort{status(503)}}},
		{"HTTP 500", "status", codeUnknown, Calls{Targets: []netip.AddrPort{status(500)}}},
		{"no status at all", "status", codeUnknown, Calls{Targets: []netip.AddrPort{answers(t, ok)}}},
		{"a status before its message", "status", codeUnknown, Calls{Targets: []netip.AddrPort{answers(t, ok, statusField, "0")}}},
		{"no gRPC", "status", codeUnknown, Calls{Targets: []netip.AddrPort{answers(t, ok, "Content-Type", "text/plain", trailer, "0")}}},
		{"no message", "answer", codeOK, Calls{Targets: []netip.AddrPort{answers(t, "", trailer, "0")}}},
		{"half a message", "answer", codeOK, Calls{Targets: []netip.AddrPort{answers(t, ok[:8], trailer, "0")}}},
		{"two messages", "answer", codeInternal, Calls{Targets: []netip.AddrPort{answers(t, ok+ok, trailer, "0")}}},
		{"another's message", "answer", codeOK, Calls{Targets: []netip.AddrPort{answers(t, ok, BackendField, "echo-v2", trailer, "0")}}},
		{"the answer to another call", "answer", codeOK, Calls{Targets: []netip.AddrPort{answers(t, ok, BackendField, "echo-v1", NonceField, "7-7", trailer, "0")}}},
		{"another backend", "backend", codeOK, Calls{Targets: []netip.AddrPort{good}, Backends: "web"}},
		{"silence", "timeout", codeDeadline, Calls{Targets: []netip.AddrPort{silent}, Timeout: 50 * time.Millisecond}},
		{"reset", "read", codeUnavailable, Calls{Targets: []netip.AddrPort{reset}}},
		{"HTTP/1.1 only", "", // reset or read: whose end comes first is chance
			codeUnavailable, Calls{Targets: []netip.AddrPort{answerWith(t, "HTTP/1.1 400 Bad Request\r\n\r\n")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.calls.Calls = 2
			r, err := tt.calls.Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Failed != 2 || r.OK() != 0 || len(r.Failures) != 2 || tt.kind != "" && r.Failures[0].Kind != tt.kind || r.Codes[tt.code] != 2 {
				t.Errorf("want 2 failures of kind %q and code %d, have %+v", tt.kind, tt.code, r)
			}
		})
	}
}

// A channel comes back after its connection broke, and each connection is counted.
func TestCallsConnectAgainAfterABreak(t *testing.T) {
	var s *httptest.Server
	calls := 0
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 2 {
			conn := r.Context().Value(connKey{}).(net.Conn)
			conn.Close()
			return
		}
		Server{Name: "echo"}.handler(&seenLog{w: bufio.NewWriter(io.Discard)}).ServeHTTP(w, r)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnContext = withConn
	s.Start()
	t.Cleanup(s.Close)
	r, err := Calls{Targets: []netip.AddrPort{netip.MustParseAddrPort(s.Listener.Addr().String())}, Calls: 4}.Run(t.Context(), nil)
	if err != nil || r.Failed != 1 || r.OK() != 3 || r.Connections != 2 || r.Codes[codeUnavailable] != 1 {
		t.Errorf("%+v, %v, want 1 of 4 to fail and 2 connections", r, err)
	}
}

// gRPC over HTTP2: Length-Prefixed-Message = Compressed-Flag Message-Length Message.
func TestMessagesAreFramedAsGRPCDoes(t *testing.T) {
	framed := appendMessage(nil, text("v1"))
	if !bytes.Equal(framed, []byte{0, 0, 0, 0, 4, 0x0a, 2, 'v', '1'}) {
		t.Errorf("framed as %v", framed)
	}
	message, err := readMessage(bytes.NewReader(framed))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := parseText(message); err != nil || s != "v1" {
		t.Errorf("%q, %v", s, err)
	}
	long := binary.BigEndian.AppendUint32([]byte{0}, maxMessage+1)
	for _, bad := range [][]byte{nil, {0, 0, 0, 0}, {1, 0, 0, 0, 0}, {0, 0, 0, 0, 2, 1}, slices.Concat(framed, framed), long} {
		if m, err := readMessage(bytes.NewReader(bad)); err == nil {
			t.Errorf("% x: message %q and no error", bad, m)
		}
	}
	for _, bad := range []string{"", "\x0a", "\x0a\x05v1", "\x12\x02v1", "\x0a\x02v1x"} {
		if s, err := parseText([]byte(bad)); err == nil {
			t.Errorf("%q: text %q and no error", bad, s)
		}
	}
}

func TestCommandMakesCalls(t *testing.T) {
	addr, _ := serve(t, "echo-v1")
	var out bytes.Buffer
	if err := Command(t.Context(), "calls", `{"targets":["`+addr.String()+`"],"calls":3}`, &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, `"codes":{"0":3}`) || !strings.Contains(got, `"connections":1`) || !strings.Contains(got, `"echo-v1":3`) {
		t.Errorf("%s", got)
	}
	for _, bad := range []string{"{", "{}"} {
		if err := Command(t.Context(), "calls", bad, &out); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}
