package demo

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/examples"
)

// The lab plays kube-proxy for the Services of the examples: both have to mean the same addresses and ports.
func TestServicesAreThoseOfTheExamples(t *testing.T) {
	found := map[string]bool{}
	for _, o := range append(servicesOf(t, "web.yaml"), servicesOf(t, "echo-grpc.yaml")...) {
		for _, s := range []lab.Service{web, webV1, webV2, echo, echoV1, echoV2} {
			if o.Metadata.Name != s.Name {
				continue
			}
			found[s.Name] = true
			want := []string{s.ClusterIPs[0].String(), s.ClusterIPs[1].String()}
			if !slices.Equal(o.Spec.ClusterIPs, want) || o.Spec.Ports[0].Port != s.Port || o.Spec.Ports[0].TargetPort != s.TargetPort {
				t.Errorf("%s: the YAML has %+v, the demo %+v", s.Name, o.Spec, s)
			}
		}
	}
	if len(found) != 6 {
		t.Errorf("the examples have only %v", found)
	}
}

type exampleService struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector   map[string]string
		ClusterIPs []string `yaml:"clusterIPs"`
		Ports      []struct {
			Port       uint16
			TargetPort uint16 `yaml:"targetPort"`
		}
	}
}

func servicesOf(t *testing.T, file string) []exampleService {
	t.Helper()
	b, err := examples.Files.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []exampleService
	for dec := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var o exampleService
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if o.Kind == "Service" {
			found = append(found, o)
		}
	}
}

// The pods that the demo makes for a Service have to be those that the example's Service selects.
func TestServicesSelectTheDemosPods(t *testing.T) {
	for file, app := range map[string]string{"web.yaml": web.Name, "echo-grpc.yaml": echo.Name} {
		for i, s := range servicesOf(t, file) {
			if want := []string{"", "v1", "v2"}[i]; s.Spec.Selector["app"] != app || s.Spec.Selector["version"] != want {
				t.Errorf("%s: %s selects %v, want app %s and version %q", file, s.Metadata.Name, s.Spec.Selector, app, want)
			}
		}
	}
}

// The edit of step 4 has to find what it replaces.
func TestEditChangesTheWeights(t *testing.T) {
	b, err := examples.Files.ReadFile("route-split.yaml")
	if err != nil {
		t.Fatal(err)
	}
	edited := half(string(b))
	if strings.Count(string(b), "weight: 50") != 0 || strings.Count(edited, "weight: 50") != 2 || strings.Contains(edited, "weight: 90") {
		t.Errorf("edited:\n%s", edited)
	}
}

// A check that cannot fail shows nothing: each of these has to be an error.
func TestRequestsThatWentAstrayFailAStep(t *testing.T) {
	if err := allRouted(&traffic.Report{Requests: 10, Routed: 9}); err == nil {
		t.Error("a request that was not routed is no error")
	}
	if err := allRouted(&traffic.Report{Requests: 10, Failed: 1, Routed: 9}); err != nil {
		t.Error(err)
	}
	for _, share := range []int64{850, 950} {
		if err := near(&traffic.Report{Requests: 1000, Backends: map[string]int64{"web-v1": share}}, "web-v1", 0.9, tolerance); err == nil {
			t.Errorf("a share of %d in 1000 passes for 90 %%", share)
		}
	}
	if err := near(&traffic.Report{Requests: 1000, Backends: map[string]int64{"web-v1": 880}}, "web-v1", 0.9, tolerance); err != nil {
		t.Error(err)
	}
}

// What a connection does without a route is not what it does with one, and the reverse: each has to be told from the other.
func TestCallsThatWentAstrayFailAStep(t *testing.T) {
	one := func(edit func(*traffic.Report)) *traffic.Report {
		r := &traffic.Report{Requests: 300, Connections: 1, Backends: map[string]int64{"echo-grpc-v2": 300}, Codes: map[int]int64{0: 300}}
		edit(r)
		return r
	}
	for name, c := range map[string]struct {
		edit func(*traffic.Report)
		want string
	}{
		"as it should be":      {func(*traffic.Report) {}, ""},
		"shared":               {func(r *traffic.Report) { r.Backends = map[string]int64{"echo-grpc-v1": 299, "echo-grpc-v2": 1} }, "one of the two"},
		"two connections":      {func(r *traffic.Report) { r.Connections = 2 }, "2 connections"},
		"routed":               {func(r *traffic.Report) { r.Routed = 1 }, "no route"},
		"by a stranger":        {func(r *traffic.Report) { r.Backends = map[string]int64{"web-v1": 300} }, "one of the two"},
		"without any answerer": {func(r *traffic.Report) { r.Backends = nil }, "one of the two"},
	} {
		_, err := unshared(one(c.edit))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := oneConnection(&traffic.Report{Connections: 1}); err != nil {
		t.Error(err)
	}
	failed := &traffic.Report{Requests: 9, Failed: 2, Codes: map[int]int64{0: 7, 14: 1, 12: 1}, Failures: []traffic.Failure{{Target: "10.96.0.20:9000", Error: "no"}}}
	if err := callsFailed(failed); err == nil || !strings.Contains(err.Error(), "2 of 9") || !strings.Contains(err.Error(), "code 12: 1, code 14: 1") {
		t.Errorf("%v", err)
	}
	if err := callsFailed(one(func(*traffic.Report) {})); err != nil {
		t.Error(err)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sluice-agent"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{Bin: dir, Out: &bytes.Buffer{}})
	if err == nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "sluice-proxy is not beside") {
		t.Errorf("%v", err)
	}
}

// Where the output is no terminal, only what is finished is printed, without control characters.
func TestOutputIsPlainWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	stop := s.start()
	s.now("working")
	s.table([][]string{{"backend", "share"}, {"web-v1", "90 %"}})
	s.print("  %s done", s.tick())
	stop()
	if got, want := out.String(), "      backend   share\n      web-v1    90 %\n  ✓ done\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}
