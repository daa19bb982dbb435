package watch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestConnect(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	for path, text := range map[string]string{
		good: "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://a.test:6443'}}]\nusers: [{name: a, user: {token: b}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n",
		bad:  "clusters: 1\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"": "name a kubeconfig outside of one", bad: "read the kubeconfig " + bad, filepath.Join(dir, "none"): "no such file"} {
		if _, err := Connect(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", path, err, want)
		}
	}
	c, err := Connect(good)
	if err != nil || c.Host != "https://a.test:6443" || c.BearerToken != "b" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.fill()
		r := start(t, f)
		f.put(services, aService("b"))
		synctest.Sleep(soon)
		f.listener.setAway(true)
		synctest.Sleep(time.Second)
		registry := prometheus.NewRegistry()
		registry.MustRegister(r.metrics.errors, r.metrics.published, counts(r.kinds))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		if got["sluice_agent_objects Service"] != 2 || got["sluice_agent_objects GRPCRoute"] != 1 || got["sluice_agent_published_sets_total"] != 2 || got["sluice_agent_watch_errors_total Service"] == 0 {
			t.Errorf("%v", got)
		}
	})
}
