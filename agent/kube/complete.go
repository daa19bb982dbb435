package kube

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// uid makes an identity for an object that has none: always the same one for the same object.
func uid(k key) types.UID {
	sum := sha256.Sum256([]byte(k.String()))
	sum[6] = sum[6]&0x0f | 0x80 // version 8 of RFC 9562: made in a way of one's own
	sum[8] = sum[8]&0x3f | 0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
}

// complete makes the Set, with the Namespaces and EndpointSlices that a cluster's controllers would have made.
func complete(all map[key]served) *objects.Set {
	set := &objects.Set{}
	for _, k := range slices.SortedFunc(maps.Keys(all), compareKeys) {
		switch o := all[k].object.(type) {
		case *corev1.Namespace:
			set.Namespaces = append(set.Namespaces, o)
		case *corev1.Service:
			set.Services = append(set.Services, o)
		case *corev1.Pod:
			set.Pods = append(set.Pods, o)
		case *discoveryv1.EndpointSlice:
			set.EndpointSlices = append(set.EndpointSlices, o)
		case *gatewayv1.HTTPRoute:
			set.HTTPRoutes = append(set.HTTPRoutes, o)
		case *gatewayv1.GRPCRoute:
			set.GRPCRoutes = append(set.GRPCRoutes, o)
		case *gatewayv1.ReferenceGrant:
			set.ReferenceGrants = append(set.ReferenceGrants, o)
		}
	}
	for _, name := range missingNamespaces(all) {
		n := &corev1.Namespace{Name: name, UID: uid(key{kind: "Namespace", name: name}), Generation: 1}
		defaultNamespace(n)
		set.Namespaces = append(set.Namespaces, n)
	}
	set.EndpointSlices = append(set.EndpointSlices, slicesOfSelectors(set)...)
	return set
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// missingNamespaces are those that objects are in and that no file has.
func missingNamespaces(all map[key]served) []string {
	missing := map[string]bool{}
	for k := range all {
		if _, there := all[key{kind: "Namespace", name: k.namespace}]; k.namespace != "" && !there {
			missing[k.namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}
