package status

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// entry is an entry about a parent.
func entry(by gatewayv1.GatewayController, parent string, conditions ...metav1.Condition) gatewayv1.RouteParentStatus {
	return gatewayv1.RouteParentStatus{
		ParentRef: gatewayv1.ParentReference{Name: gatewayv1.ObjectName(parent)}, ControllerName: by, Conditions: conditions,
	}
}

// S-1 to S-7 together: whatever is there, the patch leaves others' entries in their order and makes ours say what we want,
// each parent once; and then there is nothing more to do.
func TestS4PlanAnyList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	condition := func() metav1.Condition {
		return metav1.Condition{
			Type: "Accepted", Status: []metav1.ConditionStatus{"True", "False"}[r.IntN(2)], Reason: "X", ObservedGeneration: r.Int64N(2), LastTransitionTime: metav1.Unix(r.Int64N(3), 0),
		}
	}
	for round := range 3000 {
		var has, want []gatewayv1.RouteParentStatus
		for range r.IntN(7) {
			by := []gatewayv1.GatewayController{controller, "example.com/a", "example.com/b"}[r.IntN(3)]
			has = append(has, entry(by, fmt.Sprint(r.IntN(4)), condition()))
		}
		for i := range r.IntN(4) {
			c := condition()
			c.LastTransitionTime = metav1.Time{}
			want = append(want, entry(controller, fmt.Sprint(i), c))
		}
		now := metav1.Unix(100, 0)
		c := plan(has, want, controller, now)
		got := apply(t, has, &c)
		if again := plan(got, want, controller, now); len(again.operations) > 0 {
			t.Fatalf("round %d: there is more to do: %v", round, again.operations)
		}
		if a, b := of(has, false), of(got, false); !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d: others' entries were %v, are %v", round, a, b)
		}
		if len(of(got, true)) != len(want) {
			t.Fatalf("round %d: of %v we have %v", round, want, got)
		}
		for _, p := range of(got, true) {
			checkTransition(t, p, has, now)
		}
	}
}

func checkTransition(t *testing.T, p gatewayv1.RouteParentStatus, has []gatewayv1.RouteParentStatus, now metav1.Time) {
	t.Helper()
	c := p.Conditions[0]
	for _, h := range of(has, true) {
		if !reflect.DeepEqual(h.ParentRef, p.ParentRef) {
			continue
		}
		if same := h.Conditions[0].Status == c.Status; same != (c.LastTransitionTime.Unix() == h.Conditions[0].LastTransitionTime.Unix()) {
			t.Fatalf("%v became %v", h, p)
		}
		return
	}
	if c.LastTransitionTime.Unix() != now.Unix() {
		t.Fatalf("a new entry is of %v", c.LastTransitionTime)
	}
}

func of(all []gatewayv1.RouteParentStatus, ours bool) []gatewayv1.RouteParentStatus {
	found := []gatewayv1.RouteParentStatus{}
	for _, p := range all {
		if (p.ControllerName == controller) == ours {
			found = append(found, p)
		}
	}
	return found
}

func apply(t *testing.T, has []gatewayv1.RouteParentStatus, c *change) []gatewayv1.RouteParentStatus {
	t.Helper()
	o := object{"metadata": object{"resourceVersion": "7"}}
	if has != nil {
		o["status"] = object{"parents": has}
	}
	body, err := c.patch("8")
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := patch.Apply(encodeObject(o))
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	var route gatewayv1.HTTPRoute
	if err := json.Unmarshal(text, &route); err != nil {
		t.Fatal(err)
	}
	if route.ResourceVersion != "8" {
		t.Fatalf("the patch is for no version: %s", body)
	}
	return route.Status.Parents
}
