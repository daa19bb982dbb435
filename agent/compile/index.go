package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// index is the objects, found by what asks for them. From it, one Service compiles alone.
type index struct {
	opts     Options
	services map[model.ServiceKey]*corev1.Service
	slices   map[model.ServiceKey][]*discoveryv1.EndpointSlice
	grants   map[string][]*gatewayv1.ReferenceGrant // by the namespace that grants
	owners   map[netip.Addr]model.ServiceKey        // whose a cluster IP is
	routes   []*route                               // in the order of precedence
	parents  map[model.ServiceKey][]*attachment     // by parent, in the order of precedence
}

func newIndex(in *objects.Set, opts Options) *index {
	ix := &index{
		opts:     opts,
		services: map[model.ServiceKey]*corev1.Service{},
		slices:   map[model.ServiceKey][]*discoveryv1.EndpointSlice{},
		grants:   map[string][]*gatewayv1.ReferenceGrant{},
		owners:   map[netip.Addr]model.ServiceKey{},
		parents:  map[model.ServiceKey][]*attachment{},
	}
	for _, s := range in.Services {
		ix.services[model.ServiceKey{Namespace: s.Namespace, Name: s.Name}] = s
	}
	for _, s := range in.EndpointSlices {
		key := model.ServiceKey{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		ix.slices[key] = append(ix.slices[key], s)
	}
	for _, list := range ix.slices { // where two have an endpoint, which one counts must not depend on the order of the Set
		slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	}
	for _, g := range in.ReferenceGrants {
		ix.grants[g.Namespace] = append(ix.grants[g.Namespace], g)
	}
	ix.assignAddresses()
	ix.addRoutes(readRoutes(in))
	ix.settleKinds()
	return ix
}

// assignAddresses gives each cluster IP to one Service. In a cluster no two have the same.
func (ix *index) assignAddresses() {
	for _, key := range slices.SortedFunc(maps.Keys(ix.services), model.ServiceKey.Compare) {
		for _, a := range clusterIPs(ix.services[key]) {
			if _, taken := ix.owners[a]; !taken {
				ix.owners[a] = key
			}
		}
	}
}

// clusterIPs are the addresses of a Service's frontend, of both families.
func clusterIPs(s *corev1.Service) []netip.Addr {
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	var found []netip.Addr
	for _, ip := range ips {
		if a, ok := parseAddress(ip); ok { // not so where it is "None" or not given yet
			found = append(found, a)
		}
	}
	return found
}

// parseAddress reads an address that can be connected to. An API server takes IPv4 addresses that are written as IPv6.
func parseAddress(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	a = a.Unmap()
	return a, err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
}

// addRoutes attaches the routes, the one that wins against equals first: the oldest, then by "namespace/name".
func (ix *index) addRoutes(routes []*route) {
	slices.SortFunc(routes, func(a, b *route) int {
		return cmp.Or(
			a.created.Compare(b.created),
			cmp.Compare(a.ref.Namespace+"/"+a.ref.Name, b.ref.Namespace+"/"+b.ref.Name),
			cmp.Compare(a.ref.Kind, b.ref.Kind), // they never meet in a table
		)
	})
	for _, r := range routes {
		for i := range r.parentRefs {
			if a := ix.attach(r, &r.parentRefs[i]); a != nil {
				r.parents = append(r.parents, a)
				ix.parents[a.service] = append(ix.parents[a.service], a)
			}
		}
		ix.routes = append(ix.routes, r)
	}
}
