package explain

import (
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/cli/inforce"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/router"
)

// F-5: no filter is left out in silence here either.
func TestEveryFilterHasWords(t *testing.T) {
	filled := map[string]model.Filter{
		"RequestHeaders": {RequestHeaders: &model.HeaderEdit{Remove: []string{"x"}}}, "ResponseHeaders": {ResponseHeaders: &model.HeaderEdit{Remove: []string{"x"}}},
		"Rewrite": {Rewrite: &model.Rewrite{Host: "h"}}, "Redirect": {Redirect: &model.Redirect{Status: 302}},
		"Mirror": {Mirror: &model.Mirror{Share: model.Fraction{Numerator: 1, Denominator: 1}}}, "CORS": {CORS: &model.CORS{}},
	}
	for f := range reflect.TypeFor[model.Filter]().Fields() {
		if words := describeFilters([]model.Filter{filled[f.Name]}); len(words) != 1 || words[0] == "" {
			t.Errorf("%s: %q: give it words, and a line in this test", f.Name, words)
		}
	}
}

func TestEveryCriterionHasWords(t *testing.T) {
	m := &model.Match{Path: model.PathMatch{Type: model.Exact, Value: "/"}}
	for _, by := range []router.Criterion{
		router.ByPathType, router.ByPathLength, router.ByMethod, router.ByService, router.ByRPC, router.ByHeaders, router.ByQuery,
	} {
		if describeLost(by, m, m) == "" {
			t.Errorf("%s has no words", by)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{`a\.b`: `"a\.b"`, `a"b`: `"a\"b"`, "a\x1b": `"a\x1b"`, "é": `"é"`, "\xff": `"\xff"`, "": `""`} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// What a user writes into a route may look like what a condition says of another rule. A rule that is in force stays in force.
func TestNoTextOfAUserTakesARuleAway(t *testing.T) {
	conditions := []metav1.Condition{
		{Type: string(gatewayv1.RouteConditionResolvedRefs), Status: metav1.ConditionFalse, Message: "x: rules[4] is left out: no"},
		{Type: string(gatewayv1.RouteConditionAccepted), Status: metav1.ConditionTrue, Message: "x: rules[5] is left out: no"},
		{Type: string(gatewayv1.RouteConditionPartiallyInvalid), Status: metav1.ConditionTrue, Message: `Dropped Rule: rules[1] (b) is left out: odd; ` +
			`rules[2] answers 500: filter "; rules[0] is left out: x" is odd; rules[3] is left out: last`},
	}
	got := leftOut(conditions, []model.Rule{{Index: 0}, {Index: 2}})
	want := []Rule{{Index: 1, Name: "b", LeftOut: "odd"}, {Index: 3, LeftOut: "last"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestQuestionsThatAreWrong(t *testing.T) {
	key := model.ServiceKey{Namespace: "shop", Name: "web"}
	v := &inforce.View{Services: []model.Service{{ServiceKey: key, Ports: []model.Port{{Number: 80, Name: "http"}, {Number: 90}}}}}
	for port, want := range map[string]string{
		"": "name one of 80 http, 90", "grpc": `port "grpc" of Service shop/web is none that routes apply to: those are 80 http, 90`, "99999": "80 http, 90",
	} {
		_, err := Explain(v, Question{Namespace: "shop", Service: key, Port: port, Request: &message.Request{}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("port %q: %v, want it to say %q", port, err, want)
		}
	}
}

// which pods a node has is known where the node was asked, and not where a folder was read.
func TestPodsThatAreNotTheNodes(t *testing.T) {
	q := Question{Namespace: "shop", Pod: "gone", Service: model.ServiceKey{Namespace: "shop", Name: "web"}, Request: &message.Request{}}
	for _, all := range []bool{true, false} {
		a, err := Explain(&inforce.View{AllPods: all}, q)
		if err != nil {
			t.Fatal(err)
		}
		if noted := strings.Contains(a.String(), "note: pod shop/gone is none of this node's"); noted != all {
			t.Errorf("all pods are known: %v; it says:\n%s", all, a)
		}
	}
}
