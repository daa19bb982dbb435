package compile

import (
	"fmt"
	"maps"
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
	parents []*attachment // that name it, in the order of precedence
	asked   []question    // what it depends on besides them

	service  *model.Service // without ports: it is left alone
	flags    map[netip.AddrPort]Flags
	warnings []string
	needs    []model.EndpointsKey // sorted, each once
}

// unit compiles one Service that there is.
func (q *reader) unit(key model.ServiceKey, parents []*attachment) *unit {
	s := q.service(key)
	u := &unit{parents: parents, service: &model.Service{ServiceKey: key}}
	always := u.annotation(s, AnnotationRedirect, "always")
	closed := u.annotation(s, AnnotationFail, "closed", "open")
	if refused := refuseParent(s, key); refused != "" {
		if always == "always" {
			u.warn("%s has no effect: %s", AnnotationRedirect, refused)
		}
		return u
	}
	addresses := q.addresses(s, u)
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if first, _ := tcpPort(s, p.Port); first != p { // else it is not TCP, or another has its number
			continue
		}
		port := compilePort(key, p, parents)
		if port.Producer == nil && port.Consumers == nil && always != "always" {
			continue
		}
		for _, a := range addresses {
			port.Frontends = append(port.Frontends, model.Frontend{Address: a})
			if closed == "closed" {
				if u.flags == nil {
					u.flags = map[netip.AddrPort]Flags{}
				}
				u.flags[netip.AddrPortFrom(a, port.Number)] = Flags{FailClosed: true}
			}
		}
		if len(port.Frontends) > 0 {
			u.service.Ports = append(u.service.Ports, port)
		}
	}
	u.needs = slices.SortedFunc(u.service.EndpointSets(), model.EndpointsKey.Compare)
	u.needs = slices.Compact(u.needs)
	return u
}

// equal says whether the same follows for the Service.
func (u *unit) equal(o *unit) bool {
	return u.service == o.service && maps.Equal(u.flags, o.flags) && slices.Equal(u.warnings, o.warnings)
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
func (q *reader) addresses(s *corev1.Service, u *unit) []netip.Addr {
	var found []netip.Addr
	for _, a := range clusterIPs(s) {
		if owner := q.owner(a); owner != u.service.ServiceKey {
			u.warn("the cluster IP %s is that of Service %s too, which keeps it", a, owner)
			continue
		}
		found = append(found, a)
	}
	return found
}

// compilePort compiles one port: its tables, without frontends.
func compilePort(key model.ServiceKey, p *corev1.ServicePort, parents []*attachment) model.Port {
	port := model.Port{
		Number: uint16(p.Port), Name: p.Name,
		Default: model.EndpointsKey{Namespace: key.Namespace, Name: key.Name, Port: uint16(p.Port)},
	}
	if p.AppProtocol != nil {
		port.AppProtocol = *p.AppProtocol
	}
	tables := map[string]*tableBuilder{} // by client namespace; "" serves all
	for _, a := range parents {
		if !a.applies(port.Number) {
			continue
		}
		client := a.client()
		if tables[client] == nil {
			tables[client] = &tableBuilder{table: &model.RouteTable{}}
		}
		tables[client].add(a)
	}
	for client, t := range tables {
		t.finish()
		if client == "" {
			port.Producer = t.table
			continue
		}
		if port.Consumers == nil {
			port.Consumers = map[string]*model.RouteTable{}
		}
		port.Consumers[client] = t.table
	}
	return port
}

// tableBuilder collects the rules of one set of routes. Attachments come in the order of precedence.
type tableBuilder struct {
	table *model.RouteTable
	from  []*attachment
	rules int
}

func (b *tableBuilder) add(a *attachment) {
	b.table.Explicit = b.table.Explicit || a.explicit
	b.table.GRPC = a.route.isGRPC()                              // so are all of the set
	if n := len(b.from); n > 0 && b.from[n-1].route == a.route { // two parentRefs of one route select the port
		return
	}
	b.from = append(b.from, a)
	b.rules += len(a.rules)
}

func (b *tableBuilder) finish() {
	if b.rules > 0 {
		b.table.Rules = make([]model.Rule, 0, b.rules)
	}
	for _, a := range b.from {
		b.table.Rules = append(b.table.Rules, a.rules...)
	}
}
