package watch

import (
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// kind is a kind of object that is watched.
type kind struct {
	name     string
	group    string
	resource string
	versions []string // that are read, the one to be preferred first
	selector string   // of fields
	objects  store
	state    atomic.Int32
	lost     atomic.Bool // the last request for it found nothing there
}

// States of a kind.
const (
	unknown int32 = iota // nobody has told yet
	served
	missing
)

// custom says whether the kind is there only where somebody has installed it.
func (k *kind) custom() bool { return isCustom(k.group) }

func isCustom(group string) bool { return group == gatewayv1.GroupName }

func (k *kind) readable() string { return strings.Join(k.versions, " or ") }

// allKinds are the kinds of a Set. changed is called after each change of an object.
func allKinds(node string, changed func()) []*kind {
	const gateway = gatewayv1.GroupName
	v1, older := []string{"v1"}, []string{"v1", "v1beta1"}
	pods := newKind("Pod", "", "pods", v1, stripPod, func(s *objects.Set) *[]*corev1.Pod { return &s.Pods }, changed)
	pods.selector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	return []*kind{
		newKind("Namespace", "", "namespaces", v1, stripNamespace,
			func(s *objects.Set) *[]*corev1.Namespace { return &s.Namespaces }, changed),
		newKind("Service", "", "services", v1, stripService,
			func(s *objects.Set) *[]*corev1.Service { return &s.Services }, changed),
		pods,
		newKind("EndpointSlice", discoveryv1.GroupName, "endpointslices", v1, stripEndpointSlice,
			func(s *objects.Set) *[]*discoveryv1.EndpointSlice { return &s.EndpointSlices }, changed),
		newKind("HTTPRoute", gateway, "httproutes", older, stripHTTPRoute,
			func(s *objects.Set) *[]*gatewayv1.HTTPRoute { return &s.HTTPRoutes }, changed),
		newKind("GRPCRoute", gateway, "grpcroutes", v1, stripGRPCRoute,
			func(s *objects.Set) *[]*gatewayv1.GRPCRoute { return &s.GRPCRoutes }, changed),
		newKind("ReferenceGrant", gateway, "referencegrants", older, stripReferenceGrant,
			func(s *objects.Set) *[]*gatewayv1.ReferenceGrant { return &s.ReferenceGrants }, changed),
	}
}

func newKind[T object](name, group, resource string, versions []string, strip func(T) T, field func(*objects.Set) *[]T, changed func()) *kind {
	return &kind{
		name: name, group: group, resource: resource, versions: versions,
		objects: &collection[T]{kind: name, strip: strip, field: field, changed: changed},
	}
}

// newScheme knows the kinds that are read. Where the Gateway API has a kind in v1beta1 as well, that has the form of
// v1, so it is read as such.
func newScheme() (*runtime.Scheme, error) {
	beta := schema.GroupVersion{Group: gatewayv1.GroupName, Version: "v1beta1"}
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, gatewayv1.Install} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	s.AddKnownTypes(beta, &gatewayv1.HTTPRoute{}, &gatewayv1.HTTPRouteList{}, &gatewayv1.ReferenceGrant{}, &gatewayv1.ReferenceGrantList{})
	metav1.AddToGroupVersion(s, beta)
	return s, nil
}
