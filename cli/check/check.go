// Package check tells what is wrong with Sluice on a cluster, or on one node, and what to do about it. It is pure: what was found
// goes in, and what comes out is for people as text and for scripts as JSON.
package check

import (
	"cmp"
	"slices"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
)

// Schema names the form of a report's JSON. Fields are added without a new name; none is taken away or changes its meaning.
const Schema = "sluice.dev/check/v1"

// Input is what was found.
type Input struct {
	Source  string         // what was asked, in words
	Cluster *cluster.Facts // nil: there is none, and the programs of one node were asked
	Node    string         // only this node is of interest; "": all are
	Asked   []Asked
}

// Asked is what was heard from one pod of ours, or from the programs of one node.
type Asked struct {
	Pod    *cluster.Pod // nil: there is no cluster
	Agent  Program
	Proxy  Program
	Status *ask.Status // nil: the agent did not say
}

// Program is what one program said of itself. Neither: it is ready.
type Program struct {
	NoAnswer string // why it did not answer
	NotReady string // why it says that it is not ready
}

// Report is what there is to say. All lists are ordered.
type Report struct {
	Schema      string        `json:"schema"`
	Source      string        `json:"source"`
	Good        bool          `json:"good"`     // there are no problems
	Problems    []Finding     `json:"problems"` // what keeps routes from applying, or may
	Notes       []Finding     `json:"notes"`    // what is worth knowing
	Kubernetes  string        `json:"kubernetes,omitempty"`
	GatewayAPI  *GatewayAPI   `json:"gatewayAPI,omitempty"`
	Nodes       []Node        `json:"nodes"`
	Services    []Service     `json:"services"`    // those with routes
	NotEnrolled []NotEnrolled `json:"notEnrolled"` // pods whose connections are not redirected
	Late        []Late        `json:"late"`        // pods that ran before they were enrolled
}

// Finding is one thing that was found, on one or several nodes.
type Finding struct {
	Kind   Kind     `json:"kind"`
	Object string   `json:"object,omitempty"` // such as "Pod shop/web"
	What   string   `json:"what"`
	Todo   string   `json:"todo,omitempty"`
	Nodes  []string `json:"nodes,omitempty"` // none: it is not a matter of nodes
}

// GatewayAPI is what the cluster serves of it.
type GatewayAPI struct {
	Served   []string `json:"served"`   // kinds and versions that Sluice reads
	Versions []string `json:"versions"` // and channels of the CRDs
}

// Node is one node.
type Node struct {
	Name     string `json:"name"`
	Kernel   string `json:"kernel,omitempty"`
	Pod      string `json:"pod,omitempty"` // ours
	Version  string `json:"version,omitempty"`
	Agent    string `json:"agent"`              // ready, not ready, no answer or none
	Proxy    string `json:"proxy"`              // the same
	Redirect string `json:"redirect,omitempty"` // up, waiting, down, or bypassed; "": not known
	Enrolled int    `json:"enrolled"`           // pods
	Excluded int    `json:"excluded"`           // pods that are not to be enrolled
	Amiss    int    `json:"amiss"`              // pods that are to be, and are not
	CNI      string `json:"cni,omitempty"`      // state of the CNI plugin; "": the agent does not say
}

// Service is one with routes.
type Service struct {
	Service    string   `json:"service"`
	Addresses  []string `json:"addresses"`
	FailClosed bool     `json:"failClosed,omitempty"`
	Nodes      int      `json:"nodes"` // on so many nodes it is redirected
}

// NotEnrolled is a pod whose connections are not redirected, and why.
type NotEnrolled struct {
	Pod    string `json:"pod"`
	Node   string `json:"node"`
	State  string `json:"state"` // excluded, waiting or failed
	Reason string `json:"reason"`
}

// Late is a pod that ran before it was enrolled. What it opened in that time goes direct until it is closed.
type Late struct {
	Pod     string  `json:"pod"`
	Node    string  `json:"node"`
	By      string  `json:"by,omitempty"` // running: before the agent; found: after it had started; plugin
	Seconds float64 `json:"seconds"`      // that it ran unenrolled
}

// Kind is what a finding is about. Scripts may rely on them.
type Kind string

// Kinds of problems.
const (
	NotInstalled         Kind = "not-installed"          // the cluster has no pod and no DaemonSet of ours
	PodMissing           Kind = "pod-missing"            // a node that should have a pod of ours has none
	PodNotReady          Kind = "pod-not-ready"          // a pod of ours is not ready
	NoAnswer             Kind = "no-answer"              // an agent or a proxy does not answer
	NotReady             Kind = "not-ready"              // an agent or a proxy says that it is not ready
	NotRedirecting       Kind = "not-redirecting"        // a node redirects nothing, because no proxy is in service
	BypassOn             Kind = "bypass-on"              // a node redirects nothing, because the kill switch is on
	KernelProblem        Kind = "kernel-problem"         // our programs do not run as they should
	KernelBehind         Kind = "kernel-behind"          // a write to the kernel failed; it is tried again
	Refused              Kind = "refused"                // a proxy did not take the newest version of something
	PodFailed            Kind = "pod-failed"             // a pod cannot be enrolled
	PodWaiting           Kind = "pod-waiting"            // a pod is not enrolled yet
	ServiceNotRedirected Kind = "service-not-redirected" // a Service with routes is not redirected on a node
	RouteCondition       Kind = "route-condition"        // a route is not accepted, or not all of it applies
	RouteHeadlessParent  Kind = "route-headless-parent"  // the same, because its parent is a headless Service
	ObjectProblem        Kind = "object-problem"         // an object, or a file with objects, is not right
	CNIProblem           Kind = "cni-problem"            // the CNI plugin is not in place
	VersionSkew          Kind = "version-skew"           // nodes run different versions, and no rollout is under way
	NoGatewayAPI         Kind = "no-gateway-api"         // the cluster serves no HTTPRoutes
)

// Kinds of notes.
const (
	Rollout         Kind = "rollout"         // nodes run different versions, because a rollout is under way
	NodeWithout     Kind = "node-without"    // a node is to have no pod of ours
	Restarted       Kind = "restarted"       // a program was started again
	PassedBy        Kind = "passed-by"       // connections to redirected Services went direct
	HeadlessTwin    Kind = "headless-twin"   // a headless Service has the pods of one with routes
	Warning         Kind = "warning"         // of an object
	Event           Kind = "event"           // of a route
	KindNotServed   Kind = "kind-not-served" // of the Gateway API
	MixedGatewayAPI Kind = "mixed-crds"      // CRDs of several versions
	NotChecked      Kind = "not-checked"     // the API server does not let us read something
	NoNode          Kind = "no-node"         // the DaemonSet is to run on no node
	CNIWithout      Kind = "cni-without"     // the node's CNI does not suffer the CNI plugin
	CannotTell      Kind = "version-too-old" // an agent does not say something
	NodeNotReady    Kind = "node-not-ready"  // Kubernetes says so
)

// Check tells what there is to say.
func Check(in *Input) *Report {
	r := &Report{
		Schema: Schema, Source: in.Source, Problems: []Finding{}, Notes: []Finding{},
		Nodes: []Node{}, Services: []Service{}, NotEnrolled: []NotEnrolled{}, Late: []Late{},
	}
	b := &builder{in: in, report: r}
	if in.Cluster != nil {
		b.cluster(in.Cluster)
	}
	for _, on := range b.byNode() {
		b.node(on)
	}
	b.services()
	b.versions()
	r.Problems, r.Notes = merge(r.Problems), merge(r.Notes)
	r.Good = len(r.Problems) == 0
	b.order()
	return r
}

// builder collects what the report is made of.
type builder struct {
	in     *Input
	report *Report
	up     []upNode // nodes that redirect
}

// upNode is a node that should redirect every Service.
type upNode struct {
	name   string
	status *ask.Status
}

func (b *builder) problem(f Finding) { b.report.Problems = append(b.report.Problems, f) }
func (b *builder) note(f Finding)    { b.report.Notes = append(b.report.Notes, f) }

// merge makes one finding of those that differ only in their nodes, and keeps the order in which kinds were found first.
func merge(all []Finding) []Finding {
	type key struct {
		kind               Kind
		object, what, todo string
	}
	at := map[key]int{}
	merged := []Finding{}
	for _, f := range all {
		k := key{f.Kind, f.Object, f.What, f.Todo}
		i, seen := at[k]
		if !seen {
			at[k] = len(merged)
			merged = append(merged, f)
			continue
		}
		for _, n := range f.Nodes {
			if !slices.Contains(merged[i].Nodes, n) {
				merged[i].Nodes = append(merged[i].Nodes, n)
			}
		}
	}
	slices.SortStableFunc(merged, func(a, b Finding) int { return cmp.Compare(a.Kind.rank(), b.Kind.rank()) })
	return merged
}

// rank orders problems: what concerns whole nodes comes before what concerns a pod or a route.
func (k Kind) rank() int {
	order := []Kind{
		NotInstalled, NoGatewayAPI, BypassOn, PodMissing, PodNotReady, NoAnswer, NotReady, NotRedirecting, KernelProblem, KernelBehind,
		CNIProblem, VersionSkew, Refused, ServiceNotRedirected, PodFailed, PodWaiting, RouteCondition, RouteHeadlessParent, ObjectProblem,
	}
	if i := slices.Index(order, k); i >= 0 {
		return i
	}
	return len(order)
}

func (b *builder) order() {
	r := b.report
	slices.SortFunc(r.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.NotEnrolled, func(a, b NotEnrolled) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node)) })
	slices.SortFunc(r.Late, func(a, b Late) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node)) })
}
