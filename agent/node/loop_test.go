package node

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// settled is a world with a proxy, the Service a and the pod c1, in which nothing is left to do.
func (w *world) settled() *fakeProxy {
	w.t.Helper()
	p := w.connect()
	w.publish(service("a", "10.96.0.1", 80), client("c1"))
	w.soon()
	w.expect("in the kernel", w.inKernel(), "10.96.0.1:80")
	w.expect("steered", w.steered(), "c1")
	return p
}

// inOrder fails unless what happened has these parts in this order.
func (w *world) inOrder(parts ...string) {
	w.t.Helper()
	all := w.told("")
	at := 0
	for _, part := range parts {
		i := slices.IndexFunc(all[at:], func(line string) bool { return strings.Contains(line, part) })
		if i < 0 {
			w.t.Errorf("%q is missing after %q", part, strings.Join(parts[:slices.Index(parts, part)], ", "))
			return
		}
		at += i + 1
	}
}

func TestAFrontendEntersTheKernelAfterTheAck(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(service("a", "10.96.0.1", 80, 81), service("b", "10.96.0.2", 80), client("c1"))
		w.after(time.Second)
		w.expect("sent", w.inKernel(), "10.96.0.1:80")
		for _, f := range w.status().Frontends {
			if f.InKernel != (f.Address == address(1)) {
				t.Errorf("a frontend is reported as %+v", f)
			}
		}
		w.take(p)
		w.after(time.Second)
		w.expect("in force, and the agent does not know", w.inKernel(), "10.96.0.1:80")
		w.ack(p)
		w.soon()
		w.expect("acked", w.inKernel(), "10.96.0.1:80, 10.96.0.1:81, 10.96.0.2:80")
	})
}

func TestAFrontendLeavesTheKernelBeforeTheProxy(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(client("c1"))
		w.soon()
		w.expect("gone", w.inKernel(), "")
		if w.expect("services", w.inForce(p), "shop/a"); !w.take(p) {
			t.Error("the proxy is not told")
		}
		w.expect("services", w.inForce(p), "")
		w.inOrder("kernel: remove 10.96.0.1:80", "state: 0 services")
	})
}

// Every proxy that may get a connection has to have the unit: also one that is about to take over, and one that leaves.
func TestAFrontendWaitsForEveryProxyThatAccepts(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		q := w.connect()
		w.soon()
		w.do(func() { manual(p); manual(q) })
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
		w.soon()
		w.take(p)
		w.ack(p)
		w.soon()
		w.expect("one acked", w.inKernel(), "10.96.0.1:80")
		w.take(q)
		w.ack(q)
		w.soon()
		w.expect("both acked", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80")
	})
}

func TestAPodIsSteeredToAfterTheProxyAckedIt(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"))
		w.soon()
		w.take(p)
		w.soon()
		w.expect("not acked", w.steered(), "c1")
		s := w.status()
		if got := s.Pods[1]; got.Pod != "shop/c2" || got.State != "waiting" || got.Reason != "the proxy has not acked it yet" {
			t.Errorf("the pod is reported as %+v", got)
		}
		w.ack(p)
		w.soon()
		w.expect("acked", w.steered(), "c1, c2")
		w.inOrder("kernel: add pod 101", "proxy 1 taking in pods", "proxy 1 acks",
			"kernel: set listener 101 ipv4", "kernel: set listener 101 ipv6", "close bypassed of c2, 200 a second")
	})
}

func TestAPodLeavesTheKernelBeforeTheProxyAndIsThenReleased(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(service("a", "10.96.0.1", 80))
		w.soon()
		w.expect("ending", w.steered(), "")
		if s := w.status(); len(s.Pods) != 1 || s.Pods[0].State != "ending" {
			t.Errorf("the pods are reported as %+v", s.Pods)
		}
		w.take(p)
		w.ack(p)
		w.soon()
		w.inOrder("kernel: clear listener 100 ipv4", "kernel: clear listener 100 ipv6", "proxy 1 taking in pods", "proxy 1 acks",
			"kernel: remove pod 100", "pod c1 is released")
	})
}

// A proxy that does not answer keeps nobody: the pod is released after 500 ms.
func TestAPodThatEndedIsReleasedSoonInAnyCase(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(service("a", "10.96.0.1", 80))
		w.after(490 * time.Millisecond)
		if len(w.told("released")) != 0 {
			t.Error("it was released while the proxy had it")
		}
		w.after(100 * time.Millisecond)
		w.inOrder("kernel: clear listener 100 ipv4", "kernel: remove pod 100", "pod c1 is released")
	})
}

// Its listener cannot be taken out at first: the proxy keeps the pod until it can.
func TestAProxyKeepsAPodThatIsSteeredTo(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.kernel.refuse = refusing("clear listener") })
		w.publish(service("a", "10.96.0.1", 80))
		w.soon()
		w.expect("refused", w.steered(), "c1")
		w.do(func() { w.kernel.refuse = nil })
		w.after(time.Second)
		w.inOrder("refuses to clear listener", "kernel: clear listener 100 ipv4", "kernel: clear listener 100 ipv6", "proxy 1 taking in pods",
			"kernel: remove pod 100", "pod c1 is released")
	})
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.kernel.refuse = refusing("clear listener") })
		w.publish(service("a", "10.96.0.1", 80))
		w.after(time.Second)
		w.inOrder("refuses to clear listener", "pod c1 is released", "proxy 1 taking in pods") // soon, in any case
	})
}

func TestAPodThatEndsWhileNothingIsSteeredLeavesTheProxyToo(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(w.kernel.hang)
		w.after(3 * time.Second)
		w.expect("hangs", w.steered(), "")
		w.do(func() { w.pods.end("c1") })
		w.soon()
		w.inOrder("the heartbeat stops", "pod c1 ends", "proxy 1 taking in pods", "kernel: remove pod 100", "pod c1 is released")
	})
}

// The same pod is enrolled anew, with another listener, and the proxy still has the old one.
func TestAPodThatIsEnrolledAnewWaitsForAnAckOfItsOwn(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { manual(p) })
		w.publish(service("a", "10.96.0.1", 80))
		w.soon()
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(time.Second)
		w.expect("not acked", w.steered(), "")
		for w.take(p) {
			w.ack(p)
		}
		w.soon()
		w.expect("acked", w.steered(), "c1")
	})
}

func TestWithoutAProxyFor500msConnectionsGoDirect(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.publish(service("a", "10.96.0.1", 80), closed(service("b", "10.96.0.2", 80)), client("c1"))
		w.soon()
		var queued [2]int
		for i, family := range families() {
			queued[i] = w.pods.dial("c1", family)
			defer unix.Close(queued[i])
		}
		w.crash(p)
		w.after(450 * time.Millisecond)
		w.expect("at first they queue", w.steered(), "c1")
		w.expect("state", w.status().Liveness.State, "waiting")
		for _, fd := range queued {
			if got := peek(fd); got != "open" {
				t.Errorf("a connection that queues is %s", got)
			}
		}
		w.after(150 * time.Millisecond)
		w.expect("then they go direct", w.steered(), "")
		w.expect("state", w.status().Liveness.State, "down")
		w.expect("reason", w.status().Liveness.Reason, "no proxy for 500ms")
		w.expect("the pod's", w.status().Pods[0].Reason, "no proxy for 500ms")
		for _, fd := range queued {
			if got := peek(fd); got != "reset" {
				t.Errorf("a connection that was queued is %s", got)
			}
		}
		// What is desired meanwhile is in the kernel, so that what fails closed is refused and what goes direct is recorded.
		w.publish(service("a", "10.96.0.1", 80), closed(service("b", "10.96.0.2", 80, 81)), client("c1"))
		w.soon()
		w.expect("in the kernel", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80 closed, 10.96.0.2:81 closed")
		w.after(time.Minute)
		w.expect("for as long as it takes", w.steered(), "")

		w.connect()
		w.soon()
		w.expect("and come back", w.steered(), "c1")
		w.expect("state", w.status().Liveness.State, "up")
		if n := len(w.told("close bypassed of c1")); n != 2 {
			t.Errorf("connections that went direct were closed %d times, want once for each time that the pod was steered to", n)
		}
	})
}

// A handshake may have been under way when the listener was taken out: it is reset too.
func TestStragglersAreResetToo(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.crash(p)
		w.after(560 * time.Millisecond)
		w.expect("direct", w.steered(), "")
		for range 2 {
			late := w.pods.dial("c1", model.IPv4)
			defer unix.Close(late)
			w.after(90 * time.Millisecond)
			if got := peek(late); got != "reset" {
				t.Errorf("a connection that came late is %s", got)
			}
		}
	})
}

// But none that comes once a proxy is back.
func TestNothingIsResetOnceAProxyIsBack(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.crash(p)
		w.after(560 * time.Millisecond)
		w.expect("direct", w.steered(), "")
		w.connect()
		w.soon()
		w.expect("back", w.steered(), "c1")
		queued := w.pods.dial("c1", model.IPv4)
		defer unix.Close(queued)
		w.after(time.Second)
		if got := peek(queued); got != "open" {
			t.Errorf("the connection is %s", got)
		}
	})
}

// Nothing is reset while somebody may accept it: a successor that comes within 500 ms gets what is queued.
func TestASuccessorWithin500msGetsWhatIsQueued(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		queued := w.pods.dial("c1", model.IPv4)
		defer unix.Close(queued)
		w.crash(p)
		w.after(400 * time.Millisecond)
		w.connect()
		w.after(10 * time.Second)
		w.expect("steered", w.steered(), "c1")
		if got := peek(queued); got != "open" {
			t.Errorf("the connection is %s", got)
		}
		if got := w.told("clear listener"); len(got) != 0 {
			t.Errorf("the kernel was told to %q", got)
		}
	})
}

// peek says what has become of a connection.
func peek(fd int) string {
	_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return "open"
	case errors.Is(err, unix.ECONNRESET):
		return "reset"
	case err == nil:
		return "closed"
	}
	return err.Error()
}

func TestAProxyThatHangsIsDownUntilItBeatsProperly(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(w.kernel.hang)
		w.after(1900 * time.Millisecond)
		w.expect("not yet", w.steered(), "c1")
		w.after(200 * time.Millisecond)
		w.expect("hangs", w.steered(), "")
		if s := w.status().Liveness; s.State != "down" || !strings.Contains(s.Reason, "hangs") {
			t.Errorf("liveness is %+v", s)
		}
		w.do(func() { w.kernel.beat(); w.kernel.skew = 1500 * time.Millisecond })
		w.after(time.Second)
		w.expect("one late beat does not count", w.steered(), "")
		w.do(func() { w.kernel.skew = -time.Millisecond }) // of another CPU, a little ahead
		w.after(100 * time.Millisecond)
		w.expect("it beats", w.steered(), "c1")
	})
}

func TestWhatAProxyRefusesIsNotReportedAsAccepted(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		backends := []any{service("a", "10.96.0.1", 80), service("v1", "10.96.0.11", 80), service("v2", "10.96.0.12", 80), client("c1")}
		w.publish(append(backends, route("r", "a", "v1"))...)
		w.soon()
		w.expect("accepted", accepting(w.status()), "True/Accepted")

		w.do(func() {
			p.refuses = func(s *model.Service) string {
				if s.Name == "a" {
					return "the table is odd"
				}
				return ""
			}
		})
		// The new version has no use for v1, which nothing else refers to: what serves on still does.
		backends = []any{service("a", "10.96.0.1", 80), service("v2", "10.96.0.12", 80), client("c1")}
		w.publish(append(backends, route("r", "a", "v2"))...)
		w.after(time.Second)
		w.expect("refused", accepting(w.status()), "False/NotProgrammed")
		c := w.status().Routes[0].Parents[0].Conditions[0]
		w.expect("message", c.Message, `the proxy on node "n1" refused Service shop/a: the table is odd; its previous version serves on`)
		w.expect("in the kernel", w.inKernel(), "10.96.0.1:80, 10.96.0.12:80")
		if got := gather(t, w.registry)["sluice_agent_refused_units"]; got != 1 {
			t.Errorf("%v units are counted as refused", got)
		}
		states := len(w.told("state: "))
		w.do(func() { mark(w.proxies.changed) })
		w.soon()
		if n := len(w.told("state: ")); n != states {
			t.Error("the same state was set again")
		}
		if s := w.status().Proxies[0]; s.State != "serving" || len(s.Refused) != 1 {
			t.Errorf("the proxy is reported as %+v", s)
		}

		w.do(func() { p.refuses = nil })
		w.publish(append(backends, route("r", "a", "v2", "v2"))...)
		w.soon()
		w.expect("healed", accepting(w.status()), "True/Accepted")
		if m, err := w.node.Config(w.ctx); err != nil || len(m.Endpoints) != 2 {
			t.Errorf("the proxies keep endpoints that nobody needs: %v, %v", m, err)
		}
	})
}

func accepting(s *Status) string {
	c := s.Routes[0].Parents[0].Conditions[0]
	return string(c.Status) + "/" + c.Reason
}

func TestAFirstVersionThatIsRefusedPassesAsWithoutTheRoute(t *testing.T) {
	bubble(t, func(w *world) {
		w.connect(func(p *fakeProxy) { p.refuses = func(*model.Service) string { return "never" } })
		w.publish(service("a", "10.96.0.1", 80), client("c1"), route("r", "a", "a"))
		w.after(time.Second)
		w.expect("in the kernel", w.inKernel(), "")
		w.expect("steered", w.steered(), "c1") // other Services may be served
		w.expect("reported", accepting(w.status()), "False/NotProgrammed")
		w.expect("message", w.status().Routes[0].Parents[0].Conditions[0].Message,
			`the proxy on node "n1" refused Service shop/a: never; traffic passes as without the route`)
	})
}

// A rolling update: the new proxy gets everything before the old one is let go, and no connection is refused between.
func TestADrainingProxyIsReleasedWhenAnotherServes(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		q := w.connect(manual, func(q *fakeProxy) { q.view.Cgroup = 2 })
		w.drain(p)
		w.after(300 * time.Millisecond)
		if len(w.told("is released")) != 0 {
			t.Fatal("the old proxy is let go before there is another")
		}
		w.expect("meanwhile", w.steered(), "c1")
		w.do(func() { q.manual = false; w.proxies.proceed(q) })
		w.soon()
		w.inOrder("exempt [2 1]", "proxy 2 is admitted", "proxy 2 acks", "proxy 1 is told that it is released")
		w.expect("afterwards", w.steered(), "c1")
		w.publish(service("b", "10.96.0.2", 80), client("c1"))
		w.soon()
		if got := w.told("is told that it is released"); len(got) != 1 {
			t.Errorf("it is told more than once: %q", got)
		}
		w.expect("the old one", w.status().Proxies[0].State, "released")
		if got := w.told("clear listener"); len(got) != 0 {
			t.Errorf("the kernel was told to %q", got)
		}
	})
}

// A pod that only the proxy which drains has is not left to nobody: the successor gets a second, then the pod goes direct.
func TestAPodThatTheSuccessorLacksGoesDirectBeforeTheRelease(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"))
		w.soon()
		q := w.connect(func(q *fakeProxy) { q.lacks = func(x *push.Pod) bool { return x.UID == "c1" } })
		w.soon()
		w.drain(p)
		w.after(900 * time.Millisecond)
		w.expect("in the meantime", w.steered(), "c1, c2")
		w.after(200 * time.Millisecond)
		w.expect("then", w.steered(), "c2")
		w.inOrder("proxy 1 drains", "clear listener 100 ipv4", "clear listener 100 ipv6", "proxy 1 is told that it is released")
		w.do(func() { q.lacks = nil })
		w.retryPods(q)
		w.soon()
		w.expect("once it takes the pod", w.steered(), "c1, c2")
		if got := w.told("clear listener 101"); len(got) != 0 {
			t.Errorf("the pod that it had all the time was not left alone: %q", got)
		}
	})
}

func TestTheLastProxyIsReleasedWhenNothingIsSteered(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		queued := w.pods.dial("c1", model.IPv4)
		defer unix.Close(queued)
		w.drain(p)
		w.soon()
		w.inOrder("proxy 1 drains", "clear listener 100 ipv4", "clear listener 100 ipv6", "proxy 1 is told that it is released")
		w.after(100 * time.Millisecond)
		if got := peek(queued); got != "open" { // the proxy takes it
			t.Errorf("what is queued is %s", got)
		}
		w.expect("the frontends stay, so that what fails closed is refused", w.inKernel(), "10.96.0.1:80")
		w.after(time.Second)
		w.expect("one that was released is none that serves", w.status().Liveness.State, "down")
	})
}

// A successor that is registered and does not get ready is waited for one second.
func TestASuccessorThatDoesNotGetReadyIsNotWaitedForLong(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.connect(manual)
		w.drain(p)
		w.after(950 * time.Millisecond)
		if w.expect("waiting", w.steered(), "c1"); len(w.told("is released")) != 0 {
			t.Error("the proxy was released too early")
		}
		w.after(100 * time.Millisecond)
		w.expect("after a second", w.steered(), "")
		w.inOrder("clear listener 100 ipv4", "proxy 1 is told that it is released")
	})
}

// One that was released accepts no more, though it is still there and has the pod.
func TestAProxyThatWasReleasedAcceptsForNobody(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		q := w.connect()
		w.soon()
		w.drain(p)
		w.soon()
		w.inOrder("proxy 1 is told that it is released")
		w.connect(func(r *fakeProxy) { r.lacks = func(*push.Pod) bool { return true } })
		w.soon()
		w.expect("one has it", w.steered(), "c1")
		w.crash(q)
		w.soon()
		w.expect("none has it", w.steered(), "")
	})
}

// A pod that only a proxy had which crashed is not left to queue for another that does not have it.
func TestAPodThatTheOtherProxyLacksGoesDirect(t *testing.T) {
	for _, half := range []bool{false, true} {
		bubble(t, func(w *world) {
			p := w.connect()
			w.publish(service("a", "10.96.0.1", 80))
			w.soon()
			if half { // of two listeners, the second cannot be set
				w.do(func() { w.kernel.refuse = refusing("set listener 100 ipv6") })
			}
			w.publish(service("a", "10.96.0.1", 80), client("c1"))
			w.soon()
			w.expect("steered", w.steered(), "c1")
			w.connect(func(q *fakeProxy) { q.lacks = func(*push.Pod) bool { return true } })
			w.soon()
			w.crash(p)
			w.soon()
			w.expect("after the crash", w.steered(), "")
			w.expect("state", w.status().Liveness.State, "up")
		})
	}
}

// refusing makes the kernel refuse every write with these words.
func refusing(words string) func(string) error {
	return func(what string) error {
		if strings.Contains(what, words) {
			return errRefused
		}
		return nil
	}
}

func TestAProxyIsAdmittedOnceItHasAnsweredTheFirstState(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.connect(manual)
		w.publish(client("c1"))
		w.soon()
		w.take(p)
		w.soon()
		if len(w.told("is admitted")) != 0 {
			t.Error("it was admitted too early")
		}
		w.ack(p)
		w.soon()
		w.inOrder("proxy 1 acks", "proxy 1 is admitted")
	})
}

func TestAProxyIsAdmittedOnceItsOwnConnectionsAreLeftAlone(t *testing.T) {
	bubble(t, func(w *world) {
		w.do(func() { w.kernel.refuse = refusing("exempt") })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.connect()
		w.after(300 * time.Millisecond)
		if len(w.told("is admitted")) != 0 {
			t.Error("it was admitted, and its connections are redirected")
		}
		w.do(func() { w.kernel.refuse = nil })
		w.after(10 * time.Second)
		w.inOrder("exempt [1 0]", "proxy 1 is admitted")
		w.expect("steered", w.steered(), "c1")
	})
}

// A proxy that lacks what may be in the kernel gets no listener.
func TestAProxyIsAdmittedOnceItKnowsAllThatIsInTheKernel(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { w.kernel.refuse = refusing("remove 10.96.0.1:80") })
		w.crash(p)
		w.connect(func(q *fakeProxy) { q.refuses = func(*model.Service) string { return "never" } })
		w.after(300 * time.Millisecond)
		if w.expect("in the kernel", w.inKernel(), "10.96.0.1:80"); len(w.told("proxy 2 is admitted")) != 0 {
			t.Error("it was admitted")
		}
		w.do(func() { w.kernel.refuse = nil })
		w.after(10 * time.Second)
		w.inOrder("kernel: remove 10.96.0.1:80", "proxy 2 is admitted")
	})
}

// A frontend that cannot be taken out of the kernel stays in the proxy.
func TestAUnitStaysForAsLongAsTheKernelHasItsFrontend(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { w.kernel.refuse = refusing("remove 10.96.0.1:80") })
		w.publish(client("c1"))
		w.after(time.Minute)
		w.expect("services", w.inForce(p), "shop/a")
		if s := w.status(); s.Kernel.InStep || w.node.Ready(w.ctx) == nil {
			t.Errorf("the kernel is reported as %+v, and the node as ready", s.Kernel)
		}
		w.do(func() { w.kernel.refuse = nil })
		w.after(10 * time.Second)
		w.expect("gone", w.inKernel(), "")
		w.expect("services", w.inForce(p), "")
		if err := w.node.Ready(w.ctx); err != nil {
			t.Errorf("it is not ready: %v", err)
		}
	})
}

// A write that ends half-way leaves some of what is new in the kernel: the proxy has to keep that.
func TestWhatAWriteLeftBehindCountsAsThere(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.do(func() { w.kernel.refuse = refusing("set 10.96.0.3:80") })
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), service("c", "10.96.0.3", 80), client("c1"))
		w.soon()
		w.expect("half of it", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80")
		w.do(func() { w.kernel.refuse = refusing("remove 10.96.0.2:80") })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(time.Minute)
		w.expect("units", w.inForce(p), "shop/a, shop/b, shop/c")
		w.do(func() { w.kernel.refuse = nil })
		w.after(10 * time.Second)
		w.expect("repaired", w.inKernel()+" of "+w.inForce(p), "10.96.0.1:80 of shop/a")
	})
}

// An address that goes from one Service to another: the new one waits until the kernel does not have it any more, because
// a proxy takes an id from one unit only, and does not try again what it refused.
func TestAnAddressThatMovesToAnotherService(t *testing.T) {
	for name, during := range map[string]func(w *world, p *fakeProxy) (then func()){
		"in peace": func(*world, *fakeProxy) func() { return func() {} },
		"while the kernel refuses": func(w *world, _ *fakeProxy) func() {
			w.do(func() { w.kernel.refuse = refusing("remove") })
			return func() { w.do(func() { w.kernel.refuse = nil }) }
		},
		"while no proxy is there": func(w *world, p *fakeProxy) func() {
			w.crash(p)
			w.soon()
			return func() { w.connect() }
		},
		"while no proxy is there for long": func(w *world, p *fakeProxy) func() {
			w.crash(p)
			w.after(time.Second)
			return func() { w.connect() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				p := w.connect()
				w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
				w.soon()
				then := during(w, p)
				// b takes a's address, c takes b's.
				w.publish(service("b", "10.96.0.1", 80), service("c", "10.96.0.2", 80), client("c1"))
				w.after(300 * time.Millisecond)
				then()
				w.after(20 * time.Second)
				w.expect("in the kernel", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80")
				if s := w.status(); len(s.Proxies) != 1 || len(s.Proxies[0].Refused) != 0 {
					t.Errorf("the proxies are %+v", s.Proxies)
				}
			})
		})
	}
}

func TestEventsThatComeTogetherShareAPass(t *testing.T) {
	bubble(t, func(w *world) {
		compiled := 0
		inner := w.node.cfg.Compile
		w.after(0)
		w.node.cfg.Compile = func(set *objects.Set) *compile.Result {
			compiled++
			return inner(set)
		}
		for range 100 {
			w.publish(service("a", "10.96.0.1", 80))
		}
		w.after(holdOff)
		if compiled != 1 {
			t.Errorf("100 events led to %d compilations", compiled)
		}
		for range 20 { // and events that do not end do not put it off
			w.publish(service("a", "10.96.0.1", 80))
			w.after(time.Millisecond)
		}
		if compiled < 8 {
			t.Errorf("in 20 ms there were %d compilations", compiled-1)
		}
	})
}

// What is published before Run begins is not lost.
func TestPublishBeforeRun(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.make()
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.run()
		w.connect()
		w.soon()
		w.expect("steered", w.steered(), "c1")
	})
}
