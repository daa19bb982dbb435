package compile

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxMessage is what the API takes of a condition's message, in bytes.
const maxMessage = 32768

// compileStatus is the status of a route that has a Service for a parent; other routes are none of ours (S-5, A-13).
func (r *route) compileStatus(controller string) RouteStatus {
	s := RouteStatus{Route: r.ref, Generation: r.generation}
	for _, a := range r.parents {
		s.Parents = append(s.Parents, gatewayv1.RouteParentStatus{
			ParentRef:      *a.ref.DeepCopy(),
			ControllerName: gatewayv1.GatewayController(controller),
			Conditions:     a.conditions(),
		})
	}
	for i, rule := range r.rules {
		if rule.dropped != "" {
			s.Dropped = append(s.Dropped, DroppedRule{i, rule.compiled.Name, rule.dropped})
		}
	}
	return s
}

// conditions are the parent's: Accepted and ResolvedRefs always (S-20), PartiallyInvalid only when true (S-23).
func (a *attachment) conditions() []metav1.Condition {
	invalid := a.route.invalidRules()
	found := []metav1.Condition{a.accepted(invalid), a.resolvedRefs()}
	if found[0].Status == metav1.ConditionTrue && len(invalid) > 0 {
		found = append(found, a.condition(gatewayv1.RouteConditionPartiallyInvalid, true, gatewayv1.RouteReasonUnsupportedValue,
			"Dropped Rule: "+strings.Join(invalid, "; ")))
	}
	return found
}

// invalidRules says why rules are not implemented as they are written.
func (r *route) invalidRules() []string {
	var invalid []string
	for _, rule := range r.rules {
		if why := rule.invalid(); why != "" {
			invalid = append(invalid, why)
		}
	}
	return invalid
}

func noRule(invalid []string) string { return "no rule is implemented: " + strings.Join(invalid, "; ") }

// accepted is true when at least one rule is implemented (S-21); missing backends do not matter to it.
func (a *attachment) accepted(invalid []string) metav1.Condition {
	switch {
	case a.refused != "":
		return a.condition(gatewayv1.RouteConditionAccepted, false, gatewayv1.RouteReasonNoMatchingParent, a.refused)
	case len(invalid) > 0 && len(invalid) == len(a.route.rules): // S-24
		return a.condition(gatewayv1.RouteConditionAccepted, false, a.invalidReason(),
			noRule(invalid))
	case a.conflicted():
		return a.condition(gatewayv1.RouteConditionAccepted, false, reasonConflicted, a.describeLost())
	}
	var ports []string
	for _, p := range a.ports {
		if _, lost := a.lost[p]; !lost {
			ports = append(ports, fmt.Sprint(p))
		}
	}
	message := fmt.Sprintf("the route is bound to Service %s, port %s", a.service, strings.Join(ports, ", "))
	if !a.producer() {
		message += fmt.Sprintf(", for clients in namespace %s", a.route.ref.Namespace)
	}
	if lost := a.describeLost(); lost != "" {
		message += "; " + lost
	}
	return a.condition(gatewayv1.RouteConditionAccepted, true, gatewayv1.RouteReasonAccepted, message+hostnamesNote(a.route.hostnames))
}

// invalidReason is why no rule is implemented, where that has one name (F-4).
func (a *attachment) invalidReason() gatewayv1.RouteConditionReason {
	for _, r := range a.route.rules {
		if r.dropped != "" || r.reason != gatewayv1.RouteReasonIncompatibleFilters {
			return gatewayv1.RouteReasonUnsupportedValue
		}
	}
	return gatewayv1.RouteReasonIncompatibleFilters
}

// hostnamesNote tells users that hostnames do nothing where the parent is a Service.
func hostnamesNote(hostnames []gatewayv1.Hostname) string {
	if len(hostnames) == 0 {
		return ""
	}
	return "; hostnames have no effect where the parent is a Service: match the Host header instead"
}

// resolvedRefs gives the gravest reason, and all of them in words (S-22).
func (a *attachment) resolvedRefs() metav1.Condition {
	if len(a.faults) == 0 {
		return a.condition(gatewayv1.RouteConditionResolvedRefs, true, gatewayv1.RouteReasonResolvedRefs, "all references are resolved")
	}
	gravest := []gatewayv1.RouteConditionReason{
		gatewayv1.RouteReasonRefNotPermitted, gatewayv1.RouteReasonInvalidKind, gatewayv1.RouteReasonBackendNotFound,
		gatewayv1.RouteReasonUnsupportedProtocol,
	}
	rank := len(gravest) - 1
	var told []string
	for _, f := range a.faults {
		rank = min(rank, slices.Index(gravest, f.reason))
		told = append(told, f.String())
	}
	return a.condition(gatewayv1.RouteConditionResolvedRefs, false, gravest[rank], strings.Join(told, "; "))
}

// condition is one condition of this generation of the route (S-6).
func (a *attachment) condition(t gatewayv1.RouteConditionType, ok bool, reason gatewayv1.RouteConditionReason, message string) metav1.Condition {
	c := metav1.Condition{
		Type: string(t), Status: metav1.ConditionFalse, Reason: string(reason), Message: strings.ToValidUTF8(message, "\uFFFD"),
		ObservedGeneration: a.route.generation,
	}
	if ok {
		c.Status = metav1.ConditionTrue
	}
	if len(c.Message) > maxMessage {
		c.Message = strings.ToValidUTF8(c.Message[:maxMessage-4], "") + " ..."
	}
	return c
}
