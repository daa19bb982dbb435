package kube

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// key names an object in the folder.
type key struct{ kind, namespace, name string }

func (k key) String() string {
	if k.namespace == "" {
		return k.kind + " " + k.name
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// readFunc turns a document into an object, or into what is wrong with it.
type readFunc func(*schemas, *document) (object, []fault)

// kind is a kind of object that is read.
type kind struct {
	group         string
	versions      []string
	clusterScoped bool
	read          readFunc
}

const gatewayGroup = "gateway.networking.k8s.io"

// readKinds are the kinds that are read, by name.
func readKinds() map[string]kind {
	return map[string]kind{
		"Namespace": {"", []string{"v1"}, true, readCore(core[*corev1.Namespace]{
			clusterScoped: true, name: apimachinery.ValidateNamespaceName, defaults: defaultNamespace, validate: validateNamespace,
		})},
		"Service": {"", []string{"v1"}, false, readCore(core[*corev1.Service]{
			name: apimachinery.NameIsDNSLabel, defaults: defaultService, validate: validateService,
		})},
		"Pod": {"", []string{"v1"}, false, readCore(core[*corev1.Pod]{
			name: apimachinery.NameIsDNSSubdomain, defaults: defaultPod, validate: validatePod,
		})},
		"EndpointSlice": {"discovery.k8s.io", []string{"v1"}, false, readCore(core[*discoveryv1.EndpointSlice]{
			name: apimachinery.NameIsDNSSubdomain, defaults: defaultEndpointSlice, validate: validateEndpointSlice,
		})},
		"HTTPRoute":      {gatewayGroup, []string{"v1", "v1beta1"}, false, readCustom[gatewayv1.HTTPRoute]("httproutes")},
		"GRPCRoute":      {gatewayGroup, []string{"v1"}, false, readCustom[gatewayv1.GRPCRoute]("grpcroutes")},
		"ReferenceGrant": {gatewayGroup, []string{"v1", "v1beta1"}, false, readCustom[gatewayv1.ReferenceGrant]("referencegrants")},
	}
}

// otherKinds are kinds of the groups that are read which are themselves not, so that a slip in a kind's name is told
// from an object that was never meant for us.
func otherKinds() map[string][]string {
	return map[string][]string{
		"": {
			"Binding", "ComponentStatus", "ConfigMap", "Endpoints", "Event", "LimitRange", "Node", "PersistentVolume", "PersistentVolumeClaim",
			"PodTemplate", "ReplicationController", "ResourceQuota", "Secret", "ServiceAccount",
		},
		"discovery.k8s.io": nil,
		gatewayGroup: {
			"BackendTLSPolicy", "Gateway", "GatewayClass", "ListenerSet", "TCPRoute", "TLSRoute", "UDPRoute",
		},
	}
}

// verdict is what becomes of a document because of its apiVersion and kind.
type verdict int

const (
	isRead  verdict = iota // it is read
	ignored                // it is none of ours
	unknown                // it cannot be told what it is: it may be the new version of anything in its file
)

// judge says what an apiVersion and a kind mean to us; the reason is "" where the object is read.
func (p *parser) judge(apiVersion, name string) (kind, verdict, string) {
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion
	}
	k, known := p.kinds[name]
	others, ours := p.others[group]
	switch {
	case apiVersion == "" || name == "":
		return kind{}, unknown, "apiVersion or kind is missing, or is no string"
	case known && k.group == group && !slices.Contains(k.versions, version):
		return k, isRead, fmt.Sprintf("version %q of %s is not served: use %s", version, name, strings.Join(k.versions, " or "))
	case known && k.group == group:
		return k, isRead, ""
	case group == gatewayGroup && slices.Contains(others, name), group == "gateway.networking.x-k8s.io":
		return kind{}, ignored, fmt.Sprintf("%s is not supported yet, ignored", name)
	case known && !ours, !ours:
		return kind{}, ignored, fmt.Sprintf("%s of %s is of no use to Sluice, ignored", name, apiVersion)
	case slices.Contains(others, name):
		return kind{}, ignored, fmt.Sprintf("%s is of no use to Sluice, ignored", name)
	}
	return kind{}, unknown, fmt.Sprintf("%q has no kind %q: correct apiVersion or kind", apiVersion, name)
}
