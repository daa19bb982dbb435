package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Design, "endpoint dies": it is not picked while there is another.
func TestAnEndpointThatFailsIsLeftOutForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(nil)
		r.Apply([]model.EndpointSet{unit(key, 0, 3)}, nil)
		s := r.Set(key)
		dead := s.Endpoints()[1]
		picked := func() (n int) {
			for range 300 {
				if s.Pick(nil) == dead {
					n++
				}
			}
			return n
		}
		if picked() == 0 {
			t.Fatal("an endpoint that works is never picked")
		}
		dead.Failed()
		if n := picked(); n > 0 {
			t.Errorf("picked %d times right after it failed", n)
		}
		time.Sleep(firstOut)
		if picked() == 0 {
			t.Error("never picked after its time was over")
		}
		dead.Failed()
		time.Sleep(firstOut)
		if n := picked(); n > 0 {
			t.Errorf("picked %d times although the second time is longer", n)
		}
		dead.Connected()
		if picked() == 0 {
			t.Error("never picked after it could be connected to")
		}
		for range 40 {
			dead.Failed()
		}
		time.Sleep(maxOut)
		if picked() == 0 {
			t.Errorf("left out for longer than %v", maxOut)
		}
	})
}

// With nothing better an endpoint that failed is picked: it may be back, and the others are no better.
func TestFailedEndpointsArePickedWhenThereAreNoOthers(t *testing.T) {
	r := NewRegistry(nil)
	r.Apply([]model.EndpointSet{unit(key, 0, 2)}, nil)
	s := r.Set(key)
	a, b := s.Endpoints()[0], s.Endpoints()[1]
	a.Failed()
	b.Failed()
	if got := s.Pick(a); got != b {
		t.Errorf("picked %v, want the other one than the last", got)
	}
	if s.Pick(nil) == nil {
		t.Error("picked none")
	}
}
