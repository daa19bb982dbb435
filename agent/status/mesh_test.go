package status

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// meshSays is the status of an XMesh in short: each condition, and how many features there are.
func (w *world) meshSays(name string) string {
	o := w.get(meshPath + name)
	if o == nil {
		return "gone"
	}
	status, _ := o["status"].(object)
	var parts []string
	conditions, _ := status["conditions"].([]any)
	for _, c := range conditions {
		parts = append(parts, fmt.Sprintf("%s=%s/%s", c.(object)["type"], c.(object)["status"], c.(object)["reason"]))
	}
	features, _ := status["supportedFeatures"].([]any)
	return fmt.Sprintf("%s %d", strings.Join(parts, " "), len(features))
}

const pending = `"status": {"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"},
	{"type": "Theirs", "status": "True", "reason": "Kept", "message": "", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}`

// GEP-3949: where the kind is served, from the start or later, there is an XMesh that says what we support. It is made
// with nothing but our name, and a spec is never written again.
func TestXMeshIsMade(t *testing.T) {
	bubble(t, func(w *world) {
		a := w.start("n1", "p1")
		w.after(time.Minute)
		if strings.Contains(a.log.String(), "XMesh") {
			t.Error("it is logged that the kind is missing")
		}
		w.serve("xmeshes")
		w.after(time.Minute)
		w.expect("status", w.meshSays("sluice"), fmt.Sprintf("Accepted=True/Accepted %d", len(Features())))
		if spec := string(encodeObject(w.get(meshPath + "sluice")["spec"])); spec != `{"controllerName":"sluice.dev/mesh"}` {
			t.Errorf("the spec is %s", spec)
		}
		var names []string
		for _, f := range w.get(meshPath + "sluice")["status"].(object)["supportedFeatures"].([]any) {
			names = append(names, f.(object)["name"].(string))
		}
		if !slices.IsSorted(names) || len(names) > 64 || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("features: %v", names)
		}
		before := len(w.sent(http.MethodPut, "/xmeshes/"))
		w.after(time.Hour)
		w.expect("writes of what is right", fmt.Sprint(len(w.sent(http.MethodPut, "/xmeshes/"))), fmt.Sprint(before))
		w.delete(meshPath + "sluice") // by a user, who does not want it back
		w.after(time.Minute)
		w.expect("deleted", w.meshSays("sluice"), "gone")
	})
}

// GEP-3949: the XMesh objects that name us have a status, whatever their name is; the others are left alone, and where one
// of those has our name, that is said.
func TestXMeshOfOthers(t *testing.T) {
	bubble(t, func(w *world) {
		w.serve("xmeshes")
		w.put(meshPath+"sluice", `{"spec": {"controllerName": "example.com/mesh"}, `+pending+`}`)
		w.put(meshPath+"ours", `{"spec": {"controllerName": "sluice.dev/mesh"}, `+pending+`}`)
		a := w.start("n1", "p1")
		w.after(time.Second)
		w.expect("theirs", w.meshSays("sluice"), "Accepted=Unknown/Pending Theirs=True/Kept 0")
		w.expect("ours", w.meshSays("ours"), fmt.Sprintf("Accepted=True/Accepted Theirs=True/Kept %d", len(Features())))
		if n := strings.Count(a.log.String(), "belongs to another controller"); n != 1 {
			t.Errorf("it is said %d times", n)
		}
		w.edit(meshPath+"ours", "", func(o object) {
			o["spec"].(object)["parametersRef"] = object{"group": "", "kind": "ConfigMap", "name": "x"}
		})
		w.after(time.Second)
		w.expect("with parameters", w.meshSays("ours"), "Accepted=False/InvalidParameters Theirs=True/Kept 0")
		if g := w.get(meshPath + "ours")["status"].(object)["conditions"].([]any)[0].(object)["observedGeneration"]; g != 2.0 {
			t.Errorf("observedGeneration is %v", g)
		}
	})
}

// A status that cannot be written is tried again.
func TestXMeshFails(t *testing.T) {
	bubble(t, func(w *world) {
		w.serve("xmeshes")
		w.intercept(func(r request) *metav1.Status {
			if r.Method != http.MethodGet && strings.Contains(r.Path, "xmeshes") {
				return refusal(403, metav1.StatusReasonForbidden, "not you")
			}
			return nil
		})
		a := w.start("n1", "p1")
		w.after(30 * time.Second)
		if !strings.Contains(a.log.String(), "not you") {
			t.Error("nothing is said of it")
		}
		w.intercept(nil)
		w.after(10 * time.Second)
		w.expect("status", w.meshSays("sluice"), fmt.Sprintf("Accepted=True/Accepted %d", len(Features())))
	})
}
