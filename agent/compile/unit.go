package compile

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Annotations of a Service.
const (
	// AnnotationRedirect with the value "always" redirects a Service before it has a route, so that connections that
	// live long take a first route at once.
	AnnotationRedirect = "sluice.dev/redirect"
	// AnnotationFail with the value "closed" refuses connections while the node's proxy is away; "open" is the default.
	AnnotationFail = "sluice.dev/fail"
)

// unit is what follows for one Service.
type unit struct {
	service  model.Service // without ports: it is left alone
	flags    map[netip.AddrPort]Flags
	warnings []string
}

// unit compiles one Service.
func (ix *index) unit(key model.ServiceKey) unit {
	s := ix.services[key]
	u := unit{service: model.Service{ServiceKey: key}, flags: map[netip.AddrPort]Flags{}}
	always := u.annotation(s, AnnotationRedirect, "always")
	closed := u.annotation(s, AnnotationFail, "closed", "open")
	if refused := refuseParent(s, key); refused != "" {
		if always == "always" {
			u.warn("%s has no effect: %s", AnnotationRedirect, refused)
		}
		return u
	}
	addresses := ix.addresses(key, &u)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if !isTCP(p) {
			continue
		}
		port := ix.port(key, p)
		if port.Producer == nil && port.Consumers == nil && always != "always" {
			continue
		}
		for _, a := range addresses {
			port.Frontends = append(port.Frontends, model.Frontend{Address: a})
			if closed == "closed" {
				u.flags[netip.AddrPortFrom(a, port.Number)] = Flags{FailClosed: true}
			}
		}
		if len(port.Frontends) > 0 {
			u.service.Ports = append(u.service.Ports, port)
		}
	}
	return u
}

func (u *unit) warn(format string, args ...any) {
	u.warnings = append(u.warnings, fmt.Sprintf("Service %s: ", u.service.ServiceKey)+fmt.Sprintf(format, args...))
}

// annotation is the value of an annotation when it is one of the known ones; "" otherwise.
func (u *unit) annotation(s *corev1.Service, name string, known ...string) string {
	value, set := s.Annotations[name]
	if slices.Contains(known, value) {
		return value
	}
	if set {
		u.warn("annotation %s: %q is not known, use %q", name, value, known)
	}
	return ""
}

// addresses are the cluster IPs that are this Service's alone.
func (ix *index) addresses(key model.ServiceKey, u *unit) []netip.Addr {
	var found []netip.Addr
	for _, a := range clusterIPs(ix.services[key]) {
		if owner := ix.owners[a]; owner != key {
			u.warn("the cluster IP %s is that of Service %s too, which keeps it", a, owner)
			continue
		}
		found = append(found, a)
	}
	return found
}

// port compiles one port: its tables, without frontends.
func (ix *index) port(key model.ServiceKey, p *corev1.ServicePort) model.Port {
	port := model.Port{
		Number: uint16(p.Port), Name: p.Name,
		Default: model.EndpointsKey{Namespace: key.Namespace, Name: key.Name, Port: uint16(p.Port)},
	}
	if p.AppProtocol != nil {
		port.AppProtocol = *p.AppProtocol
	}
	tables := map[string]*tableBuilder{} // by client namespace; "" serves all
	for _, a := range ix.parents[key] {
		if !a.applies(port.Number) {
			continue
		}
		client := a.client()
		if tables[client] == nil {
			tables[client] = &tableBuilder{}
		}
		tables[client].add(a)
	}
	for client, t := range tables {
		if client == "" {
			port.Producer = &t.table
			continue
		}
		if port.Consumers == nil {
			port.Consumers = map[string]*model.RouteTable{}
		}
		port.Consumers[client] = &t.table
	}
	return port
}

// tableBuilder collects the rules of one set of routes. Attachments come in the order of precedence.
type tableBuilder struct {
	table model.RouteTable
	last  *route
}

func (b *tableBuilder) add(a *attachment) {
	b.table.Explicit = b.table.Explicit || a.explicit
	b.table.GRPC = a.route.isGRPC() // so are all of the set
	if b.last == a.route {          // two parentRefs of one route select the port
		return
	}
	b.last = a.route
	b.table.Rules = append(b.table.Rules, a.rules...)
}
