package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const grpcRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: calls
spec:
  parentRefs:
  - {group: "", kind: Service, name: web}
  rules:
  - matches:
    - method: {type: Exact, service: shop.Carts, method: Get}
      headers:
      - name: version
        value: two
    backendRefs:
    - name: web
      port: 80
      weight: 90
`

// What an API server refuses of a GRPCRoute is told with file and line, and the last good version serves on.
func TestBadGRPCRoutes(t *testing.T) {
	const id = "GRPCRoute default/calls: "
	for name, c := range map[string][2]string{
		"unknown field":          {edit(grpcRoute, "weight: 90", "wieght: 90"), "17: " + id + "spec.rules[0].backendRefs[0].wieght: unknown field"},
		"a field of HTTPRoutes":  {edit(grpcRoute, "    backendRefs:", "    timeouts: {request: 1s}\n    backendRefs:"), "14: " + id + "spec.rules[0].timeouts: unknown field"},
		"M-36: a path":           {edit(grpcRoute, "      headers:", "      path: {value: /a}\n      headers:"), "11: " + id + "spec.rules[0].matches[0].path: unknown field"},
		"experimental field":     {edit(grpcRoute, "    backendRefs:", "    sessionPersistence: {}\n    backendRefs:"), "14: " + id + "spec.rules[0].sessionPersistence: unknown field"},
		"a method of HTTP":       {edit(grpcRoute, "{type: Exact, service: shop.Carts, method: Get}", "GET"), "10: " + id + `spec.rules[0].matches[0].method: Invalid value: "string"`},
		"type":                   {edit(grpcRoute, "port: 80", "port: http"), "16: " + id + `spec.rules[0].backendRefs[0].port: Invalid value: "string"`},
		"M-20: enum":             {edit(grpcRoute, "type: Exact", "type: Glob"), "10: " + id + `spec.rules[0].matches[0].method.type: Unsupported value: "Glob"`},
		"F-1: filter":            {edit(grpcRoute, "    backendRefs:", "    filters: [{type: URLRewrite}]\n    backendRefs:"), "14: " + id + `spec.rules[0].filters[0].type: Unsupported value: "URLRewrite"`},
		"CEL: neither (M-33)":    {edit(grpcRoute, "service: shop.Carts, method: Get", ""), "10: " + id + "spec.rules[0].matches[0].method: Invalid value: One or both of 'service' or 'method' must be specified"},
		"CEL: a slash (M-33)":    {edit(grpcRoute, "shop.Carts", "shop/Carts"), "10: " + id + "spec.rules[0].matches[0].method: Invalid value: service must only contain valid characters"},
		"CEL: a method (M-33)":   {edit(grpcRoute, "method: Get", "method: Ge.t"), "10: " + id + "spec.rules[0].matches[0].method: Invalid value: method must only contain valid characters"},
		"CEL: port (A-70)":       {edit(grpcRoute, "      port: 80\n", ""), "15: " + id + "spec.rules[0].backendRefs[0]: Invalid value: Must have port for Service reference"},
		"CEL: parentRefs (A-9)":  {edit(grpcRoute, "  rules:", "  - {group: '', kind: Service, name: web, port: 80}\n  rules:"), "6: " + id + "spec.parentRefs: Invalid value: sectionName must be unique"},
		"CEL: a filter's part":   {edit(grpcRoute, "    backendRefs:", "    filters: [{type: RequestHeaderModifier}]\n    backendRefs:"), "14: " + id + "spec.rules[0].filters[0]: Invalid value: filter.requestHeaderModifier must be specified"},
		"header twice":           {edit(grpcRoute, "    backendRefs:", "      - {name: version, value: x}\n    backendRefs:"), `14: ` + id + `spec.rules[0].matches[0].headers[1]: Duplicate value: {"name":"version"}`},
		"too many matches":       {edit(grpcRoute, "  - matches:\n", "  - matches:\n"+strings.Repeat("    - method: {service: a}\n", 64)), "9: " + id + "spec.rules[0].matches: Too many: 65"},
		"a version that is gone": {edit(grpcRoute, "k8s.io/v1", "k8s.io/v1alpha2"), "2: " + id + `version "v1alpha2" of GRPCRoute is not served: use v1`},
		"kind":                   {edit(grpcRoute, "GRPCRoute", "GrpcRoute"), `2: "gateway.networking.k8s.io/v1" has no kind "GrpcRoute": correct apiVersion or kind`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{"a.yaml": grpcRoute, "b.yaml": service})
			before := f.good().GRPCRoutes[0]
			f.write("a.yaml", c[0])
			set, problems := f.load()
			if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, "a.yaml:"+c[1]) }) {
				t.Errorf("problems %q, want one with %q", problems, c[1])
			}
			if len(set.GRPCRoutes) != 1 || set.GRPCRoutes[0] != before {
				t.Errorf("the last good version does not serve: %s", names(set))
			}
			f.write("a.yaml", edit(grpcRoute, "90", "10"))
			if got := *f.good().GRPCRoutes[0].Spec.Rules[0].BackendRefs[0].Weight; got != 10 {
				t.Errorf("weight %d after the correction, want 10", got)
			}
		})
	}
}

// The defaults of the CRD are those of an API server. It has none for rules and matches (M-34).
func TestA46DefaultsOfAGRPCRoute(t *testing.T) {
	set := newFolder(t, map[string]string{"a.yaml": edit(grpcRoute, "type: Exact, ", "", `group: "", kind: Service, `, "", "      weight: 90\n", "") +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: none}\nspec: {}\n" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: open}\nspec: {rules: [{backendRefs: [{name: a, port: 1}]}]}\n"}).good()
	if got := names(set); got != "grpcroute/default/calls grpcroute/default/none grpcroute/default/open" {
		t.Fatalf("got %s", got)
	}
	calls, m := set.GRPCRoutes[0], set.GRPCRoutes[0].Spec.Rules[0].Matches[0]
	ref, b := calls.Spec.ParentRefs[0], calls.Spec.Rules[0].BackendRefs[0]
	got := fmt.Sprintln(*ref.Group, *ref.Kind, *m.Method.Type, *m.Headers[0].Type, *b.Weight, *b.Group, *b.Kind, calls.Generation, calls.Kind)
	if want := fmt.Sprintln("gateway.networking.k8s.io", "Gateway", "Exact", "Exact", 1, "", "Service", 1, ""); got != want {
		t.Errorf("got %swant %s", got, want)
	}
	if none, open := set.GRPCRoutes[1].Spec, set.GRPCRoutes[2].Spec.Rules[0]; len(none.Rules) != 0 || len(open.Matches) != 0 {
		t.Errorf("rules %+v, matches %+v", none.Rules, open.Matches)
	}
}

// Routes of two kinds with one name are two objects, and each has its own generation.
func TestAGRPCRouteBesideAnHTTPRouteOfTheSameName(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": route, "b.yaml": edit(grpcRoute, "name: calls", "name: web")})
	if got := names(f.good()); got != "route/default/web grpcroute/default/web" {
		t.Errorf("got %s", got)
	}
	f.write("b.yaml", edit(grpcRoute, "name: calls", "name: web", "90", "10"))
	if set := f.good(); set.HTTPRoutes[0].Generation != 1 || set.GRPCRoutes[0].Generation != 2 {
		t.Errorf("generations %d and %d", set.HTTPRoutes[0].Generation, set.GRPCRoutes[0].Generation)
	}
	f.remove("b.yaml")
	if got := names(f.good()); got != "route/default/web" {
		t.Errorf("got %s", got)
	}
}
