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

// index is the objects that routes refer to, found by what asks for them. It is not edited once it was made: what did not
// change, two of them share.
type index struct {
	set      *objects.Set
	services map[model.ServiceKey]*corev1.Service
	keys     []model.ServiceKey              // of services, sorted
	owners   map[netip.Addr]model.ServiceKey // whose a cluster IP is
	slices   map[model.ServiceKey]sliceList  // by Service
	grants   map[string]grantList            // by the namespace that grants
}

type (
	sliceList []*discoveryv1.EndpointSlice
	grantList []*gatewayv1.ReferenceGrant
)

// newIndex takes from the index before what belongs to kinds of which no object changed.
func newIndex(in *objects.Set, before *index) *index {
	ix := *before
	ix.set = in
	if !sameSlice(in.Services, before.set.Services) {
		ix.addServices(in.Services)
	}
	if !sameSlice(in.EndpointSlices, before.set.EndpointSlices) {
		ix.addSlices(in.EndpointSlices)
	}
	if !sameSlice(in.ReferenceGrants, before.set.ReferenceGrants) {
		ix.addGrants(in.ReferenceGrants)
	}
	return &ix
}

// sameSlice says whether two are one slice, which nobody has edited.
func sameSlice[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func (ix *index) addServices(all []*corev1.Service) {
	ix.services = make(map[model.ServiceKey]*corev1.Service, len(all))
	for _, s := range all {
		ix.services[model.ServiceKey{Namespace: s.Namespace, Name: s.Name}] = s
	}
	ix.keys = slices.SortedFunc(maps.Keys(ix.services), model.ServiceKey.Compare)
	ix.owners = make(map[netip.Addr]model.ServiceKey, len(all))
	for _, key := range ix.keys { // in a cluster no two have the same
		for _, a := range clusterIPs(ix.services[key]) {
			if _, taken := ix.owners[a]; !taken {
				ix.owners[a] = key
			}
		}
	}
}

func (ix *index) addSlices(all []*discoveryv1.EndpointSlice) {
	ix.slices = make(map[model.ServiceKey]sliceList, len(ix.slices))
	for _, s := range all {
		key := model.ServiceKey{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		ix.slices[key] = append(ix.slices[key], s)
	}
	for _, list := range ix.slices { // where two have an endpoint, which one counts must not depend on the order of the Set
		slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	}
}

func (ix *index) addGrants(all []*gatewayv1.ReferenceGrant) {
	ix.grants = make(map[string]grantList, len(ix.grants))
	for _, g := range all {
		ix.grants[g.Namespace] = append(ix.grants[g.Namespace], g)
	}
}

// clusterIPs are the addresses of a Service's frontend, of both families, each once.
func clusterIPs(s *corev1.Service) []netip.Addr {
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	var found []netip.Addr
	for _, ip := range ips {
		// not so where it is "None" or not given yet
		if a, ok := parseAddress(ip); ok && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	return found
}

// parseAddress reads an address that can be connected to. An API server takes IPv4 addresses that are written as IPv6.
func parseAddress(s string) (netip.Addr, bool) {
	if s == corev1.ClusterIPNone || s == "" {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	a = a.Unmap()
	return a, err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
}
