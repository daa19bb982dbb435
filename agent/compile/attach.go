package compile

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// attachment is one parentRef of a route that names a Service. Only settleKinds edits it.
type attachment struct {
	route   *route
	ref     *gatewayv1.ParentReference // as the user wrote it: statuses repeat it (S-1)
	service model.ServiceKey
	refused string   // why it does not attach; "": it does
	ports   []uint16 // the ones it selects
	// explicit: the user named a port, so bytes that are no HTTP are an error there.
	explicit bool
	lost     map[uint16]model.RouteRef // of the ports: what is bound there and goes before it
	rules    []model.Rule              // with the backends as this parent has them
	faults   []refFault
	asked    []question // what it depends on besides the route
}

// binds says whether the route's rules are to apply to a port, unless those of another kind do. A route that keeps no rule
// is treated as absent (A-44b); one that never had any matches nothing.
func (a *attachment) binds(port uint16) bool {
	return a.refused == "" && slices.Contains(a.ports, port) && (len(a.rules) > 0 || len(a.route.rules) == 0)
}

// applies says whether the route's rules apply to a port.
func (a *attachment) applies(port uint16) bool {
	_, lost := a.lost[port]
	return a.binds(port) && !lost
}

// producer says whether the route speaks for the Service's owner, and so to every client.
func (a *attachment) producer() bool { return a.route.ref.Namespace == a.service.Namespace }

// client is the namespace whose clients the route applies to; "": it applies to all.
func (a *attachment) client() string {
	if a.producer() {
		return ""
	}
	return a.route.ref.Namespace
}

// isService says whether a parentRef names a Service. Without group and kind it names a Gateway. "core" is how
// some write the group that has no name.
func isService(ref *gatewayv1.ParentReference) bool {
	return ref.Group != nil && (*ref.Group == "" || *ref.Group == "core") && ref.Kind != nil && *ref.Kind == "Service"
}

// attach resolves a parentRef; nil: it is none of ours (A-13, S-8).
func attach(q *reader, r *route, ref *gatewayv1.ParentReference) *attachment {
	if !isService(ref) {
		return nil
	}
	a := &attachment{route: r, ref: ref, service: model.ServiceKey{Namespace: r.ref.Namespace, Name: string(ref.Name)}}
	if ref.Namespace != nil {
		a.service.Namespace = string(*ref.Namespace)
	}
	a.ports, a.explicit, a.refused = selectPorts(q.service(a.service), a.service, ref)
	a.rules = make([]model.Rule, 0, len(r.rules))
	for _, rule := range r.rules {
		m, faults := q.resolve(r, rule, a.service.Namespace)
		a.faults = append(a.faults, faults...)
		if rule.dropped == "" {
			a.rules = append(a.rules, m)
		}
	}
	a.asked = slices.Clone(q.asked)
	return a
}

// selectPorts finds the ports that a parentRef selects, and says why there are none.
func selectPorts(s *corev1.Service, key model.ServiceKey, ref *gatewayv1.ParentReference) (ports []uint16, explicit bool, refused string) {
	if refused := refuseParent(s, key); refused != "" {
		return nil, false, refused
	}
	var wanted []string
	if ref.Port != nil {
		wanted = append(wanted, fmt.Sprintf("number %d", *ref.Port))
	}
	if ref.SectionName != nil && *ref.SectionName != "" {
		wanted = append(wanted, fmt.Sprintf("name %q", *ref.SectionName))
	}
	otherProtocol := false
	for _, p := range s.Spec.Ports {
		switch selected := selects(ref, &p); {
		case selected && isTCP(&p):
			ports = append(ports, uint16(p.Port))
		case selected:
			otherProtocol = true
		}
	}
	switch {
	case len(ports) > 0:
		return ports, len(wanted) > 0, ""
	case otherProtocol:
		return nil, false, fmt.Sprintf("Service %s has no such port with protocol TCP, which HTTP needs", key)
	case len(wanted) > 0:
		return nil, false, fmt.Sprintf("Service %s has no port with %s; it has %s", key, strings.Join(wanted, " and "), describePorts(s))
	}
	return nil, false, fmt.Sprintf("Service %s has no ports", key)
}

// selects applies port (the Service port's number, A-4) and sectionName (its name); what is given has to agree.
func selects(ref *gatewayv1.ParentReference, p *corev1.ServicePort) bool {
	return (ref.Port == nil || *ref.Port == p.Port) &&
		(ref.SectionName == nil || *ref.SectionName == "" || string(*ref.SectionName) == p.Name)
}

// isTCP: Service ports of other protocols are left alone, also where they have the same number. So is what has a number
// that is none.
func isTCP(p *corev1.ServicePort) bool {
	return (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") && p.Port > 0 && p.Port <= 65535
}

// refuseParent says why a Service cannot be a parent; "": it can. NodePort and LoadBalancer count as ClusterIP.
func refuseParent(s *corev1.Service, key model.ServiceKey) string {
	switch {
	case s == nil: // S-8
		return fmt.Sprintf("Service %s is not there", key)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("Service %s is of type ExternalName, which has no address that traffic could be addressed to", key)
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return fmt.Sprintf("Service %s is headless: clients reach its pods directly, so no route can apply", key)
	case len(clusterIPs(s)) == 0:
		return fmt.Sprintf("Service %s has no cluster IP that traffic could be addressed to", key)
	}
	return ""
}

func describePorts(s *corev1.Service) string {
	var all []string
	for _, p := range s.Spec.Ports {
		all = append(all, strings.TrimSuffix(fmt.Sprintf("%d %s", p.Port, p.Name), " "))
	}
	return strings.Join(all, ", ")
}
