package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/cli/cluster"
)

// cluster tells of what the API server says, besides single pods.
func (b *builder) cluster(f *cluster.Facts) {
	b.report.Kubernetes = f.Version
	b.report.GatewayAPI = &GatewayAPI{Served: notNil(f.Gateway.Served), Versions: notNil(f.Gateway.Versions)}
	for _, u := range f.Unread {
		b.note(Finding{Kind: NotChecked, What: "not checked: " + u, Todo: "ask as a user who may read it"})
	}
	b.gatewayAPI(&f.Gateway, f.Unread)
	switch without := b.nodesWithout(f); {
	case len(f.Pods) == 0 && len(f.DaemonSets) == 0 && b.in.Node == "":
		b.problem(Finding{
			Kind: NotInstalled, What: "Sluice is not installed: no DaemonSet and no pod has its labels",
			Todo: "install the chart, or look in the right cluster (--context) and namespace (--namespace)",
		})
	case len(without) > 0:
		b.missing(f, without)
	}
	if len(b.in.Node) > 0 {
		return
	}
	for _, d := range f.DaemonSets {
		b.daemonSet(d)
	}
}

func notNil(s []string) []string { return append([]string{}, s...) }

func (b *builder) gatewayAPI(g *cluster.GatewayAPI, unread []string) {
	if slices.ContainsFunc(unread, func(u string) bool { return strings.HasPrefix(u, cluster.ServedUnread) }) {
		return
	}
	served := func(kind string) bool {
		return slices.ContainsFunc(g.Served, func(s string) bool { return strings.HasPrefix(s, kind+" ") })
	}
	if !served("HTTPRoute") {
		b.problem(Finding{
			Kind: NoGatewayAPI, What: "the cluster serves no HTTPRoutes of the Gateway API: there can be no routes",
			Todo: "install the CRDs of the Gateway API, its standard channel; Sluice takes them up without a restart",
		})
	}
	for _, k := range []struct{ kind, means string }{
		{"GRPCRoute", "routes for gRPC"}, {"ReferenceGrant", "backends in a third namespace"},
	} {
		if served("HTTPRoute") && !served(k.kind) {
			b.note(Finding{Kind: KindNotServed, Object: k.kind, What: "the cluster serves no " + k.kind + "s: there can be no " + k.means})
		}
	}
	if len(g.Versions) > 1 {
		b.note(Finding{
			Kind: MixedGatewayAPI, What: "the CRDs of the Gateway API are of several versions: " + strings.Join(g.Versions, ", "),
			Todo: "install those of one version",
		})
	}
}

// nodesWithout are the nodes that have no pod of ours.
func (b *builder) nodesWithout(f *cluster.Facts) []string {
	var without []string
	for _, n := range f.Nodes {
		if b.in.Node != "" && n.Name != b.in.Node {
			continue
		}
		if !slices.ContainsFunc(f.Pods, func(p cluster.Pod) bool { return p.Node == n.Name }) {
			without = append(without, n.Name)
			b.report.Nodes = append(b.report.Nodes, Node{Name: n.Name, Kernel: n.Kernel, Agent: none, Proxy: none})
		}
		if !n.Ready {
			b.note(Finding{Kind: NodeNotReady, Nodes: []string{n.Name}, What: "Kubernetes says that the node is not ready"})
		}
	}
	return without
}

// missing tells of nodes without a pod of ours. Which nodes are to have one the DaemonSet's controller knows best: when all that it
// wants are there, the others are not to have one.
func (b *builder) missing(f *cluster.Facts, without []string) {
	var desired, current int32
	observed := true
	for _, d := range f.DaemonSets {
		desired, current, observed = desired+d.Desired, current+d.Current, observed && d.Observed
	}
	see := "see the events of the DaemonSet: kubectl describe daemonset " + sets(f.DaemonSets)
	switch {
	case len(f.DaemonSets) == 0: // or it may not be read
	case desired > current && int(desired-current) >= len(without):
		b.problem(Finding{Kind: PodMissing, Nodes: without, What: "no pod of Sluice is there: routes do not apply to clients on this node", Todo: see})
		return
	case desired > current || !observed:
		b.problem(Finding{
			Kind: PodMissing, Nodes: without, Todo: see,
			What: fmt.Sprintf("no pod of Sluice is there, and %d of these nodes should have one", max(1, desired-current)),
		})
		return
	}
	b.note(Finding{
		Kind: NodeWithout, Nodes: without,
		What: "no pod of Sluice is to run there (nodeSelector, affinity or taints): routes do not apply to clients on this node",
	})
}

func sets(all []cluster.DaemonSet) string {
	var names []string
	for _, d := range all {
		names = append(names, "-n "+d.Namespace+" "+d.Name)
	}
	return strings.Join(names, ", ")
}

func (b *builder) daemonSet(d cluster.DaemonSet) {
	object := fmt.Sprintf("DaemonSet %s/%s", d.Namespace, d.Name)
	switch {
	case d.Observed && d.Desired == 0:
		b.note(Finding{Kind: NoNode, Object: object, What: "it is to run on no node", Todo: "look at its nodeSelector, affinity and tolerations"})
	case rolling(d):
		b.note(Finding{
			Kind: Rollout, Object: object,
			What: fmt.Sprintf("a rollout is under way: %d of %d nodes have the newest version", d.Updated, d.Desired),
		})
	}
}

func rolling(d cluster.DaemonSet) bool { return !d.Observed || d.Updated < d.Desired }
