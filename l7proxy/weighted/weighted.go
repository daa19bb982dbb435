// Package weighted chooses among weighted alternatives, in exact proportion (B-1).
package weighted

import "math/bits"

// Choice is a set of weighted alternatives. It is immutable.
type Choice struct {
	ends []uint64 // ends[i] is the sum of the weights up to and including i
}

// New makes a choice among len(weights) alternatives. One of weight 0 is never chosen (B-1).
func New(weights []uint32) Choice {
	ends := make([]uint64, len(weights))
	sum := uint64(0)
	for i, w := range weights {
		sum += uint64(w)
		ends[i] = sum
	}
	return Choice{ends: ends}
}

// Pick turns r, which the caller draws evenly from all uint64 for each request, into the index of an alternative:
// each has its weight's share of the values of r. It returns -1 when the weights add up to 0 (B-5).
func (c Choice) Pick(r uint64) int {
	if len(c.ends) == 0 || c.ends[len(c.ends)-1] == 0 {
		return -1
	}
	// The high half of the product is floor(r * sum / 2^64): as even as r, and without a division.
	at, _ := bits.Mul64(r, c.ends[len(c.ends)-1])
	low, high := 0, len(c.ends)-1
	for low < high { // the first alternative whose end is beyond at
		if mid := (low + high) / 2; c.ends[mid] > at {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
