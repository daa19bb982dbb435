package enroll

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// basic is a pod that is enrolled on node n1.
func basic(edit func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		Namespace: "apps", Name: "web-0", UID: "u1",
		Spec:   corev1.PodSpec{NodeName: "n1", ServiceAccountName: "web"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.1.0.7"}, {IP: "fd00::7"}}},
	}
	if edit != nil {
		edit(p)
	}
	return p
}

func TestWhichPodsAreEnrolled(t *testing.T) {
	cases := map[string]struct {
		pod    *corev1.Pod
		folder bool
		want   bool
	}{
		"on this node":                     {pod: basic(nil), want: true},
		"on another node":                  {pod: basic(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })},
		"on no node, in a cluster":         {pod: basic(func(p *corev1.Pod) { p.Spec.NodeName = "" })},
		"on no node, in a folder":          {pod: basic(func(p *corev1.Pod) { p.Spec.NodeName = "" }), folder: true, want: true},
		"shares the host's namespace":      {pod: basic(func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
		"succeeded":                        {pod: basic(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
		"failed":                           {pod: basic(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })},
		"pending":                          {pod: basic(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), want: true},
		"opted out":                        {pod: basic(func(p *corev1.Pod) { p.Labels = map[string]string{MeshLabel: "disabled"} })},
		"another value of the label":       {pod: basic(func(p *corev1.Pod) { p.Labels = map[string]string{MeshLabel: "enabled"} }), want: true},
		"in a namespace that opted out":    {pod: basic(func(p *corev1.Pod) { p.Namespace = "out" })},
		"in a namespace that is not known": {pod: basic(func(p *corev1.Pod) { p.Namespace = "nowhere" }), want: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			set := &objects.Set{
				Namespaces: []*corev1.Namespace{{Name: "out", Labels: map[string]string{MeshLabel: "disabled"}}},
				Pods:       []*corev1.Pod{c.pod},
			}
			if got := len(Desired(set, Selector{Node: "n1", Folder: c.folder})) == 1; got != c.want {
				t.Errorf("enrolled: %v", got)
			}
		})
	}
}

func TestWhatIsKnownOfAPod(t *testing.T) {
	pod := basic(func(p *corev1.Pod) {
		p.Labels = map[string]string{"pod-template-hash": "5d4f"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-5d4f", Controller: new(true)}}
		p.Annotations = map[string]string{NetNSAnnotation: "/run/netns/web"}
	})
	got := Desired(&objects.Set{Pods: []*corev1.Pod{pod}}, Selector{Node: "n1", Folder: true})
	want := []Wanted{{
		UID: "u1", Namespace: "apps", Name: "web-0", ServiceAccount: "web", Workload: "web", Node: "n1",
		NetNS: "/run/netns/web",
		IPs:   []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")},
	}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// Whoever may create a pod in a cluster may not make the agent open a path of the node.
func TestAnnotationCountsInAFolderOnly(t *testing.T) {
	pod := basic(func(p *corev1.Pod) { p.Annotations = map[string]string{NetNSAnnotation: "/proc/1/ns/net"} })
	if w := Desired(&objects.Set{Pods: []*corev1.Pod{pod}}, Selector{Node: "n1"}); w[0].NetNS != "" {
		t.Errorf("the path %s is taken from a pod of a cluster", w[0].NetNS)
	}
}

func TestPodsWithoutUIDAreToldApartByName(t *testing.T) {
	a := basic(func(p *corev1.Pod) { p.UID = "" })
	b := basic(func(p *corev1.Pod) { p.UID, p.Name, p.Namespace = "", "web-1", "" })
	got := Desired(&objects.Set{Pods: []*corev1.Pod{b, a, a}}, Selector{Node: "n1"})
	if len(got) != 2 || got[0].UID != "apps/web-0" || got[1].UID != "default/web-1" {
		t.Errorf("the pods are %+v", got)
	}
}

func TestPodOfACgroup(t *testing.T) {
	const uid = "8f1c2d3e-0000-4000-8000-0123456789ab"
	static := "0123456789abcdef0123456789abcdef" // a static pod's UID is a hash
	uids := map[string]bool{uid: true, static: true}
	for path, want := range map[string]string{
		"/kubepods/burstable/pod" + uid + "/4711": uid,
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8f1c2d3e_0000_4000_8000_0123456789ab.slice/cri-1.scope": uid,
		"/kubepods.slice/kubepods-pod8f1c2d3e_0000_4000_8000_0123456789ab.slice/cri-1.scope":                                    uid,
		"/kubelet/kubepods/pod" + static:                           static,
		"/kubepods/besteffort/pod00000000-0000-4000-8000-000000":   "",
		"/system.slice/kubelet.service":                            "",
		"/user/pod" + uid + "x":                                    "",
		"/kubepods-burstable-pod8f1c2d3e_0000_4000_8000_012345678": "",
		"/": "",
	} {
		if got := podOfCgroup(path, uids); got != want {
			t.Errorf("%s belongs to %q, not %q", path, got, want)
		}
	}
}
