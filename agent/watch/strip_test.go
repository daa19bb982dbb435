package watch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/tests/routes"
)

// fillIn gives every field of a value a value.
func fillIn(v reflect.Value) {
	switch v.Interface().(type) {
	case metav1.Time:
		v.Set(reflect.ValueOf(metav1.Unix(1700000000, 0)))
		return
	case metav1.MicroTime:
		return
	case intstr.IntOrString:
		v.Set(reflect.ValueOf(intstr.FromInt32(7)))
		return
	case resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse("1")))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillIn(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillIn(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillIn(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillIn(key)
		fillIn(value)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint8:
		v.SetUint('7')
	}
}

// leaves are the places of an object that have a value, as JSON names them.
func leaves(t *testing.T, o any) []string {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	var all []string
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(at+"."+k, e)
			}
		case []any:
			for _, e := range v {
				walk(at+"[]", e)
			}
		default:
			all = append(all, strings.TrimPrefix(at, "."))
		}
	}
	walk("", tree)
	slices.Sort(all)
	return slices.Compact(all)
}

const metaKept = "metadata.annotations.sluice.dev/x metadata.creationTimestamp metadata.deletionTimestamp metadata.generation metadata.labels.sluice.dev/x metadata.name metadata.namespace metadata.uid"

// labelled gives an object labels and annotations of all sorts.
func labelled[T metav1.Object](o T, labels ...string) T {
	all := map[string]string{"app": "x", "sluice.dev/x": "x", "notsluice.dev/x": "x"}
	for _, l := range labels {
		all[l] = "x"
	}
	o.SetLabels(all)
	o.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}", "sluice.dev/x": "x"})
	return o
}

func filledIn[T any]() *T {
	o := new(T)
	fillIn(reflect.ValueOf(o).Elem())
	return o
}

// What is kept of an object that has everything.
func TestStrippedObjectsKeepWhatIsReadAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		stripped any
		kept     string // besides metaKept
		gone     string // of metaKept
	}{
		"Namespace": {stripNamespace(labelled(filledIn[corev1.Namespace]())), "", ""},
		"Service": {stripService(labelled(filledIn[corev1.Service]())), "spec.clusterIP spec.clusterIPs[] spec.internalTrafficPolicy spec.ports[].appProtocol spec.ports[].name spec.ports[].port " +
			"spec.ports[].protocol spec.ports[].targetPort spec.sessionAffinity spec.sessionAffinityConfig.clientIP.timeoutSeconds spec.type", ""},
		"Pod": {stripPod(labelled(filledIn[corev1.Pod](), "pod-template-hash", "app.kubernetes.io/name", "app.kubernetes.io/component")),
			"metadata.labels.app.kubernetes.io/component metadata.labels.app.kubernetes.io/name metadata.labels.pod-template-hash " +
				"metadata.ownerReferences[].apiVersion metadata.ownerReferences[].blockOwnerDeletion metadata.ownerReferences[].controller metadata.ownerReferences[].kind metadata.ownerReferences[].name metadata.ownerReferences[].uid " +
				"spec.hostIPC spec.hostNetwork spec.hostPID spec.nodeName spec.runtimeClassName spec.serviceAccountName status.phase status.podIP status.podIPs[].ip status.startTime", ""},
		"EndpointSlice": {stripEndpointSlice(labelled(filledIn[discoveryv1.EndpointSlice](), "kubernetes.io/service-name")),
			"addressType endpoints[].addresses[] endpoints[].conditions.ready endpoints[].conditions.serving endpoints[].conditions.terminating endpoints[].hints.forNodes[].name endpoints[].hints.forZones[].name " +
				"endpoints[].nodeName endpoints[].zone metadata.labels.kubernetes.io/service-name ports[].name ports[].port ports[].protocol", "metadata.generation"},
		"HTTPRoute": {stripHTTPRoute(labelled(filledIn[gatewayv1.HTTPRoute]())), "metadata.resourceVersion " +
			strings.Join(leaves(t, map[string]any{"spec": filledIn[gatewayv1.HTTPRouteSpec](), "status": filledIn[gatewayv1.HTTPRouteStatus]()}), " "), ""},
		"GRPCRoute": {stripGRPCRoute(labelled(filledIn[gatewayv1.GRPCRoute]())), "metadata.resourceVersion " +
			strings.Join(leaves(t, map[string]any{"spec": filledIn[gatewayv1.GRPCRouteSpec](), "status": filledIn[gatewayv1.GRPCRouteStatus]()}), " "), ""},
		"ReferenceGrant": {stripReferenceGrant(labelled(filledIn[gatewayv1.ReferenceGrant]())), "spec.from[].group spec.from[].kind spec.from[].namespace spec.to[].group spec.to[].kind spec.to[].name", ""},
	} {
		want := append(strings.Fields(metaKept), strings.Fields(c.kept)...)
		want = slices.DeleteFunc(want, func(s string) bool { return s == c.gone })
		slices.Sort(want)
		got := slices.DeleteFunc(leaves(t, c.stripped), func(s string) bool {
			return s == "status.loadBalancer" || s == "spec.containers" // always written, null where there is none
		})
		if !slices.Equal(got, want) {
			t.Errorf("%s: kept\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// stripped is a Set as a Source would have it.
func stripped(t *testing.T, full *objects.Set) *objects.Set {
	t.Helper()
	out := &objects.Set{}
	v := reflect.ValueOf(full).Elem()
	kinds := allKinds(thisNode, func() {})
	for i := range v.NumField() {
		var all []any
		for j := range v.Field(i).Len() {
			all = append(all, v.Field(i).Index(j).Interface())
		}
		for _, k := range kinds {
			if k.name+"s" == v.Type().Field(i).Name {
				if err := k.objects.Replace(all, ""); err != nil {
					t.Fatal(err)
				}
				k.objects.fill(out)
			}
		}
	}
	return out
}

// An API server may deliver what a folder would refuse: nothing is taken for granted.
func TestEmptyObjectsAreStripped(t *testing.T) {
	stripNamespace(&corev1.Namespace{})
	stripService(&corev1.Service{})
	stripPod(&corev1.Pod{})
	stripHTTPRoute(&gatewayv1.HTTPRoute{})
	stripGRPCRoute(&gatewayv1.GRPCRoute{})
	stripReferenceGrant(&gatewayv1.ReferenceGrant{})
	if s := stripEndpointSlice(&discoveryv1.EndpointSlice{Endpoints: make([]discoveryv1.Endpoint, 2)}); len(s.Endpoints) != 2 || len(s.Endpoints[0].Addresses) != 0 {
		t.Errorf("%+v", s)
	}
}

// typed adds an object, given as YAML has it, to a Set. Kinds that a Set does not have are left out.
func typed(t *testing.T, set *objects.Set, o map[string]any) {
	t.Helper()
	field := reflect.ValueOf(set).Elem().FieldByName(fmt.Sprint(o["kind"], "s"))
	if !field.IsValid() {
		return
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	object := reflect.New(field.Type().Elem().Elem())
	if err := json.Unmarshal(text, object.Interface()); err != nil {
		t.Fatal(err)
	}
	field.Set(reflect.Append(field, object))
}

// fromFile are the objects of a file of YAML.
func fromFile(t *testing.T, path string) *objects.Set {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set := &objects.Set{}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return set
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		typed(t, set, o)
	}
}

// sameResult compiles objects with and without what is stripped.
func sameResult(t *testing.T, what string, set *objects.Set) {
	t.Helper()
	less := stripped(t, set)
	opts := compile.Options{Node: thisNode, Zone: "z", ReferenceGrants: true, ControllerName: "c"}
	if !reflect.DeepEqual(compile.Compile(set, opts), compile.Compile(less, opts)) {
		t.Errorf("%s: what is compiled without what is stripped is not the same", what)
	}
	for _, on := range []enroll.Selector{{Node: thisNode}, {Node: thisNode, Folder: true}} {
		if !reflect.DeepEqual(enroll.Desired(set, on), enroll.Desired(less, on)) {
			t.Errorf("%s: the pods to be enrolled are not the same", what)
		}
	}
}

func TestWhatIsStrippedChangesNothing(t *testing.T) {
	paths, err := filepath.Glob("../compile/testdata/*.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, more...)
	for _, path := range paths {
		sameResult(t, path, fromFile(t, path))
	}
	n := 0
	for i, set := range theCases(t) {
		n += len(set.HTTPRoutes) + len(set.GRPCRoutes)
		sameResult(t, fmt.Sprint("version ", i, " of the cases' objects"), set)
	}
	if len(paths) < 10 || n < 150 {
		t.Errorf("only %d files and %d routes", len(paths), n)
	}
}

// theCases are the objects of tests/routes: the first versions of all, then the second ones, and so on.
func theCases(t *testing.T) []*objects.Set {
	t.Helper()
	text, err := os.ReadFile("../../tests/routes/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var base struct{ Services map[string][]string }
	if err := yaml.Unmarshal(text, &base); err != nil {
		t.Fatal(err)
	}
	pods := map[string]routes.Addresses{}
	for _, names := range base.Services {
		for i, name := range names {
			var a routes.Addresses
			if a.V4.UnmarshalText(fmt.Appendf(nil, "10.1.0.%d", i+1)) != nil || a.V6.UnmarshalText(fmt.Appendf(nil, "fd00::%d", i+1)) != nil {
				t.Fatal("addresses")
			}
			pods[name] = a
		}
	}
	cases, err := routes.Load()
	if err != nil {
		t.Fatal(err)
	}
	var all []*objects.Set
	versions := map[routes.Key]int{}
	for _, c := range cases {
		found, err := c.Base(pods)
		if err != nil {
			t.Fatal(err)
		}
		applies := []*routes.Apply{&c.Apply}
		for i := range c.Steps {
			if a := c.Steps[i].Apply; a != nil {
				applies = append(applies, a)
			}
		}
		for _, a := range applies {
			more, err := c.Expand(a, pods)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, more...)
		}
		for _, o := range found {
			i := versions[o.Key]
			versions[o.Key]++
			if i == len(all) {
				all = append(all, &objects.Set{})
			}
			typed(t, all[i], o.Content)
		}
	}
	return all
}

// The check above can fail.
func TestStrippingTooMuchIsNoticed(t *testing.T) {
	set := fromFile(t, "../compile/testdata/endpoints.in.yaml")
	less := stripped(t, set)
	for i, s := range less.EndpointSlices {
		c := *s
		c.Labels = nil
		less.EndpointSlices[i] = &c
	}
	if reflect.DeepEqual(compile.Compile(set, compile.Options{}), compile.Compile(less, compile.Options{})) {
		t.Error("EndpointSlices without labels compile to the same")
	}
}

// noise is what controllers and users add to objects.
func noise(o *metav1.ObjectMeta) {
	o.UID, o.ResourceVersion = "0c7b9a0e-6f0e-4c8e-9f7e-000000000000", "123456789"
	o.CreationTimestamp = metav1.NewTime(time.Unix(1700000000, 0))
	o.Labels = map[string]string{"app.kubernetes.io/instance": "x", "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "web-1.2.3"}
	o.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat(`{"a":"b"}`, 100), "meta.helm.sh/release-name": "web"}
	o.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "helm", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:spec":{` + strings.Repeat(`"f:metadata":{},`, 60) + `"a":{}}}`),
	}}
}

// Memory per object, as it is kept and as it comes. The agent's budget with this many is 300 MB, for everything.
func TestMemoryPerObject(t *testing.T) {
	total := 0.0
	measure := func(what string, n int, of string, text []byte, decoded func() any) {
		var k *kind
		for _, c := range allKinds(thisNode, func() {}) {
			if c.name == of {
				k = c
			}
		}
		var all, kept []any
		before := heap()
		measured := min(n, 1000)
		for range measured {
			o := decoded()
			if err := json.Unmarshal(text, o); err != nil {
				t.Fatal(err)
			}
			all = append(all, o)
		}
		full := float64(heap()-before) / float64(measured)
		for _, o := range all {
			s, err := k.objects.Transformer()(o)
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, s)
		}
		clear(all)
		less := float64(heap()-before) / float64(measured)
		runtime.KeepAlive(kept)
		runtime.KeepAlive(all)
		total += less * float64(n)
		t.Logf("%-28s %6d objects, as they come %6.0f bytes each, as they are kept %6.0f", what, n, full, less)
		if less > full/2 {
			t.Errorf("%s: more than half is kept", what)
		}
	}
	text := func(o any) []byte {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := aService("web")
	noise(&s.ObjectMeta)
	s.Spec.ClusterIPs, s.Spec.Selector = []string{"10.0.0.1"}, map[string]string{"app": "web"}
	measure("Services", 1000, "Service", text(s), func() any { return new(corev1.Service) })
	e := aSlice("web-abcde")
	noise(&e.ObjectMeta)
	e.Labels[discoveryv1.LabelServiceName] = "web"
	e.Endpoints = nil
	for i := range 10 {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.1.0.%d", i)}, NodeName: new("node-1"), Zone: new("zone-a"),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "web-6f7d8-abcde", UID: "0c7b9a0e-6f0e-4c8e-9f7e-000000000000"},
		})
	}
	measure("EndpointSlices, 10 endpoints", 1000, "EndpointSlice", text(e), func() any { return new(discoveryv1.EndpointSlice) })
	p := filledIn[corev1.Pod]()
	noise(&p.ObjectMeta)
	measure("Pods", 250, "Pod", text(p), func() any { return new(corev1.Pod) })
	r := anHTTPRoute("web")
	noise(&r.ObjectMeta)
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{Group: new(gatewayv1.Group("")), Kind: new(gatewayv1.Kind("Service")), Name: "web", Port: new(int32(80))}}
	r.Spec.Rules = []gatewayv1.HTTPRouteRule{{
		Matches:     []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: new(gatewayv1.PathMatchPathPrefix), Value: new("/v1")}}},
		BackendRefs: []gatewayv1.HTTPBackendRef{{Name: "web", Port: new(int32(80)), Weight: new(int32(1))}},
	}}
	r.Status.Parents = []gatewayv1.RouteParentStatus{{ParentRef: r.Spec.ParentRefs[0], ControllerName: "sluice.dev/mesh", Conditions: []metav1.Condition{
		{Type: "Accepted", Status: "True", Reason: "Accepted", Message: "the route is bound to Service ns/web, port 80", LastTransitionTime: metav1.Now()},
		{Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs", Message: "all references are resolved", LastTransitionTime: metav1.Now()},
	}}}
	measure("HTTPRoutes", 5000, "HTTPRoute", text(r), func() any { return new(gatewayv1.HTTPRoute) })
	t.Logf("all of them together: %.1f MB", total/1e6)
	if total > 30e6 {
		t.Errorf("%.1f MB are kept", total/1e6)
	}
}

func heap() int64 {
	for range 3 { // what pools hold goes with the second one
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
