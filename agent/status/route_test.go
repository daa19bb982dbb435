package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

const gatewayParent = `{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}`

// foreign is an entry of another controller, with fields that we know nothing of and in an order that is not ours.
const foreign = `{"zeta": {"n": 1.5, "deep": [null, true]}, "controllerName": "example.com/gateway", "parentRef": {"name": "g", "later": "yes"},
	"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z", "observedGeneration": 1, "severity": "low"}]}`

// entries are the entries of a route's status, as text.
func (w *world) entries(name string) []string {
	var all []string
	status, _ := w.get(routePath(name))["status"].(object)
	parents, _ := status["parents"].([]any)
	for _, p := range parents {
		all = append(all, string(encodeObject(p)))
	}
	return all
}

// write sets the entries of a route's status, as somebody else would.
func (w *world) write(name string, entries ...string) {
	w.t.Helper()
	w.edit(routePath(name), "status", func(o object) {
		list := []any{}
		for _, e := range entries {
			list = append(list, decodeObject([]byte(e)))
		}
		o["status"] = object{"parents": list, "unknown": "kept"}
	})
}

func canonical(text string) string { return string(encodeObject(decodeObject([]byte(text)))) }

// writes are the patches of statuses.
func (w *world) writes() int { return len(w.sent(http.MethodPatch, "/status")) }

// S-1, S-3, S-6: a route without a status has one entry for each Service parent.
func TestS1FirstStatus(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"), gatewayParent, service("b"))
		w.put("/apis/gateway.networking.k8s.io/v1/namespaces/shop/grpcroutes/r", `{"spec": {"parentRefs": [`+service("a")+`]}}`)
		a := w.start("n1", "p1")
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine+"; b: "+fine)
		w.expect("writes", fmt.Sprint(w.writes()), "2")
		if e := w.entries("r")[0]; !strings.Contains(e, `"parentRef":{"group":"","kind":"Service","name":"a"}`) {
			t.Errorf("the parentRef is not the route's: %s", e)
		}
		if a.metric("sluice_agent_status_leader", "") != 1 || a.metric("sluice_agent_status_writes_total", ofRoute) != 2 {
			t.Error("the metrics do not say so")
		}
		w.after(time.Minute)
		w.settle()
		w.expect("writes, although nothing changed (S-7)", fmt.Sprint(w.writes()), "2")
	})
}

// S-4: what others wrote stays as it is, byte for byte and where it is, also what no type of ours has a field for.
func TestS4ForeignEntriesStay(t *testing.T) {
	bubble(t, func(w *world) {
		other := strings.ReplaceAll(foreign, "example.com/gateway", "example.com/mesh")
		w.route("r", service("a"), gatewayParent)
		w.write("r", foreign, other)
		w.start("n1", "p1")
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine)

		// Ours is in the middle now, and changes there.
		mine := w.entries("r")[2]
		w.write("r", foreign, mine, other)
		w.route("r", service("a"), gatewayParent, service("b"))
		w.settle()
		got := w.entries("r")
		if len(got) != 4 || got[0] != canonical(foreign) || got[2] != canonical(other) {
			t.Errorf("entries:\n%s", strings.Join(got, "\n"))
		}
		w.expect("status", w.says("r"), strings.ReplaceAll("a: "+fine+"; b: "+fine, "@1", "@2"))
		if v := field(w.get(routePath("r")), "status", "unknown"); v != "kept" {
			t.Errorf("a field of the status is gone: %q", v)
		}
	})
}

// S-5: our entry goes with its parentRef, and when the route is none of ours any more; a route that never was is not
// touched. A list that was ours alone is empty, not null (S-3).
func TestS5StaleEntriesGo(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"), service("b"))
		w.route("never", gatewayParent)
		w.write("never", foreign)
		w.start("n1", "p1")
		w.settle()
		w.route("r", service("b"))
		w.settle()
		w.expect("one left", w.says("r"), "b: "+strings.ReplaceAll(fine, "@1", "@2"))
		w.route("r", gatewayParent)
		w.settle()
		w.expect("none left", w.says("r"), "")
		if parents, ok := w.get(routePath("r"))["status"].(object)["parents"].([]any); !ok || len(parents) != 0 {
			t.Errorf("status.parents is %v", parents)
		}
		if n := len(w.sent(http.MethodPatch, "/never/")); n != 0 {
			t.Errorf("a route of others was written %d times", n)
		}
	})
}

// S-5, S-1: entries of ours that are there twice become one; a parentRef that differs only in what is written out is
// another.
func TestS1EntriesOfOneParent(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", `{"group": "", "kind": "Service", "name": "a", "namespace": "shop"}`)
		entry := `{"controllerName": "sluice.dev/mesh", "parentRef": {"group": "", "kind": "Service", "name": "a"%s}, "conditions": []}`
		full := fmt.Sprintf(entry, `, "namespace": "shop"`)
		w.write("r", fmt.Sprintf(entry, ""), full, foreign, full)
		w.start("n1", "p1")
		w.settle()
		got := w.entries("r")
		if len(got) != 2 || !strings.Contains(got[0], `"namespace":"shop"`) || got[1] != canonical(foreign) {
			t.Errorf("entries:\n%s", strings.Join(got, "\n"))
		}
		w.expect("status", w.says("r"), "a: "+fine)
	})
}

// S-6: every condition says which generation it is of, although it says the same otherwise; its transition is not new (S-7).
func TestS6ObservedGeneration(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		w.start("n1", "p1")
		w.settle()
		first := w.transitions("r")
		w.after(time.Hour)
		w.edit(routePath("r"), "", func(o object) { o["spec"].(object)["hostnames"] = []any{"x"} })
		w.settle()
		w.expect("status", w.says("r"), "a: "+strings.ReplaceAll(fine, "@1", "@2"))
		if now := w.transitions("r"); !slices.Equal(now, first) {
			t.Errorf("transitions were %v, are %v", first, now)
		}
	})
}

// S-7: the time of a transition is that of the condition whose status changed, and of no other.
func TestS7TransitionTime(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		a := w.start("n1", "p1")
		w.settle()
		first := w.transitions("r")
		w.after(time.Hour)
		a.verdicts = func(model.RouteRef) []metav1.Condition {
			return []metav1.Condition{
				{Type: "Accepted", Status: "True", Reason: "Accepted", Message: "other words"}, {Type: "ResolvedRefs", Status: "False", Reason: "BackendNotFound", Message: "gone"},
			}
		}
		w.settle()
		now := w.transitions("r")
		if now[0] != first[0] || now[1] == first[1] {
			t.Errorf("transitions were %v, are %v", first, now)
		}
		if !strings.Contains(w.entries("r")[0], "other words") {
			t.Error("the message was not written")
		}
	})
}

func (w *world) transitions(name string) []string {
	var e struct{ Conditions []metav1.Condition }
	if err := json.Unmarshal([]byte(w.entries(name)[0]), &e); err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, c := range e.Conditions {
		all = append(all, c.LastTransitionTime.UTC().Format(time.RFC3339))
	}
	return all
}

// S-6: what was compiled from an older generation, or from a route of the same name that is gone, is not written.
func TestS6OlderGenerationIsNotWritten(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		w.route("again", service("a"))
		a := w.start("n1", "p1")
		w.after(5 * time.Second)
		var once, twice sync.Once
		w.intercept(func(r request) *metav1.Status { // the source lags behind
			switch {
			case r.Method == http.MethodPatch && strings.Contains(r.Path, "/r/"):
				once.Do(func() { w.route("r", service("b")) })
			case r.Method == http.MethodPatch:
				twice.Do(func() {
					w.delete(routePath("again"))
					w.route("again", service("a"))
				})
			}
			return nil
		})
		a.observe()
		w.after(time.Minute)
		w.expect("r", w.says("r"), "")
		w.expect("again", w.says("again"), "")
		w.settle()
		w.expect("r", w.says("r"), "b: "+strings.ReplaceAll(fine, "@1", "@2"))
		w.expect("again", w.says("again"), "a: "+fine)
	})
}

// An entry that says it is of a generation that the route does not have yet, as a restored backup does, is put right.
func TestS6GenerationFromABackup(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		w.write("r", `{"controllerName": "sluice.dev/mesh", "parentRef": {"group": "", "kind": "Service", "name": "a"}, "conditions": [
			{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "bound", "observedGeneration": 57, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}`)
		w.start("n1", "p1")
		w.settle()
		w.expect("r", w.says("r"), "a: "+fine)
	})
}

// S-3: the API takes 32 entries. Those of others stay; what there is no room for is left out, and said in the log.
func TestS3LimitOfParents(t *testing.T) {
	bubble(t, func(w *world) {
		var parents, others []string
		for i := range 5 {
			parents = append(parents, service(fmt.Sprintf("s%d", i)))
		}
		for i := range 30 {
			others = append(others, strings.ReplaceAll(foreign, `"g"`, fmt.Sprintf(`"g%d"`, i)))
		}
		w.route("r", parents...)
		w.write("r", others...)
		a := w.start("n1", "p1")
		w.settle()
		w.expect("status", w.says("r"), "s0: "+fine+"; s1: "+fine)
		if n := len(w.entries("r")); n != 32 {
			t.Errorf("%d entries", n)
		}
		if !strings.Contains(a.log.String(), "3 are left out") {
			t.Error("nothing is said of it")
		}
		before := w.writes()
		w.settle()
		w.expect("writes", fmt.Sprint(w.writes()), fmt.Sprint(before))
	})
}

// A status that somebody else writes at the same time is read again, as often as it takes.
func TestS4Conflicts(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		a := w.start("n1", "p1")
		w.after(5 * time.Second)
		left := 12
		w.intercept(func(r request) *metav1.Status {
			if r.Method == http.MethodPatch && left > 0 {
				left--
				w.write("r", strings.ReplaceAll(foreign, `"g"`, fmt.Sprintf(`"g%d"`, left)))
			}
			return nil
		})
		a.observe()
		w.after(10 * time.Second)
		w.expect("status", w.says("r"), "a: "+fine)
		if got := w.entries("r"); len(got) != 2 || got[0] != canonical(strings.ReplaceAll(foreign, `"g"`, `"g0"`)) {
			t.Errorf("entries:\n%s", strings.Join(got, "\n"))
		}
		if n := a.metric("sluice_agent_status_conflicts_total", ""); n != 12 {
			t.Errorf("%v conflicts were counted", n)
		}
	})
}

// A status that cannot be written is tried again, less and less often, however often anything else changes; a change of
// the route by its owner is tried at once.
func TestFailuresArePutOff(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		a := w.start("n1", "p1")
		w.after(5 * time.Second)
		w.intercept(func(r request) *metav1.Status {
			if r.Method == http.MethodPatch {
				return refusal(403, metav1.StatusReasonForbidden, "not you")
			}
			return nil
		})
		for range 600 { // a minute
			a.observe()
			w.after(100 * time.Millisecond)
		}
		n := w.writes()
		if n < 5 || n > 9 {
			t.Errorf("%d attempts in a minute", n)
		}
		if !strings.Contains(a.log.String(), "not you") || a.metric("sluice_agent_status_failures_total", ofRoute) != float64(n) {
			t.Error("the failures are not told of")
		}
		w.route("r", service("b"))
		a.observe()
		w.after(time.Second)
		if w.writes() <= n {
			t.Error("the change of the route waits")
		}
		w.intercept(nil)
		w.after(3 * time.Minute)
		w.expect("status", w.says("r"), "b: "+strings.ReplaceAll(fine, "@1", "@2"))
	})
}

// At start, 5,000 statuses are due. They take no longer than the limit of requests makes them, and who changes a route
// meanwhile does not wait behind them.
func TestFiveThousandRoutesAtStart(t *testing.T) {
	bubble(t, func(w *world) {
		w.latency = 5 * time.Millisecond
		const routes = 5000
		for i := range routes {
			w.route(fmt.Sprintf("r%04d", i), service("a"))
		}
		a := w.start("n1", "p1")
		a.observe()
		w.after(5 * time.Second)
		if n := w.writes(); n < 200 || n > 2000 {
			t.Fatalf("%d writes after five seconds", n)
		}
		var last int
		for n := range 3 { // one that is still to be written, one that was written, one that is new
			name := []string{"r0001", "r4999", "new"}[n]
			w.route(name, service("b"))
			a.observe()
			w.after(300 * time.Millisecond)
			if got := w.says(name); !strings.HasPrefix(got, "b: Accepted=True") {
				t.Errorf("%s says %q after 300 ms", name, got)
			}
		}
		begin := time.Now()
		for last = w.writes(); time.Since(begin) < time.Minute; last = w.writes() {
			a.observe() // the source sees what was written
			w.after(4 * time.Second)
			if w.writes() == last {
				break
			}
		}
		took := time.Since(begin)
		missing := 0
		for i := range routes {
			if w.says(fmt.Sprintf("r%04d", i)) == "" {
				missing++
			}
		}
		t.Logf("%d statuses took %v more, with %d requests", routes, took, last)
		if missing > 0 || took > 27*time.Second {
			t.Errorf("%d are missing after %v", missing, took)
		}
		if conflicts := a.metric("sluice_agent_status_conflicts_total", ""); last > routes+20 || conflicts > 20 {
			t.Errorf("%d writes, %v conflicts", last, conflicts)
		}
		if a.metric("sluice_agent_status_pending", "") != 0 {
			t.Error("some are said to be pending")
		}
	})
}
