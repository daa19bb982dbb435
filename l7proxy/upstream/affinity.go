package upstream

import (
	"slices"
	"time"
)

// affinity is the endpoint that a client stays with.
type affinity struct {
	to   *Endpoint
	used time.Duration // when it was picked last
}

// stay is Pick for a set whose clients stay with an endpoint: as long as it is in the set, can be connected to, is not
// the one to be avoided, and was used lately. A pod has one address, so a client of ours is a client of the API's ClientIP.
func (c *Client) stay(s *Set, now *snapshot, not *Endpoint) *Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.pools.now()
	a, ok := c.affine[s]
	if !ok || at-a.used >= now.affinity || a.to == not || a.to.out() || !slices.Contains(now.endpoints, a.to) {
		if a.to = pick(now.endpoints, not); a.to == nil {
			return nil
		}
	}
	a.used = at
	c.affine[s] = a
	return a.to
}
