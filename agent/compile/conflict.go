package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// reasonConflicted is the reason of Accepted where a route of another kind has all of its ports. The API has no
// constant for it.
const reasonConflicted gatewayv1.RouteConditionReason = "Conflicted"

// settleKinds decides which kind of route applies where several are bound: for each port of a Service and each set of
// clients one does, GRPCRoutes before HTTPRoutes, however old they are. The attachments are all that the Service
// has. Where one loses other ports than before, its route's status is another too.
func settleKinds(attachments []*attachment) {
	type place struct {
		client string
		port   uint16
	}
	taken := map[place]model.RouteRef{}
	for _, a := range attachments {
		for _, port := range a.ports {
			at := place{a.client(), port}
			if _, is := taken[at]; !is && a.route.isGRPC() && a.binds(port) {
				taken[at] = a.route.ref
			}
		}
	}
	for _, a := range attachments {
		var lost map[uint16]model.RouteRef
		for _, port := range a.ports {
			if by, is := taken[place{a.client(), port}]; is && !a.route.isGRPC() {
				if lost == nil {
					lost = map[uint16]model.RouteRef{}
				}
				lost[port] = by
			}
		}
		if !maps.Equal(a.lost, lost) {
			a.lost, a.route.told = lost, false
		}
	}
}

// conflicted says whether the route lost every port that it selects.
func (a *attachment) conflicted() bool {
	return len(a.lost) > 0 && !slices.ContainsFunc(a.ports, a.applies)
}

// describeLost names the ports that the route does not apply to, and what does; "": there are none.
func (a *attachment) describeLost() string {
	if len(a.lost) == 0 {
		return ""
	}
	var taken []string
	for _, port := range slices.Sorted(maps.Keys(a.lost)) {
		taken = append(taken, fmt.Sprintf("port %d (taken by %s)", port, a.lost[port]))
	}
	return fmt.Sprintf("ignored on %s: on one port a %s goes before %s", strings.Join(taken, ", "), kindGRPCRoute, oneOf(a.route.ref.Kind))
}
