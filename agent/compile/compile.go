// Package compile turns Kubernetes objects into what the proxy is told and into the statuses of the routes. It is pure:
// the same objects give the same result. Wrong input becomes a condition, and an answer 404 or 500; it never stops
// anything else.
package compile

import (
	"cmp"
	"net/netip"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Options are what the result depends on besides the objects.
type Options struct {
	Node string // where we run; an empty one takes every endpoint for near
	Zone string // of the node; "": unknown, and hints for zones are of no use
	// ReferenceGrants: a backend in another namespace than the route's and the parent Service's needs one.
	ReferenceGrants bool
	ControllerName  string // what statuses are signed with
}

// Result is everything that follows from a set of objects. All of it is ordered, and none of it is edited after it was
// handed out. What a Compiler derives from one set as it did from the set before is the same pointer, or the same slice.
type Result struct {
	Services  []*model.Service     // Frontend.ID is 0: who knows the kernel's maps numbers them
	Endpoints []*model.EndpointSet // those that the Services name, and no others
	Flags     map[netip.AddrPort]Flags
	Statuses  []RouteStatus
	Events    []Event
	Warnings  []string // what is wrong with objects that have no status of ours
}

// Flags of a frontend; a frontend without any is not in the Result.
type Flags struct {
	FailClosed bool // connects are refused while the node's proxy is away
}

// RouteStatus is our part of a route's status. LastTransitionTime is zero: who writes the status stamps what changed.
type RouteStatus struct {
	Route      model.RouteRef
	Generation int64
	Parents    []gatewayv1.RouteParentStatus // one for each Service parent, in the order of the route
	Dropped    []DroppedRule                 `json:",omitempty"` // in the order of the route; the conditions tell of them in words
}

// DroppedRule is a rule that is not in force, because its match cannot be implemented (S-23).
type DroppedRule struct {
	Index  int
	Name   string `json:",omitempty"`
	Reason string
}

// Compile derives the result. It does not edit the objects.
func Compile(in *objects.Set, opts Options) *Result { return New(opts).Compile(in) }

func compareRefs(a, b model.RouteRef) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
