package node

import (
	"maps"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent/push"
)

// exempt is which cgroups the kernel leaves alone, so that a proxy's own connections are not redirected to it.
type exempt struct {
	ids  [2]uint64
	done bool // the kernel has them
}

// exemptProxies tells the kernel where the proxies run.
func (n *Node) exemptProxies(proxies []push.Proxy) {
	ids := exemptions(n.exempt.ids, proxies)
	if ids == ([2]uint64{}) || n.exempt.done && ids == n.exempt.ids {
		return
	}
	n.exempt = exempt{ids: ids, done: n.did("exempt the proxies", n.kernel.SetProxyCgroups(ids))}
}

// exemptions returns the cgroups of the newest proxies. Those of proxies that are gone stay as long as there is room:
// a successor is likely to run in the same one, and connections may outlive their registration.
func exemptions(before [2]uint64, proxies []push.Proxy) [2]uint64 {
	var ids []uint64
	add := func(id uint64) {
		if id != 0 && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, p := range slices.Backward(proxies) {
		add(p.Cgroup)
	}
	add(before[0])
	add(before[1])
	var next [2]uint64
	copy(next[:], ids)
	if next[0] == before[1] && next[1] == before[0] {
		return before
	}
	return next
}

// admit lets proxies have the listeners that can answer for whatever may arrive on them.
func (n *Node) admit(proxies []push.Proxy) {
	for _, p := range proxies {
		if p.Synced && !p.Admitted && n.exempt.done && covers(p, n.frontends.may) {
			n.proxies.Admit(p.ID)
		}
	}
}

// release answers proxies that drain: at once when another one serves everything that is steered, else when nothing is
// steered any more.
func (n *Node) release(now time.Time, proxies []push.Proxy) {
	for _, p := range proxies {
		if !p.Draining || p.Released {
			continue
		}
		if !n.podTable.steered() || n.handedOver(proxies) {
			n.log.Info("proxy is released", "proxy", p.ID)
			n.proxies.Release(p.ID)
		} else if until, _ := successor(p, proxies); now.Before(until) {
			n.wake(until)
		}
	}
}

// handedOver tells whether every pod that is steered to has been acked by a proxy that stays.
func (n *Node) handedOver(proxies []push.Proxy) bool {
	stay := slices.DeleteFunc(slices.Clone(proxies), func(p push.Proxy) bool { return p.Draining })
	for _, p := range n.podTable.pods {
		if p.steered && !accepted(p, stay) {
			return false
		}
	}
	return !slices.Contains(slices.Collect(maps.Values(n.podTable.inherited)), true)
}

// staying returns the proxies that pods can be left with. One that drains is none once another has had the time to take
// over: what that has not taken by then is steered to nobody.
func staying(now time.Time, proxies []push.Proxy) []push.Proxy {
	return slices.DeleteFunc(slices.Clone(proxies), func(p push.Proxy) bool {
		until, _ := successor(p, proxies)
		return p.Draining && !now.Before(until)
	})
}

// stepDown tells whether the last proxy is leaving and none is about to follow: then nothing may be steered.
func (n *Node) stepDown(now time.Time, proxies []push.Proxy) bool {
	if serving(proxies) != nil {
		return false
	}
	leaving := false
	for _, p := range proxies {
		if !p.Draining || p.Released {
			continue
		}
		if until, expected := successor(p, proxies); expected && now.Before(until) {
			return false
		}
		leaving = true
	}
	return leaving
}

// successor tells whether a proxy is registered that may take over from p, and how long that is waited for.
func successor(p push.Proxy, proxies []push.Proxy) (time.Time, bool) {
	return p.DrainAt.Add(nextPatience), slices.ContainsFunc(proxies, func(x push.Proxy) bool {
		return x.ID > p.ID && !x.Draining
	})
}
