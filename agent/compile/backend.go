package compile

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// refFault is a reference that leads nowhere.
type refFault struct {
	at      string // where in the route
	reason  gatewayv1.RouteConditionReason
	message string
}

func (f refFault) String() string { return f.at + ": " + f.message }

// resolve completes a rule for a parent in a namespace: its backends, and all of its references that lead nowhere
// (S-22), whether the rule is in force or not.
func (q *reader) resolve(r *route, rule *rule, parentNamespace string) (model.Rule, []refFault) {
	faults := q.filterFaults(func() string { return rule.label }, r.ref, parentNamespace, rule.filters)
	compiled := rule.compiled
	compiled.Filters = q.aimed(r.ref, parentNamespace, rule)
	if compiled.Fail == nil && len(rule.backends) > 0 {
		compiled.Backends = make([]model.Backend, 0, len(rule.backends))
	}
	for i := range rule.backends {
		b, found := q.weighted(func() string { return fmt.Sprintf("%s.backendRefs[%d]", rule.label, i) }, r.ref, parentNamespace, &rule.backends[i], rule.backendFilters[i])
		faults = append(faults, found...)
		if compiled.Fail == nil {
			compiled.Backends = append(compiled.Backends, b)
		}
	}
	return compiled, faults
}

// filterFaults are the references of filters that lead nowhere: to extensions, and to Services.
func (q *reader) filterFaults(at func() string, from model.RouteRef, parent string, filters []gatewayv1.HTTPRouteFilter) []refFault {
	var faults []refFault
	for i := range filters {
		f := &filters[i]
		place := func() string { return fmt.Sprintf("%s.filters[%d]", at(), i) }
		if f.Type == gatewayv1.HTTPRouteFilterExtensionRef {
			faults = append(faults, extensionFault(place(), f))
		}
		for _, ref := range filterRefs(f) {
			if _, fault := q.backend(from, parent, ref); fault != nil {
				fault.at = place()
				if f.RequestMirror != nil {
					fault.message += ", so no request is mirrored there"
				}
				faults = append(faults, *fault)
			}
		}
	}
	return faults
}

// filterRefs are the Services that a filter sends requests to.
func filterRefs(f *gatewayv1.HTTPRouteFilter) []*gatewayv1.BackendObjectReference {
	switch {
	case f.RequestMirror != nil:
		return []*gatewayv1.BackendObjectReference{&f.RequestMirror.BackendRef}
	case f.ExternalAuth != nil:
		return []*gatewayv1.BackendObjectReference{&f.ExternalAuth.BackendRef}
	}
	return nil
}

// extensionFault: no kind of extension is known, so a reference to one cannot be resolved (F-5).
func extensionFault(at string, f *gatewayv1.HTTPRouteFilter) refFault {
	named := "no extension"
	if e := f.ExtensionRef; e != nil {
		named = fmt.Sprintf("%s %s of group %q", e.Kind, e.Name, e.Group)
	}
	return refFault{at, gatewayv1.RouteReasonInvalidKind, "ExtensionRef to " + named + ": Sluice has no extensions"}
}

// weighted is one choice of a rule, with its filters as they are compiled, and what of it leads nowhere. One that cannot be used
// keeps its weight (B-2).
func (q *reader) weighted(at func() string, from model.RouteRef, parent string, ref *gatewayv1.HTTPBackendRef, filters []model.Filter) (model.Backend, []refFault) {
	b := model.Backend{Weight: 1}
	if ref.Weight != nil {
		b.Weight = uint32(min(max(0, *ref.Weight), model.MaxWeight))
	}
	var faults []refFault
	key, fault := q.backend(from, parent, &ref.BackendObjectReference)
	if fault != nil {
		fault.at = at()
		faults = append(faults, *fault)
	}
	faults = append(faults, q.filterFaults(at, from, parent, ref.Filters)...)
	if len(faults) > 0 {
		b.Invalid = faults[0].message
		return b, faults
	}
	b.Endpoints, b.Filters = key, filters
	return b, nil
}

// backend resolves a reference to a port of a Service. The permission is looked at before the Service, so that
// nobody learns what is in another's namespace (S-22).
func (q *reader) backend(from model.RouteRef, parent string, ref *gatewayv1.BackendObjectReference) (model.EndpointsKey, *refFault) {
	fault := func(reason gatewayv1.RouteConditionReason, format string, args ...any) (model.EndpointsKey, *refFault) {
		return model.EndpointsKey{}, &refFault{reason: reason, message: fmt.Sprintf(format, args...)}
	}
	if !isCoreService(ref) {
		return fault(gatewayv1.RouteReasonInvalidKind, "a backend of kind %s is not supported, only a Service is", describeKind(ref))
	}
	key := model.ServiceKey{Namespace: from.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		key.Namespace = string(*ref.Namespace)
	}
	if !q.permitted(from, parent, key) {
		return fault(gatewayv1.RouteReasonRefNotPermitted, "no ReferenceGrant in namespace %s lets %s of namespace %s refer to Service %s",
			key.Namespace, oneOf(from.Kind), from.Namespace, key.Name)
	}
	s := q.service(key)
	switch {
	case s == nil:
		return fault(gatewayv1.RouteReasonBackendNotFound, "Service %s is not there", key)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return fault(gatewayv1.RouteReasonInvalidKind, "Service %s is of type ExternalName, which has no endpoints", key)
	case ref.Port == nil:
		return fault(gatewayv1.RouteReasonBackendNotFound, "the reference to Service %s names no port", key)
	}
	number := *ref.Port
	port, otherProtocol := tcpPort(s, number)
	switch {
	case port == nil && otherProtocol != "":
		return fault(gatewayv1.RouteReasonUnsupportedProtocol, "port %d of Service %s is %s, not TCP", number, key, otherProtocol)
	case port == nil:
		return fault(gatewayv1.RouteReasonBackendNotFound, "Service %s has no port %d; it has %s", key, number, describePorts(s))
	case !speaks(from.Kind, port.AppProtocol):
		return fault(gatewayv1.RouteReasonUnsupportedProtocol, "port %d of Service %s wants %s, which is not supported yet", number, key, *port.AppProtocol)
	}
	return model.EndpointsKey{Namespace: key.Namespace, Name: key.Name, Port: uint16(number)}, nil
}

func isCoreService(ref *gatewayv1.BackendObjectReference) bool {
	return (ref.Group == nil || *ref.Group == "") && (ref.Kind == nil || *ref.Kind == "Service")
}

func describeKind(ref *gatewayv1.BackendObjectReference) string {
	kind := "Service"
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Group != nil && *ref.Group != "" {
		kind += "." + string(*ref.Group)
	}
	return kind
}

// tcpPort finds a Service port by its number; where there is one of another protocol only, it says which.
func tcpPort(s *corev1.Service, number int32) (port *corev1.ServicePort, other corev1.Protocol) {
	for i := range s.Spec.Ports {
		switch p := &s.Spec.Ports[i]; {
		case p.Port == number && isTCP(p):
			return p, ""
		case p.Port == number:
			other = p.Protocol
		}
	}
	return nil, other
}

// speaks says whether the proxy can talk for a route of that kind to a backend that names its protocol. TLS to backends
// is out for all. Calls of gRPC need HTTP/2, which no other protocol has to be told for; a backend for WebSockets has
// only HTTP/1.1.
func speaks(kind string, appProtocol *string) bool {
	if appProtocol == nil {
		return true
	}
	switch *appProtocol {
	case "kubernetes.io/wss":
		return false
	case "kubernetes.io/ws":
		return kind == kindHTTPRoute
	}
	return true
}

// oneOf is a kind with its article.
func oneOf(kind string) string {
	if kind == kindHTTPRoute {
		return "an " + kind
	}
	return "a " + kind
}
