package wire

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// serve runs a server and returns its socket. It has ended when the returned function has.
func serve(t *testing.T, socket string, handle Handler) (stop func()) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, handle, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func someSocket(t *testing.T) string { return filepath.Join(t.TempDir(), "cni.sock") }

func TestRequestArrivesAndAnswerComesBack(t *testing.T) {
	need.Root(t)
	got := make(chan Request, 1)
	socket := someSocket(t)
	serve(t, socket, func(_ context.Context, r Request) Answer {
		got <- r
		return Answer{State: NotEnrolled, Reason: "opted out"}
	})
	want := Request{
		Command: Add, Network: "net", ContainerID: "c", NetNS: "/run/netns/x", IfName: "eth0", Namespace: "ns", Name: "pod", UID: "uid",
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Valid: []Attachment{{"c", "eth0"}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := Ask(ctx, socket, want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Answer{Version: 1, State: NotEnrolled, Reason: "opted out"}, a); diff != "" {
		t.Error(diff)
	}
	r := <-got
	if r.WaitMillis < 1000 || r.WaitMillis > 60_000 {
		t.Errorf("the agent was told to answer within %d ms", r.WaitMillis)
	}
	want.Version, want.WaitMillis = 1, r.WaitMillis
	if diff := cmp.Diff(want, r, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// A raw message is answered with what is wrong with it, by name.
func TestBadRequestIsNamed(t *testing.T) {
	need.Root(t)
	socket := someSocket(t)
	serve(t, socket, func(context.Context, Request) Answer { return Answer{State: Serving} })
	for name, c := range map[string]struct{ send, want string }{
		"no JSON":                {"hello\n", "it is no request"},
		"another type":           {`{"version":"1"}` + "\n", "version"},
		"nothing":                {"", "closed before a message came"},
		"cut off":                {`{"version":1`, "closed after 12 bytes"},
		"another version":        {`{"version":2,"command":"ADD"}` + "\n", "version 2 of the protocol"},
		"no command":             {`{"version":1}` + "\n", "command is missing"},
		"unknown command":        {`{"version":1,"command":"EAT"}` + "\n", `"EAT" is none of`},
		"ADD without netns":      {`{"version":1,"command":"ADD","containerID":"c"}` + "\n", "ADD needs netns"},
		"CHECK without netns":    {`{"version":1,"command":"CHECK","containerID":"c"}` + "\n", "CHECK needs netns"},
		"DEL without container":  {`{"version":1,"command":"DEL"}` + "\n", "DEL needs containerID"},
		"relative netns":         {`{"version":1,"command":"DEL","containerID":"c","netns":"../x"}` + "\n", "no absolute path"},
		"bad address":            {`{"version":1,"command":"DEL","containerID":"c","ips":["10.0.0"]}` + "\n", "10.0.0"},
		"too long":               {strings.Repeat("x", MaxRequest+1), "longer than 1048576 bytes"},
		"fine":                   {`{"version":1,"command":"DEL","containerID":"c"}` + "\n", ""},
		"with an unknown member": {`{"version":1,"command":"DEL","containerID":"c","mood":"good"}` + "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c2, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer c2.Close()
			_, _ = io.WriteString(c2, c.send) // of what is too long the rest is not taken
			_ = c2.CloseWrite()
			line, err := bufio.NewReader(c2).ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			var a Answer
			if err := json.Unmarshal(line, &a); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if c.want == "" && (a.Error != "" || a.State != Serving) || !strings.Contains(a.Error, c.want) || a.Version != Version {
				t.Errorf("answer: %+v, want an error with %q", a, c.want)
			}
		})
	}
}

func TestBadAnswerIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ send, want string }{
		"no JSON":         {"hello\n", "it is no answer"},
		"nothing":         {"", "closed before a message came"},
		"another version": {`{"version":3,"state":"serving"}` + "\n", "version 3"},
		"unknown state":   {`{"version":1,"state":"bored"}` + "\n", `"bored" is none of`},
		"no state":        {`{"version":1}` + "\n", "is none of"},
		"too long":        {strings.Repeat("x", MaxAnswer+1), "longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := someSocket(t)
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c2, err := l.Accept()
				if err != nil {
					return
				}
				defer c2.Close()
				_, _ = bufio.NewReader(c2).ReadBytes('\n')
				_, _ = io.WriteString(c2, c.send)
			}()
			if _, err := Ask(t.Context(), socket, Request{Command: Status}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestAgentThatIsAwayOrHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Ask(ctx, someSocket(t), Request{Command: Status}); err == nil || !strings.Contains(err.Error(), "reach the agent") {
		t.Errorf("away: %v", err)
	}
	socket := someSocket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"}) // takes connections, and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Ask(ctx, socket, Request{Command: Status}); err == nil || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("hangs: %v", err)
	}
	cancelled, cancelNow := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancelNow)
	if _, err := Ask(cancelled, socket, Request{Command: Status}); err == nil {
		t.Error("a context that was cancelled did not end the wait")
	}
}

func TestRequestThatIsTooLongIsNotSent(t *testing.T) {
	need.Root(t)
	socket := someSocket(t)
	serve(t, socket, func(context.Context, Request) Answer { return Answer{State: Serving} })
	_, err := Ask(t.Context(), socket, Request{Command: GC, Network: strings.Repeat("x", MaxRequest)})
	if err == nil || !strings.Contains(err.Error(), "at most 1048576 are allowed") {
		t.Errorf("got %v", err)
	}
}

// Only root may ask; the handler does not see what others say.
func TestOnlyRootMayAsk(t *testing.T) {
	need.Root(t)
	var handled atomic.Int32
	// An abstract name: no folder's permissions are in the way.
	socket := "@sluice-test-" + strings.ReplaceAll(t.TempDir(), "/", "-")
	serve(t, socket, func(context.Context, Request) Answer { handled.Add(1); return Answer{State: Serving} })
	answers := make(chan Answer, 1)
	go func() {
		defer close(answers)
		// The thread is not given back: it stays the other user's.
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			return
		}
		a, err := Ask(context.Background(), socket, Request{Command: Status})
		if err == nil {
			answers <- a
		}
	}()
	a, ok := <-answers
	if !ok || !strings.Contains(a.Error, "user 65534 may not ask: only root") || a.State != "" {
		t.Errorf("answer: %+v", a)
	}
	if n := handled.Load(); n != 0 {
		t.Errorf("%d requests were handled", n)
	}
}

// The handler's context ends before the plugin's patience does, and when the server ends.
func TestHandlerIsToldWhenToAnswer(t *testing.T) {
	need.Root(t)
	socket := someSocket(t)
	entered := make(chan struct{}, 1)
	stop := serve(t, socket, func(ctx context.Context, _ Request) Answer {
		entered <- struct{}{}
		<-ctx.Done()
		return Answer{State: Waiting, Reason: "the proxy is not there"}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	a, err := Ask(ctx, socket, Request{Command: Status})
	if err != nil || a.State != Waiting || a.Reason != "the proxy is not there" {
		t.Errorf("an answer at the last moment: %+v, %v", a, err)
	}
	<-entered
	answered := make(chan Answer, 1)
	go func() {
		a, _ := Ask(context.Background(), socket, Request{Command: Status})
		answered <- a
	}()
	<-entered
	stop()
	if a := <-answered; a.State != Waiting {
		t.Errorf("when the server ends: %+v", a)
	}
}

func TestAnswerThatIsTooLongIsAnError(t *testing.T) {
	need.Root(t)
	socket := someSocket(t)
	serve(t, socket, func(context.Context, Request) Answer {
		return Answer{State: Waiting, Reason: strings.Repeat("x", MaxAnswer)}
	})
	if a, err := Ask(t.Context(), socket, Request{Command: Status}); err != nil || !strings.Contains(a.Error, "at most 65536 are allowed") {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestWaitIsBounded(t *testing.T) {
	for millis, want := range map[int64]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Millisecond, 900: 900 * time.Millisecond, 1 << 62: time.Minute,
	} {
		r := Request{WaitMillis: millis}
		if got := r.wait(); got != want {
			t.Errorf("%d ms: %v, want %v", millis, got, want)
		}
	}
}

func TestManyAskAtOnce(t *testing.T) {
	need.Root(t)
	const n = 2 * maxAtOnce
	socket := someSocket(t)
	var most, now atomic.Int32
	serve(t, socket, func(_ context.Context, r Request) Answer {
		here := now.Add(1)
		defer now.Add(-1)
		for {
			old := most.Load()
			if here <= old || most.CompareAndSwap(old, here) {
				break
			}
		}
		return Answer{State: Serving, Reason: r.UID}
	})
	errs := make(chan string, n)
	for i := range n {
		go func() {
			uid := strings.Repeat("x", i)
			a, err := Ask(context.Background(), socket, Request{Command: Del, ContainerID: "c", UID: uid})
			switch {
			case err != nil:
				errs <- err.Error()
			case a.Reason != uid:
				errs <- "somebody else's answer"
			default:
				errs <- ""
			}
		}()
	}
	for range n {
		if e := <-errs; e != "" {
			t.Fatal(e)
		}
	}
	if most.Load() > maxAtOnce {
		t.Errorf("%d were handled at once", most.Load())
	}
}

func TestServeSaysThatItsListenerIsGone(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: someSocket(t), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("Serve returned without an error")
	}
}

func FuzzReceivedRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"command":"ADD","containerID":"c","netns":"/x","ips":["::1"]}` + "\n"))
	f.Add([]byte(`{"version":1,"command":"GC","valid":[{"containerID":"a","ifName":"b"}]}` + "\n"))
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := readLine(strings.NewReader(string(data)), MaxRequest)
		if err != nil {
			return
		}
		var r Request
		if json.Unmarshal(line, &r) != nil || r.Validate() != nil {
			return
		}
		if r.Version != Version || (r.Command == Add || r.Command == Check) && !filepath.IsAbs(r.NetNS) {
			t.Errorf("%+v was accepted", r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Request
		if err := json.Unmarshal(again, &back); err != nil || back.Validate() != nil {
			t.Errorf("%s does not come back: %v", again, err)
		}
	})
}
