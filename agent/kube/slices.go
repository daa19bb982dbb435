package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// sliceSize is how many endpoints a cluster's controller puts into one slice.
const sliceSize = 100

// slicesOfSelectors makes the EndpointSlices of the Services that select Pods and for which no file has any.
func slicesOfSelectors(set *objects.Set) []*discoveryv1.EndpointSlice {
	given := map[types.NamespacedName]bool{}
	for _, s := range set.EndpointSlices {
		given[types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}] = true
	}
	pods := indexPods(set.Pods)
	var made []*discoveryv1.EndpointSlice
	for _, s := range set.Services {
		if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName ||
			given[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] {
			continue
		}
		made = append(made, slicesOf(s, pods.selected(s))...)
	}
	return made
}

// label is one label of the pods of one namespace.
type label struct{ namespace, key, value string }

// podIndex finds pods by label, so that Services need not look at every pod.
type podIndex map[label][]*corev1.Pod

func indexPods(pods []*corev1.Pod) podIndex {
	index := podIndex{}
	for _, p := range pods {
		for k, v := range p.Labels {
			l := label{p.Namespace, k, v}
			index[l] = append(index[l], p)
		}
	}
	return index
}

// selected are the running pods that a Service selects, in the order of the Set.
func (index podIndex) selected(s *corev1.Service) []*corev1.Pod {
	var fewest []*corev1.Pod
	first := true
	for k, v := range s.Spec.Selector {
		if with := index[label{s.Namespace, k, v}]; first || len(with) < len(fewest) {
			fewest, first = with, false
		}
	}
	return slices.DeleteFunc(slices.Clone(fewest), func(p *corev1.Pod) bool {
		for k, v := range s.Spec.Selector {
			if p.Labels[k] != v {
				return true
			}
		}
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

// slicesOf makes one slice for each family and each set of port numbers, because a named target port may be another
// number in each pod, and more where there are many endpoints.
func slicesOf(s *corev1.Service, pods []*corev1.Pod) []*discoveryv1.EndpointSlice {
	var made []*discoveryv1.EndpointSlice
	for _, family := range families(s) {
		ports := map[string][]discoveryv1.EndpointPort{}
		endpoints := map[string][]discoveryv1.Endpoint{}
		for _, p := range pods {
			ip := address(p, family)
			if ip == "" {
				continue
			}
			numbers := endpointPorts(s, p)
			same := describe(numbers)
			ports[same] = numbers
			endpoints[same] = append(endpoints[same], endpoint(s, p, ip))
		}
		for _, same := range slices.Sorted(maps.Keys(ports)) {
			for some := range slices.Chunk(endpoints[same], sliceSize) {
				name := fmt.Sprintf("%s-%s-%d", s.Name, strings.ToLower(string(family)), len(made))
				made = append(made, &discoveryv1.EndpointSlice{
					Namespace: s.Namespace, Name: name, Generation: 1, UID: uid(key{"EndpointSlice", s.Namespace, name}),
					Labels:      map[string]string{discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: "sluice.dev"},
					AddressType: family, Endpoints: some, Ports: ports[same],
				})
			}
		}
	}
	return made
}

// families are those of the Service's addresses; both where it has none.
func families(s *corev1.Service) []discoveryv1.AddressType {
	var found []discoveryv1.AddressType
	for _, f := range s.Spec.IPFamilies {
		found = append(found, discoveryv1.AddressType(f))
	}
	if len(found) == 0 {
		for _, ip := range s.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil { // not so where it is "None"
				found = append(found, familyOf(a))
			}
		}
	}
	if len(found) == 0 {
		found = []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	}
	return found
}

func familyOf(a netip.Addr) discoveryv1.AddressType {
	if a.Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// address is the pod's first one of a family.
func address(p *corev1.Pod, family discoveryv1.AddressType) string {
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && familyOf(a) == family {
			return ip.IP
		}
	}
	return ""
}

// endpoint says of a pod what a cluster's controller would. A pod without a Ready condition counts as ready, because
// nobody probes it here.
func endpoint(s *corev1.Service, p *corev1.Pod, ip string) discoveryv1.Endpoint {
	serving := true
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			serving = c.Status == corev1.ConditionTrue
		}
	}
	terminating := p.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{ip},
		Conditions: discoveryv1.EndpointConditions{
			Ready:       new(s.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     &serving,
			Terminating: &terminating,
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
	}
	return e
}

// endpointPorts are the Service's ports as one pod has them. A named port that the pod does not have is left out.
func endpointPorts(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var found []discoveryv1.EndpointPort
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		number := port.TargetPort.IntVal
		if port.TargetPort.Type == intstr.String {
			number = namedPort(p, port.TargetPort.StrVal, port.Protocol)
		}
		if number != 0 {
			found = append(found, discoveryv1.EndpointPort{
				Name: &port.Name, Port: &number, Protocol: &port.Protocol, AppProtocol: port.AppProtocol,
			})
		}
	}
	return found
}

// namedPort looks at the containers that run as long as the pod does.
func namedPort(p *corev1.Pod, name string, protocol corev1.Protocol) int32 {
	running := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			running = append(running, c)
		}
	}
	for _, c := range running {
		for _, port := range c.Ports {
			if port.Name == name && port.Protocol == protocol {
				return port.ContainerPort
			}
		}
	}
	return 0
}

func describe(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s=%d/%s ", *p.Name, *p.Port, *p.Protocol)
	}
	return b.String()
}
