package enroll

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// What users write on pods, and the label on namespaces too.
const (
	MeshLabel       = "sluice.dev/mesh"  // value "disabled" opts out
	NetNSAnnotation = "sluice.dev/netns" // path that names the pod's network namespace; in a folder only
)

// Wanted is a pod that is to be enrolled.
type Wanted struct {
	model.Pod
	NetNS string       // path of its network namespace; "": to be found by its processes
	IPs   []netip.Addr // its own addresses; none: those of its namespace
}

func (w Wanted) String() string { return w.Namespace + "/" + w.Name }

func (w Wanted) equal(o Wanted) bool {
	return w.Pod == o.Pod && w.NetNS == o.NetNS && slices.Equal(w.IPs, o.IPs)
}

// Selector says which pods are this node's.
type Selector struct {
	Node string
	// Folder: the objects come from a folder. A pod that names no node is here, for nobody schedules there, and may
	// name its network namespace itself. Whoever may create a pod in a cluster may not choose a path of the node.
	Folder bool
}

// Desired returns the pods of the set that are to be enrolled on the node, in the order of their UIDs: those that run
// here in a network namespace of their own and did not opt out. No two have the same UID.
func Desired(set *objects.Set, on Selector) []Wanted {
	out := map[string]bool{}
	for _, ns := range set.Namespaces {
		out[ns.Name] = optedOut(ns.Labels)
	}
	var all []Wanted
	for _, p := range set.Pods {
		here := p.Spec.NodeName == on.Node || p.Spec.NodeName == "" && on.Folder
		finished := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if !here || finished || p.Spec.HostNetwork || out[namespaceOf(p)] || optedOut(p.Labels) {
			continue
		}
		all = append(all, wanted(p, on))
	}
	slices.SortFunc(all, func(a, b Wanted) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.String(), b.String()))
	})
	return slices.CompactFunc(all, func(a, b Wanted) bool { return a.UID == b.UID })
}

func optedOut(labels map[string]string) bool { return labels[MeshLabel] == "disabled" }

func namespaceOf(p *corev1.Pod) string { return cmp.Or(p.Namespace, metav1.NamespaceDefault) }

func wanted(p *corev1.Pod, on Selector) Wanted {
	w := Wanted{
		UID:            string(p.UID),
		Namespace:      namespaceOf(p),
		Name:           p.Name,
		ServiceAccount: p.Spec.ServiceAccountName,
		Workload:       workload(p),
		Node:           cmp.Or(p.Spec.NodeName, on.Node),
	}
	if on.Folder {
		w.NetNS = p.Annotations[NetNSAnnotation]
	}
	if w.UID == "" { // in a folder nobody gives it one; its name is unique there
		w.UID = w.String()
	}
	for _, ip := range p.Status.PodIPs {
		// An address that does not parse is left out: the namespace's own are then used.
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			w.IPs = append(w.IPs, a.Unmap())
		}
	}
	return w
}

// workload is what people call the pod's owner: of a ReplicaSet made by a Deployment, the Deployment.
func workload(p *corev1.Pod) string {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return ""
	}
	if hash := p.Labels["pod-template-hash"]; owner.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(owner.Name, "-"+hash)
	}
	return owner.Name
}
