package admission

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/cni/wire"
	"github.com/sluice-mesh/sluice/tests/need"
)

// fake is an Enroller and a Node that say what a test wants, and note what they are told.
type fake struct {
	mu       sync.Mutex
	pods     map[string]node.PodStatus // by UID
	changed  chan struct{}
	cookies  map[string]uint64 // by container
	refuses  error
	status   node.Status
	told     []string
	announce enroll.Sandbox
}

func newFake() *fake {
	return &fake{pods: map[string]node.PodStatus{}, changed: make(chan struct{}), cookies: map[string]uint64{}}
}

func (f *fake) set(s node.PodStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[s.UID] = s
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, what)
}

func (f *fake) Announce(s enroll.Sandbox) error {
	f.note("announced " + s.UID + " " + s.NetNS)
	f.announce = s
	return f.refuses
}

func (f *fake) Started(container string) { f.note("started " + container) }

func (f *fake) Cookie(container string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cookies[container]
}

func (f *fake) TakenDown(a enroll.Attachment, netns string) {
	f.note("down " + a.Network + " " + a.ContainerID + " " + a.IfName + " " + netns)
}

func (f *fake) Keep(network string, valid []enroll.Attachment) {
	what := "keep " + network
	for _, a := range valid {
		what += " " + a.Network + "/" + a.ContainerID + "/" + a.IfName
	}
	f.note(what)
}

func (f *fake) Pod(uid, namespace, name string) (node.PodStatus, bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, known := f.pods[uid]
	return s, known, f.changed
}

func (f *fake) Status(context.Context) (*node.Status, error) { return &f.status, f.refuses }

func add() wire.Request {
	return wire.Request{
		Command: wire.Add, Network: "net", ContainerID: "c1", NetNS: "/var/run/netns/1", IfName: "eth0",
		Namespace: "ns", Name: "a", UID: "u1", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	}
}

// ask lets a plugin wait for a second, and says after how long it had which answer.
func ask(t *testing.T, f *fake, r wire.Request) (wire.Answer, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	return Handler(f, f)(ctx, r), time.Since(start)
}

// The answer comes as soon as the pod is served or known not to be enrolled, and in any case when the plugin's patience
// ends: then with what is missing.
func TestAnswerToAnAdd(t *testing.T) {
	serving := node.PodStatus{UID: "u1", State: node.StateServing, Cookie: 7}
	after := func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	cases := map[string]struct {
		happens func(f *fake)
		want    wire.Answer
		after   time.Duration
		told    string
	}{
		"is served": {func(f *fake) { f.cookies["c1"] = 7; f.set(serving) }, wire.Answer{State: wire.Serving}, 0, ""},
		"the object comes later": {func(f *fake) {
			after(100*time.Millisecond, func() { f.set(node.PodStatus{UID: "u1", State: node.StateWaiting}) })
			after(300*time.Millisecond, func() { f.mu.Lock(); f.cookies["c1"] = 7; f.mu.Unlock(); f.set(serving) })
		}, wire.Answer{State: wire.Serving}, 300 * time.Millisecond, ""},
		"opted out": {func(f *fake) {
			after(100*time.Millisecond, func() { f.set(node.PodStatus{UID: "u1", State: node.StateExcluded, Reason: "opted out"}) })
		}, wire.Answer{State: wire.NotEnrolled, Reason: "opted out"}, 100 * time.Millisecond, ""},
		"the object never comes": {func(*fake) {}, wire.Answer{State: wire.Waiting, Reason: notKnown}, time.Second, "started c1"},
		"no proxy": {func(f *fake) { f.set(node.PodStatus{UID: "u1", State: node.StateWaiting, Reason: "no proxy"}) },
			wire.Answer{State: wire.Waiting, Reason: "no proxy"}, time.Second, "started c1"},
		"fails": {func(f *fake) { f.set(node.PodStatus{UID: "u1", State: node.StateFailed, Reason: "port taken"}) },
			wire.Answer{State: wire.Waiting, Reason: "port taken"}, time.Second, "started c1"},
		"an earlier sandbox of it is served": {func(f *fake) { f.cookies["c0"] = 7; f.set(serving) },
			wire.Answer{State: wire.Waiting, Reason: notYet}, time.Second, "started c1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				c.happens(f)
				got, took := ask(t, f, add())
				if got != c.want || took != c.after {
					t.Errorf("%+v after %v, want %+v after %v", got, took, c.want, c.after)
				}
				want := "announced u1 /var/run/netns/1"
				if c.told != "" {
					want += "; " + c.told
				}
				if told := strings.Join(f.told, "; "); told != want {
					t.Errorf("enrolment was told %q, want %q", told, want)
				}
				if s := f.announce; s.Namespace != "ns" || s.Name != "a" || s.ContainerID != "c1" || s.IfName != "eth0" || s.Network != "net" || len(s.IPs) != 1 {
					t.Errorf("the sandbox is %+v", s)
				}
			})
		})
	}
}

func TestAddThatIsWrong(t *testing.T) {
	f := newFake()
	f.refuses = errors.New("no such namespace")
	if a, _ := ask(t, f, add()); a.Error != "no such namespace" {
		t.Errorf("%+v", a)
	}
	f.set(node.PodStatus{UID: "u1", State: node.StateExcluded, Reason: "hostNetwork"})
	if a, _ := ask(t, f, add()); a.Error != "" || a.State != wire.NotEnrolled {
		t.Errorf("a pod that is not enrolled anyway: %+v", a)
	}
	r := add()
	r.Namespace, r.Name, r.UID = "", "", ""
	if a, _ := ask(t, newFake(), r); a.State != wire.NotEnrolled || !strings.Contains(a.Reason, "no pod is named") {
		t.Errorf("no pod: %+v", a)
	}
}

func TestOtherCommands(t *testing.T) {
	f := newFake()
	r := add()
	r.Command = wire.Del
	if a, _ := ask(t, f, r); a.State != wire.Serving {
		t.Errorf("DEL: %+v", a)
	}
	gc := wire.Request{Command: wire.GC, Network: "net", Valid: []wire.Attachment{{ContainerID: "c1", IfName: "eth0"}}}
	if a, _ := ask(t, f, gc); a.State != wire.Serving {
		t.Errorf("GC: %+v", a)
	}
	if told := strings.Join(f.told, "; "); told != "down net c1 eth0 /var/run/netns/1; keep net net/c1/eth0" {
		t.Errorf("enrolment was told %q", told)
	}
	r.Command = wire.Check
	for _, c := range []struct {
		pod  node.PodStatus
		want wire.State
	}{
		{node.PodStatus{}, wire.Waiting},
		{node.PodStatus{UID: "u1", State: node.StateServing, Cookie: 7}, wire.Serving}, // the agent was started since the ADD
		{node.PodStatus{UID: "u1", State: node.StateEnding, Reason: "x"}, wire.Waiting},
		{node.PodStatus{UID: "u1", State: node.StateExcluded, Reason: "x"}, wire.NotEnrolled},
	} {
		f.set(c.pod)
		if a, took := ask(t, f, r); a.State != c.want || took > 100*time.Millisecond {
			t.Errorf("CHECK of %+v: %+v after %v", c.pod, a, took)
		}
	}
	f.status.Liveness = node.Liveness{State: "down", Reason: "no proxy"}
	if a, _ := ask(t, f, wire.Request{Command: wire.Status}); a.State != wire.Waiting || a.Reason != "no proxy" {
		t.Errorf("STATUS: %+v", a)
	}
	f.status.Liveness.State = "up"
	if a, _ := ask(t, f, wire.Request{Command: wire.Status}); a.State != wire.Serving {
		t.Errorf("STATUS: %+v", a)
	}
	f.refuses = errors.New("the loop hangs")
	if a, _ := ask(t, f, wire.Request{Command: wire.Status}); a.Error != "the loop hangs" {
		t.Errorf("STATUS: %+v", a)
	}
}

// From the plugin's socket into a namespace and out again, with enrolment as it is. What is enrolled counts as served.
func TestFromThePluginIntoTheNamespace(t *testing.T) {
	netns := need.NetNS(t)
	e := enroll.New(enroll.Config{NetNS: filepath.Dir(netns), Port: 1004, PrefixV6: netip.MustParsePrefix("fd6d:6573:6800::/96")})
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	n := &viewed{fake: newFake(), enroller: e}
	for _, run := range []func() error{
		func() error { return e.Run(ctx) },
		func() error { return wire.Serve(ctx, l, Handler(e, n), slog.New(slog.DiscardHandler)) },
		func() error { return n.run(ctx) },
	} {
		running.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	defer e.Close()
	defer running.Wait()
	defer cancel()

	r := add()
	r.NetNS = "/run/netns/" + filepath.Base(netns)
	time.AfterFunc(50*time.Millisecond, func() { // the object comes after the request
		e.SetDesired([]enroll.Wanted{{UID: "u1", Namespace: "ns", Name: "a"}})
	})
	start := time.Now()
	a, err := wire.Ask(within(t, time.Second), socket, r)
	if err != nil || a.State != wire.Serving {
		t.Fatalf("ADD: %+v, %v", a, err)
	}
	t.Logf("ADD is answered %v after it came, and 50 ms less after the object did", time.Since(start))
	held := e.View().Pods
	if len(held) != 1 || held[0].IPv4.String() != "10.0.0.1" || held[0].By != enroll.ByPlugin || !held[0].Started.IsZero() {
		t.Fatalf("held are %+v", held)
	}
	r.Command = wire.Del
	if a, err := wire.Ask(within(t, time.Second), socket, r); err != nil || a.State != wire.Serving {
		t.Fatalf("DEL: %+v, %v", a, err)
	}
	if held = e.View().Pods; held[0].Ending == "" {
		t.Error("the pod is not let go of")
	}
	if err := e.Release(held[0].Pod); err != nil {
		t.Error(err)
	}
	// The agent's own namespace is the host's here, and is refused.
	r.Command, r.NetNS, r.UID = wire.Add, "/proc/1/ns/net", "u2"
	if a, err := wire.Ask(within(t, time.Second), socket, r); err != nil || !strings.Contains(a.Error, "host") {
		t.Errorf("the host's: %+v, %v", a, err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// viewed is a node that serves whatever is enrolled.
type viewed struct {
	*fake
	enroller *enroll.Enroller
}

func (v *viewed) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.enroller.Changed():
		}
		for _, p := range v.enroller.View().Pods {
			if p.Ending == "" {
				v.set(node.PodStatus{UID: p.UID, State: node.StateServing, Cookie: p.Cookie})
			}
		}
	}
}
