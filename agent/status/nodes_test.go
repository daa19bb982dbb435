package status

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/agent/rollup"
)

var webRefused = rollup.Refusals{{Namespace: "shop", Name: "a"}: {Reason: "bad rule", ServesOn: true}}

const notProgrammed = "Accepted=False/NotProgrammed@1 ResolvedRefs=True/ResolvedRefs@1"

// leader and other are the agents of two nodes, of which the first is elected.
func (w *world) two() (leader, other *agent) {
	leader = w.start("n1", "p1")
	w.after(3 * time.Second)
	other = w.start("n2", "p2")
	w.settle()
	w.after(3 * time.Second)
	return leader, other
}

// What a proxy of one node refused shows in the condition that the elected agent of another writes, and goes again.
func TestRefusalOfAnotherNode(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"), service("b"))
		leader, other := w.two()
		if !leader.leading.Load() || other.leading.Load() {
			t.Fatal("another was elected")
		}
		w.expect("before", w.says("r"), "a: "+fine+"; b: "+fine)
		other.refuse(webRefused)
		other.observe()
		w.after(1100 * time.Millisecond)
		w.expect("refused", w.says("r"), "a: "+notProgrammed+"; b: "+fine)
		if e := w.entries("r")[0]; !strings.Contains(e, `the proxy on node \"n2\" refused Service shop/a: bad rule; its previous version serves on`) {
			t.Errorf("the condition does not say so: %s", e)
		}
		if leader.metric("sluice_agent_status_refusing_nodes", "") != 1 {
			t.Error("the metric does not say so")
		}
		leader.refuse(webRefused)
		leader.observe()
		w.after(time.Second)
		if e := w.entries("r")[0]; !strings.Contains(e, `the proxies on nodes \"n1\" and \"n2\" refused`) {
			t.Errorf("the condition does not name both: %s", e)
		}
		leader.refuse(nil)
		other.refuse(nil)
		w.settle()
		w.after(2 * time.Second)
		w.expect("taken", w.says("r"), "a: "+fine+"; b: "+fine)
		if strings.Contains(field(w.get(leasePath+"sluice-node-n2"), "metadata", "annotations", annotationRefused), "bad rule") {
			t.Error("the Lease still says it")
		}
	})
}

// Who is elected first reads what the nodes refused: a route is not reported as accepted meanwhile.
func TestRefusalsAreReadBeforeAnythingIsWritten(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		leader, other := w.two()
		other.refuse(webRefused)
		w.settle()
		w.after(2 * time.Second)
		w.expect("before", w.says("r"), "a: "+notProgrammed)
		before := w.writes()
		leader.end()
		delete(w.agents, "p1")
		w.start("n1", "p3")
		for range 20 {
			w.settle()
			w.after(time.Second)
		}
		w.expect("after", w.says("r"), "a: "+notProgrammed)
		w.expect("writes", fmt.Sprint(w.writes()), fmt.Sprint(before))
	})
}

// A node that is not heard of for five minutes does not count; after an hour its Lease is deleted. One that comes back
// counts again.
func TestNodeThatIsGone(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		_, other := w.two()
		other.refuse(webRefused)
		w.settle()
		w.after(2 * time.Second)
		other.cable.cut.Store(true)
		w.after(4 * time.Minute)
		w.expect("after 4 minutes", w.says("r"), "a: "+notProgrammed)
		w.after(90 * time.Second)
		w.expect("after 5 and a half", w.says("r"), "a: "+fine)
		other.cable.cut.Store(false)
		w.after(30 * time.Second)
		w.settle()
		w.expect("back", w.says("r"), "a: "+notProgrammed)

		other.end()
		delete(w.agents, "p2")
		w.after(59 * time.Minute)
		if w.get(leasePath+"sluice-node-n2") == nil {
			t.Error("its Lease is deleted too soon")
		}
		w.after(3 * time.Minute)
		if w.get(leasePath+"sluice-node-n2") != nil || w.get(leasePath+"sluice-node-n1") == nil {
			t.Error("other Leases are there than those of the nodes that are left")
		}
	})
}

// A Lease of long ago counts for nothing with a leader that has never seen its node.
func TestLeaseOfLongAgo(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		w.put(leasePath+"sluice-node-n9", fmt.Sprintf(`{"metadata": {"labels": {%q: %q}, "annotations": {%q: "n9", %q: %q}}, "spec": {"renewTime": %q}}`,
			labelLease, leaseOfNode, annotationNode, annotationRefused, rollup.Encode(webRefused), time.Now().Add(-countFor-time.Second).UTC().Format("2006-01-02T15:04:05.000000Z07:00")))
		w.start("n1", "p1")
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine)
	})
}

// What one cannot read is said in the log, and is no refusal.
func TestLeaseThatCannotBeRead(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		w.put(leasePath+"sluice-node-n9", fmt.Sprintf(`{"metadata": {"labels": {%q: %q}, "annotations": {%q: "n9", %q: "{"}}}`,
			labelLease, leaseOfNode, annotationNode, annotationRefused))
		a := w.start("n1", "p1")
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine)
		if !strings.Contains(a.log.String(), "cannot be understood") {
			t.Error("nothing is said of it")
		}
	})
}

// A node's Lease is written when what is refused changes, at most once a second, and otherwise as often as it has to be:
// thousands of changes of objects write nothing.
func TestOwnLeaseIsCoalesced(t *testing.T) {
	bubble(t, func(w *world) {
		a := w.start("n1", "p1")
		writes := func() int {
			return len(w.sent(http.MethodPut, "sluice-node-n1")) + len(w.sent(http.MethodPost, "/leases")) - 1 // the election's
		}
		a.observe()
		w.after(settleFor / 2)
		w.expect("before the proxies have connected", fmt.Sprint(writes()), "0")
		for range 100 {
			a.observe()
			w.after(100 * time.Millisecond)
		}
		w.expect("ten seconds of changes", fmt.Sprint(writes()), "1")
		for i := range 100 {
			a.refuse(rollup.Refusals{{Namespace: "shop", Name: "a"}: {Reason: fmt.Sprint(i)}})
			a.observe()
			w.after(100 * time.Millisecond)
		}
		if n := writes(); n < 9 || n > 12 {
			t.Errorf("%d writes in ten seconds of refusals", n)
		}
		w.after(2 * time.Second)
		before := writes()
		annotations := w.get(leasePath + "sluice-node-n1")["metadata"].(object)["annotations"].(object)
		if text := annotations[annotationRefused].(string); !strings.Contains(text, `"reason":"99"`) || annotations[annotationNode] != "n1" {
			t.Errorf("annotations: %v", annotations)
		}
		w.after(2 * time.Minute)
		if n := writes() - before; n < 5 || n > 8 {
			t.Errorf("%d renewals in two minutes", n)
		}
		if v := w.get(leasePath + "sluice-node-n1")["metadata"].(object)["annotations"].(object)[annotationGeneration]; v != "201" {
			t.Errorf("the generation is %v", v)
		}
	})
}

// In a rollout a node has two agents. The one that came later speaks for it, until it is not heard of any more.
func TestSuccessorHasTheLease(t *testing.T) {
	bubble(t, func(w *world) {
		holder := func() string { return field(w.get(leasePath+"sluice-node-n1"), "spec", "holderIdentity") }
		old := w.start("n1", "old")
		w.settle()
		w.after(2 * time.Second)
		w.expect("alone", holder(), "old")
		next := w.start("n1", "next")
		w.settle()
		w.after(2 * time.Second)
		w.expect("both", holder(), "next")
		old.refuse(webRefused)
		for range 40 {
			old.observe()
			w.after(time.Second)
			w.expect("both, later", holder(), "next")
		}
		next.cable.cut.Store(true)
		w.after(2 * time.Minute)
		w.expect("the successor is gone", holder(), "old")
		if !strings.Contains(old.log.String(), "another agent speaks for this node") {
			t.Error("nothing is said of it")
		}
	})
}

// A Lease that cannot be written is tried again, and said in the log.
func TestOwnLeaseFails(t *testing.T) {
	bubble(t, func(w *world) {
		w.intercept(func(r request) *metav1.Status {
			if strings.Contains(string(r.Body), nodeLease) {
				return refusal(403, metav1.StatusReasonForbidden, "not you")
			}
			return nil
		})
		a := w.start("n1", "p1")
		a.observe()
		w.after(5 * time.Second)
		if w.get(leasePath+"sluice-node-n1") != nil || !strings.Contains(a.log.String(), "not you") {
			t.Fatalf("log: %s", a.log)
		}
		w.intercept(nil)
		w.after(5 * time.Second)
		if w.get(leasePath+"sluice-node-n1") == nil {
			t.Error("it is not tried again")
		}
	})
}

func TestLeaseName(t *testing.T) {
	if got := leaseName("n1.example"); got != "sluice-node-n1.example" {
		t.Error(got)
	}
	long := strings.Repeat("a", 250)
	a, b := leaseName(long+"xxx"), leaseName(long+"yyy")
	if len(a) > 253 || len(b) > 253 || a == b {
		t.Errorf("%s (%d bytes), %s", a, len(a), b)
	}
}
