package echo

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// backend serves on loopback and returns the addresses of its ports: HTTP, and the two that are none.
func backend(t *testing.T) (s *Server, web, first, second string) {
	t.Helper()
	s = &Server{Name: "v1"}
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() { _ = serve(l) }() // it ends with the test
		return l.Addr().String()
	}
	web = listen(func(l net.Listener) error { return s.Serve(t.Context(), l) })
	return s, web, listen(s.ServeFirst), listen(s.ServeSecond)
}

func one(t *testing.T, r Request) Answer {
	t.Helper()
	r.Count = 1
	if r.Method == "" {
		r.Method = "GET"
	}
	if r.Protocol == "" {
		r.Protocol = HTTP1
	}
	if r.Path == "" {
		r.Path = "/"
	}
	answers := Send(t.Context(), &r)
	if len(answers) != 1 {
		t.Fatalf("%d answers", len(answers))
	}
	return answers[0]
}

func TestWhatTheServerSaw(t *testing.T) {
	_, web, _, _ := backend(t)
	for _, protocol := range []string{HTTP1, HTTP2} {
		a := one(t, Request{
			Address: web, Protocol: protocol, Method: "POST", Path: "/a//b/%2F?x=%20&y", Host: "some.example:1", Fields: []string{"X-A: 1", "x-a: 2"}, Body: "abc",
		})
		if a.Error != "" || a.Saw == nil {
			t.Fatalf("%s: %+v", protocol, a)
		}
		s := a.Saw
		if s.Path != "/a//b/%2F?x=%20&y" || s.Host != "some.example:1" || s.Method != "POST" || s.Bytes != 3 || strings.Join(s.Fields["X-A"], ",") != "1,2" ||
			strings.HasPrefix(s.Protocol, "HTTP/2") != (protocol == HTTP2) {
			t.Errorf("%s: %+v", protocol, s)
		}
	}
}

func TestPathsThatNobodyCleans(t *testing.T) {
	_, web, _, _ := backend(t)
	for _, path := range []string{"//a", "/a/../b", "/a/./b", "/?"} {
		if a := one(t, Request{Address: web, Path: path, Host: "h"}); a.Saw == nil || a.Saw.Path != path {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

func TestOrders(t *testing.T) {
	s, web, _, _ := backend(t)
	do := func(orders string) Request {
		return Request{Address: web, Host: "h", Fields: []string{DoField + ": " + orders}, Nonce: orders, Patience: 5 * time.Second}
	}
	for _, status := range []int{503, 503, 200} { // the nonce is the same each time
		if a := one(t, do("status=503&times=2")); a.Status != status {
			t.Errorf("status %d, want %d", a.Status, status)
		}
	}
	if n := len(s.Seen("status=503&times=2")); n != 3 {
		t.Errorf("seen %d times", n)
	}
	if a := one(t, do("status=503&only=v2")); a.Status != 200 {
		t.Errorf("what another is to do: %d", a.Status)
	}
	if a := one(t, do("end=reset")); a.Error == "" {
		t.Errorf("a reset is no error: %+v", a)
	}
	if a := one(t, do("end=cut&pad=100")); a.Error == "" || a.Status != 200 {
		t.Errorf("half an answer is no error: %+v", a)
	}
	if a := one(t, do("head=50ms&body=50ms")); a.Took < 100*time.Millisecond || a.Saw == nil {
		t.Errorf("not slow: %+v", a)
	}
	if a := one(t, do("trailer=X-T:1&field=X-F:2")); a.Trailers.Get("X-T") != "1" || a.Fields.Get("X-F") != "2" {
		t.Errorf("%+v", a)
	}
	if a := one(t, do("nonsense=1")); a.Status != 418 {
		t.Errorf("an order that there is not: %+v", a)
	}
}

func TestCalls(t *testing.T) {
	_, web, _, _ := backend(t)
	call := Request{Address: web, Protocol: GRPC, Method: "POST", Path: "/a.B/C", Host: "h", Body: "hello"}
	if a := one(t, call); a.GRPC != 0 || a.Saw == nil || a.Saw.Bytes != 10 || a.Trailers.Get("Grpc-Status") != "0" {
		t.Errorf("%+v", a)
	}
	call.Fields = []string{DoField + ": grpc=5"}
	if a := one(t, call); a.GRPC != 5 || a.Fields.Get("Grpc-Status") != "5" {
		t.Errorf("%+v", a)
	}
}

func TestOtherBytes(t *testing.T) {
	_, web, first, second := backend(t)
	if a := one(t, Request{Address: first, Protocol: TCP, Body: "ping", Pause: 1}); a.Body != "hello from v1\nping" || a.Error != "" {
		t.Errorf("%+v", a)
	}
	if a := one(t, Request{Address: second, Protocol: TCP, Body: "ping"}); a.Body != "hello from v1\nping" || a.Error != "" {
		t.Errorf("%+v", a)
	}
	if a := one(t, Request{Address: web, Protocol: WebSocket, Host: "h", Body: "\x81\x00\xfe"}); a.Status != 101 || a.Body != "\x81\x00\xfe" {
		t.Errorf("%+v", a)
	}
}

func TestPodIsDriven(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	socket := filepath.Join(t.TempDir(), "pod")
	done := make(chan error, 1)
	go func() { done <- Pod{Name: "client", Control: socket}.Run(ctx) }()
	_, web, _, _ := backend(t)
	d := NewDriver(socket)
	request := &Request{Address: web, Protocol: HTTP1, Method: "GET", Path: "/", Host: "h", Count: 10, Workers: 3}
	var answers []Answer
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if answers, err = d.Send(ctx, request); err == nil {
			break
		}
	}
	if err != nil || len(answers) != 10 || answers[9].Saw == nil {
		t.Fatalf("%v, %+v", err, answers)
	}
	if seen, err := d.Seen(ctx, "x"); err != nil || len(seen) != 0 {
		t.Errorf("%v, %v", seen, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
