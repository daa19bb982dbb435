package compile

import (
	"errors"
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
	fullName   string // "namespace/name"
	generation int64
	created    time.Time
	parentRefs []gatewayv1.ParentReference // the object's own, which nobody edits
	hostnames  []gatewayv1.Hostname
	rules      []*rule

	// What follows changes from one pass to the next.
	object   any    // what it was read from, or another version that reads the same
	seen     uint64 // the last pass in which it was there
	attached bool   // parents are there
	parents  []*attachment
	told     bool // status and events are those of the parents
	status   RouteStatus
	events   []Event
}

func (r *route) isGRPC() bool { return r.ref.Kind == kindGRPCRoute }

// rule is one rule of a route. A rule whose match cannot be implemented is dropped. One with a filter or a setting that
// must not be skipped keeps its match and answers every request 500, so that no broader rule takes its traffic (A-45, F-5).
type rule struct {
	label    string // how messages name it
	filters  []gatewayv1.HTTPRouteFilter
	backends []gatewayv1.HTTPBackendRef

	compiled       model.Rule       // without backends; its mirrors are without targets
	backendFilters [][]model.Filter // of each backend

	dropped    string                         // why it is dropped
	failed     string                         // why it fails, when that is the rule's own fault
	reason     gatewayv1.RouteConditionReason // what the API calls that
	unresolved []refFault                     // references of its filters that lead nowhere; they too make it fail
}

// newRule compiles a rule, the index-th of its route, except for what depends on the parent.
func newRule(ref model.RouteRef, index int, from *ruleSource) *rule {
	r := &rule{
		label: fmt.Sprintf("rules[%d]", index), filters: from.filters, backends: from.backends, reason: gatewayv1.RouteReasonUnsupportedValue,
		compiled: model.Rule{Route: ref, Index: index, Matches: from.matches, Timeouts: from.policy.timeouts, Retry: from.policy.retry},
	}
	if from.name != nil && *from.name != "" {
		r.compiled.Name = string(*from.name)
		r.label += fmt.Sprintf(" (%s)", *from.name)
	}
	if from.badMatch != nil {
		r.dropped = from.badMatch.Error()
	}
	r.fail(from.policy.bad)
	r.addFilters(filterPlace{kind: ref.Kind, prefix: prefixOf(from.matches)})
	r.compiled.Fail = r.failure()
	if r.compiled.Fail != nil { // nobody runs the rest
		r.compiled.Filters, r.compiled.Timeouts, r.compiled.Retry = nil, model.Timeouts{}, nil
	}
	return r
}

// addFilters adds the filters of the rule and those of its backends.
func (r *rule) addFilters(at filterPlace) {
	for i := range r.filters {
		r.addFilter(fmt.Sprintf("filters[%d]", i), &r.filters[i], at)
	}
	r.fail(checkTogether(r.filters))
	r.fail(checkRedirected(r.filters, len(r.backends)))
	at.ofBackend = true
	for i := range r.backends {
		label := fmt.Sprintf("backendRefs[%d]", i)
		var compiled []model.Filter
		for j := range r.backends[i].Filters {
			from := &r.backends[i].Filters[j]
			if from.Type == gatewayv1.HTTPRouteFilterExtensionRef {
				continue // it makes that backend invalid, not the rule
			}
			f, err := compileFilter(from, at)
			if err != nil { // F-6
				r.fail(fmt.Errorf("%s.filters[%d]: %w", label, j, err))
			}
			compiled = append(compiled, f)
		}
		if err := checkTogether(r.backends[i].Filters); err != nil {
			r.fail(fmt.Errorf("%s.%w", label, err))
		}
		r.backendFilters = append(r.backendFilters, compiled)
	}
}

// addFilter adds a filter of the rule. An ExtensionRef is a reference that leads nowhere: there are no extensions (F-5).
func (r *rule) addFilter(label string, from *gatewayv1.HTTPRouteFilter, at filterPlace) {
	if from.Type == gatewayv1.HTTPRouteFilterExtensionRef {
		r.unresolved = append(r.unresolved, extensionFault(r.label+"."+label, from))
		return
	}
	f, err := compileFilter(from, at)
	if err != nil {
		r.fail(fmt.Errorf("%s: %w", label, err))
	}
	r.compiled.Filters = append(r.compiled.Filters, f)
}

// fail notes why every request of the rule is answered 500; the first reason is the one that is told.
func (r *rule) fail(err error) {
	if err == nil || r.failed != "" {
		return
	}
	r.failed = err.Error()
	if _, is := errors.AsType[incompatible](err); is {
		r.reason = gatewayv1.RouteReasonIncompatibleFilters // F-4
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
