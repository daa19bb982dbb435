package node

import (
	"testing"
	"time"
)

// A connection in the middle of an exchange is left until that is over, but not for ever; other pods do not wait for it.
func TestBusyConnectionsThatBypassedAreGivenAWhile(t *testing.T) {
	bubble(t, func(w *world) {
		w.settled()
		w.publish(service("a", "10.96.0.1", 80), client("c1"), client("c2"), client("c3"))
		w.soon()
		before := map[string]int{}
		for _, pod := range []string{"c1", "c2", "c3"} {
			before[pod] = len(w.told("close bypassed of " + pod))
		}
		w.do(func() { w.kernel.busy = map[string]int{"c1": 3, "c2": 1 << 20} })
		if err := w.node.SetBypass(w.ctx, true); err != nil {
			t.Fatal(err)
		}
		if err := w.node.SetBypass(w.ctx, false); err != nil {
			t.Fatal(err)
		}
		w.after(5 * time.Second)
		for pod, want := range map[string]int{"c1": 4, "c3": 1} {
			if n := len(w.told("close bypassed of "+pod)) - before[pod]; n != want {
				t.Errorf("%s: %d turns, want %d", pod, n, want)
			}
		}
		if n := len(w.told("close bypassed of c2")) - before["c2"]; n < 50 {
			t.Errorf("a pod whose connections stay busy was looked at %d times in 5 s", n)
		}
		if n := len(w.told("close even busy")); n != 0 {
			t.Errorf("%d busy connections were closed early", n)
		}
		w.after(6 * time.Second)
		if n := len(w.told("close even busy ones of c2")); n != 1 {
			t.Errorf("a connection that is always busy was closed %d times", n)
		}
	})
}
