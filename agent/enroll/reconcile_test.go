package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// site is a machine without a kernel: paths name namespaces, and some cannot be opened.
type site struct {
	mu       sync.Mutex
	spaces   map[string]uint64 // namespace by path
	procs    map[string]string // path by UID, as it is found
	started  time.Time         // of all processes
	broken   map[string]error  // by path
	hidden   error             // why no process can be looked at
	opened   map[string]int    // pods that are open, by UID
	attempts []time.Time
	finds    int
	events   chan struct{} // of the folder of namespaces
}

func newSite() *site {
	return &site{spaces: map[string]uint64{}, procs: map[string]string{}, broken: map[string]error{}, opened: map[string]int{}, events: make(chan struct{})}
}

func (s *site) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *site) machine() machine {
	return machine{open: s.open, find: s.find, identify: s.identify, resolve: s.resolve, check: s.check, release: s.release, watch: s.watch}
}

func (s *site) open(w Wanted, path string) (*Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts = append(s.attempts, time.Now())
	if err := s.broken[path]; err != nil {
		return nil, err
	}
	s.opened[w.UID]++
	v4, v6, err := addresses(append(w.IPs, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::9")))
	return &Pod{Wanted: w, Cookie: s.spaces[path], id: nsID{1, s.spaces[path]}, path: path, IPv4: v4, IPv6: v6, closed: true}, err
}

func (s *site) release(p *Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[p.UID]--
	return nil
}

func (s *site) find(uids map[string]bool) (map[string]sighting, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finds++
	found := map[string]sighting{}
	for uid := range uids {
		if s.hidden != nil {
			found[uid] = sighting{err: s.hidden}
		} else if path, ok := s.procs[uid]; ok {
			found[uid] = sighting{path: path, started: s.started}
		}
	}
	return found, nil
}

func (s *site) identify(path string) (nsID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ino, ok := s.spaces[path]
	if !ok {
		return nsID{}, unix.ENOENT
	}
	return nsID{1, ino}, nil
}

func (s *site) resolve(path string) (string, nsID, error) {
	id, err := s.identify(path)
	return path, id, err
}

func (s *site) watch(context.Context) <-chan struct{} { return s.events }

func (s *site) check(path string, id nsID) error {
	now, err := s.identify(path)
	if err != nil {
		return errors.New("its network namespace is gone")
	}
	if now != id {
		return errors.New("its network namespace was replaced")
	}
	return nil
}

func want(uid, netns string) Wanted {
	return Wanted{UID: uid, Namespace: "ns", Name: uid, NetNS: netns}
}

// bubble runs f with an Enroller on a site.
func bubble(t *testing.T, f func(t *testing.T, e *Enroller, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		e := newEnroller(nil, s.machine())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		f(t, e, s)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pods says which pods are held, with what is ending, and which failed, after some time.
func pods(e *Enroller, after time.Duration) string {
	time.Sleep(after)
	synctest.Wait()
	var parts []string
	v := e.View()
	for _, p := range v.Pods {
		part := p.UID
		switch {
		case p.Leaving:
			part += " leaves: " + p.Ending
		case p.Ending != "":
			part += " ends: " + p.Ending
		}
		parts = append(parts, part)
	}
	for _, f := range v.Failed {
		parts = append(parts, f.UID+" failed: "+f.Err.Error())
	}
	return strings.Join(parts, "; ")
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("the pods are %q, not %q", got, want)
	}
}

func TestPodComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/a"] = 1 })
		e.SetDesired([]Wanted{want("a", "/a")})
		expect(t, pods(e, 0), "a")
		held := e.View().Pods[0].Pod
		e.SetDesired(nil)
		expect(t, pods(e, 0), "a leaves: it is not to be enrolled any more")
		if s.opened["a"] != 1 {
			t.Error("it was released before it was told to")
		}
		if err := e.Release(held); err != nil {
			t.Error(err)
		}
		expect(t, pods(e, time.Minute), "")
		if s.opened["a"] != 0 {
			t.Error("it was not released")
		}
	})
}

func TestNamespaceThatIsGoneOrReplacedIsNoticedSoon(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*site)
		want string
	}{
		"gone":     {func(s *site) { delete(s.spaces, "/a") }, "a ends: its network namespace is gone; b"},
		"replaced": {func(s *site) { s.spaces["/a"] = 9 }, "a ends: its network namespace was replaced; b"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *Enroller, s *site) {
				s.do(func() { s.spaces["/a"], s.spaces["/b"] = 1, 2 })
				e.SetDesired([]Wanted{want("a", "/a"), want("b", "/b")})
				expect(t, pods(e, 0), "a; b")
				s.do(func() { c.edit(s) })
				expect(t, pods(e, 300*time.Millisecond), c.want)
				if err := e.Release(e.View().Pods[0].Pod); err != nil {
					t.Error(err)
				}
				s.do(func() { s.spaces["/a"] = 9 })
				expect(t, pods(e, time.Second), "a; b") // it comes again
			})
		})
	}
}

func TestPodIsFoundByItsProcesses(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, 10*time.Second), "a failed: "+ErrNoProcess.Error())
		s.do(func() { s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1" })
		expect(t, pods(e, 1300*time.Millisecond), "a")
		// That process ends, another one of the pod lives on in the namespace.
		s.do(func() { delete(s.spaces, "/proc/1"); s.spaces["/proc/2"], s.procs["a"] = 1, "/proc/2" })
		expect(t, pods(e, time.Second), "a")
		// Its number is used again by a process of somebody else.
		s.do(func() { s.spaces["/proc/2"], s.spaces["/proc/3"], s.procs["a"] = 7, 1, "/proc/3" })
		expect(t, pods(e, time.Second), "a")
		s.do(func() { delete(s.procs, "a"); delete(s.spaces, "/proc/3") })
		expect(t, pods(e, 300*time.Millisecond), "a ends: its last process ended")
	})
}

// The namespace of a pod that opted out lives on, and so may its connections. It may come back, or end.
func TestPodThatLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/a"] = 1 })
		const leaves = "a leaves: it is not to be enrolled any more"
		for range 2 {
			e.SetDesired([]Wanted{want("a", "/a")})
			expect(t, pods(e, 0), "a")
			e.SetDesired(nil)
			expect(t, pods(e, time.Minute), leaves)
		}
		if len(s.attempts) != 1 {
			t.Errorf("it was enrolled %d times", len(s.attempts))
		}
		other := want("a", "/a")
		other.ServiceAccount = "x"
		e.SetDesired([]Wanted{other})
		expect(t, pods(e, 0), "a ends: its object changed")
		if err := e.Release(e.View().Pods[0].Pod); err != nil {
			t.Error(err)
		}
		expect(t, pods(e, 0), "a")
		e.SetDesired(nil)
		expect(t, pods(e, 0), leaves)
		s.do(func() { delete(s.spaces, "/a") })
		expect(t, pods(e, 300*time.Millisecond), "a ends: its network namespace is gone")
	})
}

// Without the plugin: a pod is found within some tens of ms of its sandbox's first process, and a pod that does not come
// is not looked for all the time.
func TestPodIsFoundSoonAfterItsSandboxCame(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		e.SetDesired([]Wanted{want("a", ""), want("b", "")})
		time.Sleep(time.Minute)
		var before, n int
		s.do(func() { before = s.finds })
		time.Sleep(time.Minute)
		if s.do(func() { n = s.finds - before }); n > 61 {
			t.Errorf("pods that do not run are looked for %d times a minute", n)
		}
		s.events <- struct{}{} // the folder has a new namespace
		time.Sleep(500 * time.Millisecond)
		s.do(func() { s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1"; s.started = time.Now() })
		expect(t, pods(e, hurryEvery+time.Millisecond), "a; b failed: "+ErrNoProcess.Error())
		if by := e.View().Pods[0].By; by != ByFound {
			t.Errorf("it was enrolled by %s", by)
		}
		time.Sleep(time.Minute)
		e.SetDesired([]Wanted{want("a", ""), want("b", ""), want("c", "")}) // or a pod is new
		time.Sleep(2 * time.Second)
		s.do(func() { s.spaces["/proc/3"], s.procs["c"] = 3, "/proc/3" })
		expect(t, pods(e, hurryEvery+time.Millisecond), "a; c; b failed: "+ErrNoProcess.Error())
	})
}

// A process that was found ends before its namespace can be entered: that is as if there was none yet.
func TestProcessThatHasJustEnded(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.procs["a"] = "/proc/1" })
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, time.Second), "a failed: "+ErrNoProcess.Error())
		s.do(func() { s.procs["a"] = "/proc/2"; s.spaces["/proc/2"] = 1 })
		expect(t, pods(e, hurryEvery+time.Millisecond), "a")
	})
}

// Between two steps of a turn its sandbox is taken down, and its object goes too: that it ended stays said.
func TestEndThatIsSettledStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		s.do(func() { s.spaces["/1"] = 1 })
		e := newEnroller(nil, s.machine())
		announce(t, e, sandboxOf("a", "c1", "/1"))
		e.SetDesired([]Wanted{want("a", "")})
		e.reconcile(t.Context())
		h := e.current()[0]
		e.TakenDown(sandboxOf("a", "c1", "").Attachment, "")
		e.SetDesired(nil)
		if e.judge(h) || e.View().Pods[0].Leaving {
			t.Error("it is said to leave only us")
		}
	})
}

func TestPodThatRanBeforeTheAgentIsToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite()
		s.do(func() { s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1"; s.started = time.Now() })
		time.Sleep(time.Hour)
		e := newEnroller(nil, s.machine())
		e.SetDesired([]Wanted{want("a", "")})
		e.reconcile(t.Context())
		if p := e.View().Pods[0]; p.By != ByRunning || time.Since(p.Started) != time.Hour {
			t.Errorf("enrolled by %s, started %v", p.By, p.Started)
		}
	})
}

// A process that may not be looked at is named, and a pod that is held is not given up for it.
func TestProcessesThatMayNotBeLookedAt(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.hidden = errors.New("give the agent CAP_SYS_PTRACE") })
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, time.Second), "a failed: give the agent CAP_SYS_PTRACE")
		s.do(func() { s.hidden = nil; s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1" })
		expect(t, pods(e, retryAtMost), "a")
		s.do(func() { s.hidden = errors.New("not any more"); delete(s.spaces, "/proc/1") })
		expect(t, pods(e, time.Minute), "a")
	})
}

func TestPodsThatAreHeldCostNoScan(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1" })
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, time.Minute), "a")
		if s.finds != 1 {
			t.Errorf("the processes were listed %d times", s.finds)
		}
	})
}

func TestFailureOfOnePodStopsNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() {
			s.spaces["/a"], s.spaces["/b"] = 1, 2
			s.broken["/a"] = errors.New("port 1004 is taken")
		})
		e.SetDesired([]Wanted{want("a", "/a"), want("b", "/b"), want("c", "/c")})
		expect(t, pods(e, 0), "b; a failed: port 1004 is taken; c failed: find the network namespace /c: no such file or directory")
		if !e.View().Settled {
			t.Error("every pod was tried, and it is not settled")
		}
		s.do(func() { s.broken = nil; s.spaces["/c"] = 3 })
		expect(t, pods(e, retryAtMost), "a; b; c")
	})
}

func TestAttemptsBecomeRarer(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/a"] = 1; s.broken["/a"] = errors.New("no") })
		e.SetDesired([]Wanted{want("a", "/a")})
		pods(e, time.Minute)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.attempts); n < 8 || n > 13 { // .25 .5 1 2 4 8 10 10 10 ... s
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestTwoPodsDoNotShareANamespace(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/a"], s.spaces["/link"] = 1, 1 })
		e.SetDesired([]Wanted{want("a", "/a"), want("b", "/link")})
		expect(t, pods(e, 0), "a; b failed: the network namespace /link is that of pod ns/a")
	})
}

func TestChangedObject(t *testing.T) {
	ip := netip.MustParseAddr
	cases := map[string]struct {
		edit func(*Wanted)
		ends bool
	}{
		"its addresses, which were found already": {func(w *Wanted) { w.IPs = []netip.Addr{ip("10.0.0.1"), ip("fd00::9")} }, false},
		"some of those that were found":           {func(w *Wanted) { w.IPs = []netip.Addr{ip("fd00::9")} }, false},
		"other addresses":                         {func(w *Wanted) { w.IPs = []netip.Addr{ip("10.0.0.2")} }, true},
		"another of one family":                   {func(w *Wanted) { w.IPs = []netip.Addr{ip("10.0.0.1"), ip("fd00::1")} }, true},
		"another path":                            {func(w *Wanted) { w.NetNS = "/b" }, true},
		"another service account":                 {func(w *Wanted) { w.ServiceAccount = "x" }, true},
		"nothing":                                 {func(*Wanted) {}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *Enroller, s *site) {
				s.do(func() { s.spaces["/a"], s.spaces["/b"] = 1, 2 })
				w := want("a", "/a")
				e.SetDesired([]Wanted{w})
				expect(t, pods(e, 0), "a")
				c.edit(&w)
				e.SetDesired([]Wanted{w})
				expect(t, pods(e, time.Second), map[bool]string{true: "a ends: its object changed", false: "a"}[c.ends])
			})
		})
	}
}

func TestViewIsNotSettledBeforePodsWereTried(t *testing.T) {
	e := newEnroller(nil, newSite().machine())
	if e.View().Settled {
		t.Error("settled before it knows what is desired")
	}
	e.SetDesired([]Wanted{want("a", "/a")})
	if e.View().Settled {
		t.Error("settled before the pod was tried")
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		var all []Wanted
		s.do(func() {
			for i := range 100 {
				path := fmt.Sprintf("/%d", i)
				s.spaces[path] = uint64(i + 1)
				all = append(all, want(path, path))
			}
		})
		e.SetDesired(all)
		pods(e, 0)
		if n := len(e.View().Pods); n != 100 {
			t.Errorf("%d pods are held", n)
		}
	})
}
