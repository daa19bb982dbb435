package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// routes tells of conditions that are not as they should be.
func (b *builder) routes(s *ask.Status, n *Node) {
	for i := range s.Routes {
		r := &s.Routes[i]
		for j := range r.Parents {
			p := &r.Parents[j]
			for k := range p.Conditions {
				if c := &p.Conditions[k]; !isGood(c) {
					b.condition(r, p, c, n)
				}
			}
		}
	}
}

func isGood(c *metav1.Condition) bool {
	return (c.Type != string(gatewayv1.RouteConditionPartiallyInvalid)) == (c.Status == metav1.ConditionTrue)
}

func (b *builder) condition(r *compile.RouteStatus, p *gatewayv1.RouteParentStatus, c *metav1.Condition, n *Node) {
	parent := model.ServiceKey{Namespace: r.Route.Namespace, Name: string(p.ParentRef.Name)}
	if p.ParentRef.Namespace != nil {
		parent.Namespace = string(*p.ParentRef.Namespace)
	}
	f := Finding{
		Kind: RouteCondition, Object: r.Route.String(), Nodes: []string{n.Name},
		What: fmt.Sprintf("%s=%s (%s) for Service %s: %s", c.Type, c.Status, c.Reason, parent, c.Message),
		Todo: "sluice routes " + r.Route.Namespace + "/" + r.Route.Name,
	}
	if s := b.find(parent); s != nil && s.Headless {
		f.Kind = RouteHeadlessParent
		f.Todo = "a headless Service has no address that could be redirected: name one with a cluster IP, and let clients use that"
	}
	b.problem(f)
}

// find finds a Service of the cluster; nil: it is not there, or not known.
func (b *builder) find(key model.ServiceKey) *cluster.Service {
	if b.in.Cluster == nil {
		return nil
	}
	all := b.in.Cluster.Services
	i, found := slices.BinarySearchFunc(all, key, func(s cluster.Service, k model.ServiceKey) int { return s.Compare(k) })
	if !found {
		return nil
	}
	return &all[i]
}

// services tells which are redirected, and where not.
func (b *builder) services() {
	type seen struct {
		addresses map[string]bool
		closed    bool
		on        map[string]bool // nodes that know it, and whether it is in force there
	}
	all := map[model.ServiceKey]*seen{}
	for i := range b.in.Asked {
		a := &b.in.Asked[i]
		if a.Status == nil {
			continue
		}
		for _, f := range a.Status.Frontends {
			s := all[f.Service]
			if s == nil {
				s = &seen{map[string]bool{}, false, map[string]bool{}}
				all[f.Service] = s
			}
			s.addresses[f.Address.String()] = true
			s.closed = s.closed || f.FailClosed
			before, known := s.on[nodeName(a)]
			s.on[nodeName(a)] = f.InKernel && (before || !known)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(all), model.ServiceKey.Compare) {
		s := all[key]
		in := 0
		for _, n := range b.up {
			whole, known := s.on[n.name]
			f := Finding{Kind: ServiceNotRedirected, Object: "Service " + key.String(), Nodes: []string{n.name}}
			switch {
			case whole:
				in++
				continue
			case known:
				f.What, f.Todo = "connections to it go direct: its addresses wait for the proxy or the kernel", "right after a change this is a matter of a moment"
			default:
				f.What, f.Todo = "connections to it go direct: the agent does not know of its routes, other agents do", "look whether the agent's watch of the API server works: its log tells"
			}
			b.problem(f)
		}
		b.report.Services = append(b.report.Services, Service{key.String(), slices.Sorted(maps.Keys(s.addresses)), s.closed, in})
		b.twins(key)
	}
}

// twins tells of headless Services with the same pods as one with routes: clients that dial those are not redirected.
func (b *builder) twins(key model.ServiceKey) {
	s := b.find(key)
	if s == nil || len(s.Selector) == 0 {
		return
	}
	for i := range b.in.Cluster.Services {
		t := &b.in.Cluster.Services[i]
		if t.Headless && t.Namespace == key.Namespace && maps.Equal(t.Selector, s.Selector) {
			b.note(Finding{
				Kind: HeadlessTwin, Object: "Service " + t.String(),
				What: fmt.Sprintf("it is headless and has the pods of Service %s, which has routes: they do not apply to clients that use its name", key),
			})
		}
	}
}

// versions tells whether all nodes run the same.
func (b *builder) versions() {
	on := map[string][]string{}
	for _, n := range b.report.Nodes {
		if n.Version != "" {
			on[n.Version] = append(on[n.Version], n.Name)
		}
	}
	if len(on) < 2 || b.in.Cluster == nil {
		return
	}
	var all []string
	for _, v := range slices.Sorted(maps.Keys(on)) {
		slices.Sort(on[v])
		all = append(all, fmt.Sprintf("%s on %s", v, names(on[v])))
	}
	f := Finding{Kind: VersionSkew, What: "nodes run different versions: " + strings.Join(all, ", ")}
	if slices.ContainsFunc(b.in.Cluster.DaemonSets, rolling) {
		f.Kind = Rollout
		b.note(f)
		return
	}
	f.Todo = "see what keeps the rollout: kubectl rollout status daemonset " + cmp.Or(sets(b.in.Cluster.DaemonSets), "...")
	b.problem(f)
}

// names lists a few, and how many more there are.
func names(all []string) string {
	const few = 4
	if len(all) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:few-1], ", "), len(all)-few+1)
	}
	return strings.Join(all, ", ")
}
