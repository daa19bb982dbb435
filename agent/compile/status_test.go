package compile_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// S-1 (checklist 55): an entry repeats its parentRef exactly, and entries are in the order of the route.
func TestS1EntriesRepeatTheParentRefs(t *testing.T) {
	parents := to("shop/web", port(80), section("http"))
	parents = append(parents, to("shop/api", func(r *gatewayv1.ParentReference) { r.Namespace = nil; r.Group = new(gatewayv1.Group("core")) })...)
	parents = append(parents, to("shop/gone", section(""))...)
	res := result(t, service("shop/web", "10.96.0.1"), service("shop/api", "10.96.0.2"),
		route("shop/r", parents, rule("/", backend("shop/web"))))
	entries := parentsOf(res, "shop/r")
	if len(entries) != len(parents) {
		t.Fatalf("%d entries for %d parentRefs", len(entries), len(parents))
	}
	for i := range parents {
		if !reflect.DeepEqual(entries[i].ParentRef, parents[i]) {
			t.Errorf("entry %d is of %+v", i, entries[i].ParentRef)
		}
		if entries[i].ControllerName != "sluice.dev/mesh" {
			t.Errorf("entry %d is signed %q", i, entries[i].ControllerName)
		}
	}
	if entries[0].ParentRef.Port == parents[0].Port {
		t.Error("the status shares memory with the object, which nobody may edit")
	}
}

// S-6 and S-20: both conditions are always there, and every one is of this generation.
func TestS6EveryConditionHasTheGeneration(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"),
		route("shop/r", append(to("shop/web"), to("shop/gone")...), rule("/", backend("shop/nowhere")), ruleWith("/b", badMatch)))
	conditions := 0
	for _, p := range parentsOf(res, "shop/r") {
		for _, c := range p.Conditions {
			conditions++
			if c.ObservedGeneration != 7 || c.Message == "" || !c.LastTransitionTime.IsZero() {
				t.Errorf("the condition is %+v", c)
			}
		}
	}
	if conditions != 3+2 || res.Statuses[0].Generation != 7 {
		t.Errorf("%d conditions, generation %d", conditions, res.Statuses[0].Generation)
	}
}

func TestS21MissingBackendsDoNotMatterToAccepted(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rule("/", backend("shop/gone"))))
	expect(t, "status", statusOf(res, "shop/r"), "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound")
}

// S-23: PartiallyInvalid is there only when a part is invalid and the route is accepted.
func TestS23PartiallyInvalidIsThereOnlyWhenTrue(t *testing.T) {
	fine, bad := rule("/", backend("shop/web")), ruleWith("/b", badMatch)
	for name, c := range map[string]struct {
		parent string
		rules  []gatewayv1.HTTPRouteRule
		want   string
	}{
		"valid":            {"shop/web", []gatewayv1.HTTPRouteRule{fine}, good},
		"in part":          {"shop/web", []gatewayv1.HTTPRouteRule{fine, bad}, good + " PartiallyInvalid=True/UnsupportedValue"},
		"wholly (S-24)":    {"shop/web", []gatewayv1.HTTPRouteRule{bad, bad}, "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"},
		"not accepted":     {"shop/gone", []gatewayv1.HTTPRouteRule{fine, bad}, noParent},
		"healed (list 58)": {"shop/web", []gatewayv1.HTTPRouteRule{fine, fine}, good},
	} {
		res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to(c.parent), c.rules...))
		expect(t, name, statusOf(res, "shop/r"), c.want)
	}
}

func TestAcceptedSaysWhereTheRouteIsBound(t *testing.T) {
	web := service("shop/web", "10.96.0.1", tcp(80, "http"), tcp(81, "admin"))
	res := result(t, web, route("shop/p", to("shop/web"), rule("/", backend("shop/web"))), route("buyer/c", to("shop/web", port(81)), rule("/", backend("shop/web"))))
	expect(t, "producer", message(res, "shop/p", gatewayv1.RouteConditionAccepted), "the route is bound to Service shop/web, port 80, 81")
	expect(t, "consumer", message(res, "buyer/c", gatewayv1.RouteConditionAccepted),
		"the route is bound to Service shop/web, port 81, for clients in namespace buyer")
}

func TestStatusesAreInTheOrderOfNames(t *testing.T) {
	r := rule("/", backend("shop/web"))
	res := result(t, service("shop/web", "10.96.0.1"),
		after(1, route("shop/b", to("shop/web"), r)), after(2, route("shop/a", to("shop/web"), r)), after(0, route("zoo/a", to("shop/web"), r)))
	var got []string
	for _, s := range res.Statuses {
		got = append(got, s.Route.String())
	}
	expect(t, "order", strings.Join(got, ", "), "HTTPRoute shop/a, HTTPRoute shop/b, HTTPRoute zoo/a")
}

// The API takes messages of at most 32768 bytes: a longer one would cost the whole status.
func TestMessagesFitTheAPI(t *testing.T) {
	for _, first := range []string{"", "a"} { // one of them has the end inside of a letter
		rules := []gatewayv1.HTTPRouteRule{rule("/", backend("shop/web")), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
			r.Matches = []gatewayv1.HTTPRouteMatch{headers(header("x", first+strings.Repeat("ü", 20000)+"(", "RegularExpression"))}
		})}
		res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), rules...))
		got := message(res, "shop/r", gatewayv1.RouteConditionPartiallyInvalid)
		if len(got) > 32768 || len(got) < 32000 || !utf8.ValidString(got) || !strings.HasSuffix(got, " ...") {
			t.Errorf("the message has %d bytes and ends with %q", len(got), got[max(0, len(got)-20):])
		}
	}
}

// S-23: what is dropped is told as data too.
func TestS23DroppedRulesAreTold(t *testing.T) {
	odd, good := rule("/", backend("shop/web")), rule("/a", backend("shop/web"))
	odd.Matches[0].Path = path("Odd", "/")
	odd.Name = new(gatewayv1.SectionName("second"))
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), good, odd), route("shop/whole", to("shop/web"), good))
	if got, want := fmt.Sprintf("%+v", res.Statuses[0].Dropped), `[{Index:1 Name:second Reason:matches[0].path: match type "Odd" is not known}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := res.Statuses[1].Dropped; got != nil {
		t.Errorf("of a route that is in force %v are told", got)
	}
}
