package upstream

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// a client stays with an endpoint while it is there, can be connected to, and was used lately; others may have others.
func TestA66AClientStaysWithItsEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pools := NewPools(Limits{})
		r := NewRegistry(pools)
		key := model.EndpointsKey{Namespace: "shop", Name: "web", Port: 80}
		apply := func(addrs ...string) {
			set := model.EndpointSet{EndpointsKey: key, Affinity: model.Duration(time.Minute)}
			for _, a := range addrs {
				set.Endpoints = append(set.Endpoints, model.Endpoint{Address: netip.MustParseAddrPort(a)})
			}
			r.Apply([]model.EndpointSet{set}, nil)
		}
		all := []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"}
		apply(all...)
		s := r.Set(key)
		c := NewClient(-1, pools)
		defer c.Close()

		first := c.Pick(s, nil)
		stays := func(what string) {
			t.Helper()
			for range 50 {
				if e := c.Pick(s, nil); e != first {
					t.Fatalf("%s: %v, after %v", what, e.Address, first.Address)
				}
			}
		}
		stays("at once")
		first.Acquire() // however busy it is
		stays("busy")
		first.Release()
		for range 5 {
			time.Sleep(59 * time.Second)
			stays("used lately")
		}
		apply(append(all, "10.0.0.5:80")...)
		stays("another one comes")

		seen := map[*Endpoint]bool{}
		for range 100 {
			other := NewClient(-1, pools)
			seen[other.Pick(s, nil)] = true
			other.Close()
		}
		if len(seen) != 5 {
			t.Errorf("100 clients are with %d endpoints of 5", len(seen))
		}

		avoided := c.Pick(s, first)
		if avoided == first {
			t.Error("the endpoint that is to be avoided was picked")
		}
		first = avoided
		stays("after it was avoided")
		first.Failed()
		if e := c.Pick(s, nil); e == first {
			t.Error("an endpoint was picked that cannot be connected to")
		}
		first = c.Pick(s, nil)
		apply("10.0.0.9:80")
		if e := c.Pick(s, nil); e == first || e == nil {
			t.Errorf("%v: the endpoint has left", e)
		}
		apply()
		if e := c.Pick(s, nil); e != nil {
			t.Errorf("%v: there is none", e.Address)
		}
	})
}

// After its time it chooses anew.
func TestA66AffinityEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pools := NewPools(Limits{})
		r := NewRegistry(pools)
		set := model.EndpointSet{Namespace: "shop", Name: "web", Port: 80, Affinity: model.Duration(time.Minute)}
		for i := range 16 {
			set.Endpoints = append(set.Endpoints, model.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80)})
		}
		r.Apply([]model.EndpointSet{set}, nil)
		s := r.Set(set.EndpointsKey)
		c := NewClient(-1, pools)
		defer c.Close()
		seen := map[*Endpoint]bool{}
		for range 32 {
			seen[c.Pick(s, nil)] = true
			time.Sleep(time.Minute)
		}
		if len(seen) < 4 {
			t.Errorf("%d endpoints in 32 times the affinity's", len(seen))
		}
		r.Apply(nil, []model.EndpointsKey{set.EndpointsKey})
		c.reap(0)
		if len(c.affine) != 0 {
			t.Errorf("%d sets are remembered that are gone", len(c.affine))
		}
	})
}
