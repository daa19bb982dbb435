package upstream

// subset is what one client uses of one set: those endpoints that score highest for the client (rendezvous hashing).
// An endpoint that comes or goes changes the choice by one endpoint at most, so connections are kept.
type subset struct {
	of        *snapshot // what it was computed from
	endpoints []*Endpoint
}

// Pick is Set.Pick for a request of this client pod. Of a set with more endpoints than Limits.Subset the client uses a
// stable part, other clients other parts: so N pods and M endpoints do not make N x M connections.
func (c *Client) Pick(s *Set, not *Endpoint) *Endpoint {
	now := s.current.Load()
	if now.affinity > 0 {
		return c.stay(s, now, not)
	}
	if len(now.endpoints) <= c.pools.limits.Subset {
		return pick(now.endpoints, not)
	}
	return pick(c.subsetOf(s, now), not)
}

func (c *Client) subsetOf(s *Set, now *snapshot) []*Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	sub, ok := c.subsets[s]
	if !ok || sub.of != now {
		sub = subset{now, highest(now.endpoints, c.pools.limits.Subset, c.seed)}
		c.subsets[s] = sub
	}
	return sub.endpoints
}

// highest returns the n endpoints that score highest for the seed, n being less than there are. Most endpoints of a
// large set fail at the first comparison.
func highest(all []*Endpoint, n int, seed uint64) []*Endpoint {
	best := append(make([]*Endpoint, 0, n), all[:n]...)
	last := lowest(best, seed)
	for _, e := range all[n:] {
		if e.scores(best[last], seed) {
			best[last] = e
			last = lowest(best, seed)
		}
	}
	return best
}

func lowest(of []*Endpoint, seed uint64) int {
	low := 0
	for i := range of {
		if of[low].scores(of[i], seed) {
			low = i
		}
	}
	return low
}

// scores tells whether e scores higher than o.
func (e *Endpoint) scores(o *Endpoint, seed uint64) bool {
	a, b := mix(e.hash^seed), mix(o.hash^seed)
	return a > b || a == b && e.Address.Compare(o.Address) > 0
}

// mix spreads a hash over all bits: the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
