package compile_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compiles each testdata/NAME.in.yaml and compares what comes out with NAME.out.yaml. The input has the
// defaults of the API written out where they matter: whoever reads objects has applied them.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no input: %v", err)
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".in.yaml"), func(t *testing.T) {
			res := compile.Compile(load(t, input), options())
			checkValid(t, res)
			got := show(t, res)
			file := strings.TrimSuffix(input, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("the result is not that of %s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// The same objects in any order give the same result, and the objects stay as they are.
func TestOrderCarriesNoMeaning(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no input: %v", err)
	}
	for _, input := range inputs {
		set, untouched := load(t, input), load(t, input)
		want := compile.Compile(set, options())
		if !reflect.DeepEqual(set, untouched) {
			t.Errorf("%s: Compile edited the objects:\n%s", input, cmp.Diff(untouched, set))
		}
		for seed := range uint64(50) {
			if got := compile.Compile(shuffled(set, seed), options()); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: seed %d gives another result:\n%s", input, seed, cmp.Diff(show(t, want), show(t, got)))
				break
			}
		}
	}
}

func shuffled(in *objects.Set, seed uint64) *objects.Set {
	r := rand.New(rand.NewPCG(seed, 0))
	out := &objects.Set{
		Services: slices.Clone(in.Services), EndpointSlices: slices.Clone(in.EndpointSlices),
		HTTPRoutes: slices.Clone(in.HTTPRoutes), GRPCRoutes: slices.Clone(in.GRPCRoutes), ReferenceGrants: slices.Clone(in.ReferenceGrants),
	}
	r.Shuffle(len(out.Services), reflect.Swapper(out.Services))
	r.Shuffle(len(out.EndpointSlices), reflect.Swapper(out.EndpointSlices))
	r.Shuffle(len(out.HTTPRoutes), reflect.Swapper(out.HTTPRoutes))
	r.Shuffle(len(out.GRPCRoutes), reflect.Swapper(out.GRPCRoutes))
	r.Shuffle(len(out.ReferenceGrants), reflect.Swapper(out.ReferenceGrants))
	return out
}

// load reads the objects of a file. A field that a kind does not have is an error.
func load(t *testing.T, file string) *objects.Set {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	set := &objects.Set{}
	for i, document := range bytes.Split(text, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatalf("%s: document %d: %v", file, i, err)
		}
		switch kind.Kind {
		case "Service":
			set.Services = append(set.Services, decode[corev1.Service](t, file, document))
		case "EndpointSlice":
			set.EndpointSlices = append(set.EndpointSlices, decode[discoveryv1.EndpointSlice](t, file, document))
		case "HTTPRoute":
			set.HTTPRoutes = append(set.HTTPRoutes, decode[gatewayv1.HTTPRoute](t, file, document))
		case "GRPCRoute":
			set.GRPCRoutes = append(set.GRPCRoutes, decode[gatewayv1.GRPCRoute](t, file, document))
		case "ReferenceGrant":
			set.ReferenceGrants = append(set.ReferenceGrants, decode[gatewayv1.ReferenceGrant](t, file, document))
		default:
			t.Fatalf("%s: document %d is a %q", file, i, kind.Kind)
		}
	}
	return set
}

func decode[T any](t *testing.T, file string, document []byte) *T {
	t.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return object
}

// golden is a Result in the form of the files.
type golden struct {
	Services  []*model.Service     `json:"services,omitempty"`
	Endpoints []*model.EndpointSet `json:"endpoints,omitempty"`
	Flags     []string             `json:"flags,omitempty"`
	Statuses  []goldenStatus       `json:"statuses,omitempty"`
	Warnings  []string             `json:"warnings,omitempty"`
}

type goldenStatus struct {
	Route   string         `json:"route"`
	Parents []goldenParent `json:"parents"`
}

type goldenParent struct {
	ParentRef  gatewayv1.ParentReference `json:"parentRef"`
	Conditions []string                  `json:"conditions"`
}

func show(t *testing.T, res *compile.Result) []byte {
	t.Helper()
	g := golden{Services: res.Services, Endpoints: res.Endpoints, Warnings: res.Warnings}
	for _, a := range slices.SortedFunc(maps.Keys(res.Flags), netip.AddrPort.Compare) {
		g.Flags = append(g.Flags, fmt.Sprintf("%s %+v", a, res.Flags[a]))
	}
	for _, s := range res.Statuses {
		status := goldenStatus{Route: s.Route.String()}
		for _, p := range s.Parents {
			parent := goldenParent{ParentRef: p.ParentRef}
			for _, c := range p.Conditions {
				parent.Conditions = append(parent.Conditions,
					fmt.Sprintf("%s=%s/%s of generation %d: %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message))
			}
			status.Parents = append(status.Parents, parent)
		}
		g.Statuses = append(g.Statuses, status)
	}
	text, err := yaml.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
