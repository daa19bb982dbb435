// Package compile turns Kubernetes objects into what the proxy is told and into the statuses of the routes. It is pure:
// the same objects give the same result. Wrong input becomes a condition, and an answer 404 or 500; it never stops
// anything else.
package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

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

// Result is everything that follows from a set of objects. All of it is ordered.
type Result struct {
	Services  []model.Service     // Frontend.ID is 0: who knows the kernel's maps numbers them
	Endpoints []model.EndpointSet // those that the Services name, and no others
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
}

// Compile derives the result. It does not edit the objects.
func Compile(in *objects.Set, opts Options) *Result {
	ix := newIndex(in, opts)
	res := &Result{Flags: map[netip.AddrPort]Flags{}, Statuses: ix.statuses(), Events: ix.events()}
	needed := map[model.EndpointsKey]bool{}
	for _, key := range slices.SortedFunc(maps.Keys(ix.services), model.ServiceKey.Compare) {
		u := ix.unit(key)
		res.Warnings = append(res.Warnings, u.warnings...)
		if len(u.service.Ports) == 0 {
			continue
		}
		res.Services = append(res.Services, u.service)
		maps.Copy(res.Flags, u.flags)
		for k := range u.service.EndpointSets() {
			needed[k] = true
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(needed), model.EndpointsKey.Compare) {
		res.Endpoints = append(res.Endpoints, ix.endpoints(k))
	}
	return res
}

func compareRefs(a, b model.RouteRef) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
