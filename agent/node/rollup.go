package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// reasonRefused is the reason of Accepted where a node could not program what the route asks for. The API has no
// constant for it.
const reasonRefused = "NotProgrammed"

// rollup is the routes' statuses as they were last reported.
type rollup struct {
	routes []compile.RouteStatus
	logged map[string]string // condition by route and parent
}

// statuses returns what was compiled, made honest: a route that a proxy refused is not reported as accepted. The
// conditions that change are copies.
func statuses(compiled []compile.RouteStatus, refused map[model.ServiceKey]string) []compile.RouteStatus {
	if len(refused) == 0 {
		return compiled
	}
	all := slices.Clone(compiled)
	for i := range all {
		r := &all[i]
		r.Parents = slices.Clone(r.Parents)
		for j := range r.Parents {
			p := &r.Parents[j]
			why, not := refused[parentOf(r.Route, p.ParentRef)]
			if !not {
				continue
			}
			p.Conditions = slices.Clone(p.Conditions)
			for k := range p.Conditions {
				c := &p.Conditions[k]
				if c.Type == string(gatewayv1.RouteConditionAccepted) && c.Status == metav1.ConditionTrue {
					c.Status, c.Reason, c.Message = metav1.ConditionFalse, reasonRefused, why
				}
			}
		}
	}
	return all
}

// parentOf returns the Service that a parentRef of the route names. Statuses are those of Service parents only.
func parentOf(route model.RouteRef, ref gatewayv1.ParentReference) model.ServiceKey {
	key := model.ServiceKey{Namespace: route.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		key.Namespace = string(*ref.Namespace)
	}
	return key
}

// refusedServices returns why proxies refused a Service, in plain words.
func refusedServices(node string, proxies []push.Proxy) map[model.ServiceKey]string {
	refused := map[model.ServiceKey]string{}
	for _, p := range proxies {
		for _, r := range p.Refused {
			if r.Service == nil {
				continue
			}
			then := "traffic passes as without the route"
			if p.Services[*r.Service] != nil {
				then = "its previous version serves on"
			}
			refused[*r.Service] = fmt.Sprintf("the proxy on node %q refused Service %s: %s; %s", node, r.Service, r.Reason, then)
		}
	}
	return refused
}

// report brings statuses and metrics up to date. What changed is logged.
func (n *Node) report(proxies []push.Proxy) {
	n.metrics.update(n, proxies)
	if n.desired == nil {
		return
	}
	n.status.routes = statuses(n.desired.result.Statuses, refusedServices(n.cfg.Select.Node, proxies))
	now := map[string]string{}
	for _, r := range n.status.routes {
		for i, p := range r.Parents {
			key := fmt.Sprintf("%s parent %d %s", r.Route, i, parentOf(r.Route, p.ParentRef))
			now[key] = conditions(p.Conditions)
			if now[key] != n.status.logged[key] {
				n.log.Info("route status", "route", r.Route, "parent", parentOf(r.Route, p.ParentRef), "conditions", now[key])
			}
		}
	}
	n.status.logged = now
}

// conditions is the form of conditions in a log line: type=status/reason, and what is not as it should be in words.
func conditions(all []metav1.Condition) string {
	var parts []string
	for _, c := range all {
		part := fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason)
		if good := c.Type != string(gatewayv1.RouteConditionPartiallyInvalid); good != (c.Status == metav1.ConditionTrue) {
			part += fmt.Sprintf(" (%s)", c.Message)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " ")
}

// journal logs each line about the input once, for as long as it holds.
type journal struct {
	log   *slog.Logger
	lines map[string]bool
}

func (j *journal) problems(problems []kube.Problem, warnings []string, events []compile.Event) {
	now := map[string]bool{}
	for _, p := range problems {
		now[p.String()] = true
	}
	for _, w := range warnings {
		now[w] = true
	}
	for _, e := range events {
		now[e.String()] = true
	}
	for _, line := range slices.Sorted(maps.Keys(now)) {
		if !j.lines[line] {
			j.log.Warn("problem in the objects", "problem", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(j.lines)) {
		if !now[line] {
			j.log.Info("problem solved", "problem", line)
		}
	}
	j.lines = now
}

// sortedBy returns the values of a map in the order of what key makes of them.
func sortedBy[K comparable, V any, O cmp.Ordered](m map[K]V, key func(V) O) []V {
	return slices.SortedFunc(maps.Values(m), func(a, b V) int { return cmp.Compare(key(a), key(b)) })
}
