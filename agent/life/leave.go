package life

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent/node"
)

const (
	lookAtProxies = 100 * time.Millisecond
	tellTime      = 2 * time.Second // for proxies to be told to stop too, when the whole pod ends
)

// Linger returns when an agent that was told to end has nothing more to do for the node's proxies, or when limit has
// passed, or a part of the agent failed, which ends ctx. A pod's containers are told to end in the same moment: without
// an agent, nobody would take the listeners of a proxy that drains out of the kernel, and connections would queue there
// until its heartbeat is old. Where only the agent ends, its proxies show no sign of draining.
func Linger(ctx context.Context, n Node, limit time.Duration, log *slog.Logger) {
	start := time.Now()
	for {
		s, err := n.Status(ctx)
		if err != nil || !stay(s.Proxies, time.Since(start), limit) {
			return
		}
		if pause(ctx, lookAtProxies) != nil {
			return
		}
		if log != nil {
			log.Info("the agent stays until its proxies have drained", "limit", limit)
			log = nil // it is said once
		}
	}
}

// stay tells whether proxies need the agent that long after it was told to end.
func stay(proxies []node.ProxyStatus, since, limit time.Duration) bool {
	leaving := func(p node.ProxyStatus) bool { return p.State == "draining" || p.State == "released" }
	switch {
	case len(proxies) == 0 || since >= limit:
		return false
	case slices.ContainsFunc(proxies, leaving):
		return true
	}
	return since < tellTime
}
