package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/agent/push"
)

// since returns what happened after the last line with a word in it.
func (w *world) since(word string) string {
	all := w.told("")
	for i, a := range slices.Backward(all) {
		if strings.Contains(a, word) {
			return strings.Join(all[i+1:], "\n")
		}
	}
	return ""
}

// never fails if what happened since the agent started anew has a word in it.
func (w *world) never(words ...string) {
	w.t.Helper()
	story := w.since("the agent starts anew")
	for _, word := range words {
		if strings.Contains(story, word) {
			w.t.Errorf("since the agent started anew, there is %q in what happened:\n%s", word, story)
		}
	}
}

// An upgrade of the agent: everything serves on, and the pods' new listeners replace the old ones once they were acked.
func TestASuccessorTakesOverWhatServes(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.restart()
		w.after(10 * time.Second) // until the objects are read nothing happens, whatever that takes
		w.never("kernel: ", "state: ")
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(100 * time.Millisecond)
		w.expect("before the proxy is back", w.steered(), "")
		p = w.again(p, manual)
		w.soon()
		w.take(p)
		w.ack(p)
		w.soon()
		w.expect("before it acked the pod", w.steered(), "")
		w.take(p)
		w.ack(p)
		w.soon()
		w.expect("after it acked the pod", w.steered(), "c1")
		w.never("clear listener", "remove", "kernel: set 10.96", "exempt")
	})
}

func TestASuccessorTakesOutWhatNobodyWantsAnyMore(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.connect()
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"), client("c2"))
		w.soon()
		w.restart()
		w.publish(service("b", "10.96.0.2", 80), client("c2"))
		w.after(10 * time.Millisecond)
		w.again(p)
		w.soon()
		w.expect("in the kernel", w.inKernel(), "10.96.0.2:80")
		w.expect("steered", w.steered(), "c2")
		w.inOrder("the agent starts anew", "clear listener 100 ipv4", "clear listener 100 ipv6", "remove 10.96.0.1:80", "state: 1 services", "remove pod 100", "registers")
		w.never("remove 10.96.0.2", "clear listener 101")
	})
}

// Whose a namespace is is not known before all pods that are desired were tried.
func TestASuccessorWaitsForAllPodsBeforeItTakesOutAny(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.restart()
		w.do(func() { w.pods.slow = true })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.soon()
		w.again(p)
		w.after(500 * time.Millisecond)
		w.never("clear listener", "remove pod")
		w.do(func() { w.pods.slow = false; w.pods.enroll() })
		w.soon()
		w.expect("steered", w.steered(), "c1")
		w.never("clear listener", "remove pod")
	})
}

// What the kernel has must be known before anything is done about pods: else those that ended would stay there.
func TestASuccessorThatCannotReadTheKernelTriesAgain(t *testing.T) {
	for what, waits := range map[string]string{"list the pods": "clear listener", "list the frontends": "kernel: set 10.96"} {
		bubble(t, func(w *world) {
			p := w.settled()
			w.do(func() { w.kernel.refuse = refusing(what) })
			w.restart()
			w.publish(service("b", "10.96.0.2", 80), client("c2"))
			w.soon()
			w.again(p)
			w.after(300 * time.Millisecond)
			w.never(waits)
			w.do(func() { w.kernel.refuse = nil })
			w.after(10 * time.Second)
			w.expect("in the kernel", w.inKernel(), "10.96.0.2:80")
			w.expect("steered", w.steered(), "c2")
			w.do(func() {
				if len(w.kernel.pods) != 1 {
					w.fail("the kernel has the pods %v", w.kernel.pods)
				}
			})
		})
	}
}

func TestASuccessorWithoutAProxyTakesTheListenersOut(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled() // the proxy serves on, and does not find the new agent
		w.restart()
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(1900 * time.Millisecond)
		w.never("clear listener")
		w.after(200 * time.Millisecond)
		w.inOrder("the agent starts anew", "clear listener 100 ipv4", "clear listener 100 ipv6")
	})
}

// Not even when it is not known yet whose the namespaces are; but what cannot be claimed then stays enrolled.
func TestASuccessorWithoutAProxyTakesOutListenersThatNoPodHasClaimed(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.restart()
		w.do(func() { w.pods.slow = true })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.after(3 * time.Second)
		w.inOrder("the agent starts anew", "clear listener 100 ipv4", "clear listener 100 ipv6")
		w.never("remove pod")
	})
}

// As long as the kernel may steer to a proxy that we do not know, nothing is added for it: neither before the kernel has
// told what it steers to, nor while it does not take that out, nor before all pods were tried.
func TestNothingIsAddedWhileItIsNotKnownWhatIsSteeredTo(t *testing.T) {
	for name, during := range map[string]func(w *world){
		"the pods cannot be listed":         func(w *world) { w.kernel.refuse = refusing("list the pods") },
		"the listeners cannot be taken out": func(w *world) { w.kernel.refuse, w.pods.slow = refusing("clear listener"), true },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.settled()
				w.do(func() { during(w) })
				w.restart()
				w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
				w.after(5 * time.Second)
				w.expect("state", w.status().Liveness.State, "down")
				w.expect("in the kernel", w.inKernel(), "10.96.0.1:80")
			})
		})
	}
	bubble(t, func(w *world) {
		w.settled()
		w.restart()
		w.do(func() { w.pods.slow = true })
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
		w.connect() // another one than the proxy that was there
		w.after(500 * time.Millisecond)
		w.expect("no pod was tried", w.inKernel(), "10.96.0.1:80")
		w.after(time.Second)
		w.expect("after a second", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80")
	})
}

// Of two proxies, one is back and the other is not yet: nobody knows what that one has in force, and the kernel still
// steers to the listener that it accepts on. So nothing is added before that listener was replaced.
func TestNothingIsAddedWhileAStrangerMayAccept(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		q := w.connect(manual)
		w.restart()
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
		w.after(10 * time.Millisecond)
		q = w.again(q, manual)
		w.take(q)
		w.ack(q)
		w.soon()
		w.expect("while the pod is not acked", w.inKernel(), "10.96.0.1:80")
		w.take(q)
		w.ack(q)
		w.after(100 * time.Millisecond)
		w.expect("our listener is there", w.inKernel(), "10.96.0.1:80, 10.96.0.2:80")
		w.expect("steered", w.steered(), "c1")
		w.again(p)
		w.soon()
		w.expect("both are back", w.steered(), "c1")
	})
}

// And where a proxy cannot take a pod, the others wait for a second at most.
func TestAStrangersListenerIsTakenOutAfterASecond(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.settled()
		w.restart()
		w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.2", 80), client("c1"))
		w.soon()
		w.again(p, func(q *fakeProxy) { q.lacks = func(*push.Pod) bool { return true } })
		w.after(900 * time.Millisecond)
		w.never("clear listener", "set 10.96.0.2:80")
		w.after(200 * time.Millisecond)
		w.inOrder("the agent starts anew", "clear listener 100 ipv4", "clear listener 100 ipv6", "set 10.96.0.2:80")
	})
}

// A proxy that has not come back yet is left alone as before.
func TestASuccessorKeepsTheExemptions(t *testing.T) {
	bubble(t, func(w *world) {
		w.connect(func(p *fakeProxy) { p.view.Cgroup = 7 })
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.soon()
		w.restart()
		w.publish(service("a", "10.96.0.1", 80), client("c1"))
		w.connect(func(p *fakeProxy) { p.view.Cgroup = 8 })
		w.soon()
		w.do(func() {
			if w.kernel.cgroups != [2]uint64{8, 7} {
				w.fail("the kernel leaves the cgroups %v alone", w.kernel.cgroups)
			}
		})
	})
}

func TestWhatIsLeftWhenTheAgentEnds(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		w.expect("frontends", w.inKernel(), "10.96.0.1:80")
		w.expect("steered", w.steered(), "c1")
	})
}

func TestTearDownLeavesNothing(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.restart()
		w.do(func() { w.pods.slow = true })
		w.publish(service("a", "10.96.0.1", 80), client("c2")) // c1 has ended, and nothing was done about it yet
		w.soon()
		w.do(func() { w.kernel.refuse = refusing("clear") })
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if err := w.node.TearDown(); err == nil {
			t.Error("what the kernel refuses is not told")
		}
		w.do(func() { w.kernel.refuse = nil })
		w.pods.closeAll()
		if err := w.node.TearDown(); err != nil {
			t.Error(err)
		}
		w.do(func() {
			if len(w.kernel.frontends)+len(w.kernel.pods)+len(w.kernel.listeners) != 0 {
				w.fail("left are %v, %v and %v", w.kernel.frontends, w.kernel.pods, w.kernel.listeners)
			}
		})
	})
}
