package weighted

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// reference is what Pick has to return, slowly: floor(r * sum / 2^64) counted off the weights.
func reference(weights []uint32, r uint64) int {
	at := new(big.Int).SetUint64(r)
	at.Mul(at, sum(weights)).Rsh(at, 64)
	for i, w := range weights {
		if at.Sub(at, big.NewInt(int64(w))).Sign() < 0 {
			return i
		}
	}
	return -1
}

func sum(weights []uint32) *big.Int {
	s := new(big.Int)
	for _, w := range weights {
		s.Add(s, big.NewInt(int64(w)))
	}
	return s
}

// grid returns n values of r, evenly: the first at or above each n-th part of all.
func grid(n int) []uint64 {
	out := make([]uint64, n)
	for k := range out {
		at := new(big.Int).Lsh(big.NewInt(int64(k)), 64)
		at.Add(at, big.NewInt(int64(n-1)))
		out[k] = at.Div(at, big.NewInt(int64(n))).Uint64()
	}
	return out
}

var ( // never written
	four = []uint32{1, 2, 3, 10}
	some = [][]uint32{
		{1}, {1, 1}, {90, 10}, {1, 99}, {99, 1}, {70, 30, 0}, {0, 1}, {1, 0}, {0, 0, 5, 0, 0, 3, 0}, four,
		{10_000, 1}, {1, 10_000}, {3, 3, 3}, {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768},
	}
)

// Each alternative gets its weight's share of the values of r, exactly: on a grid that the sum of the weights divides
// nothing is rounded.
func TestB1SharesAreExact(t *testing.T) {
	lists := slices.Clone(some)
	for a := range uint32(6) { // every list of three small weights
		for b := range uint32(6) {
			for c := range uint32(6) {
				if a+b+c > 0 {
					lists = append(lists, []uint32{a, b, c})
				}
			}
		}
	}
	for _, weights := range lists {
		const each = 3 // values of r for each unit of weight
		c := New(weights)
		got := make([]int, len(weights))
		total := int(sum(weights).Int64())
		for _, r := range grid(each * total) {
			i := c.Pick(r)
			if want := reference(weights, r); i != want {
				t.Fatalf("%v: r %d picks %d, want %d", weights, r, i, want)
			}
			got[i]++
		}
		for i, w := range weights {
			if got[i] != each*int(w) {
				t.Errorf("%v: alternative %d is picked %d times of %d, want %d", weights, i, got[i], each*total, each*w)
			}
		}
	}
}

// Where one alternative's share ends and the next one's begins, to the last value of r.
func TestB1SharesEndWhereTheyShould(t *testing.T) {
	for _, weights := range append(some, []uint32{1_000_000, 1}, []uint32{1, 1_000_000, 0, 1}) {
		c := New(weights)
		end := new(big.Int)
		for i, w := range weights {
			end.Add(end, big.NewInt(int64(w)))
			first := new(big.Int).Lsh(end, 64) // r of the next alternative: ceil(end * 2^64 / sum)
			first.Add(first, sum(weights)).Sub(first, big.NewInt(1)).Div(first, sum(weights))
			last := new(big.Int).Sub(first, big.NewInt(1)).Uint64()
			if w > 0 && c.Pick(last) != i {
				t.Errorf("%v: r %d picks %d, want %d", weights, last, c.Pick(last), i)
			}
			if first.IsUint64() && c.Pick(first.Uint64()) <= i {
				t.Errorf("%v: r %d picks %d, want one after %d", weights, first, c.Pick(first.Uint64()), i)
			}
		}
	}
}

func TestB1WeightZeroIsNeverPicked(t *testing.T) {
	for _, weights := range [][]uint32{{0, 1}, {1, 0}, {0, 0, 1, 0, 0}, {5, 0, 5}, {0, math.MaxUint32, 0}} {
		c := New(weights)
		for _, r := range append(grid(1000), math.MaxUint64, 1<<63, 1<<63-1) {
			if i := c.Pick(r); i < 0 || weights[i] == 0 {
				t.Errorf("%v: r %d picks %d", weights, r, i)
			}
		}
	}
}

func TestB5WithoutAnyWeightThereIsNoChoice(t *testing.T) {
	for _, weights := range [][]uint32{nil, {}, {0}, {0, 0, 0}} {
		c := New(weights)
		for _, r := range []uint64{0, 1, 1 << 63, math.MaxUint64} {
			if i := c.Pick(r); i != -1 {
				t.Errorf("%v: r %d picks %d, want -1", weights, r, i)
			}
		}
	}
	if i := (Choice{}).Pick(7); i != -1 {
		t.Errorf("the zero Choice picks %d", i)
	}
}

func TestLargeWeightsDoNotOverflow(t *testing.T) {
	weights := slices.Repeat([]uint32{math.MaxUint32}, 16)
	c := New(weights)
	for k, r := range grid(1600) {
		if i := c.Pick(r); i != k/100 {
			t.Errorf("r %d picks %d, want %d", r, i, k/100)
		}
	}
}

func TestAChoiceIsImmutable(t *testing.T) {
	weights := []uint32{1, 0}
	c := New(weights)
	weights[0], weights[1] = 0, 1
	if i := c.Pick(math.MaxUint64); i != 0 {
		t.Errorf("it picks %d after the caller's slice has changed", i)
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	c := New(four)
	picked := [4]int{}
	if n := testing.AllocsPerRun(100, func() { picked[c.Pick(rand.Uint64())]++ }); n != 0 {
		t.Errorf("%v allocations: want none", n)
	}
}

func FuzzPick(f *testing.F) {
	for _, r := range []uint64{0, 1, 1 << 63, math.MaxUint64} {
		f.Add([]byte{1, 1}, uint8(0), r)
		f.Add([]byte{0, 90, 0, 10, 0}, uint8(3), r)
		f.Add([]byte{255, 255, 255}, uint8(24), r)
		f.Add([]byte{0, 0}, uint8(1), r)
	}
	f.Fuzz(func(t *testing.T, small []byte, shift uint8, r uint64) {
		var weights []uint32
		for _, b := range small {
			weights = append(weights, uint32(b)<<(shift%25))
		}
		if got, want := New(weights).Pick(r), reference(weights, r); got != want {
			t.Errorf("%s: r %d picks %d, want %d", fmt.Sprint(weights), r, got, want)
		}
	})
}
