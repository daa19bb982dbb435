package node

import (
	"errors"
	"testing"
)

// Each enrolled pod is looked at in its turn: one that our programs do not run for is no serving one, and says so; the
// node is ready all the same, because the others are served.
func TestPodThatTheProgramsDoNotSee(t *testing.T) {
	bubble(t, func(w *world) {
		w.do(func() { w.outside = map[string]error{"c2": errors.New("it is in another cgroup")} })
		w.settled()
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"))
		w.after(3 * checkEvery)
		state := func(uid string) string {
			for _, p := range w.status().Pods {
				if p.UID == uid {
					return p.State + " " + p.Reason
				}
			}
			return "none"
		}
		w.expect("the one that is outside", state("c2"), "failed it is in another cgroup")
		w.expect("another one", state("c1"), "serving ")
		if err := w.node.Ready(w.ctx); err != nil {
			t.Errorf("the node is not ready: %v", err)
		}
		w.do(func() { w.outside = nil })
		w.after(3 * checkEvery)
		w.expect("when it has moved", state("c2"), "serving ")
		for _, uid := range []string{"c1", "c2"} {
			if n := len(w.told("look at " + uid)); n < 2 {
				t.Errorf("%s was looked at %d times in a minute", uid, n)
			}
		}
	})
}
