package watch

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func aDaemonSet(uid string, finalizers ...string) map[string]any {
	m := map[string]any{"namespace": "sluice-system", "name": "sluice", "uid": uid}
	if len(finalizers) > 0 {
		m["deletionTimestamp"], m["finalizers"] = "2026-01-01T00:00:00Z", finalizers
	}
	return map[string]any{"metadata": m}
}

// owned runs an Owner until the end of the test.
func owned(t *testing.T, f *fakeAPI) (*Owner, *lines) {
	t.Helper()
	log := &lines{}
	o, err := NewOwner(OwnerConfig{REST: f.config(), Namespace: "sluice-system", DaemonSet: "sluice", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.close()
		synctest.Wait()
	})
	synctest.Sleep(soon)
	return o, log
}

func refuseWith(code int) func(*http.Request) int { return func(*http.Request) int { return code } }

// What counts as an uninstallation and what does not, while the watch runs.
func TestUninstalled(t *testing.T) {
	for name, c := range map[string]struct {
		with func(f *fakeAPI)
		gone bool
	}{
		"nothing":               {func(*fakeAPI) {}, false},
		"another version":       {func(f *fakeAPI) { f.put(daemonSets, aDaemonSet("1")) }, false},
		"deleted":               {func(f *fakeAPI) { f.remove(daemonSets, "sluice-system", "sluice") }, true},
		"deleted in foreground": {func(f *fakeAPI) { f.put(daemonSets, aDaemonSet("1", "foregroundDeletion")) }, true},
		"deleted and permission taken": {func(f *fakeAPI) {
			f.remove(daemonSets, "sluice-system", "sluice")
			f.change(func() { f.refuse = refuseWith(http.StatusForbidden) })
		}, true},
		"deleted while the watch was away": {func(f *fakeAPI) {
			f.listener.setAway(true)
			f.remove(daemonSets, "sluice-system", "sluice")
			f.cutWatches(true)
			synctest.Sleep(time.Second)
			f.listener.setAway(false)
		}, true},
		"made anew while the watch was away": {func(f *fakeAPI) {
			f.listener.setAway(true)
			f.remove(daemonSets, "sluice-system", "sluice")
			f.put(daemonSets, aDaemonSet("2"))
			f.cutWatches(true)
			synctest.Sleep(time.Second)
			f.listener.setAway(false)
		}, true},
		"deleted without its pods": {func(f *fakeAPI) {
			f.put(daemonSets, aDaemonSet("1", "orphan"))
			f.remove(daemonSets, "sluice-system", "sluice")
			f.put(daemonSets, aDaemonSet("2"))
		}, false},
		"deleted without its pods, and then with them": {func(f *fakeAPI) {
			f.put(daemonSets, aDaemonSet("1", "orphan"))
			f.remove(daemonSets, "sluice-system", "sluice")
			f.put(daemonSets, aDaemonSet("2"))
			f.remove(daemonSets, "sluice-system", "sluice")
		}, true},
		"another DaemonSet deleted": {func(f *fakeAPI) {
			f.put(daemonSets, map[string]any{"metadata": map[string]any{"namespace": "sluice-system", "name": "other"}})
			f.remove(daemonSets, "sluice-system", "other")
		}, false},
		"permission taken": {func(f *fakeAPI) {
			f.change(func() { f.refuse = refuseWith(http.StatusForbidden) })
			f.cutWatches(true)
		}, false},
		"token taken": {func(f *fakeAPI) {
			f.change(func() { f.refuse = refuseWith(http.StatusUnauthorized) })
			f.cutWatches(true)
		}, false},
		"server away": {func(f *fakeAPI) { f.listener.setAway(true) }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			f.put(daemonSets, aDaemonSet("1"))
			o, _ := owned(t, f)
			c.with(f)
			synctest.Sleep(time.Minute)
			if o.isGone() != c.gone {
				t.Errorf("%s: uninstalled %v, want %v", name, o.isGone(), c.gone)
			}
		})
	}
}

// Whoever is told to end asks, even if the watch has not been told yet. What cannot be known is an error.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		with func(f *fakeAPI)
		gone bool
		err  string
	}{
		"there":                 {func(*fakeAPI) {}, false, ""},
		"deleted":               {func(f *fakeAPI) { f.remove(daemonSets, "sluice-system", "sluice") }, true, ""},
		"deleted in foreground": {func(f *fakeAPI) { f.put(daemonSets, aDaemonSet("1", "foregroundDeletion")) }, true, ""},
		"made anew": {func(f *fakeAPI) {
			f.remove(daemonSets, "sluice-system", "sluice")
			f.put(daemonSets, aDaemonSet("2"))
		}, true, ""},
		"orphaned":         {func(f *fakeAPI) { f.put(daemonSets, aDaemonSet("1", "orphan")) }, false, ""},
		"permission taken": {func(f *fakeAPI) { f.refuse = refuseWith(http.StatusForbidden) }, false, "refused by the test"},
		"token taken":      {func(f *fakeAPI) { f.refuse = refuseWith(http.StatusUnauthorized) }, false, "refused by the test"},
		"broken":           {func(f *fakeAPI) { f.refuse = refuseWith(http.StatusServiceUnavailable) }, false, "deadline exceeded"},
		"away":             {func(f *fakeAPI) { f.listener.setAway(true) }, false, "connection refused"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			t.Cleanup(func() {
				f.close()
				synctest.Wait()
			})
			f.put(daemonSets, aDaemonSet("1"))
			o, err := NewOwner(OwnerConfig{REST: f.config(), Namespace: "sluice-system", DaemonSet: "sluice"})
			if err != nil {
				t.Fatal(err)
			}
			o.see(&metav1.PartialObjectMetadata{UID: types.UID("1")}) // there is no watch
			c.with(f)
			begin := time.Now()
			gone, err := o.Gone(t.Context())
			if gone != c.gone || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, %v", name, gone, err)
			}
			if took := time.Since(begin); took > gonePatience {
				t.Errorf("%s: it took %v", name, took)
			}
		})
	}
}

// A DaemonSet that was never there is a wrong name, not an uninstallation.
func TestADaemonSetThatWasNeverThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		o, log := owned(t, f)
		synctest.Sleep(time.Minute)
		gone, err := o.Gone(t.Context())
		if o.isGone() || gone || err == nil || log.count("correct --daemonset") != 1 {
			t.Errorf("gone %v, %v; log:\n%s", gone, err, log.String())
		}
	})
}

func TestOwnerThatMayNotWatchSaysSoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		f.refuse = refuseWith(http.StatusForbidden)
		_, log := owned(t, f)
		synctest.Sleep(time.Hour)
		if log.count("level=") != 1 || log.count("an uninstallation is not noticed") != 1 {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

func TestNewOwnerRefuses(t *testing.T) {
	for _, c := range []OwnerConfig{{REST: (&fakeAPI{}).config(), DaemonSet: "a"}, {REST: (&fakeAPI{}).config(), Namespace: "a"}, {Namespace: "a", DaemonSet: "a"}} {
		if _, err := NewOwner(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestZone(t *testing.T) {
	for name, c := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"label":            {map[string]string{"topology.kubernetes.io/zone": "a", "failure-domain.beta.kubernetes.io/zone": "b"}, "a"},
		"deprecated label": {map[string]string{"failure-domain.beta.kubernetes.io/zone": "b"}, "b"},
		"none":             {nil, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeAPI(t)
			f.put(nodes, &corev1.Node{Name: thisNode, Labels: c.labels})
			f.listener.setAway(true)
			r := start(t, f)
			go func() {
				time.Sleep(time.Minute)
				f.listener.setAway(false)
			}()
			if zone, err := r.Zone(t.Context()); err != nil || zone != c.want {
				t.Errorf("%s: %q, %v", name, zone, err)
			}
		})
	}
}

func TestZoneThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI(t)
		r := start(t, f)
		if _, err := r.Zone(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no Node n1") {
			t.Errorf("no such node: %v", err)
		}
		f.change(func() { f.refuse = refuseWith(http.StatusForbidden) })
		if _, err := r.Zone(t.Context()); err == nil || !strings.Contains(err.Error(), "read the zone of Node n1: refused") {
			t.Errorf("refused: %v", err)
		}
		f.listener.setAway(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Zone(ctx); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("away: %v", err)
		}
	})
}
