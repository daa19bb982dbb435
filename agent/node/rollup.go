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
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// reported is what was last said of the routes.
type reported struct {
	routes []compile.RouteStatus

	set        *objects.Set // what the desired was compiled from, or what compiles to the same
	generation uint64       // counts the models that were made
	told       told
}

// told is what the last report was made of.
type told struct {
	set     *objects.Set
	desired *desired
	refused rollup.Refusals
}

// differs tells whether there is something else to say than in another report. What stays keeps its place in memory.
func (t told) differs(o told) bool {
	return o.set == nil || !sameSlice(t.set.HTTPRoutes, o.set.HTTPRoutes) || !sameSlice(t.set.GRPCRoutes, o.set.GRPCRoutes) ||
		!sameSlice(t.desired.result.Statuses, o.desired.result.Statuses) || !sameSlice(t.desired.result.Events, o.desired.result.Events) ||
		!maps.Equal(t.refused, o.refused)
}

// compiled notes what was compiled, and whether there is something else to report than before.
func (r *reported) compiled(set *objects.Set, news bool) {
	r.set = set
	if news {
		r.generation++
	}
}

// refusals returns the Services that proxies refused. Where they refused endpoints, those are the Services that send
// requests to them.
func refusals(services map[model.ServiceKey]*model.Service, proxies []push.Proxy) rollup.Refusals {
	refused := rollup.Refusals{}
	for _, p := range proxies {
		for _, r := range p.Refused {
			switch {
			case r.Service != nil:
				refused[*r.Service] = rollup.NewRefusal(r.Reason, p.Services[*r.Service] != nil)
			case r.Endpoints != nil:
				for key, s := range services {
					if _, graver := refused[key]; !graver && sendsTo(s, *r.Endpoints) {
						refused[key] = rollup.NewRefusal(fmt.Sprintf("endpoints of %s: %s", r.Endpoints, r.Reason), true)
					}
				}
			}
		}
	}
	return refused
}

// sendsTo says whether requests to the Service are sent to the endpoints.
func sendsTo(s *model.Service, to model.EndpointsKey) bool {
	for key := range s.EndpointSets() {
		if key == to {
			return true
		}
	}
	return false
}

// report brings statuses and metrics up to date, if there is anything new to say.
func (n *Node) report(proxies []push.Proxy) {
	n.metrics.update(n, proxies)
	if n.desired == nil {
		return
	}
	now := told{n.status.set, n.desired, refusals(n.desired.services, proxies)}
	before := n.status.told
	if !now.differs(before) {
		return
	}
	n.status.told = now
	result := n.desired.result
	if n.cfg.Report != nil {
		n.cfg.Report(rollup.Report{
			Objects: now.set, Routes: result.Statuses, Events: result.Events, Refused: now.refused, Generation: n.status.generation,
		})
	}
	earlier := n.status.routes
	n.status.routes = rollup.Fold(result.Statuses, rollup.Tell(map[string]rollup.Refusals{n.cfg.Select.Node: now.refused}))
	n.logStatuses(earlier)
}

// logStatuses logs the conditions that changed. Both lists are in the order of the routes.
func (n *Node) logStatuses(earlier []compile.RouteStatus) {
	for _, r := range n.status.routes {
		for len(earlier) > 0 && compareRoutes(earlier[0].Route, r.Route) < 0 {
			earlier = earlier[1:]
		}
		var before []gatewayv1.RouteParentStatus
		if len(earlier) > 0 && earlier[0].Route == r.Route {
			before = earlier[0].Parents
		}
		if !sameSlice(before, r.Parents) {
			n.logStatus(r, before)
		}
	}
}

func compareRoutes(a, b model.RouteRef) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (n *Node) logStatus(r compile.RouteStatus, before []gatewayv1.RouteParentStatus) {
	for i, p := range r.Parents {
		parent, now := rollup.Parent(r.Route, p.ParentRef), conditions(p.Conditions)
		if i < len(before) && rollup.Parent(r.Route, before[i].ParentRef) == parent && conditions(before[i].Conditions) == now {
			continue
		}
		n.log.Info("route status", "route", r.Route, "parent", parent, "conditions", now)
	}
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
