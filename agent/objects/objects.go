// Package objects holds the Kubernetes objects that the agent compiles, as one immutable value. It does not matter
// whether they came from an API server or from a folder.
package objects

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Set is all objects that were known at one moment. Neither the slices nor the objects are edited after the Set was
// handed out. Order carries no meaning.
type Set struct {
	Namespaces      []*corev1.Namespace
	Services        []*corev1.Service
	EndpointSlices  []*discoveryv1.EndpointSlice
	Pods            []*corev1.Pod
	HTTPRoutes      []*gatewayv1.HTTPRoute
	GRPCRoutes      []*gatewayv1.GRPCRoute
	ReferenceGrants []*gatewayv1.ReferenceGrant
}
