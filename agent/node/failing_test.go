package node

import (
	"fmt"
	"testing"
	"time"
)

// A story in which everything is written that can be: whichever of the writes fails, once or three times in a row, no
// connection meets a half-made state (world checks that after each), and passes that follow repair it.
func TestWhicheverWriteFailsIsRepaired(t *testing.T) {
	for _, times := range []int{1, 3} {
		for n := 1; ; n++ {
			reached := false
			t.Run(fmt.Sprintf("write=%d,times=%d", n, times), func(t *testing.T) {
				bubble(t, func(w *world) {
					w.do(func() {
						asked := 0
						w.kernel.refuse = func(string) error {
							if asked++; asked >= n && asked < n+times {
								reached = true
								return errRefused
							}
							return nil
						}
					})
					w.eventful()
				})
			})
			if !reached {
				if n < 40 {
					t.Errorf("the story has only %d writes", n)
				}
				break
			}
		}
	}
}

// eventful brings everything in, changes it, lets proxies come and go, restarts the agent, and takes most of it out again.
func (w *world) eventful() {
	p := w.connect()
	w.publish(service("a", "10.96.0.1", 80, 81), closed(service("b", "10.96.0.2", 80)), client("c1"), client("c2"))
	w.after(100 * time.Millisecond)
	w.publish(service("a", "10.96.0.1", 80), service("b", "10.96.0.3", 80), service("c", "10.96.0.2", 80), client("c1"), client("c3"))
	w.after(100 * time.Millisecond)
	q := w.connect(func(q *fakeProxy) { q.view.Cgroup = 2 })
	w.drain(p)
	w.after(time.Second)
	w.crash(p)
	w.restart()
	w.publish(service("a", "10.96.0.1", 80), closed(service("c", "10.96.0.2", 80)), client("c1"), client("c3"))
	w.after(50 * time.Millisecond)
	q = w.again(q)
	w.after(50 * time.Millisecond)
	w.crash(q)
	w.after(700 * time.Millisecond) // down
	w.publish(closed(service("c", "10.96.0.2", 80)), service("d", "10.96.0.4", 80), client("c3"))
	w.after(50 * time.Millisecond)
	w.connect()
	w.after(20 * time.Second)

	w.expect("in the kernel in the end", w.inKernel(), "10.96.0.2:80 closed, 10.96.0.4:80")
	w.expect("steered in the end", w.steered(), "c3")
	w.do(func() {
		if len(w.kernel.pods) != 1 || len(w.kernel.listeners) != 2 {
			w.fail("in the end the kernel has the pods %v and the listeners %v", w.kernel.pods, w.kernel.listeners)
		}
	})
	if err := w.node.Ready(w.ctx); err != nil {
		w.t.Errorf("in the end it is not ready: %v", err)
	}
}
