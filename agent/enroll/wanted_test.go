package enroll

import (
	"net/netip"
	"strings"
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

func labelled(mesh string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{MeshLabel: mesh} }
}

func in(namespace, mesh string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Namespace = namespace
		if mesh != "" {
			labelled(mesh)(p)
		}
	}
}

// Which pods are enrolled, and why others are not: in an installation that takes all, and in one that asks for labels.
// Where nothing is said of the second, it is as in the first.
func TestWhichPodsAreEnrolled(t *testing.T) {
	const (
		yes       = "enrolled"
		elsewhere = "" // none of ours
		pods      = "it is labelled sluice.dev/mesh: disabled"
		spaces    = "its namespace is labelled sluice.dev/mesh: disabled"
		neither   = "neither it nor its namespace is labelled sluice.dev/mesh: enabled"
	)
	runtimeClass := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.RuntimeClassName = new(name) }
	}
	cases := map[string]struct {
		edit     func(*corev1.Pod)
		folder   bool
		all      string
		labelled string
	}{
		"on this node":                      {all: yes, labelled: neither},
		"on another node":                   {edit: func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, all: elsewhere},
		"on no node, in a cluster":          {edit: func(p *corev1.Pod) { p.Spec.NodeName = "" }, all: elsewhere},
		"on no node, in a folder":           {edit: func(p *corev1.Pod) { p.Spec.NodeName = "" }, folder: true, all: yes, labelled: neither},
		"shares the host's namespace":       {edit: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, all: "it shares the host's network"},
		"succeeded":                         {edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, all: "it has finished"},
		"failed":                            {edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, all: "it has finished"},
		"pending":                           {edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, all: yes, labelled: neither},
		"opted out":                         {edit: labelled("disabled"), all: pods},
		"opted in":                          {edit: labelled("enabled"), all: yes},
		"another value of the label":        {edit: labelled("true"), all: yes, labelled: neither},
		"namespace opted out":               {edit: in("out", ""), all: spaces},
		"namespace opted in":                {edit: in("in", ""), all: yes},
		"namespace is not known":            {edit: in("nowhere", ""), all: yes, labelled: neither},
		"in, in a namespace that is out":    {edit: in("out", "enabled"), all: yes},
		"out, in a namespace that is in":    {edit: in("in", "disabled"), all: pods},
		"a value that means nothing, in":    {edit: in("in", "yes"), all: yes},
		"a value that means nothing, out":   {edit: in("out", "yes"), all: spaces},
		"hostNetwork, opted in":             {edit: func(p *corev1.Pod) { p.Spec.HostNetwork = true; labelled("enabled")(p) }, all: "it shares the host's network"},
		"in a virtual machine":              {edit: runtimeClass("kata-qemu"), all: "its runtimeClass kata-qemu gives it a kernel of its own"},
		"in gVisor, in a namespace in":      {edit: func(p *corev1.Pod) { p.Namespace = "in"; runtimeClass("gVisor")(p) }, all: "its runtimeClass gVisor"},
		"no virtual machine, somebody says": {edit: func(p *corev1.Pod) { labelled("enabled")(p); runtimeClass("not-kata")(p) }, all: yes},
		"another runtimeClass":              {edit: runtimeClass("nvidia"), all: yes, labelled: neither},
		"ours": {edit: func(p *corev1.Pod) {
			p.Labels = map[string]string{MeshLabel: "enabled", "app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "node"}
		}, all: "it is one of Sluice's own"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			set := &objects.Set{
				Namespaces: []*corev1.Namespace{
					{Name: "out", Labels: map[string]string{MeshLabel: "disabled"}}, {Name: "in", Labels: map[string]string{MeshLabel: "enabled"}},
				},
				Pods: []*corev1.Pod{basic(c.edit)},
			}
			if c.labelled == "" {
				c.labelled = c.all
			}
			for labelled, want := range map[bool]string{false: c.all, true: c.labelled} {
				on := Selector{Node: "n1", Folder: c.folder, Labelled: labelled}
				got := elsewhere
				for _, w := range Desired(set, on) {
					got += "enrolled"
					if w.Name != "web-0" {
						t.Errorf("the pod is %+v", w)
					}
				}
				for _, x := range Exclusions(set, on) {
					got += x.Reason
					if x.UID != "u1" || x.Name != "web-0" {
						t.Errorf("the pod is %+v", x)
					}
				}
				if !strings.HasPrefix(got, want) || (got == "") != (want == "") {
					t.Errorf("labelled only: %v: %q, want %q", labelled, got, want)
				}
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
		if got := podOfCgroup(path); got != want {
			t.Errorf("%s belongs to %q, not %q", path, got, want)
		}
	}
}
