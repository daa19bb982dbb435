package status

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// S-10: one agent writes. When it stops well, another writes within seconds, and nothing that is right already.
func TestS10LeaderStops(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		first, second := w.two()
		w.expect("writes", fmt.Sprint(w.writes()), "1")
		first.end()
		delete(w.agents, "p1")
		if first.leading.Load() || first.metric("sluice_agent_status_leader", "") != 0 {
			t.Error("it still leads")
		}
		w.after(5 * time.Second)
		if !second.leading.Load() {
			t.Fatal("nobody was elected within five seconds")
		}
		w.settle()
		w.expect("writes of what is right", fmt.Sprint(w.writes()), "1")
		w.route("r", service("b"))
		second.observe()
		w.after(time.Second)
		w.expect("status", w.says("r"), "b: "+strings.ReplaceAll(fine, "@1", "@2"))
	})
}

// S-10: a leader that the server does not hear stops before another is elected, and is a candidate again later.
func TestS10LeaderIsCutOff(t *testing.T) {
	bubble(t, func(w *world) {
		first, second := w.two()
		first.cable.cut.Store(true)
		for range 300 {
			w.after(100 * time.Millisecond)
			if first.leading.Load() && second.leading.Load() {
				t.Fatal("two agents lead")
			}
		}
		if first.leading.Load() || !second.leading.Load() {
			t.Fatal("the other was not elected within thirty seconds")
		}
		first.cable.cut.Store(false)
		w.after(10 * time.Second)
		second.end()
		delete(w.agents, "p2")
		w.after(10 * time.Second)
		if !first.leading.Load() {
			t.Error("it was not elected again")
		}
	})
}

// A right that is missing is said in the log.
func TestElectionIsRefused(t *testing.T) {
	bubble(t, func(w *world) {
		w.intercept(func(r request) *metav1.Status {
			if strings.Contains(r.Path, electionLease) {
				return refusal(403, metav1.StatusReasonForbidden, "not you")
			}
			return nil
		})
		a := w.start("n1", "p1")
		w.after(time.Minute)
		if n := strings.Count(a.log.String(), "cannot be elected"); n < 1 || n > 7 {
			t.Errorf("it is said %d times", n)
		}
	})
}

func lost(port int) compile.Event {
	return compile.Event{
		Route: model.RouteRef{Kind: httpRoute, Namespace: "shop", Name: "r"}, Reason: compile.PortLost, Message: fmt.Sprintf("port %d is lost", port),
	}
}

// Each event is an Event once for as long as it holds, also of one reason twice; one that comes back is another. What an
// earlier leader told is not told again.
func TestEvents(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		first, second := w.two()
		notes := func() string {
			var all []string
			for _, e := range w.all("events") {
				all = append(all, field(e, "reason")+": "+field(e, "note"))
			}
			slices.Sort(all)
			return strings.Join(all, ", ")
		}
		say := func(message string, events ...compile.Event) {
			for _, a := range []*agent{first, second} {
				a.events = events
				a.verdicts = func(model.RouteRef) []metav1.Condition {
					return []metav1.Condition{{Type: "Accepted", Status: "False", Reason: "Conflicted", Message: message}, {Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs"}}
				}
			}
			w.settle()
		}
		w.expect("none", notes(), "")
		say("80 and 81 lost", lost(80), lost(81))
		w.expect("two", notes(), "PortLost: port 80 is lost, PortLost: port 81 is lost")
		say("80, 81 and 82 lost", lost(80), lost(81), lost(82))
		w.expect("a third", notes(), "PortLost: port 80 is lost, PortLost: port 81 is lost, PortLost: port 82 is lost")
		say("none lost")
		say("80 lost", lost(80))
		w.expect("80 again", notes(), "PortLost: port 80 is lost, PortLost: port 80 is lost, PortLost: port 81 is lost, PortLost: port 82 is lost")
		before := notes()
		first.end()
		delete(w.agents, "p1")
		w.after(5 * time.Second)
		w.settle()
		w.route("r", service("a"), gatewayParent) // another generation
		w.settle()
		w.expect("told by another", notes(), before)

		e := w.all("events")[0]
		about := e["regarding"].(object)
		if about["kind"] != httpRoute || about["name"] != "r" || about["namespace"] != "shop" || about["apiVersion"] != "gateway.networking.k8s.io/v1" ||
			about["uid"] != field(w.get(routePath("r")), "metadata", "uid") || e["type"] != "Warning" || e["reportingController"] != controller {
			t.Errorf("the Event is %v", e)
		}
	})
}

// An Event that cannot be written now is written later; one that is not allowed is given up. The status does not wait.
func TestEventsThatFail(t *testing.T) {
	bubble(t, func(w *world) {
		w.route("r", service("a"))
		a := w.start("n1", "p1")
		w.after(2 * time.Second)
		answer := refusal(500, metav1.StatusReasonInternalError, "not now")
		w.intercept(func(r request) *metav1.Status {
			if strings.HasSuffix(r.Path, "/events") {
				return answer
			}
			return nil
		})
		a.events = []compile.Event{lost(80)}
		w.settle()
		w.expect("status", w.says("r"), "a: "+fine)
		w.intercept(nil)
		w.after(time.Minute)
		w.expect("written later", fmt.Sprint(len(w.all("events"))), "1")

		answer = refusal(403, metav1.StatusReasonForbidden, "not you")
		before := len(w.sent(http.MethodPost, "/events"))
		w.intercept(func(r request) *metav1.Status {
			if strings.HasSuffix(r.Path, "/events") {
				return answer
			}
			return nil
		})
		w.route("r", service("b"))
		a.events = []compile.Event{lost(81)}
		w.settle()
		w.after(time.Minute)
		w.expect("attempts", fmt.Sprint(len(w.sent(http.MethodPost, "/events"))-before), "1")
	})
}

func TestShort(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aéé", 4, "aé"}, {"é", 1, ""}} {
		if got := short(c.text, c.limit); got != c.want {
			t.Errorf("%q cut to %d is %q", c.text, c.limit, got)
		}
	}
}

// What came last goes first, but what came first is not starved.
func TestQueueOrder(t *testing.T) {
	q := &recent{}
	for i := range 100 {
		q.Push(model.RouteRef{Name: fmt.Sprint(i)})
	}
	var got []string
	for range 8 {
		got = append(got, q.Pop().Name)
	}
	q.Touch(model.RouteRef{Name: "50"}) // its owner changed it
	got = append(got, q.Pop().Name)
	if s := strings.Join(got, " "); s != "99 98 97 0 96 95 94 1 50" {
		t.Error(s)
	}
	if q.Len() != 91 {
		t.Errorf("%d are left", q.Len())
	}
}
