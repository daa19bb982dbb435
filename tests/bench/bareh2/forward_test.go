package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/h2"
)

func onlyH2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// loop starts a forwarder to two backends, of which the first has 3 of 4 shares, and returns a client and the base of URLs.
func loop(t *testing.T, handler func(backend int, w http.ResponseWriter, r *http.Request)) (*http.Client, string) {
	t.Helper()
	var list []string
	for i, weight := range []int{3, 1} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(i, w, r) }))
		s.Config.Protocols = onlyH2()
		s.Start()
		t.Cleanup(s.Close)
		list = append(list, fmt.Sprintf("%s=%d", s.Listener.Addr(), weight))
	}
	f, err := newForwarder(strings.Join(list, ","), "x-bench=yes")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { _ = f.accept(l) }() // until l is closed
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Protocols: onlyH2(), DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 128 << 10},
	}}
	t.Cleanup(c.CloseIdleConnections)
	return c, "http://" + l.Addr().String()
}

func post(c *http.Client, url, match string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Bench", match)
	r.Header.Set("Te", "trailers")
	return c.Do(r)
}

// echo answers with the body and says in trailers how long it was.
func echo(backend int, w http.ResponseWriter, r *http.Request) {
	w.Header().Set("x-backend", fmt.Sprint(backend))
	w.WriteHeader(http.StatusOK)
	n, err := io.Copy(w, r.Body)
	w.Header().Set(http.TrailerPrefix+"x-length", fmt.Sprint(n, err))
}

func TestForwardsManyCallsAtATimeByWeight(t *testing.T) {
	c, base := loop(t, echo)
	const callers, each = 50, 20
	var first atomic.Int64
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for k := range each {
				body := fmt.Sprintf("call %d of %d", k, i)
				resp, err := post(c, base+"/a", "yes", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprint(len(body), " <nil>"); err != nil || string(got) != body || resp.Trailer.Get("x-length") != want || resp.StatusCode != 200 {
					t.Errorf("%d, %q, %v, trailers %v, want %q and %s", resp.StatusCode, got, err, resp.Trailer, body, want)
				}
				if resp.Header.Get("x-backend") == "0" {
					first.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := first.Load(); n < 650 || n > 850 {
		t.Errorf("the first backend got %d of 1000 calls, want about 750", n)
	}
}

// RFC 9113 section 5.2: bodies larger than all windows pass, in both directions at once, whoever is slow.
func TestKeepsToFlowControl(t *testing.T) {
	c, base := loop(t, echo)
	body := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			resp, err := post(c, base+"/", "yes", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var got bytes.Buffer
			for piece := make([]byte, 1000); ; {
				n, err := resp.Body.Read(piece)
				got.Write(piece[:n])
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if want := fmt.Sprint(len(body), " <nil>"); !bytes.Equal(got.Bytes(), body) || resp.Trailer.Get("x-length") != want {
				t.Errorf("%d bytes came back, trailers %v, want %s", got.Len(), resp.Trailer, want)
			}
		})
	}
	all.Wait()
}

// counted says when so much was read of several bodies.
type counted struct {
	left    atomic.Int64
	reached chan struct{}
}

type countedBody struct {
	io.Reader
	c *counted
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if left := b.c.left.Add(int64(-n)); left <= 0 && left+int64(n) > 0 {
		close(b.c.reached)
	}
	return n, err
}

// RFC 9113 section 6.9.1: the window of a connection binds also where those of its streams would let more through.
func TestKeepsToTheWindowOfAConnection(t *testing.T) {
	sent := &counted{reached: make(chan struct{})}
	sent.left.Store(7 * streamWindow / 2) // of four streams: more than a backend's window of 1 MiB
	c, base := loop(t, func(backend int, w http.ResponseWriter, r *http.Request) {
		<-sent.reached // nothing is read until then
		echo(backend, w, r)
	})
	body := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			resp, err := post(c, base+"/", "yes", countedBody{bytes.NewReader(body), sent})
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

// A client that does not read for a while gets everything afterwards, and keeps nobody waiting meanwhile.
func TestWritesLaterWhatASocketDoesNotTake(t *testing.T) {
	const size = 32 << 20
	written := make(chan struct{})
	c, base := loop(t, func(backend int, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			echo(backend, w, r)
			return
		}
		_, _ = w.Write(make([]byte, size))
		close(written)
	})
	nc, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b := h2.AppendSettings([]byte(h2.Preface), h2.InitialWindowSize, 1<<31-1)
	b = h2.AppendWord(b, h2.WindowUpdate, 0, 1<<30)
	var block []byte
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/big"}, {":authority", "x"}, {"x-bench", "yes"}} {
		block = h2.AppendField(block, f[0], f[1])
	}
	b = append(h2.Append(b, len(block), h2.Headers, h2.EndHeaders|h2.EndStream, 1), block...)
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	<-written
	if resp, err := post(c, base+"/", "yes", strings.NewReader("x")); err != nil {
		t.Error(err)
	} else {
		resp.Body.Close()
	}
	if err := nc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for got, r := 0, bufio.NewReader(nc); got < size; {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if _, err := r.Discard(n); err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		if head[3] == h2.Data {
			got += n
		}
	}
}

func TestAnswers404WithoutTheField(t *testing.T) {
	c, base := loop(t, func(int, http.ResponseWriter, *http.Request) { t.Error("it was forwarded") })
	for range 3 { // on one connection
		resp, err := post(c, base+"/", "no", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("status %d, want 404", resp.StatusCode)
		}
	}
}

// A client that goes away ends its calls at the backend, and a backend that resets ends them at the client.
func TestForwardsResets(t *testing.T) {
	gone := make(chan struct{})
	c, base := loop(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
		close(gone)
	})
	if resp, err := post(c, base+"/abort", "yes", nil); err == nil {
		resp.Body.Close()
		t.Errorf("status %d of a call that was reset", resp.StatusCode)
	}
	resp, err := post(c, base+"/wait", "yes", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() // which resets the stream
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the backend's call goes on")
	}
}

// The end of a client's connection ends its calls too.
func TestForwardsTheEndOfAConnection(t *testing.T) {
	begun, gone := make(chan struct{}), make(chan struct{})
	c, base := loop(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(gone)
	})
	var conn net.Conn
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, network, address)
		return conn, err
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := post(c, base+"/", "yes", nil)
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-begun
	conn.Close()
	if err := <-failed; err == nil {
		t.Error("a call over a closed connection succeeded")
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the backend's call goes on")
	}
}

func TestBackendsNameWhatIsWrong(t *testing.T) {
	for _, list := range []string{"", "x", "127.0.0.1:80", "127.0.0.1:80=x", "127.0.0.1:80=0"} {
		if _, err := newForwarder(list, "a=b"); err == nil || !strings.Contains(err.Error(), "backend") {
			t.Errorf("%q: %v", list, err)
		}
	}
}
