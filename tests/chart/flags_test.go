package chart

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The programs read the flags that the chart gives them. What help tells comes after all flags were read.
func TestProgramsKnowTheirFlags(t *testing.T) {
	bin := t.TempDir()
	for program, pkg := range map[string]string{"sluice-agent": "./agent", "sluice-proxy": "./l7proxy"} {
		c := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, program), pkg)
		c.Dir = root
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", program, err, out)
		}
	}
	for name, file := range values(t) {
		for _, c := range rendered(t, "--values", file).daemonSet(t).Spec.Template.Spec.Containers {
			if out, err := tryFlags(t, bin, c); err != nil {
				t.Errorf("%s: %s %q: %v\n%s", name, c.Command[0], c.Args, err, out)
			}
		}
	}
}

func tryFlags(t *testing.T, bin string, c corev1.Container) ([]byte, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, c.Command[0]), append(slices.Clone(c.Args), "--help")...).CombinedOutput()
	first, _, _ := bytes.Cut(out, []byte("\nUsage"))
	return first, err
}
