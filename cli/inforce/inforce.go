// Package inforce reads what decides about the requests of a node's pods: what the agent and the proxy hold that run there, or
// what they would make of a folder of YAML.
package inforce

import (
	"cmp"
	"slices"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// View is what is in force at one moment. All of it is ordered.
type View struct {
	Source    string // where it was read, in words
	Services  []model.Service
	Endpoints []model.EndpointSet
	Routes    []compile.RouteStatus
	Pods      []Pod
	AllPods   bool     // Pods are all that there are
	Problems  []string // of files, and of what the proxy or the kernel did not take
	Warnings  []string // of objects that have no status of ours
}

// Pod is one that may send requests.
type Pod struct {
	Namespace, Name string
	Direct          string // why its connections are not redirected; "": they are
}

// Service finds a Service that is redirected; nil: it is not.
func (v *View) Service(key model.ServiceKey) *model.Service {
	return find(v.Services, key, func(s *model.Service) model.ServiceKey { return s.ServiceKey })
}

// EndpointSet finds a set; nil: nobody has told of it.
func (v *View) EndpointSet(key model.EndpointsKey) *model.EndpointSet {
	return find(v.Endpoints, key, func(e *model.EndpointSet) model.EndpointsKey { return e.EndpointsKey })
}

func find[T any, K interface{ Compare(K) int }](sorted []T, key K, keyOf func(*T) K) *T {
	i, found := slices.BinarySearchFunc(sorted, key, func(at T, want K) int { return keyOf(&at).Compare(want) })
	if !found {
		return nil
	}
	return &sorted[i]
}

// sort puts what was read into order.
func (v *View) sort() {
	slices.SortFunc(v.Services, func(a, b model.Service) int { return a.ServiceKey.Compare(b.ServiceKey) })
	slices.SortFunc(v.Endpoints, func(a, b model.EndpointSet) int { return a.EndpointsKey.Compare(b.EndpointsKey) })
	slices.SortFunc(v.Pods, func(a, b Pod) int { return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) })
}
