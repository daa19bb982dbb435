package demo

import (
	"bytes"
	"errors"
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

// The lab plays kube-proxy for the Services of examples/web.yaml: both have to mean the same addresses.
func TestServicesAreThoseOfTheExamples(t *testing.T) {
	b, err := examples.Files.ReadFile("web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for dec := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				ClusterIPs []string `yaml:"clusterIPs"`
				Ports      []struct {
					Port       uint16
					TargetPort uint16 `yaml:"targetPort"`
				}
			}
		}
		if dec.Decode(&o) != nil {
			break
		}
		for _, s := range []lab.Service{web, webV1, webV2} {
			if o.Kind != "Service" || o.Metadata.Name != s.Name {
				continue
			}
			found[s.Name] = true
			want := []string{s.ClusterIPs[0].String(), s.ClusterIPs[1].String()}
			if !slices.Equal(o.Spec.ClusterIPs, want) || o.Spec.Ports[0].Port != s.Port || o.Spec.Ports[0].TargetPort != s.TargetPort {
				t.Errorf("%s: the YAML has %+v, the demo %+v", s.Name, o.Spec, s)
			}
		}
	}
	if len(found) != 3 {
		t.Errorf("examples/web.yaml has only %v", found)
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
		if err := near(&traffic.Report{Requests: 1000, Backends: map[string]int64{"web-v1": share}}, 0.9, tolerance); err == nil {
			t.Errorf("a share of %d in 1000 passes for 90 %%", share)
		}
	}
	if err := near(&traffic.Report{Requests: 1000, Backends: map[string]int64{"web-v1": 880}}, 0.9, tolerance); err != nil {
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
