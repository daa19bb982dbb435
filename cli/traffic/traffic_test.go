package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// serve runs a server on a port of its own and returns its address and where its log goes.
func serve(t *testing.T, name string) (netip.AddrPort, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	path := filepath.Join(t.TempDir(), "seen")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Server{Name: name, Listen: []string{addr.String()}}.Run(ctx, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
		log.Close()
	})
	for range 100 {
		if c, err := net.Dial("tcp", addr.String()); err == nil {
			c.Close()
			return addr, path
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the server does not listen")
	return addr, path
}

func TestLoadCountsWhoAnswered(t *testing.T) {
	v1, _ := serve(t, "web-v1")
	v2, _ := serve(t, "web-v2")
	for _, how := range []Connections{KeepAlive, New, Mixed} {
		l := Load{Targets: []netip.AddrPort{v1, v2}, Workers: 4, Requests: 200, Connections: how, Headers: map[string]string{RouteField: "yes"}}
		r, err := l.Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed != 0 || r.Requests != 200 || r.Backends["web-v1"]+r.Backends["web-v2"] != 200 || r.Routed != 200 || r.Statuses[200] != 200 {
			t.Errorf("%s: %+v", how, r)
		}
		if r.Backends["web-v1"] == 0 || r.Backends["web-v2"] == 0 {
			t.Errorf("%s: only one target was used: %v", how, r.Backends)
		}
	}
}

// A load that cannot fail proves nothing: each kind of wrong answer has to be counted.
func TestLoadCountsWhatIsWrong(t *testing.T) {
	good, _ := serve(t, "web-v1")
	closed := freeAddr(t)
	tests := []struct {
		name, kind string
		load       Load
	}{
		{"nobody listens", "refused", Load{Targets: []netip.AddrPort{closed}}},
		{"status", "status", Load{Targets: []netip.AddrPort{good}, Path: "/status/503"}},
		{"another backend", "backend", Load{Targets: []netip.AddrPort{good}, Backends: "api"}},
		{"closed without an answer", "reset", Load{Targets: []netip.AddrPort{answerWith(t, "")}}},
		{"silence", "timeout", Load{Targets: []netip.AddrPort{answerWith(t, "-")}, Timeout: 50 * time.Millisecond}},
		{"the answer to another request", "answer", Load{Targets: []netip.AddrPort{
			answerWith(t, "HTTP/1.1 200 OK\r\nX-Backend: web-v1\r\nX-Nonce: 7-7\r\nContent-Length: 0\r\n\r\n"),
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.load.Requests = 2
			r, err := tt.load.Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Failed != 2 || r.OK() != 0 || len(r.Failures) != 2 || r.Failures[0].Kind != tt.kind {
				t.Errorf("want 2 failures of kind %q, have %+v", tt.kind, r)
			}
		})
	}
}

// freeAddr is an address where nobody listens, and nobody will: its port is taken by a socket that does not listen.
func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
}

// answerWith reads something from each connection, answers the given bytes ("-": nothing, and keeps it open) and closes it.
func answerWith(t *testing.T, answer string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				if answer == "-" {
					_, _ = c.Read(make([]byte, 1)) // until the client gives up
					return
				}
				_, _ = c.Write([]byte(answer))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestSnapshotsAddUpToTheWhole(t *testing.T) {
	addr, _ := serve(t, "web-v1")
	var sum int64
	l := Load{Targets: []netip.AddrPort{addr}, Workers: 2, Requests: 100, Rate: 500, Snapshots: 20 * time.Millisecond}
	r, err := l.Run(t.Context(), func(s *Report) { sum += s.Requests })
	if err != nil {
		t.Fatal(err)
	}
	if sum == 0 || sum > r.Requests || r.Requests != 100 {
		t.Errorf("snapshots: %d of %d", sum, r.Requests)
	}
	if r.Elapsed < 150*time.Millisecond {
		t.Errorf("100 requests at 500 a second took %v", r.Elapsed)
	}
}

func TestHeldConnectionsAreUsedTwice(t *testing.T) {
	addr, path := serve(t, "web-v1")
	ctx, stop := context.WithCancel(t.Context())
	r, err := Hold{Targets: []netip.AddrPort{addr}, Connections: 50}.Run(ctx, func(r *Report) {
		if r.Requests != 50 || r.Final {
			t.Errorf("held: %+v", r)
		}
		stop()
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 100 || r.Failed != 0 || !r.Final {
		t.Errorf("%+v", r)
	}
	time.Sleep(50 * time.Millisecond) // the server's log is written in turns
	seen := readLog(t, path)
	clients := map[string]bool{}
	for _, s := range seen {
		if s.Target != "" {
			clients[s.Client] = true
		}
	}
	if len(clients) != 50 {
		t.Errorf("100 requests came over %d connections, want 50", len(clients))
	}
}

func readLog(t *testing.T, path string) []Seen {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen, err := ReadLog(f)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestCommandRunsWhatItIsTold(t *testing.T) {
	addr, _ := serve(t, "web-v1")
	var out bytes.Buffer
	if err := Command(t.Context(), "load", `{"targets":["`+addr.String()+`"],"requests":3}`, &out); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Final || r.Backends["web-v1"] != 3 {
		t.Errorf("%+v", r)
	}
	for _, bad := range [][2]string{{"load", "{"}, {"load", "{}"}, {"load", `{"targets":["127.0.0.1:1"],"connections":"no"}`}, {"hold", `{"targets":["127.0.0.1:1"]}`}, {"dance", "{}"}} {
		if err := Command(t.Context(), bad[0], bad[1], &out); err == nil {
			t.Errorf("%s %s: no error", bad[0], bad[1])
		}
	}
}
