package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// loop starts a forwarder with one backend, which has 3 of 4 shares, and another with the rest.
func loop(t *testing.T) net.Addr {
	t.Helper()
	f := &forwarder{name: []byte("x-bench"), value: []byte("yes")}
	for i, weight := range []int{3, 1} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-backend", strconv.Itoa(i))
			w.Header().Set("x-saw-connection", r.Header.Get("Connection"))
			size, _ := strconv.Atoi(r.URL.Query().Get("size"))
			w.Header().Set("Content-Length", strconv.Itoa(size))
			fmt.Fprint(w, strings.Repeat("x", size))
		}))
		t.Cleanup(s.Close)
		b := &backend{address: s.Listener.Addr().(*net.TCPAddr)}
		for range weight {
			f.choices = append(f.choices, b)
		}
	}
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
			go f.connection(c.(*net.TCPConn))
		}
	}()
	return l.Addr()
}

func TestForwardsBodiesOfAnySizeByWeight(t *testing.T) {
	address := loop(t)
	c, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	shares := map[string]int{}
	for _, size := range []int{0, 1, 10 << 10, bufferSize, 1 << 20, 5, bufferSize * 3, 7} {
		fmt.Fprintf(c, "GET /?size=%d HTTP/1.1\r\nHost: x\r\nX-Bench: yes\r\nConnection: keep-alive\r\n\r\n", size)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n != int64(size) || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d bytes: got %d, %v, status %d", size, n, err, resp.StatusCode)
		}
		if saw := resp.Header.Get("x-saw-connection"); saw != "" {
			t.Errorf("the Connection field %q was passed on", saw)
		}
		shares[resp.Header.Get("x-backend")]++
	}
	if shares["0"] != 6 || shares["1"] != 2 {
		t.Errorf("shares %v, want 6 and 2", shares)
	}
}

func TestAnswers404WithoutTheFieldAndClosesWhenAsked(t *testing.T) {
	c, err := net.Dial("tcp", loop(t).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nx-bench: no\r\n\r\nGET /?size=3 HTTP/1.1\r\nHost: x\r\nx-bench: yes\r\nConnection: close\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(got), "\r\n\r\n")
	if !strings.HasPrefix(first, "HTTP/1.1 404 ") || !strings.HasPrefix(second, "HTTP/1.1 200 ") || !strings.HasSuffix(second, "xxx") || !strings.Contains(second, "Connection: close\r\n") {
		t.Errorf("got %q", got)
	}
}
