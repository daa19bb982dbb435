package observe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestParseAccessLog(t *testing.T) {
	for s, want := range map[string]AccessLog{"off": Off, "errors": Errors, "all": All} {
		if got, err := ParseAccessLog(s); err != nil || got != want {
			t.Errorf("%q is %v, %v: want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "ALL", "on"} {
		if _, err := ParseAccessLog(s); err == nil || !strings.Contains(err.Error(), "off, errors or all") {
			t.Errorf("%q: error %v does not say what can be", s, err)
		}
	}
}

// logged returns the lines that an access log has of the records.
func logged(t *testing.T, level AccessLog, records ...*Record) (lines []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	r := New(prometheus.NewRegistry(), Options{AccessLog: level, Output: &out})
	for _, rec := range records {
		r.Done(rec)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(&out); s.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, s.Bytes())
		}
		lines = append(lines, line)
	}
	return lines
}

func TestAccessLogLevels(t *testing.T) {
	m := newMesh()
	failed := m.record(0, 0, 404)
	failed.Failure = "upstream"
	all := []*Record{m.record(0, 0, 200), m.record(0, 0, 404), m.record(0, 0, 499), m.record(0, 0, 500), m.record(0, 0, 503), failed}
	for level, want := range map[AccessLog]string{Off: "[]", Errors: "[500 503 404]", All: "[200 404 499 500 503 404]"} {
		got := []any{}
		for _, line := range logged(t, level, all...) {
			got = append(got, line["status"])
		}
		if s := fmt.Sprint(got); s != want {
			t.Errorf("level %v logs %s: want %s", level, s, want)
		}
	}
}

func TestAccessLogLine(t *testing.T) {
	m := newMesh()
	rec := m.record(1, 0, 503)
	rec.Method, rec.Authority, rec.Path = "GET", "web.shop:80", "/a?b=c"
	rec.RequestBytes, rec.ResponseBytes, rec.Attempts, rec.Failure = 3, 5<<32, 2, "upstream_reset"
	rec.GRPC = GRPC{Known: true, Code: 14}
	rec.Endpoint = netip.MustParseAddrPort("[fd00::1]:8080")
	rec.Start = time.Date(2026, 7, 1, 12, 30, 1, 2_000_000, time.FixedZone("", 3600))
	rec.Duration = 1234567 * time.Nanosecond
	want := map[string]any{
		"time": "2026-07-01T11:30:01.002Z", "duration_ms": 1.235, "method": "GET", "authority": "web.shop:80", "path": "/a?b=c",
		"status": 503.0, "grpc_status": "14", "failure": "upstream_reset", "request_bytes": 3.0, "response_bytes": 5.0 * (1 << 32), "attempts": 2.0,
		"endpoint": "[fd00::1]:8080", "client": "front", "client_namespace": "shop", "client_pod": "front-5f6d-x2z",
		"service": "web", "service_namespace": "shop", "port": 80.0, "route": "HTTPRoute/shop/split", "rule": "canary",
		"backend": "shop/v2:8080",
	}
	if diff := cmp.Diff([]map[string]any{want}, logged(t, All, rec)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}

	// What is not known is there too, and empty.
	for k, v := range logged(t, All, &Record{})[0] {
		if _, known := want[k]; !known || v != "" && v != 0.0 && k != "time" {
			t.Errorf("of an empty record: %s is %v", k, v)
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("an empty record does not have %v", want)
	}
}

func TestAccessLogKeepsNoView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out gate
		r := New(prometheus.NewRegistry(), Options{AccessLog: All, Output: &out})
		out.Lock()
		buffer := []byte("GET web.shop /a")
		view := func(from, to int) string { return unsafe.String(&buffer[from], to-from) }
		rec := newMesh().record(0, 0, 200)
		rec.Method, rec.Authority, rec.Path = view(0, 3), view(4, 12), view(13, 15)
		r.Done(rec)
		copy(buffer, "PUT WEB.SHOP /b")
		out.Unlock()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if want := `"method":"GET","authority":"web.shop","path":"/a"`; !strings.Contains(out.String(), want) {
			t.Errorf("the line is %swant in it %s", out.String(), want)
		}
	})
}

// gate is an output that takes nothing while it is locked.
type gate struct {
	sync.Mutex
	bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	g.Lock()
	defer g.Unlock()
	return g.Buffer.Write(b)
}

// An output that does not take anything costs lines, and no exchange waits.
func TestAccessLogDropsWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		queue int
		path  string
		fit   int
	}{
		"by lines": {8, "/", 8},
		"by bytes": {8, "/" + strings.Repeat("x", 3<<10), 3}, // 9 KiB are in the queue when the fourth comes
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewPedanticRegistry()
				read, write := io.Pipe()
				r := New(reg, Options{AccessLog: All, Output: write, MaxQueue: c.queue})
				rec := newMesh().record(0, 0, 200)
				r.Done(rec)
				synctest.Wait() // this one is being written
				rec.Path = c.path
				const n = 100
				for range n {
					r.Done(rec)
				}
				got := scrape(t, reg)
				if dropped := got["sluice_access_log_dropped_total{}"]; dropped != float64(n-c.fit) {
					t.Errorf("%v lines of %d are dropped: want all but %d", dropped, n, c.fit)
				}
				if requests := got.like("sluice_requests_total").sum(); requests != n+1 {
					t.Errorf("%v requests are counted: want %d", requests, n+1)
				}
				lines := make(chan int)
				go func() {
					count := 0
					for s := bufio.NewScanner(read); s.Scan(); count++ {
						if !json.Valid(s.Bytes()) {
							t.Errorf("no JSON: %s", s.Bytes())
						}
					}
					lines <- count
				}()
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				_ = write.Close() // a pipe's never fails
				if written := <-lines; written != 1+c.fit {
					t.Errorf("%d lines are written: want %d", written, 1+c.fit)
				}
			})
		})
	}
}

// Lines come in one write when there are many, and soon when there are few.
func TestAccessLogGathersLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out writes
		r := New(prometheus.NewRegistry(), Options{AccessLog: All, Output: &out})
		defer func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
		rec := newMesh().record(0, 0, 200)
		r.Done(rec)
		synctest.Wait()
		if got := out.String(); got != "[1]" {
			t.Errorf("after one line: writes of %s lines", got)
		}
		for range 50 {
			r.Done(rec)
		}
		synctest.Wait()
		if got := out.String(); got != "[1]" {
			t.Errorf("it does not wait for more: writes of %s lines", got)
		}
		synctest.Sleep(gatherFor)
		if got := out.String(); got != "[1 50]" {
			t.Errorf("after the wait: writes of %s lines", got)
		}
	})
}

// writes are the numbers of lines that were written at once.
type writes struct {
	mu    sync.Mutex
	lines []int
}

func (w *writes) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, bytes.Count(b, []byte("\n")))
	return len(b), nil
}

func (w *writes) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.lines)
}

func TestAccessLogClose(t *testing.T) {
	t.Run("an output that fails", func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		full := errors.New("no space left")
		r := New(reg, Options{AccessLog: All, Output: failing{full}})
		for range 3 {
			r.Done(newMesh().record(0, 0, 200))
		}
		if err := r.Close(); !errors.Is(err, full) {
			t.Errorf("close says %v: want %v", err, full)
		}
		if n := scrape(t, reg)["sluice_access_log_dropped_total{}"]; n != 3 {
			t.Errorf("%v lines are counted as dropped: want 3", n)
		}
	})
	t.Run("an output that hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			read, write := io.Pipe()
			r := New(prometheus.NewRegistry(), Options{AccessLog: All, Output: write})
			r.Done(newMesh().record(0, 0, 200))
			began := time.Now()
			if err := r.Close(); !errors.Is(err, errSlowOutput) {
				t.Errorf("close says %v: want %v", err, errSlowOutput)
			}
			if took := time.Since(began); took != closeWithin {
				t.Errorf("close waited for %v: want %v", took, closeWithin)
			}
			_ = read.Close() // lets the writer end
		})
	})
	t.Run("exchanges that end later", func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		var out bytes.Buffer
		r := New(reg, Options{AccessLog: All, Output: &out})
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		r.Done(newMesh().record(0, 0, 200))
		got := scrape(t, reg)
		if got.like("sluice_requests_total").sum() != 1 || got["sluice_access_log_dropped_total{}"] != 1 || out.Len() > 0 {
			t.Errorf("%v and the log %q: want one request and its line dropped", got, out.String())
		}
	})
	t.Run("no log", func(t *testing.T) {
		if err := New(prometheus.NewRegistry(), Options{}).Close(); err != nil {
			t.Error(err)
		}
	})
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A client decides what its requests have in them. A line stays a line, and what is in it stays in its place.
func FuzzAccessLogLine(f *testing.F) {
	for _, s := range []string{
		"GET", `"`, `\`, "\",\"status\":200,\"x\":\"", "\n{}", "\x00\x1b[2J\x7f", "\xff\xc3", "\u2028é\U0001F600", "\xed\xa0\x80",
	} {
		f.Add(s, "web.shop", s, "front")
		f.Add("GET", s, "/", s)
	}
	f.Fuzz(func(t *testing.T, method, authority, path, workload string) {
		m := newMesh()
		m.pod.Workload = workload
		m.rule(0).Name = path
		rec := m.record(0, 0, 200)
		rec.Method, rec.Authority, rec.Path, rec.Failure = method, authority, path, workload
		line := appendLine(nil, rec)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("it is not one line: %q", line)
		}
		for i, c := range line[:len(line)-1] {
			if c < 0x20 {
				t.Fatalf("byte %d is the control character %#x: %q", i, c, line)
			}
		}
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		for key, sent := range map[string]string{"method": method, "authority": authority, "path": path, "failure": workload} {
			if want := throughJSON(t, sent); got[key] != want {
				t.Errorf("%s is %q: want %q", key, got[key], want)
			}
		}
		if got["status"] != 200.0 || len(got) != 21 {
			t.Errorf("the line has other members: %q", line)
		}
	})
}

// throughJSON is what encoding/json makes of a string that may not be UTF-8.
func throughJSON(t *testing.T, s string) (out string) {
	t.Helper()
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}
