package compile_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func percent(n int32) func(*gatewayv1.HTTPRequestMirrorFilter) {
	return func(m *gatewayv1.HTTPRequestMirrorFilter) { m.Percent = &n }
}

func fraction(n int32, of *int32) func(*gatewayv1.HTTPRequestMirrorFilter) {
	return func(m *gatewayv1.HTTPRequestMirrorFilter) {
		m.Fraction = &gatewayv1.Fraction{Numerator: n, Denominator: of}
	}
}

func TestF51SharesOfAMirror(t *testing.T) {
	share := func(n, of uint32) string {
		return fmt.Sprintf(`{"mirror":{"endpoints":{"namespace":"shop","name":"web","port":80},"share":{"numerator":%d,"denominator":%d}}}`, n, of)
	}
	checkFilters(t, map[string]filterCase{
		"all":                         {mirror("shop/web"), share(100, 100), ""},
		"a percentage":                {mirror("shop/web", percent(20)), share(20, 100), ""},
		"all of a hundred":            {mirror("shop/web", percent(100)), share(100, 100), ""},
		"a fraction":                  {mirror("shop/web", fraction(25, new(int32(50)))), share(25, 50), ""},
		"a fraction of a hundred":     {mirror("shop/web", fraction(35, nil)), share(35, 100), ""},
		"a large one":                 {mirror("shop/web", fraction(math.MaxInt32, new(int32(math.MaxInt32)))), share(math.MaxInt32, math.MaxInt32), ""},
		"less than none":              {mirror("shop/web", percent(-1)), "", "requestMirror.percent: -1 is not from 0 to 100"},
		"more than all":               {mirror("shop/web", percent(101)), "", "requestMirror.percent: 101 is not from 0 to 100"},
		"a fraction of more":          {mirror("shop/web", fraction(101, nil)), "", "requestMirror.fraction: 101/100 is not from 0 to 1"},
		"a fraction of less":          {mirror("shop/web", fraction(-1, nil)), "", "requestMirror.fraction: -1/100 is not from 0 to 1"},
		"a fraction of nothing":       {mirror("shop/web", fraction(0, new(int32(0)))), "", "requestMirror.fraction: 0/0 is not from 0 to 1"},
		"a percentage and a fraction": {mirror("shop/web", percent(1), fraction(1, nil)), "", "requestMirror: it has a percent and a fraction: use one of them"},
	})
}

// mirrorsOf says whom requests of a rule are mirrored to.
func mirrorsOf(r *model.Rule) string {
	var all []string
	for _, f := range r.Filters {
		if f.Mirror != nil {
			all = append(all, f.Mirror.Endpoints.String())
		}
	}
	return strings.Join(all, " ")
}

// F-52, F-53 and A-97: each target is resolved as a backend is. One that cannot be used is no mirror; the rule serves on.
func TestF53MirrorsWithoutTargetAreNone(t *testing.T) {
	external := service("shop/outside", "")
	externalName(external)
	services := []any{service("shop/web", "10.96.0.1"), service("shop/v2", "10.96.0.2"), service("third/v3", "10.96.0.3"), external}
	for name, c := range map[string]struct {
		filters []gatewayv1.HTTPRouteFilter
		extra   []any
		want    string
		reason  string // of ResolvedRefs
		says    string
	}{
		"two":              {[]gatewayv1.HTTPRouteFilter{mirror("shop/v2"), mirror("shop/web")}, nil, "shop/v2:80 shop/web:80", "", ""},
		"two of one":       {[]gatewayv1.HTTPRouteFilter{mirror("shop/v2"), mirror("shop/v2", percent(1))}, nil, "shop/v2:80 shop/v2:80", "", ""},
		"none of requests": {[]gatewayv1.HTTPRouteFilter{mirror("shop/v2", percent(0)), mirror("shop/web")}, nil, "shop/web:80", "", ""},
		"not there": {[]gatewayv1.HTTPRouteFilter{setHeader("a", "b"), mirror("shop/gone"), mirror("shop/v2")}, nil, "shop/v2:80", "BackendNotFound",
			"rules[0].filters[1]: Service shop/gone is not there, so no request is mirrored there"},
		"none, and not there": {[]gatewayv1.HTTPRouteFilter{mirror("shop/gone", percent(0))}, nil, "", "BackendNotFound", "shop/gone"},
		"another kind": {[]gatewayv1.HTTPRouteFilter{mirror("shop/v2", func(m *gatewayv1.HTTPRequestMirrorFilter) {
			m.BackendRef.Kind = new(gatewayv1.Kind("Bucket"))
		})}, nil, "", "InvalidKind", "kind Bucket"},
		"A-64: ExternalName":    {[]gatewayv1.HTTPRouteFilter{mirror("shop/outside")}, nil, "", "InvalidKind", "ExternalName"},
		"A-97: another's":       {[]gatewayv1.HTTPRouteFilter{mirror("third/v3")}, nil, "", "RefNotPermitted", "no ReferenceGrant in namespace third"},
		"A-97: with permission": {[]gatewayv1.HTTPRouteFilter{mirror("third/v3")}, []any{grant("third", "shop")}, "third/v3:80", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			res := result(t, append(append(c.extra, route("shop/r", to("shop/web"), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) { r.Filters = c.filters }))), services...)...)
			r := onlyRule(t, res)
			expect(t, "mirrors", mirrorsOf(r), c.want)
			if r.Fail != nil || len(r.Backends) != 1 || r.Backends[0].Invalid != "" {
				t.Errorf("the rule is %+v, its failure %+v", r, r.Fail)
			}
			status := good
			if c.reason != "" {
				status = "Accepted=True/Accepted ResolvedRefs=False/" + c.reason
			}
			expect(t, "status", statusOf(res, "shop/r"), status)
			if got := message(res, "shop/r", gatewayv1.RouteConditionResolvedRefs); !strings.Contains(got, c.says) {
				t.Errorf("the message %q does not say %q", got, c.says)
			}
			for target := range strings.FieldsSeq(c.want) { // the proxy needs to know them
				if set := endpointsOf(res, strings.TrimSuffix(target, ":80")); set == "unknown" {
					t.Errorf("the endpoints of %s do not travel", target)
				}
			}
		})
	}
}

// of one rule, each parent has the mirrors that its clients may reach.
func TestA94TheRuleOfEachParentHasItsOwnMirrors(t *testing.T) {
	res := result(t, service("shop/web", "10.96.0.1"), service("buyer/v2", "10.96.0.2"),
		route("third/r", append(to("shop/web"), to("buyer/v2")...), ruleWith("/", func(r *gatewayv1.HTTPRouteRule) {
			r.Filters = []gatewayv1.HTTPRouteFilter{mirror("shop/web"), mirror("buyer/v2")}
		})))
	expect(t, "of shop", mirrorsOf(&portOf(res, "shop/web", 80).Consumers["third"].Rules[0]), "shop/web:80")
	expect(t, "of buyer", mirrorsOf(&portOf(res, "buyer/v2", 80).Consumers["third"].Rules[0]), "buyer/v2:80")
}
