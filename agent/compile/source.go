package compile

import (
	"reflect"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// ruleSource is a rule of a route of either kind in one form. What filters and backends of GRPCRoutes have, those of
// HTTPRoutes have too, so theirs is the form.
type ruleSource struct {
	name     *gatewayv1.SectionName
	matches  []model.Match
	badMatch error // why one of the matches cannot be implemented
	policy   policy
	filters  []gatewayv1.HTTPRouteFilter
	backends []gatewayv1.HTTPBackendRef
}

// sameHTTPRoute says whether two versions of a route are the same in everything that is read of them. Their statuses, which we
// write ourselves, are not.
func sameHTTPRoute(a, b *gatewayv1.HTTPRoute) bool {
	return a.Generation == b.Generation && a.CreationTimestamp.Equal(&b.CreationTimestamp) && reflect.DeepEqual(&a.Spec, &b.Spec)
}

func sameGRPCRoute(a, b *gatewayv1.GRPCRoute) bool {
	return a.Generation == b.Generation && a.CreationTimestamp.Equal(&b.CreationTimestamp) && reflect.DeepEqual(&a.Spec, &b.Spec)
}

func readHTTPRoute(o *gatewayv1.HTTPRoute) *route {
	r := &route{
		ref:        model.RouteRef{Kind: kindHTTPRoute, Namespace: o.Namespace, Name: o.Name},
		generation: o.Generation, created: o.CreationTimestamp.Time,
		fullName: o.Namespace + "/" + o.Name, parentRefs: o.Spec.ParentRefs, hostnames: o.Spec.Hostnames,
	}
	r.rules = make([]*rule, 0, len(o.Spec.Rules))
	for i := range o.Spec.Rules {
		from := &o.Spec.Rules[i]
		s := ruleSource{name: from.Name, policy: compilePolicy(from), filters: from.Filters, backends: from.BackendRefs}
		s.matches, s.badMatch = compileMatches(from.Matches)
		r.rules = append(r.rules, newRule(r.ref, i, &s))
	}
	return r
}

func readGRPCRoute(o *gatewayv1.GRPCRoute) *route {
	r := &route{
		ref:        model.RouteRef{Kind: kindGRPCRoute, Namespace: o.Namespace, Name: o.Name},
		generation: o.Generation, created: o.CreationTimestamp.Time,
		fullName: o.Namespace + "/" + o.Name, parentRefs: o.Spec.ParentRefs, hostnames: o.Spec.Hostnames,
	}
	r.rules = make([]*rule, 0, len(o.Spec.Rules))
	for i := range o.Spec.Rules {
		from := &o.Spec.Rules[i]
		s := ruleSource{name: from.Name, policy: compileGRPCPolicy(from), filters: grpcFilters(from.Filters)}
		for _, b := range from.BackendRefs {
			s.backends = append(s.backends, gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: grpcFilters(b.Filters)})
		}
		s.matches, s.badMatch = compileCalls(from.Matches)
		r.rules = append(r.rules, newRule(r.ref, i, &s))
	}
	return r
}

// grpcFilters gives filters of GRPCRoutes the form of those of HTTPRoutes. A type that only those have keeps its name and has
// no part; it is refused (M-20).
func grpcFilters(in []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	out := make([]gatewayv1.HTTPRouteFilter, 0, len(in))
	for _, f := range in {
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}
