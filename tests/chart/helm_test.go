// Package chart holds what is asserted about charts/sluice. It is a module of its own, and Helm one of its tools, so that
// Helm never enters the product's go.mod: `go tool helm` runs it here.
package chart

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	root  = "../.."
	chart = root + "/charts/sluice"
)

// update is set where what is generated is to be written instead of compared.
var update = os.Getenv("SLUICE_UPDATE") != ""

// helmPath builds Helm, which takes minutes the first time.
var helmPath = sync.OnceValues(func() (string, error) {
	var out, errOut bytes.Buffer
	c := exec.Command("go", "tool", "-n", "helm")
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("build helm: %w\n%s", err, &errOut)
	}
	return strings.TrimSpace(out.String()), nil
})

// helm runs it without any configuration of the user's. It returns what it prints to its standard output, and its error
// with what it prints to the other one.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := helmPath()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), path, args...)
	home := t.TempDir()
	c.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home, "KUBECONFIG="}
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, &errOut)
	}
	return out.String(), nil
}

// render renders the chart as release sluice in namespace sluice-system.
func render(t *testing.T, args ...string) string {
	t.Helper()
	out, err := helm(t, slices.Concat([]string{"template", "sluice", chart, "--namespace", "sluice-system"}, args)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// values are the files of values that the chart is rendered with, by name.
func values(t *testing.T) map[string]string {
	t.Helper()
	const suffix = ".values.yaml"
	paths, err := filepath.Glob("testdata/*" + suffix)
	if err != nil || len(paths) < 4 {
		t.Fatalf("%v, and in testdata only %v", err, paths)
	}
	out := map[string]string{}
	for _, p := range paths {
		out[strings.TrimSuffix(filepath.Base(p), suffix)] = p
	}
	return out
}

// same compares got with what the file at path holds, or writes it there.
func same(t *testing.T, path, got string) {
	t.Helper()
	if update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what comes out (SLUICE_UPDATE=1 writes it; -want +got):\n%s", path, diff)
	}
}

func TestLint(t *testing.T) {
	for name, file := range values(t) {
		out, err := helm(t, "lint", "--strict", "--values", file, chart)
		if err != nil || !strings.Contains(out, "1 chart(s) linted, 0 chart(s) failed") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestGoldenRenderings(t *testing.T) {
	for name, file := range values(t) {
		t.Run(name, func(t *testing.T) {
			same(t, filepath.Join("testdata", name+".golden.yaml"), withoutDashboard(t, render(t, "--values", file)))
		})
	}
}

// withoutDashboard takes out what would only make a golden long. TestConfigMapHasTheDashboard compares it.
func withoutDashboard(t *testing.T, text string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, "  sluice.json: |-\n")
	if !found {
		return text
	}
	_, after, found := strings.Cut(rest, "\n---\n")
	if !found {
		t.Fatal("the dashboard has no end")
	}
	return before + "  sluice.json: dashboards/sluice.json\n---\n" + after
}

// The notes say what to do next.
func TestNotes(t *testing.T) {
	for _, c := range []struct {
		name     string
		args     []string
		want     []string
		mustLack []string
	}{
		{"a cluster without the Gateway API", nil,
			[]string{"rollout status daemonset/sluice", "does not serve the Gateway API yet", "sluice.dev/mesh: disabled"}, []string{"mesh=enabled"}},
		{"one that serves it", []string{"--api-versions", "gateway.networking.k8s.io/v1/HTTPRoute"},
			[]string{"kind: HTTPRoute"}, []string{"does not serve"}},
		{"labelled", []string{"--set", "enrollment.mode=labelled"}, []string{"sluice.dev/mesh=enabled"}, []string{"left alone"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := notes(t, c.args...)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the notes lack %q:\n%s", want, out)
				}
			}
			for _, wrong := range c.mustLack {
				if strings.Contains(out, wrong) {
					t.Errorf("the notes have %q:\n%s", wrong, out)
				}
			}
		})
	}
}

// notes renders a copy of the chart in which the notes are an object: Helm prints them at a real installation only, and
// then without --api-versions.
func notes(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "templates", "NOTES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	object := "{{- define \"notes\" }}" + string(text) + "{{ end }}\nkind: Notes\nmetadata: {name: notes}\ntext: {{ include \"notes\" . | toJson }}\n"
	if err := os.WriteFile(filepath.Join(dir, "templates", "notes.yaml"), []byte(object), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := helm(t, slices.Concat([]string{"template", "sluice", dir, "--show-only", "templates/notes.yaml"}, args)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(out, `\n`, "\n")
}

// What is wrong with a value is said before anything is installed.
func TestSchemaRefuses(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"enrolment.mode=all", "additional properties 'enrolment' not allowed"},
		{"cni.confdir=/etc", "at '/cni': additional properties 'confdir' not allowed"},
		{"drainTimeoutSeconds=3", "additional properties 'drainTimeoutSeconds' not allowed"},
		{"enrollment.mode=some", "at '/enrollment/mode': value must be one of 'all', 'labelled'"},
		{"logLevel=loud", "at '/logLevel': value must be one of 'debug', 'info', 'warn', 'error'"},
		{"cni.enabled=maybe", "at '/cni/enabled': got string, want boolean"},
		{"cni.whenAway=hope", "at '/cni/whenAway': value must be one of 'start', 'wait', 'refuse'"},
		{"cni.binDir=opt/cni", "at '/cni/binDir': 'opt/cni' does not match"},
		{"cgroup=kubepods", "at '/cgroup': 'kubepods' does not match"},
		{"maxSurge=0", "at '/maxSurge': minimum: got 0, want 1"},
		{"maxSurge=200%", "at '/maxSurge': '200%' does not match"},
		{"proxy.drainTimeoutSeconds=-1", "at '/proxy/drainTimeoutSeconds': minimum: got -1, want 0"},
		{"proxy.accessLog=some", "at '/proxy/accessLog': value must be one of 'off', 'errors', 'all'"},
		{"proxy.seccompProfile.type=Localhost", "at '/proxy/seccompProfile': missing property 'localhostProfile'"},
		{"agent.seccompProfile.localhostProfile=a", "at '/agent/seccompProfile': 'not' failed"},
		{"agent.extraArgs[0]=bpffs", "at '/agent/extraArgs/0': 'bpffs' does not match"},
		{"agent.resources.limits.memory=lots", "at '/agent/resources/limits/memory'"},
		{"agent.resources.limit.memory=1Gi", "at '/agent/resources': additional properties 'limit' not allowed"},
		{"image.tag=v1+dirty", "at '/image/tag': 'v1+dirty' does not match"},
		{"image.digest=abc", "at '/image/digest': 'abc' does not match"},
		{"fullnameOverride=Mesh", "at '/fullnameOverride': 'Mesh' does not match"},
		{"serviceMonitor.interval=often", "at '/serviceMonitor/interval': 'often' does not match"},
		{"affinity.node.a=b", "at '/affinity': additional properties 'node' not allowed"},
		{"tolerations[0].operator=Never", "at '/tolerations/0/operator': value must be one of"},
	} {
		_, err := helm(t, "template", "sluice", chart, "--set", c.set)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %q", c.set, err, c.want)
		}
	}
}

// Helm's own check of versions keeps the chart from clusters whose API has no AppArmor profiles yet.
func TestOldClustersAreRefused(t *testing.T) {
	if _, err := helm(t, "template", "sluice", chart, "--kube-version", "1.29.9"); err == nil || !strings.Contains(err.Error(), "kubeVersion") {
		t.Errorf("%v", err)
	}
}
