package compile

import (
	"cmp"
	"slices"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Event is something about a route that an operator should notice, although the route's conditions tell it too: its traffic
// is not what the route says. Whoever writes to the API makes a Kubernetes Event of it, of type Warning.
type Event struct {
	Route   model.RouteRef
	Reason  string
	Message string
}

func (e Event) String() string { return e.Route.String() + ": " + e.Reason + ": " + e.Message }

// The reasons of events.
const (
	AllRulesInvalid = "AllRulesInvalid" // no rule of the route is implemented as it is written (S-24)
	PortLost        = "PortLost"        // a route of another kind applies on a port instead
)

// compileEvents are the route's, each once.
func (r *route) compileEvents() []Event {
	var all []Event
	for _, a := range r.parents {
		if a.refused != "" {
			continue
		}
		if invalid := r.invalidRules(); len(invalid) > 0 && len(invalid) == len(r.rules) {
			all = append(all, Event{r.ref, AllRulesInvalid, noRule(invalid)})
		}
		if lost := a.describeLost(); lost != "" {
			all = append(all, Event{r.ref, PortLost, "for Service " + a.service.String() + " the route is " + lost})
		}
	}
	slices.SortFunc(all, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}
