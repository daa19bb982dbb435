package chart

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	corev1 "k8s.io/api/core/v1"
)

type dashboard struct {
	Panels []struct {
		ID      int
		Title   string
		Type    string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) (text string, d dashboard) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(chart, "dashboards", "sluice.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatal(err)
	}
	return string(body), d
}

// metrics are those that the programs register, by what stands in their source.
func metrics(t *testing.T) map[string]bool {
	t.Helper()
	prefixes := map[string]string{"gauge": "sluice_agent_", "byLabel": "sluice_agent_", "ofSeries": "sluice_", "ofClient": "sluice_"}
	named := regexp.MustCompile(`(\w+)\("([a-z_]+)",`)
	whole := regexp.MustCompile(`"(sluice_[a-z_]+[a-z])"`)
	found := map[string]bool{"process_resident_memory_bytes": true, "process_cpu_seconds_total": true}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		top, _, _ := strings.Cut(filepath.ToSlash(strings.TrimPrefix(path, root+"/")), "/")
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && top != "agent" && top != "l7proxy":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), "prometheus") {
			return nil
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			prefix := prefixes[m[1]]
			if prefix == "sluice_agent_" && top == "l7proxy" {
				prefix = "sluice_proxy_"
			}
			if prefix != "" {
				found[prefix+m[2]] = true
			}
		}
		for _, m := range whole.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDashboardAsksForMetricsThatExist(t *testing.T) {
	_, d := readDashboard(t)
	known := metrics(t)
	var asked int
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			// What Grafana replaces.
			text := strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*", "$service", ".*", "$job", ".*").Replace(target.Expr)
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
			if err != nil {
				t.Errorf("%s: %s: %v", p.Title, target.Expr, err)
				continue
			}
			for _, selectors := range parser.ExtractSelectors(expr) {
				asked++
				name := metricOf(selectors)
				if !known[name] && !known[strings.TrimSuffix(name, "_bucket")] {
					t.Errorf("%s: there is no metric %q", p.Title, name)
				}
			}
		}
	}
	if asked < 20 {
		t.Errorf("it asks for %d metrics", asked)
	}
}

func metricOf(selectors []*labels.Matcher) string {
	for _, m := range selectors {
		if m.Name == "__name__" {
			return m.Value
		}
	}
	return ""
}

func TestPanelsDoNotMeet(t *testing.T) {
	_, d := readDashboard(t)
	taken, ids := map[string]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s has the id of another one", p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := fmt.Sprintf("%d,%d", p.GridPos.X+x, p.GridPos.Y+y)
				if taken[at] != "" {
					t.Fatalf("%s is above %s at %s", p.Title, taken[at], at)
				}
				taken[at] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is beyond the page", p.Title)
		}
	}
}

func TestConfigMapHasTheDashboard(t *testing.T) {
	want, _ := readDashboard(t)
	got := the[*corev1.ConfigMap](t, rendered(t, "--set", "dashboard.enabled=true"))
	if strings.TrimSpace(got.Data["sluice.json"]) != strings.TrimSpace(want) || got.Labels["grafana_dashboard"] != "1" {
		t.Errorf("labels %v, dashboard:\n%s", got.Labels, got.Data["sluice.json"])
	}
}
