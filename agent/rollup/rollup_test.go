package rollup_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

var web = model.ServiceKey{Namespace: "shop", Name: "a"}

func parent(namespace *gatewayv1.Namespace, name string, accepted metav1.ConditionStatus, reason string) gatewayv1.RouteParentStatus {
	return gatewayv1.RouteParentStatus{
		ParentRef: gatewayv1.ParentReference{Namespace: namespace, Name: gatewayv1.ObjectName(name)},
		Conditions: []metav1.Condition{
			{Type: "Accepted", Status: accepted, Reason: reason, Message: "as compiled", ObservedGeneration: 4},
			{Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs", ObservedGeneration: 4},
			{Type: "PartiallyInvalid", Status: "True", Reason: "UnsupportedValue", Message: "Dropped Rule: x", ObservedGeneration: 4},
		},
	}
}

func show(p gatewayv1.RouteParentStatus) string {
	var parts []string
	for _, c := range p.Conditions {
		parts = append(parts, fmt.Sprintf("%s=%s/%s@%d %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message))
	}
	return strings.Join(parts, "; ")
}

// What a node could not program is not reported as accepted, and so not as partially invalid either (S-23); what is not
// accepted stays so for its own reason, and what was compiled is not edited.
func TestS23Fold(t *testing.T) {
	compiled := []compile.RouteStatus{{
		Route: model.RouteRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Generation: 4,
		Parents: []gatewayv1.RouteParentStatus{
			parent(nil, "a", "True", "Accepted"), parent(nil, "b", "True", "Accepted"),
			parent(new(gatewayv1.Namespace("other")), "a", "True", "Accepted"), parent(nil, "c", "False", "NoMatchingParent"),
		},
	}}
	var before []string
	for _, p := range compiled[0].Parents {
		before = append(before, show(p))
	}
	refused := map[model.ServiceKey]string{web: "refused", {Namespace: "shop", Name: "c"}: "anyhow"}
	got := rollup.Fold(compiled, refused)
	if s := show(got[0].Parents[0]); s != "Accepted=False/NotProgrammed@4 refused; ResolvedRefs=True/ResolvedRefs@4 " {
		t.Errorf("refused: %s", s)
	}
	for i, p := range compiled[0].Parents {
		if show(p) != before[i] {
			t.Errorf("what was compiled became %s", show(p))
		}
		if i > 0 && show(got[0].Parents[i]) != before[i] {
			t.Errorf("parent %d became %s", i, show(got[0].Parents[i]))
		}
	}
	if same := rollup.Fold(compiled, nil); &same[0] != &compiled[0] {
		t.Error("without a refusal it is copied")
	}
}

func TestTell(t *testing.T) {
	nodes := func(n int, r func(int) rollup.Refusal) map[string]rollup.Refusals {
		all := map[string]rollup.Refusals{"idle": nil}
		for i := range n {
			all[fmt.Sprintf("n%d", i)] = rollup.Refusals{web: r(i)}
		}
		return all
	}
	same := func(int) rollup.Refusal { return rollup.Refusal{Reason: "bad", ServesOn: true} }
	for _, c := range []struct {
		of   map[string]rollup.Refusals
		want string
	}{
		{nodes(0, same), ""},
		{nodes(1, same), `the proxy on node "n0" refused Service shop/a: bad; its previous version serves on`},
		{nodes(2, same), `the proxies on nodes "n0" and "n1" refused Service shop/a: bad; its previous version serves on`},
		{nodes(3, same), `the proxies on nodes "n0", "n1" and "n2" refused Service shop/a: bad; its previous version serves on`},
		{nodes(9, same), `the proxies on nodes "n0", "n1", "n2" and 6 more refused Service shop/a: bad; its previous version serves on`},
		{
			nodes(2, func(i int) rollup.Refusal { return rollup.Refusal{Reason: "bad", ServesOn: i == 0} }),
			`the proxy on node "n0" refused Service shop/a: bad; its previous version serves on; the proxy on node "n1" refused Service shop/a: bad; traffic passes as without the route`,
		},
	} {
		if got := rollup.Tell(c.of)[web]; got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	// However many there are, a condition takes it (32 KiB), in the same words each time.
	many := nodes(5000, func(i int) rollup.Refusal {
		return rollup.NewRefusal(fmt.Sprintf("%d %s", i, strings.Repeat("x", 5000)), false)
	})
	first := rollup.Tell(many)[web]
	if len(first) > 4096 || !strings.HasSuffix(first, "4997 more nodes refused it for other reasons") {
		t.Errorf("%d bytes: %s", len(first), first)
	}
	if again := rollup.Tell(many)[web]; again != first {
		t.Error("the words are others the second time")
	}
}

func TestEncode(t *testing.T) {
	all := rollup.Refusals{web: {Reason: `a "quoted" <reason>`, ServesOn: true}, {Namespace: "shop", Name: "b"}: {Reason: "other"}}
	text := rollup.Encode(all)
	got, more, err := rollup.Decode(text)
	if err != nil || more != 0 || !reflect.DeepEqual(got, all) {
		t.Errorf("%s gives %v, %d, %v", text, got, more, err)
	}
	if rollup.Encode(nil) != "" || rollup.Encode(all) != text {
		t.Error("the same refusals have two forms")
	}
	if got, more, err := rollup.Decode(""); got != nil || more != 0 || err != nil {
		t.Errorf("nothing gives %v, %d, %v", got, more, err)
	}
	for _, bad := range []string{"{", `{"refused": {"a": {}}}`, `[]`} {
		if _, _, err := rollup.Decode(bad); err == nil {
			t.Errorf("%s is understood", bad)
		}
	}
}

// An annotation has its bounds, whatever is refused.
func TestEncodeIsBounded(t *testing.T) {
	all := rollup.Refusals{}
	for i := range 2000 {
		all[model.ServiceKey{Namespace: "shop", Name: fmt.Sprintf("s%04d", i)}] = rollup.Refusal{Reason: strings.Repeat("é<", 400)}
	}
	text := rollup.Encode(all)
	got, more, err := rollup.Decode(text)
	if err != nil || len(text) > 32<<10 || len(got)+more != len(all) || len(got) < 10 {
		t.Errorf("%d bytes, %d and %d more: %v", len(text), len(got), more, err)
	}
	for _, r := range got {
		if len(r.Reason) > 512 || !strings.HasSuffix(r.Reason, " ...") || !strings.HasPrefix(r.Reason, "é<") {
			t.Fatalf("a reason is %q", r.Reason)
		}
	}
}
