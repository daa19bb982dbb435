package compile

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// endpoints merges the slices of a Service port. Where no endpoint is ready, those that are terminating and
// still serve are used, as kube-proxy does.
func (q *reader) endpoints(key model.EndpointsKey) *model.EndpointSet {
	set := &model.EndpointSet{EndpointsKey: key, Endpoints: []model.Endpoint{}}
	service := model.ServiceKey{Namespace: key.Namespace, Name: key.Name}
	s := q.service(service)
	if s == nil {
		return set
	}
	port, _ := tcpPort(s, int32(key.Port))
	if port == nil {
		return set
	}
	if port.AppProtocol != nil {
		set.AppProtocol = *port.AppProtocol
	}
	set.Affinity = affinity(s)
	local := s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	list := q.slices(service)
	count := 0
	for _, slice := range list {
		count += len(slice.Endpoints)
	}
	ready, terminating := make([]model.Endpoint, 0, count), []model.Endpoint(nil)
	for _, slice := range list {
		number := targetPort(slice, port.Name)
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if local && q.opts.Node != "" && (e.NodeName == nil || *e.NodeName != q.opts.Node) {
				continue
			}
			m, ok := endpoint(e, number)
			switch isReady, isServing, isTerminating := conditions(e); {
			case !ok:
			case isReady:
				ready = append(ready, m)
			case isServing && isTerminating:
				m.Terminating = true
				terminating = append(terminating, m)
			}
		}
	}
	switch {
	case len(ready) == 0:
		ready = terminating
	case !local:
		ready = q.near(ready)
	}
	if len(ready) > 0 {
		set.Endpoints = distinct(ready)
	}
	return set
}

// near keeps the endpoints that the hints of their slices give to our node, or else to our zone, by the rules of kube-proxy:
// all endpoints need to have such hints, and one has to be for us; otherwise all are used.
func (q *reader) near(ready []model.Endpoint) []model.Endpoint {
	for _, by := range []struct {
		us    string
		hints func(*model.Endpoint) []string
	}{
		{q.opts.Node, func(e *model.Endpoint) []string { return e.ForNodes }},
		{q.opts.Zone, func(e *model.Endpoint) []string { return e.ForZones }},
	} {
		var ours []model.Endpoint
		all := by.us != ""
		for i := range ready {
			hints := by.hints(&ready[i])
			all = all && len(hints) > 0
			if slices.Contains(hints, by.us) {
				ours = append(ours, ready[i])
			}
		}
		if all && len(ours) > 0 {
			return ours
		}
	}
	return ready
}

// usualAffinity is what the API server writes where a Service says no more than ClientIP.
const usualAffinity = 3 * time.Hour

// affinity is for how long a client stays with an endpoint; 0: not at all. A client pod has the one address.
func affinity(s *corev1.Service) model.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return model.Duration(time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second)
	}
	return model.Duration(usualAffinity)
}

// targetPort is the number that a slice has for a Service port; 0: none. A named target port may have another number
// in each slice, and slices may lack it.
func targetPort(s *discoveryv1.EndpointSlice, name string) uint16 {
	if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return 0
	}
	for _, p := range s.Ports {
		sameName := p.Name == nil && name == "" || p.Name != nil && *p.Name == name
		if sameName && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) && p.Port != nil && *p.Port > 0 && *p.Port <= 65535 {
			return uint16(*p.Port)
		}
	}
	return 0
}

// conditions applies the API's defaults: unknown readiness counts as ready, unknown serving follows it.
func conditions(e *discoveryv1.Endpoint) (ready, serving, terminating bool) {
	ready = e.Conditions.Ready == nil || *e.Conditions.Ready
	serving = ready
	if e.Conditions.Serving != nil {
		serving = *e.Conditions.Serving
	}
	return ready, serving, e.Conditions.Terminating != nil && *e.Conditions.Terminating
}

// endpoint takes the first address: the API gives others no meaning. One that nobody can connect to is left out, or the
// proxy would refuse the whole set for it.
func endpoint(e *discoveryv1.Endpoint, port uint16) (model.Endpoint, bool) {
	if len(e.Addresses) == 0 {
		return model.Endpoint{}, false
	}
	a, ok := parseAddress(e.Addresses[0])
	if !ok {
		return model.Endpoint{}, false
	}
	m := model.Endpoint{Address: netip.AddrPortFrom(a, port)}
	if e.NodeName != nil {
		m.Node = *e.NodeName
	}
	if e.Zone != nil {
		m.Zone = *e.Zone
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			m.ForZones = append(m.ForZones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			m.ForNodes = append(m.ForNodes, n.Name)
		}
	}
	return m, true
}

// distinct orders endpoints and keeps one of those with the same address: while slices are rewritten, an endpoint may
// be in two.
func distinct(all []model.Endpoint) []model.Endpoint {
	slices.SortStableFunc(all, func(a, b model.Endpoint) int { return a.Address.Compare(b.Address) })
	return slices.CompactFunc(all, func(a, b model.Endpoint) bool { return a.Address == b.Address })
}
