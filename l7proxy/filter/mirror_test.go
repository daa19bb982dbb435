package filter

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func mirrorTo(name string, numerator, denominator uint32) model.Filter {
	return model.Filter{Mirror: &model.Mirror{
		Endpoints: model.EndpointsKey{Namespace: "shop", Name: name, Port: 80}, Share: model.Fraction{Numerator: numerator, Denominator: denominator},
	}}
}

// F-52: several mirrors, each for itself, and the request goes on.
func TestF52MirrorsAreInTheOrderOfTheList(t *testing.T) {
	c := compiled(t, mirrorTo("v2", 1, 1), model.Filter{RequestHeaders: set("X: 1")}, mirrorTo("v3", 1, 1), mirrorTo("v2", 1, 2))
	check(t, request(), []Chain{c}, "X: 1")
	var got []string
	for _, m := range c.Mirrors() {
		got = append(got, m.Endpoints.Name)
	}
	if len(got) != 3 || got[0] != "v2" || got[1] != "v3" || got[2] != "v2" {
		t.Errorf("the mirrors are %v", got)
	}
	if none := (&Chain{}).Mirrors(); len(none) != 0 {
		t.Errorf("of nothing: %v", none)
	}
}

// F-51: the share is exact. Evenly spaced numbers stand for all of them.
func TestF51TheShareIsExact(t *testing.T) {
	for _, c := range [][2]uint32{{1, 1}, {100, 100}, {20, 100}, {25, 50}, {35, 100}, {1, 100}, {1, 3}, {2, 3}, {1, math.MaxUint32}, {math.MaxUint32, math.MaxUint32}} {
		chain := compiled(t, mirrorTo("v2", c[0], c[1]))
		m := &chain.Mirrors()[0]
		const n = 30000
		wanted := 0
		for i := range uint64(n) {
			if m.Wants(i*(math.MaxUint64/n) + 1<<32) {
				wanted++
			}
		}
		if want := float64(n) * float64(c[0]) / float64(c[1]); math.Abs(float64(wanted)-want) > 1 {
			t.Errorf("%d/%d: %d of %d, want %v", c[0], c[1], wanted, n, want)
		}
		if all := c[0] == c[1]; !m.Wants(0) || m.Wants(math.MaxUint64) != all {
			t.Errorf("%d/%d: the ends are wrong", c[0], c[1])
		}
	}
}

// F-55 (C:HTTPRouteRequestPercentageMirror): within three standard deviations of 500 requests.
func TestF55APercentageOfRandomRequests(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, p := range []float64{0.2, 0.5, 0.35} {
		chain := compiled(t, mirrorTo("v2", uint32(p*100), 100))
		m := &chain.Mirrors()[0]
		const n = 500
		got := 0
		for range n {
			if m.Wants(random.Uint64()) {
				got++
			}
		}
		if off := math.Abs(float64(got) - n*p); off > 3*math.Sqrt(n*p*(1-p)) {
			t.Errorf("%v: %d of %d", p, got, n)
		}
	}
}
