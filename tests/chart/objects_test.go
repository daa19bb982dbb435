package chart

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// objects are what was rendered, in order.
type objects []runtime.Object

// rendered renders the chart and reads it as the API server does that is asked to be strict: a field that a type does not
// have, or that is there twice, is an error.
func rendered(t *testing.T, args ...string) objects {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, monitoringv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	var out objects
	for text := range strings.SplitSeq(render(t, args...), "\n---\n") {
		o, _, err := decoder.Decode([]byte(text), nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		out = append(out, o)
	}
	return out
}

// the returns the one object of a type.
func the[T runtime.Object](t *testing.T, all objects) T {
	t.Helper()
	var found []T
	for _, o := range all {
		if typed, is := o.(T); is {
			found = append(found, typed)
		}
	}
	if len(found) != 1 {
		var none T
		t.Fatalf("there are %d objects of type %T", len(found), none)
	}
	return found[0]
}

func (o objects) daemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	return the[*appsv1.DaemonSet](t, o)
}

func container(t *testing.T, d *appsv1.DaemonSet, name string) corev1.Container {
	t.Helper()
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no container %s", name)
	return corev1.Container{}
}

func TestObjectsAreOfTheirTypes(t *testing.T) {
	want := map[string][]string{
		"default":    {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "DaemonSet"},
		"everything": {"ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet", "ServiceMonitor"},
	}
	want["labelled"], want["without-cni"] = want["default"], want["default"]
	for name, file := range values(t) {
		var kinds []string
		for _, o := range rendered(t, "--values", file) {
			kinds = append(kinds, o.GetObjectKind().GroupVersionKind().Kind)
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(m.GetName(), map[bool]string{true: "mesh", false: "sluice"}[name == "everything"]) {
				t.Errorf("%s: %s is called %s", name, kinds[len(kinds)-1], m.GetName())
			}
			if in := m.GetNamespace(); in != "sluice-system" && !strings.HasPrefix(kinds[len(kinds)-1], "Cluster") {
				t.Errorf("%s: %s is in namespace %q", name, kinds[len(kinds)-1], in)
			}
		}
		slices.Sort(kinds)
		slices.Sort(want[name])
		if diff := cmp.Diff(want[name], kinds); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The design's table of privileges, the right to listen at a port below 1024, and nothing beyond it.
func TestPrivilegesAreThoseOfTheDesign(t *testing.T) {
	for name, file := range values(t) {
		pod := rendered(t, "--values", file).daemonSet(t).Spec.Template.Spec
		if pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.InitContainers) > 0 || len(pod.Containers) != 2 {
			t.Errorf("%s: the pod shares more of the host than it needs: %+v", name, pod)
		}
		want := map[string][]corev1.Capability{"agent": {"BPF", "NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"}, "proxy": {"SYS_ADMIN"}}
		for _, c := range pod.Containers {
			s := c.SecurityContext
			if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: want[c.Name]}, s.Capabilities); diff != "" {
				t.Errorf("%s: capabilities of %s (-want +got):\n%s", name, c.Name, diff)
			}
			if s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.RunAsUser == nil || *s.RunAsUser != 0 || s.SeccompProfile == nil {
				t.Errorf("%s: the security context of %s is %+v", name, c.Name, s)
			}
			for _, p := range c.Ports {
				if p.HostPort != 0 {
					t.Errorf("%s: %s takes port %d of the host", name, c.Name, p.HostPort)
				}
			}
		}
	}
}

// mounts are a container's, as words: PATH=SOURCE, and how.
func mounts(t *testing.T, d *appsv1.DaemonSet, name string) []string {
	t.Helper()
	sources := map[string]string{}
	for _, v := range d.Spec.Template.Spec.Volumes {
		switch {
		case v.HostPath != nil:
			sources[v.Name] = fmt.Sprintf("%s (%s)", v.HostPath.Path, *v.HostPath.Type)
		case v.Projected != nil:
			sources[v.Name] = "token"
		}
	}
	var out []string
	for _, m := range container(t, d, name).VolumeMounts {
		how := ""
		if m.ReadOnly {
			how += ", read only"
		}
		if m.MountPropagation != nil {
			how += ", " + string(*m.MountPropagation)
		}
		out = append(out, m.MountPath+"="+sources[m.Name]+how)
	}
	return out
}

// The proxy, which reads what strangers send, has neither credentials nor anything of the host but the agent's socket.
func TestMounts(t *testing.T) {
	agent := []string{
		"/run/sluice=/run/sluice (DirectoryOrCreate)",
		"/host/proc=/proc (Directory), read only",
		"/run/netns=/run/netns (DirectoryOrCreate), read only, HostToContainer",
		"/sys/fs/cgroup=/sys/fs/cgroup (Directory), read only",
		"/sys/fs/bpf=/sys/fs/bpf (Directory)",
		"/host/etc/cni/net.d=/etc/cni/net.d (DirectoryOrCreate)",
		"/host/opt/cni/bin=/opt/cni/bin (DirectoryOrCreate)",
		"/var/run/secrets/kubernetes.io/serviceaccount=token, read only",
	}
	d := rendered(t).daemonSet(t)
	if diff := cmp.Diff(agent, mounts(t, d, "agent")); diff != "" {
		t.Errorf("agent (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/run/sluice=/run/sluice (DirectoryOrCreate)"}, mounts(t, d, "proxy")); diff != "" {
		t.Errorf("proxy (-want +got):\n%s", diff)
	}
	if a := d.Spec.Template.Spec.AutomountServiceAccountToken; a == nil || *a {
		t.Error("the token is mounted into both containers")
	}
	without := rendered(t, "--set", "cni.enabled=false").daemonSet(t)
	if diff := cmp.Diff(slices.Concat(agent[:5], agent[7:]), mounts(t, without, "agent")); diff != "" {
		t.Errorf("agent without the plugin (-want +got):\n%s", diff)
	}
	if n := len(without.Spec.Template.Spec.Volumes); n != 6 {
		t.Errorf("without the plugin there are %d volumes: more than are mounted", n)
	}
}

// The design's rollout: the next pod of a node takes over from the one that runs.
func TestRollout(t *testing.T) {
	for args, surge := range map[string]intstr.IntOrString{"maxSurge=1": intstr.FromInt32(1), "maxSurge=10%": intstr.FromString("10%")} {
		d := rendered(t, "--set", args, "--set", "proxy.drainTimeoutSeconds=60").daemonSet(t)
		u := d.Spec.UpdateStrategy.RollingUpdate
		if *u.MaxSurge != surge || *u.MaxUnavailable != intstr.FromInt32(0) {
			t.Errorf("%s: %v more and %v less at a time", args, u.MaxSurge, u.MaxUnavailable)
		}
		// The proxy's master gives its worker five seconds beyond the drain, and the agent's release comes before it.
		if grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds; grace < 60+10 {
			t.Errorf("%d s are too short for a drain of 60 s", grace)
		}
		if !slices.Contains(container(t, d, "proxy").Args, "--drain-timeout=60s") {
			t.Error("the proxy is told another drain time-out")
		}
	}
}

// A node without an agent leaves its pods out of the mesh: nothing but the user's own choice keeps us from a node.
func TestEveryNodeHasAPod(t *testing.T) {
	pod := rendered(t).daemonSet(t).Spec.Template.Spec
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"kubernetes.io/os": "linux"}, pod.NodeSelector); diff != "" || pod.Affinity != nil {
		t.Errorf("affinity %v, node selector (-want +got):\n%s", pod.Affinity, diff)
	}
	if pod.PriorityClassName != "system-node-critical" {
		t.Errorf("priority %q", pod.PriorityClassName)
	}
}

func TestProbesAskWhatIsServed(t *testing.T) {
	d := rendered(t).daemonSet(t)
	for name, port := range map[string]int32{"agent": 15022, "proxy": 15023} {
		c := container(t, d, name)
		if len(c.Ports) != 1 || c.Ports[0].Name != name || c.Ports[0].ContainerPort != port {
			t.Errorf("%s has ports %+v", name, c.Ports)
		}
		if !slices.Contains(c.Args, fmt.Sprintf("--serve=0.0.0.0:%d", port)) {
			t.Errorf("%s serves elsewhere than at port %d: %q", name, port, c.Args)
		}
		live, ready := c.LivenessProbe, c.ReadinessProbe
		if live.HTTPGet.Path != "/healthz" || ready.HTTPGet.Path != "/readyz" || live.HTTPGet.Port.String() != name || ready.HTTPGet.Port.String() != name {
			t.Errorf("%s is asked at %+v and %+v", name, live.HTTPGet, ready.HTTPGet)
		}
		// The proxy's master replaces a worker that hangs within 10 s: a restart of the container would take more with it.
		if limit := live.PeriodSeconds * live.FailureThreshold; limit < 30 {
			t.Errorf("%s is killed after %d s", name, limit)
		}
	}
}

// `sluice check` finds pods by their labels, and the mesh leaves its own alone, whatever labels a user adds.
func TestLabelsOfPods(t *testing.T) {
	for name, file := range values(t) {
		d := rendered(t, "--values", file).daemonSet(t)
		got := d.Spec.Template.Labels
		for key, want := range map[string]string{
			"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "node", "sluice.dev/mesh": "disabled",
		} {
			if got[key] != want {
				t.Errorf("%s: %s is %q, want %q", name, key, got[key], want)
			}
		}
		if !labels.SelectorFromSet(d.Spec.Selector.MatchLabels).Matches(labels.Set(got)) {
			t.Errorf("%s: the selector %v does not match %v", name, d.Spec.Selector.MatchLabels, got)
		}
	}
	// A DaemonSet's selector cannot be changed, so no value may change it.
	want := rendered(t).daemonSet(t).Spec.Selector
	if got := rendered(t, "--values", values(t)["everything"]).daemonSet(t).Spec.Selector; cmp.Diff(want, got) != "" {
		t.Errorf("values change the selector: %v", got)
	}
}

func TestServiceMonitorFindsBothPorts(t *testing.T) {
	all := rendered(t, "--values", values(t)["everything"])
	service, monitor, pod := the[*corev1.Service](t, all), the[*monitoringv1.ServiceMonitor](t, all), all.daemonSet(t).Spec.Template
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
		t.Errorf("the Service selects %v, and the pods have %v", service.Spec.Selector, pod.Labels)
	}
	if !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(service.Labels)) {
		t.Errorf("the ServiceMonitor selects %v, and the Service has %v", monitor.Spec.Selector.MatchLabels, service.Labels)
	}
	for n, name := range []string{"agent", "proxy"} {
		p, e := service.Spec.Ports[n], monitor.Spec.Endpoints[n]
		if p.Name != name || p.TargetPort.String() != name || e.Port != name || e.Interval != "15s" || !e.HonorLabels {
			t.Errorf("%s: port %+v, endpoint %+v", name, p, e)
		}
	}
	if monitor.Labels["prometheus"] != "main" {
		t.Errorf("labels %v", monitor.Labels)
	}
}

// right is one that the agents have, and what for.
type right struct {
	group, resource, verbs, why string
}

func clusterRights() []right {
	return []right{
		{"", "services", "list watch", "parents and backends of routes"},
		{"", "namespaces", "list watch", "the opt-out of whole namespaces"},
		{"", "pods", "list watch", "those of the agent's own node are enrolled"},
		{"", "nodes", "get", "the zone of the agent's own node"},
		{"discovery.k8s.io", "endpointslices", "list watch", "backends' endpoints"},
		{"gateway.networking.k8s.io", "httproutes", "get list watch", "routes; before a status is written again after a conflict, one is read"},
		{"gateway.networking.k8s.io", "grpcroutes", "get list watch", "the same"},
		{"gateway.networking.k8s.io", "referencegrants", "list watch", "backends in other namespaces"},
		{"gateway.networking.k8s.io", "httproutes/status", "patch", "the elected agent writes what became of a route"},
		{"gateway.networking.k8s.io", "grpcroutes/status", "patch", "the same"},
		{"gateway.networking.x-k8s.io", "xmeshes", "list watch create", "where their kind is served, one says which features the mesh has"},
		{"gateway.networking.x-k8s.io", "xmeshes/status", "update", "the same"},
		{"events.k8s.io", "events", "create", "events of routes"},
	}
}

func ownRights() []right {
	return []right{
		{"coordination.k8s.io", "leases", "get list watch create update delete", "the election, and what each node's proxies have refused"},
		{"apps", "daemonsets", "get list watch", "its own alone, by name: an agent whose DaemonSet is deleted leaves nothing behind"},
	}
}

// A verb that nobody can say the reason of is one too many.
func TestEveryRightHasItsReason(t *testing.T) {
	all := rendered(t)
	checkRights(t, "cluster", clusterRights(), the[*rbacv1.ClusterRole](t, all).Rules)
	own := the[*rbacv1.Role](t, all)
	checkRights(t, "own namespace", ownRights(), own.Rules)
	for _, r := range own.Rules {
		if slices.Contains(r.Resources, "daemonsets") && !slices.Equal(r.ResourceNames, []string{"sluice"}) {
			t.Errorf("DaemonSets: %v", r.ResourceNames)
		}
	}
	subject := rbacv1.Subject{Kind: "ServiceAccount", Name: "sluice", Namespace: "sluice-system"}
	for _, got := range [][]rbacv1.Subject{the[*rbacv1.ClusterRoleBinding](t, all).Subjects, the[*rbacv1.RoleBinding](t, all).Subjects} {
		if diff := cmp.Diff([]rbacv1.Subject{subject}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func checkRights(t *testing.T, where string, want []right, rules []rbacv1.PolicyRule) {
	t.Helper()
	got, wanted := map[string]string{}, map[string]string{}
	for _, r := range rules {
		for _, g := range r.APIGroups {
			for _, resource := range r.Resources {
				got[g+"/"+resource] += strings.Join(r.Verbs, " ")
			}
		}
	}
	for _, r := range want {
		wanted[r.group+"/"+r.resource] = r.verbs
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", where, diff)
	}
}

func TestDocsListTheRights(t *testing.T) {
	var b strings.Builder
	b.WriteString("| resource | verbs | what for |\n|---|---|---|\n")
	list := func(rights []right, where string) {
		for _, r := range rights {
			fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", strings.TrimSuffix(r.resource+"."+r.group, "."), where, strings.ReplaceAll(r.verbs, " ", ", "), r.why)
		}
	}
	list(clusterRights(), "")
	list(ownRights(), " in its own namespace")
	generated(t, "rights", b.String())
}

func TestImage(t *testing.T) {
	for set, want := range map[string]string{
		"image.tag=":                   "localhost/sluice:0.1.0", // the chart's appVersion, by which `make images` makes it
		"image.tag=dev":                "localhost/sluice:dev",
		"image.repository=a.b/c":       "a.b/c:0.1.0",
		"image.digest=sha256:" + zeros: "localhost/sluice@sha256:" + zeros,
	} {
		d := rendered(t, "--set", set).daemonSet(t)
		images := map[string]bool{}
		for _, c := range d.Spec.Template.Spec.Containers {
			images[c.Image] = true
		}
		if got := slices.Sorted(maps.Keys(images)); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, want %s", set, got, want)
		}
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
