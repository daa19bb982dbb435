// Package rollup makes statuses honest: a route that a node's proxies did not take is not reported as accepted. It is
// pure, and the one place where that is decided: a node's own status and the one that is written to the API server are
// folded by the same function.
package rollup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// ReasonRefused is the reason of Accepted where a node could not program what the route asks for. The API has no
// constant for it.
const ReasonRefused = "NotProgrammed"

// A condition names so many nodes and so many reasons; the others are counted.
const (
	maxNames   = 3
	maxReasons = 3
)

// Report is what one node's agent has to say of the routes. Nothing in it is edited after it was handed out.
type Report struct {
	Objects    *objects.Set          // what was compiled, with the statuses that the server has
	Routes     []compile.RouteStatus // as compiled from Objects, before refusals
	Events     []compile.Event
	Refused    Refusals // by this node's proxies
	Generation uint64   // counts the models that this agent made
}

// Refusals are the Services that a node's proxies did not take as they should be.
type Refusals map[model.ServiceKey]Refusal

// Refusal is why, and what serves instead.
type Refusal struct {
	Reason   string `json:"reason"`
	ServesOn bool   `json:"servesOn,omitempty"` // the previous version does; else traffic passes as without the route
}

// NewRefusal bounds the reason's length.
func NewRefusal(reason string, servesOn bool) Refusal {
	return Refusal{cut(reason, maxReason), servesOn}
}

// Fold returns what was compiled, made honest. The conditions that change are copies.
func Fold(compiled []compile.RouteStatus, refused map[model.ServiceKey]string) []compile.RouteStatus {
	if len(refused) == 0 {
		return compiled
	}
	all := slices.Clone(compiled)
	for i := range all {
		r := &all[i]
		r.Parents = slices.Clone(r.Parents)
		for j := range r.Parents {
			p := &r.Parents[j]
			if why, not := refused[Parent(r.Route, p.ParentRef)]; not && accepted(p.Conditions) {
				p.Conditions = notProgrammed(p.Conditions, why)
			}
		}
	}
	return all
}

// accepted says whether the route is accepted.
func accepted(conditions []metav1.Condition) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == string(gatewayv1.RouteConditionAccepted) && c.Status == metav1.ConditionTrue
	})
}

// notProgrammed is a copy of conditions that does not claim Accepted. What is not accepted is not PartiallyInvalid (S-23).
func notProgrammed(compiled []metav1.Condition, why string) []metav1.Condition {
	var honest []metav1.Condition
	for _, c := range compiled {
		switch c.Type {
		case string(gatewayv1.RouteConditionAccepted):
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, ReasonRefused, why
		case string(gatewayv1.RouteConditionPartiallyInvalid):
			continue
		}
		honest = append(honest, c)
	}
	return honest
}

// Parent returns the Service that a parentRef of the route names. Statuses are those of Service parents only.
func Parent(route model.RouteRef, ref gatewayv1.ParentReference) model.ServiceKey {
	key := model.ServiceKey{Namespace: route.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		key.Namespace = string(*ref.Namespace)
	}
	return key
}

// Tell says in plain words what nodes refused. The same refusals give the same words, however many nodes there are.
func Tell(byNode map[string]Refusals) map[model.ServiceKey]string {
	grouped := map[model.ServiceKey]map[Refusal][]string{}
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		for service, r := range byNode[node] {
			if grouped[service] == nil {
				grouped[service] = map[Refusal][]string{}
			}
			grouped[service][r] = append(grouped[service][r], node)
		}
	}
	told := make(map[model.ServiceKey]string, len(grouped))
	for service, groups := range grouped {
		told[service] = tellGroups(service, groups)
	}
	return told
}

func tellGroups(service model.ServiceKey, groups map[Refusal][]string) string {
	order := slices.SortedFunc(maps.Keys(groups), func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(then(a), then(b)))
	})
	var parts []string
	var others []string
	for i, r := range order {
		if i >= maxReasons {
			others = append(others, groups[r]...)
			continue
		}
		parts = append(parts, fmt.Sprintf("%s refused Service %s: %s; %s", proxies(groups[r]), service, r.Reason, then(r)))
	}
	if len(others) > 0 {
		parts = append(parts, fmt.Sprintf("%d more nodes refused it for other reasons", len(others)))
	}
	return strings.Join(parts, "; ")
}

func then(r Refusal) string {
	if r.ServesOn {
		return "its previous version serves on"
	}
	return "traffic passes as without the route"
}

func proxies(nodes []string) string {
	if len(nodes) == 1 {
		return fmt.Sprintf("the proxy on node %q", nodes[0])
	}
	var names []string
	for _, n := range nodes[:min(len(nodes), maxNames)] {
		names = append(names, fmt.Sprintf("%q", n))
	}
	if more := len(nodes) - len(names); more > 0 {
		return fmt.Sprintf("the proxies on nodes %s and %d more", strings.Join(names, ", "), more)
	}
	last := len(names) - 1
	return fmt.Sprintf("the proxies on nodes %s and %s", strings.Join(names[:last], ", "), names[last])
}
