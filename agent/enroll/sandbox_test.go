package enroll

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func sandboxOf(uid, container, netns string) Sandbox {
	return Sandbox{
		Network: "net", ContainerID: container, IfName: "eth0",
		UID: uid, Namespace: "ns", Name: uid, NetNS: netns,
	}
}

func announce(t *testing.T, e *Enroller, s Sandbox) {
	t.Helper()
	if err := e.Announce(s); err != nil {
		t.Fatal(err)
	}
}

// The runtime announces the sandbox before any process runs in it: the pod is enrolled as soon as its object is there,
// whichever of the two comes first.
func TestAnnouncedPodIsEnrolledAtOnce(t *testing.T) {
	for name, first := range map[string]bool{"the request first": true, "the object first": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *Enroller, s *site) {
				s.do(func() { s.spaces["/run/netns/1"] = 1 })
				if first {
					announce(t, e, sandboxOf("a", "c1", "/run/netns/1"))
					expect(t, pods(e, time.Minute), "")
				}
				e.SetDesired([]Wanted{want("a", "")})
				if !first {
					expect(t, pods(e, time.Minute), "a failed: "+ErrNoProcess.Error())
					announce(t, e, sandboxOf("a", "c1", "/run/netns/1"))
				}
				expect(t, pods(e, 0), "a")
				if p := e.View().Pods[0]; p.By != ByPlugin || !p.Started.IsZero() {
					t.Errorf("enrolled by %s, running without us since %v", p.By, p.Started)
				}
				if s.opened["a"] != 1 || e.Cookie("c1") == 0 || e.Cookie("c2") != 0 {
					t.Errorf("opened %d times, the sandbox is enrolled: %v", s.opened["a"], e.Cookie("c1"))
				}
			})
		})
	}
}

// A runtime that does not tell the UID tells the name.
func TestAnnouncedPodIsKnownByItsName(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/1"] = 1 })
		e.SetDesired([]Wanted{want("a", ""), want("b", "")})
		box := sandboxOf("a", "c1", "/1")
		box.UID = ""
		announce(t, e, box)
		expect(t, pods(e, time.Minute), "a; b failed: "+ErrNoProcess.Error())
	})
}

func TestAnnouncedPathIsLookedAt(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, _ *site) {
		e.SetDesired([]Wanted{want("a", "")})
		err := e.Announce(sandboxOf("a", "c1", "/1"))
		if err == nil || !strings.Contains(err.Error(), "the sandbox of pod ns/a: no such file") {
			t.Errorf("the error is %v", err)
		}
		expect(t, pods(e, time.Minute), "a failed: "+ErrNoProcess.Error())
	})
}

// Its status says nothing of addresses yet. What it says later is no change.
func TestAddressesOfTheRequestAreUsed(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/1"] = 1 })
		box := sandboxOf("a", "c1", "/1")
		box.IPs = []netip.Addr{netip.MustParseAddr("10.9.9.9")}
		announce(t, e, box)
		w := want("a", "")
		e.SetDesired([]Wanted{w})
		expect(t, pods(e, 0), "a")
		if ip := e.View().Pods[0].IPv4.String(); ip != "10.9.9.9" {
			t.Errorf("its address is %s", ip)
		}
		w.IPs = box.IPs
		e.SetDesired([]Wanted{w})
		expect(t, pods(e, time.Minute), "a")
	})
}

func TestSandboxThatIsTakenDown(t *testing.T) {
	cases := map[string]struct {
		down  func(*Enroller)
		after string
	}{
		"at once":                         {func(e *Enroller) { e.TakenDown(sandboxOf("a", "c1", "").Attachment, "") }, "a ends: its sandbox is taken down"},
		"with its path":                   {func(e *Enroller) { e.TakenDown(sandboxOf("a", "c1", "").Attachment, "/1") }, "a ends: its sandbox is taken down"},
		"of which only the path is known": {func(e *Enroller) { e.TakenDown(Attachment{ContainerID: "?"}, "/1") }, "a ends: its sandbox is taken down"},
		"of another pod":                  {func(e *Enroller) { e.TakenDown(Attachment{ContainerID: "?"}, "/2") }, "a"},
		"of which nothing is known":       {func(e *Enroller) { e.TakenDown(Attachment{ContainerID: "?"}, "") }, "a"},
		"another interface of it":         {func(e *Enroller) { e.TakenDown(Attachment{"net", "c1", "net1"}, "/1") }, "a"},
		"GC without it":                   {func(e *Enroller) { e.Keep("net", nil) }, "a ends: its sandbox is gone, as the container runtime says"},
		"GC with it":                      {func(e *Enroller) { e.Keep("net", []Attachment{{"", "c1", "eth0"}}) }, "a"},
		"GC of another network":           {func(e *Enroller) { e.Keep("other", nil) }, "a"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *Enroller, s *site) {
				s.do(func() { s.spaces["/1"], s.spaces["/2"] = 1, 2 })
				announce(t, e, sandboxOf("a", "c1", "/1"))
				e.SetDesired([]Wanted{want("a", "")})
				expect(t, pods(e, 0), "a")
				c.down(e)
				if got := pods(e, 0); got != c.after {
					t.Errorf("it is %q, want %q", got, c.after)
				}
				if c.after == "a" {
					return
				}
				if err := e.Release(e.View().Pods[0].Pod); err != nil {
					t.Error(err)
				}
				// The object is there for a while, and so may be the namespace.
				expect(t, pods(e, 10*time.Second), map[bool]string{true: "a", false: "a failed: " + ErrNoProcess.Error()}[strings.Contains(name, "only the path")])
			})
		})
	}
}

// The kubelet gives a pod a new sandbox: the old one is let go of, whether or not the runtime says so.
func TestPodGetsAnotherSandbox(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/1"], s.spaces["/2"] = 1, 2 })
		announce(t, e, sandboxOf("a", "c1", "/1"))
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, 0), "a")
		announce(t, e, sandboxOf("a", "c2", "/2"))
		expect(t, pods(e, 0), "a ends: it has a new sandbox")
		if e.Cookie("c2") != 0 {
			t.Error("the new one is taken for enrolled")
		}
		if err := e.Release(e.View().Pods[0].Pod); err != nil {
			t.Error(err)
		}
		expect(t, pods(e, 0), "a")
		e.TakenDown(Attachment{"net", "c1", "eth0"}, "/1") // late
		expect(t, pods(e, time.Minute), "a")
		if id := e.View().Pods[0].id.ino; id != 2 {
			t.Errorf("it is in namespace %d", id)
		}
	})
}

// An opt-out, and then an opt-in: the path that was announced is remembered.
func TestAnnouncedPathIsRememberedAsLongAsTheNamespace(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/1"] = 1 })
		announce(t, e, sandboxOf("a", "c1", "/1"))
		e.SetDesired(nil)
		expect(t, pods(e, time.Hour), "")
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, 0), "a")
		s.do(func() { delete(s.spaces, "/1") })
		expect(t, pods(e, 300*time.Millisecond), "a ends: its last process ended")
		if len(e.sandboxes) != 0 {
			t.Errorf("%d sandboxes are remembered", len(e.sandboxes))
		}
	})
}

// The runtime was not made to wait: from then on the pod runs without us.
func TestContainersThatStartedBeforeThePodIsServed(t *testing.T) {
	bubble(t, func(t *testing.T, e *Enroller, s *site) {
		s.do(func() { s.spaces["/1"] = 1 })
		announce(t, e, sandboxOf("a", "c1", "/1"))
		synctest.Wait()
		e.Started("c1")
		at := time.Now()
		time.Sleep(time.Second)
		e.Started("c1")
		e.Started("unknown")
		e.SetDesired([]Wanted{want("a", "")})
		expect(t, pods(e, 0), "a")
		if p := e.View().Pods[0]; !p.Started.Equal(at) {
			t.Errorf("it was started %v, not %v", p.Started, at)
		}
	})
}
