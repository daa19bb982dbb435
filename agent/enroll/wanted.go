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

// What users write on pods and namespaces.
const (
	// MeshLabel is read from the pod first and, where the pod does not have it with one of the two values, from its
	// namespace: what is nearer wins. So a pod labelled enabled in a namespace labelled disabled is enrolled, and one
	// labelled disabled in a namespace labelled enabled is not. Any other value counts as no label.
	MeshLabel = "sluice.dev/mesh"
	// NetNSAnnotation is the path that names the pod's network namespace; in a folder only.
	NetNSAnnotation = "sluice.dev/netns"

	enabled, disabled = "enabled", "disabled"
)

// The labels of our own pods, as the chart sets them.
const (
	nameLabel, ownName           = "app.kubernetes.io/name", "sluice"
	componentLabel, ownComponent = "app.kubernetes.io/component", "node"
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

// Excluded is a pod of this node that is not to be enrolled.
type Excluded struct {
	model.Pod
	Reason string
}

func (x Excluded) String() string { return x.Namespace + "/" + x.Name }

// Selector says which pods are this node's.
type Selector struct {
	Node string
	// Folder: the objects come from a folder. A pod that names no node is here, for nobody schedules there, and may
	// name its network namespace itself. Whoever may create a pod in a cluster may not choose a path of the node.
	Folder bool
	// Labelled: only pods that the label enables, on themselves or on their namespace, are enrolled.
	Labelled bool
}

// Desired returns the pods of the set that are to be enrolled on the node, in the order of their UIDs: those that run
// here in a network namespace of their own and did not opt out. No two have the same UID.
func Desired(set *objects.Set, on Selector) []Wanted {
	namespaces := meshOfNamespaces(set)
	var all []Wanted
	for _, p := range set.Pods {
		if on.here(p) && on.excludes(p, namespaces) == "" {
			all = append(all, wanted(p, on))
		}
	}
	slices.SortFunc(all, func(a, b Wanted) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.String(), b.String()))
	})
	return slices.CompactFunc(all, func(a, b Wanted) bool { return a.UID == b.UID })
}

// Exclusions returns the other pods of the node, each with the reason, in the order of their names.
func Exclusions(set *objects.Set, on Selector) []Excluded {
	namespaces := meshOfNamespaces(set)
	var all []Excluded
	for _, p := range set.Pods {
		if !on.here(p) {
			continue
		}
		if why := on.excludes(p, namespaces); why != "" {
			all = append(all, Excluded{wanted(p, on).Pod, why})
		}
	}
	slices.SortFunc(all, func(a, b Excluded) int {
		return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.UID, b.UID))
	})
	return all
}

func (s Selector) here(p *corev1.Pod) bool {
	return p.Spec.NodeName == s.Node || p.Spec.NodeName == "" && s.Folder
}

// excludes says why the pod is not to be enrolled, or "".
func (s Selector) excludes(p *corev1.Pod, namespaces map[string]string) string {
	own, ns := p.Labels[MeshLabel], namespaces[namespaceOf(p)]
	switch {
	case p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		return "it has finished"
	case p.Labels[nameLabel] == ownName && p.Labels[componentLabel] == ownComponent:
		return "it is one of Sluice's own"
	case p.Spec.HostNetwork:
		return "it shares the host's network (hostNetwork), which is not enrolled"
	case own == disabled:
		return "it is labelled " + MeshLabel + ": " + disabled
	case own == enabled:
		return ""
	case hasKernelOfItsOwn(p):
		return "its runtimeClass " + *p.Spec.RuntimeClassName + " gives it a kernel of its own, whose connections ours does not see; " +
			"if that is not so, label the pod " + MeshLabel + ": " + enabled
	case ns == disabled:
		return "its namespace is labelled " + MeshLabel + ": " + disabled
	case s.Labelled && ns != enabled:
		return "neither it nor its namespace is labelled " + MeshLabel + ": " + enabled + ", which this installation asks for"
	}
	return ""
}

// meshOfNamespaces returns what the label says on each namespace.
func meshOfNamespaces(set *objects.Set) map[string]string {
	found := map[string]string{}
	for _, ns := range set.Namespaces {
		found[ns.Name] = ns.Labels[MeshLabel]
	}
	return found
}

// hasKernelOfItsOwn tells whether the pod runs in a virtual machine or on a kernel in user space: sockets there do not
// pass the hooks of the node's kernel. The name of a RuntimeClass is the user's, but the projects document these.
func hasKernelOfItsOwn(p *corev1.Pod) bool {
	if p.Spec.RuntimeClassName == nil {
		return false
	}
	name := strings.ToLower(*p.Spec.RuntimeClassName)
	return slices.ContainsFunc([]string{"kata", "gvisor", "runsc", "firecracker", "kuasar", "edera", "peerpod"},
		func(known string) bool { return strings.Contains(name, known) })
}

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
