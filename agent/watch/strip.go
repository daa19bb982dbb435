package watch

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Each function below makes a new object of what is read of one: by compile, enroll and status. What they want to read
// has to be added here first. resourceVersion is left out where nobody reads it: two versions that differ in nothing
// else are then equal.

// ours begins the names of the labels and annotations that belong to Sluice. They are always kept.
const ours = "sluice.dev/"

// stripMeta keeps the labels of these names, and no other annotations than ours.
func stripMeta(from *metav1.ObjectMeta, labels ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: from.Name, Namespace: from.Namespace, UID: from.UID, Generation: from.Generation,
		CreationTimestamp: from.CreationTimestamp, DeletionTimestamp: from.DeletionTimestamp,
		Labels: pick(from.Labels, labels...), Annotations: pick(from.Annotations),
	}
}

func pick(from map[string]string, names ...string) map[string]string {
	var kept map[string]string
	for k, v := range from {
		if !strings.HasPrefix(k, ours) && !slices.Contains(names, k) {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[k] = v
	}
	return kept
}

func stripNamespace(o *corev1.Namespace) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: stripMeta(&o.ObjectMeta)}
}

func stripService(o *corev1.Service) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: stripMeta(&o.ObjectMeta),
		Spec: corev1.ServiceSpec{
			Type: o.Spec.Type, ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs,
			SessionAffinity: o.Spec.SessionAffinity, SessionAffinityConfig: o.Spec.SessionAffinityConfig,
			InternalTrafficPolicy: o.Spec.InternalTrafficPolicy,
		},
	}
	for _, p := range o.Spec.Ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port})
	}
	return s
}

// The labels of a pod: what its ReplicaSet is told from its Deployment by, and what our own pods are known by.
func stripPod(o *corev1.Pod) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: stripMeta(&o.ObjectMeta, "pod-template-hash", "app.kubernetes.io/name", "app.kubernetes.io/component"),
		Spec: corev1.PodSpec{
			NodeName: o.Spec.NodeName, ServiceAccountName: o.Spec.ServiceAccountName, RuntimeClassName: o.Spec.RuntimeClassName,
			HostNetwork: o.Spec.HostNetwork, HostPID: o.Spec.HostPID, HostIPC: o.Spec.HostIPC,
		},
		Status: corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs, StartTime: o.Status.StartTime},
	}
	if owner := metav1.GetControllerOf(o); owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return p
}

// Of an endpoint's addresses the API gives only the first a meaning.
func stripEndpointSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  stripMeta(&o.ObjectMeta, discoveryv1.LabelServiceName),
		AddressType: o.AddressType,
		Endpoints:   make([]discoveryv1.Endpoint, 0, len(o.Endpoints)),
	}
	// The API server counts the versions of its contents, which nobody reads.
	s.Generation = 0
	for _, e := range o.Endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: e.Addresses[:min(1, len(e.Addresses))], Conditions: e.Conditions, NodeName: e.NodeName, Zone: e.Zone, Hints: e.Hints,
		})
	}
	for _, p := range o.Ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	return s
}

// routeMeta keeps the version as well: a status is written on top of it.
func routeMeta(from *metav1.ObjectMeta) metav1.ObjectMeta {
	m := stripMeta(from)
	m.ResourceVersion = from.ResourceVersion
	return m
}

func stripHTTPRoute(o *gatewayv1.HTTPRoute) *gatewayv1.HTTPRoute {
	return &gatewayv1.HTTPRoute{ObjectMeta: routeMeta(&o.ObjectMeta), Spec: o.Spec, Status: o.Status}
}

func stripGRPCRoute(o *gatewayv1.GRPCRoute) *gatewayv1.GRPCRoute {
	return &gatewayv1.GRPCRoute{ObjectMeta: routeMeta(&o.ObjectMeta), Spec: o.Spec, Status: o.Status}
}

func stripReferenceGrant(o *gatewayv1.ReferenceGrant) *gatewayv1.ReferenceGrant {
	return &gatewayv1.ReferenceGrant{ObjectMeta: stripMeta(&o.ObjectMeta), Spec: o.Spec}
}
