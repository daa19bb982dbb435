package observe

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// shards tells which shard of a counter to use, so that Ps seldom write to the same cache line. What a P puts into a
// sync.Pool it gets back, and that is how a P keeps its shard. Two may come to share one: that costs time, not counts.
type shards struct {
	numbers []int
	next    atomic.Uint32
	pool    sync.Pool // of pointers into numbers
}

// maxShards bounds the memory of a series.
const maxShards = 16

// newShards makes twice as many as there are Ps, so that a P which lost its shard will likely get one for itself.
func newShards() *shards {
	s := &shards{numbers: make([]int, min(2*runtime.GOMAXPROCS(0), maxShards))}
	for i := range s.numbers {
		s.numbers[i] = i
	}
	return s
}

func (s *shards) count() int { return len(s.numbers) }

func (s *shards) pick() int {
	n, _ := s.pool.Get().(*int)
	if n == nil {
		n = &s.numbers[int(s.next.Add(1))%len(s.numbers)]
	}
	s.pool.Put(n)
	return *n
}
