package compile

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// permitted says whether a route may refer to a Service. Inside its own namespace it may, and inside
// that of the parent Service, which the client may address anyhow; elsewhere it needs a ReferenceGrant.
func (q *reader) permitted(from model.RouteRef, parent string, to model.ServiceKey) bool {
	if !q.opts.ReferenceGrants || to.Namespace == from.Namespace || to.Namespace == parent {
		return true
	}
	for _, g := range q.grants(to.Namespace) {
		if grantsFrom(g, from) && grantsTo(g, to.Name) {
			return true
		}
	}
	return false
}

func grantsFrom(g *gatewayv1.ReferenceGrant, r model.RouteRef) bool {
	for _, f := range g.Spec.From {
		if f.Group == gatewayv1.GroupName && string(f.Kind) == r.Kind && string(f.Namespace) == r.Namespace {
			return true
		}
	}
	return false
}

func grantsTo(g *gatewayv1.ReferenceGrant, name string) bool {
	for _, t := range g.Spec.To {
		if t.Group == "" && t.Kind == "Service" && (t.Name == nil || *t.Name == "" || string(*t.Name) == name) {
			return true
		}
	}
	return false
}
