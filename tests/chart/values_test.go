package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// value is one that a user may set.
type value struct{ path, byDefault, about string }

// readValues returns the values of values.yaml in their order. A mapping whose keys are commented on is a group.
func readValues(t *testing.T) []value {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return valuesIn(t, doc.Content[0], "")
}

func valuesIn(t *testing.T, mapping *yaml.Node, under string) []value {
	t.Helper()
	var out []value
	for pair := range slices.Chunk(mapping.Content, 2) {
		key, v := pair[0], pair[1]
		if v.Kind == yaml.MappingNode && len(v.Content) > 0 && v.Content[0].HeadComment != "" {
			out = append(out, valuesIn(t, v, under+key.Value+".")...)
			continue
		}
		var about []string
		for line := range strings.Lines(key.HeadComment) {
			about = append(about, strings.TrimSpace(strings.TrimPrefix(line, "#")))
		}
		out = append(out, value{under + key.Value, flow(t, v), strings.Join(about, " ")})
	}
	return out
}

// flow is v in one line.
func flow(t *testing.T, v *yaml.Node) string {
	t.Helper()
	c := *v
	c.Style |= yaml.FlowStyle
	c.HeadComment, c.LineComment, c.FootComment = "", "", ""
	out, err := yaml.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// changed says, for each value, another one than the default.
func changed() map[string]string {
	return map[string]string{
		"image.repository":          "images.example/sluice",
		"image.tag":                 "other",
		"image.digest":              "sha256:" + strings.Repeat("0", 64),
		"image.pullPolicy":          "Always",
		"imagePullSecrets":          `[{"name": "images"}]`,
		"fullnameOverride":          "mesh",
		"logLevel":                  "debug",
		"enrollment.mode":           "labelled",
		"referenceGrants":           "false",
		"cgroup":                    "/sys/fs/cgroup/kubepods",
		"cni.enabled":               "false",
		"cni.remove":                "true",
		"cni.binDir":                "/home/bin",
		"cni.confDir":               "/home/etc",
		"cni.whenAway":              "refuse",
		"agent.resources":           `{"limits": {"memory": "1Gi"}}`,
		"agent.extraArgs":           `["--zone=a"]`,
		"agent.seccompProfile":      `{"type": "Unconfined"}`,
		"agent.appArmorProfile":     `{"type": "RuntimeDefault"}`,
		"proxy.resources":           `{"limits": {"memory": "1Gi"}}`,
		"proxy.extraArgs":           `["--threads=2"]`,
		"proxy.seccompProfile":      `{"type": "Unconfined"}`,
		"proxy.appArmorProfile":     `{"type": "Unconfined"}`,
		"proxy.drainTimeoutSeconds": "60",
		"proxy.accessLog":           "off",
		"seLinuxOptions":            `{"type": "spc_t"}`,
		"priorityClassName":         "other",
		"nodeSelector":              `{"mesh": "true"}`,
		"affinity":                  `{"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}`,
		"tolerations":               `[]`,
		"maxSurge":                  "5",
		"podAnnotations":            `{"team": "net"}`,
		"podLabels":                 `{"team": "net"}`,
		"serviceMonitor.enabled":    "true",
		"serviceMonitor.labels":     `{"prometheus": "main"}`,
		"serviceMonitor.interval":   "15s",
		"dashboard.enabled":         "true",
		"dashboard.labels":          `{"found": "yes"}`,
	}
}

func TestEveryValueHasAnEffect(t *testing.T) {
	// What is off by default has to be on for its own values to be seen.
	on := []string{"--set", "serviceMonitor.enabled=true", "--set", "dashboard.enabled=true"}
	off := []string{"--set", "cni.enabled=false"}
	plain, withAll, without := render(t), render(t, on...), render(t, off...)
	others := changed()
	for _, v := range readValues(t) {
		to, found := others[v.path]
		delete(others, v.path)
		switch {
		case !found:
			t.Errorf("%s: say here to what it is to be changed", v.path)
			continue
		case v.about == "":
			t.Errorf("%s: values.yaml does not say what it is", v.path)
		}
		set := []string{"--set-json", v.path + "=" + asJSON(to)}
		from, base := withAll, on
		switch {
		case v.path == "cni.remove":
			from, base = without, off
		case strings.HasSuffix(v.path, ".enabled") && v.byDefault == "false":
			from, base = plain, nil
		}
		if render(t, slices.Concat(base, set)...) == from {
			t.Errorf("%s=%s changes nothing", v.path, to)
		}
	}
	for path := range others {
		t.Errorf("%s is not in values.yaml", path)
	}
}

// asJSON puts words into quotes.
func asJSON(v string) string {
	var parsed any
	if err := yaml.Unmarshal([]byte(v), &parsed); err == nil {
		if word, is := parsed.(string); is {
			return fmt.Sprintf("%q", word)
		}
	}
	return v
}

func TestDocsListTheValues(t *testing.T) {
	var b strings.Builder
	b.WriteString("| value | default | what it is |\n|---|---|---|\n")
	for _, v := range readValues(t) {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", v.path, v.byDefault, v.about)
	}
	generated(t, "values", b.String())
}

// generated compares a section of docs/install.md with text, or writes it.
func generated(t *testing.T, section, text string) {
	t.Helper()
	const path = root + "/docs/install.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- begin: "+section+", written by tests/chart -->\n", "<!-- end: "+section+" -->\n"
	before, rest, found := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no section between %q and %q", path, begin, end)
	}
	same(t, path, before+begin+text+end+after)
}
