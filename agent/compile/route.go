package compile

import (
	"fmt"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// failureStatus answers what a rule cannot do (F-5). The proxy turns it into UNAVAILABLE where it answers as gRPC (B-24).
const failureStatus = 500

// The kinds of routes that are compiled.
const (
	kindHTTPRoute = "HTTPRoute"
	kindGRPCRoute = "GRPCRoute"
)

// route is a route of either kind in one form, with what of it does not depend on the parent.
type route struct {
	ref        model.RouteRef
	generation int64
	created    time.Time
	parentRefs []gatewayv1.ParentReference // the object's own, which nobody edits
	hostnames  []gatewayv1.Hostname
	rules      []*rule
	parents    []*attachment
}

func (r *route) isGRPC() bool { return r.ref.Kind == kindGRPCRoute }

// rule is one rule of a route. A rule whose match cannot be implemented is dropped. One with a filter or a setting that
// must not be skipped keeps its match and answers every request 500, so that no broader rule takes its traffic (A-45, F-5).
type rule struct {
	label      string // how messages name it
	filters    []gatewayv1.HTTPRouteFilter
	backends   []gatewayv1.HTTPBackendRef
	compiled   model.Rule // without backends
	dropped    string     // why it is dropped
	failed     string     // why it fails, when that is the rule's own fault
	unresolved []refFault // references of its filters that lead nowhere; they too make it fail
}

// newRule compiles a rule, the index-th of its route, except for what depends on the parent.
func newRule(ref model.RouteRef, index int, from *ruleSource) *rule {
	r := &rule{
		label: fmt.Sprintf("rules[%d]", index), filters: from.filters, backends: from.backends,
		compiled: model.Rule{Route: ref, Index: index, Matches: from.matches},
	}
	if from.name != nil && *from.name != "" {
		r.compiled.Name = string(*from.name)
		r.label += fmt.Sprintf(" (%s)", *from.name)
	}
	if from.badMatch != nil {
		r.dropped = from.badMatch.Error()
	}
	r.fail(from.unsupported)
	for i := range r.filters {
		r.addFilter(fmt.Sprintf("filters[%d]", i), &r.filters[i])
	}
	for i := range r.backends {
		filters := r.backends[i].Filters
		for j := range filters {
			if filters[j].Type == gatewayv1.HTTPRouteFilterExtensionRef {
				continue // it makes that backend invalid, not the rule
			}
			if err := checkFilter(&filters[j]); err != nil { // F-6
				r.fail(fmt.Errorf("backendRefs[%d].filters[%d]: %w", i, j, err))
			}
		}
	}
	r.compiled.Fail = r.failure()
	if r.compiled.Fail != nil {
		r.compiled.Filters = nil // nobody runs them
	}
	return r
}

// addFilter adds a filter of the rule. An ExtensionRef is a reference that leads nowhere: there are no extensions (F-5).
func (r *rule) addFilter(at string, f *gatewayv1.HTTPRouteFilter) {
	if f.Type == gatewayv1.HTTPRouteFilterExtensionRef {
		r.unresolved = append(r.unresolved, extensionFault(r.label+"."+at, f))
		return
	}
	if err := checkFilter(f); err != nil {
		r.fail(fmt.Errorf("%s: %w", at, err))
		return
	}
	r.compiled.Filters = append(r.compiled.Filters, compileFilter(f))
}

// fail notes why every request of the rule is answered 500; the first reason is the one that is told.
func (r *rule) fail(err error) {
	if err != nil && r.failed == "" {
		r.failed = err.Error()
	}
}

func (r *rule) failure() *model.Failure {
	switch {
	case r.failed != "":
		return &model.Failure{Status: failureStatus, Reason: r.failed}
	case len(r.unresolved) > 0:
		return &model.Failure{Status: failureStatus, Reason: r.unresolved[0].String()}
	}
	return nil
}

// invalid says why the rule is not implemented as it is written; "": it is.
func (r *rule) invalid() string {
	switch {
	case r.dropped != "":
		return r.label + " is left out: " + r.dropped
	case r.failed != "" && r.compiled.Route.Kind == kindGRPCRoute: // B-21
		return r.label + " answers UNAVAILABLE: " + r.failed
	case r.failed != "":
		return r.label + " answers 500: " + r.failed
	}
	return ""
}
