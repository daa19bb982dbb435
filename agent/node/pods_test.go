package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/agent/enroll"
)

func optedOut(p *corev1.Pod) *corev1.Pod {
	p.Labels = map[string]string{enroll.MeshLabel: "disabled"}
	return p
}

// A pod that opts out lives on: its new connections go direct at once, also to what fails closed, because the kernel does
// not know it any more; those that are open stay with the proxy for a while. Then nothing is left.
func TestAPodThatOptsOutKeepsItsConnectionsForAWhile(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.pods.stay = true })
		w.publish(service("a", "10.96.0.1", 80), optedOut(client("c1")))
		w.soon()
		w.expect("steered", w.steered(), "")
		w.inOrder("pod c1 ends", "clear listener 100 ipv4", "clear listener 100 ipv6", "remove pod 100")
		w.after(leavePatience - 100*time.Millisecond)
		if n := len(w.told("released")); n != 0 {
			t.Error("it is released before its connections had their time")
		}
		w.do(func() { w.note("its time is over") })
		w.after(time.Second)
		w.inOrder("its time is over", "proxy 1 taking in pods", "proxy 1 acks", "pod c1 is released")
		s := w.status()
		if len(s.Pods) != 1 || s.Pods[0].State != StateExcluded || s.Pods[0].Reason != "it is labelled sluice.dev/mesh: disabled" {
			t.Errorf("the pods are reported as %+v", s.Pods)
		}
	})
}

func TestAPodThatOptsInAgainIsServedAtOnce(t *testing.T) {
	for name, pause := range map[string]time.Duration{"while it leaves": time.Second, "after it left": time.Minute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.settled()
				w.do(func() { w.pods.stay = true })
				for range 2 {
					w.publish(service("a", "10.96.0.1", 80), optedOut(client("c1")))
					w.after(pause)
					w.expect("opted out", w.steered(), "")
					w.publish(service("a", "10.96.0.1", 80), client("c1"))
					w.after(100 * time.Millisecond)
					w.expect("opted in", w.steered(), "c1")
				}
				w.after(time.Minute)
				w.expect("later", w.steered(), "c1")
			})
		})
	}
}

// Its namespace ends while its connections are let go on: then nothing is waited for.
func TestAPodThatEndsWhileItLeavesIsReleasedSoon(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.pods.stay = true })
		w.publish(service("a", "10.96.0.1", 80), optedOut(client("c1")))
		w.after(time.Second)
		w.do(func() { w.pods.end("c1") })
		w.after(endPatience + 100*time.Millisecond)
		w.inOrder("remove pod 100", "pod c1 ends", "pod c1 is released")
	})
}

// The kernel cannot be told at first that a pod left.
func TestAPodThatLeavesIsTakenOutOfTheKernelAsSoonAsItCan(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.do(func() { w.pods.stay, w.kernel.refuse = true, refusing("remove pod") })
		w.publish(service("a", "10.96.0.1", 80), optedOut(client("c1")))
		w.after(time.Second)
		w.do(func() { w.kernel.refuse = nil })
		w.after(3 * time.Second)
		w.inOrder("refuses to remove pod 100", "kernel: remove pod 100")
		if n := len(w.told("released")); n != 0 {
			t.Error("its connections had no time")
		}
	})
}

func TestForHowLongAPodRanWithoutUs(t *testing.T) {
	start := func(w *world, by enroll.By, before time.Duration) {
		w.do(func() { w.pods.by, w.pods.started = by, time.Now().Add(-before) })
	}
	one := func(w *world) PodStatus {
		w.t.Helper()
		s := w.status()
		if len(s.Pods) != 1 {
			w.t.Fatalf("the pods are %+v", s.Pods)
		}
		return s.Pods[0]
	}
	near := func(w *world, what string, want float64) {
		w.t.Helper()
		if got := one(w).UnenrolledSeconds; got < want-0.1 || got > want+0.1 {
			w.t.Errorf("%s: %v s, want %v", what, got, want)
		}
	}
	bubble(t, func(w *world) { // found
		start(w, enroll.ByFound, 3*time.Second)
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(2 * time.Second)
		near(w, "no proxy is there yet", 5)
		w.connect()
		w.soon()
		w.after(time.Minute)
		near(w, "served since", 5)
		if by := one(w).EnrolledBy; by != "found" {
			t.Errorf("it was enrolled by %q", by)
		}
		// The next agent finds it served.
		w.restart()
		w.do(func() { w.pods.by = enroll.ByRunning })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.connect()
		w.after(time.Second)
		near(w, "served by a predecessor", 0)
		if by := one(w).EnrolledBy; by != "predecessor" {
			t.Errorf("it was enrolled by %q", by)
		}
	})
	bubble(t, func(w *world) { // was left alone for a time, as it wanted
		start(w, enroll.ByFound, 3*time.Second)
		w.connect()
		w.publish(optedOut(client("c1")))
		w.after(time.Minute)
		w.do(func() { w.pods.slow = true })
		w.publish(client("c1"))
		w.after(time.Second)
		w.do(func() { w.pods.slow = false; w.pods.enroll() })
		w.after(time.Second)
		near(w, "opted in", 1)
	})
	bubble(t, func(w *world) { // the runtime waited for us
		w.do(func() { w.pods.by = enroll.ByPlugin })
		w.connect()
		w.publish(client("c1"))
		w.after(time.Second)
		near(w, "by the plugin", 0)
	})
}

// Whoever waits for a pod is woken when there is something new to say of it.
func TestAPodIsWaitedFor(t *testing.T) {
	bubble(t, func(w *world) {
		if _, known, _ := w.node.Pod("c1", "shop", "c1"); known {
			t.Error("a pod is known before there are objects")
		}
		states := make(chan string, 100)
		go func() {
			for last := ""; last != StateServing; {
				s, _, changed := w.node.Pod("c1", "shop", "c1")
				if s.State == last {
					<-changed
					continue
				}
				last = s.State
				states <- last
			}
		}()
		w.publish(service("a", "10.96.0.1", 80), client("c1"), optedOut(client("c2")))
		w.after(time.Second)
		w.connect()
		w.after(time.Second)
		w.expect("first", <-states, StateWaiting)
		w.expect("then", <-states, StateServing)
		if s, known, _ := w.node.Pod("", "shop", "c2"); !known || s.State != StateExcluded {
			t.Errorf("the other one: %+v, %v", s, known)
		}
	})
}
