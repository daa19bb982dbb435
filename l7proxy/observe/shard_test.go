package observe

import "testing"

// Whoever runs on a P gets that P's shard again, unless it was moved to another P meanwhile.
func TestAPKeepsItsShard(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose some")
	}
	s := newShards()
	const picks = 10_000
	changes, last := 0, s.pick()
	for range picks {
		if n := s.pick(); n != last {
			changes, last = changes+1, n
		}
	}
	if changes > picks/100 {
		t.Errorf("the shard changed %d times in %d", changes, picks)
	}
}

func TestShardsAreSpread(t *testing.T) {
	s := newShards()
	seen := map[int]bool{}
	for range 3 * s.count() { // as if each P had lost its own
		s.pool.Get()
		n := s.pick()
		if n < 0 || n >= s.count() {
			t.Fatalf("shard %d of %d", n, s.count())
		}
		seen[n] = true
	}
	if len(seen) < 2 {
		t.Errorf("only %d of %d shards are used", len(seen), s.count())
	}
}
