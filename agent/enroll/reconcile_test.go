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
)

// site is a machine without a kernel: paths name namespaces, and some cannot be opened.
type site struct {
	mu       sync.Mutex
	spaces   map[string]uint64 // namespace by path
	procs    map[string]string // path by UID, as a scan finds it
	broken   map[string]error  // by path
	opened   map[string]int    // pods that are open, by UID
	attempts []time.Time
	scans    int
}

func newSite() *site {
	return &site{spaces: map[string]uint64{}, procs: map[string]string{}, broken: map[string]error{}, opened: map[string]int{}}
}

func (s *site) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *site) machine() machine {
	return machine{open: s.open, scan: s.scan, identify: s.identify, check: s.check, release: s.release}
}

func (s *site) open(w Wanted, path string) (*Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts = append(s.attempts, time.Now())
	if err := s.broken[path]; err != nil {
		return nil, err
	}
	s.opened[w.UID]++
	v4, v6, err := addresses(append(w.IPs, netip.MustParseAddr("10.0.0.1")))
	return &Pod{Wanted: w, id: nsID{1, s.spaces[path]}, path: path, IPv4: v4, IPv6: v6, closed: true}, err
}

func (s *site) release(p *Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[p.UID]--
	return nil
}

func (s *site) scan(uids map[string]bool) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scans++
	found := map[string]string{}
	for uid := range uids {
		if path, ok := s.procs[uid]; ok {
			found[uid] = path
		}
	}
	return found, nil
}

func (s *site) identify(path string) (nsID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ino, ok := s.spaces[path]
	if !ok {
		return nsID{}, errors.New("no such file or directory")
	}
	return nsID{1, ino}, nil
}

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
		if p.Ending != "" {
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
		expect(t, pods(e, 0), "a ends: it is not to be enrolled any more")
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
		expect(t, pods(e, 10*time.Second), "a failed: "+errNoProcess.Error())
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

func TestPodsThatAreHeldCostNoScan(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/proc/1"], s.procs["a"] = 1, "/proc/1" })
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, time.Minute), "a")
		if s.scans != 1 {
			t.Errorf("the processes were listed %d times", s.scans)
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
		"its addresses, which were found already": {func(w *Wanted) { w.IPs = []netip.Addr{ip("10.0.0.1")} }, false},
		"other addresses":                         {func(w *Wanted) { w.IPs = []netip.Addr{ip("10.0.0.2")} }, true},
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
