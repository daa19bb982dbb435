package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// parentOf is the Service that a parentRef of a route names.
func parentOf(route model.RouteRef, ref *gatewayv1.ParentReference) model.ServiceKey {
	key := model.ServiceKey{Namespace: route.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		key.Namespace = string(*ref.Namespace)
	}
	return key
}

// selects applies a parentRef's port and sectionName. The name of a port that is not redirected is not known: then it
// is the number that counts.
func selects(ref *gatewayv1.ParentReference, p *model.Port) bool {
	return (ref.Port == nil || *ref.Port == int32(p.Number)) &&
		(ref.SectionName == nil || *ref.SectionName == "" || p.Name == "" || string(*ref.SectionName) == p.Name)
}

// describePorts tells which ports a parentRef selects.
func describePorts(ref *gatewayv1.ParentReference) string {
	var all []string
	if ref.Port != nil {
		all = append(all, fmt.Sprintf("port %d", *ref.Port))
	}
	if ref.SectionName != nil && *ref.SectionName != "" {
		all = append(all, fmt.Sprintf("port %q", *ref.SectionName))
	}
	if len(all) == 0 {
		return "every port"
	}
	return strings.Join(all, ", ")
}

// isGood tells whether a condition is as it should be.
func isGood(c *metav1.Condition) bool {
	return (c.Type != string(gatewayv1.RouteConditionPartiallyInvalid)) == (c.Status == metav1.ConditionTrue)
}

// accepted is what a parent says of where the route is bound.
func accepted(conditions []metav1.Condition) string {
	for i := range conditions {
		if conditions[i].Type == string(gatewayv1.RouteConditionAccepted) {
			return conditions[i].Message
		}
	}
	return "it has no condition Accepted"
}

// notAccepted is why a parent did not accept the route; "": it did.
func notAccepted(conditions []metav1.Condition) string {
	i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Type == string(gatewayv1.RouteConditionAccepted) })
	if i < 0 || conditions[i].Status == metav1.ConditionTrue {
		return ""
	}
	return fmt.Sprintf("%s: %s", conditions[i].Reason, conditions[i].Message)
}

// leftOut finds the rules that conditions say are not in force. Only there an agent tells of them: what is left out is not in what
// a proxy gets. in are the rules that it has, which no text of a user's can take away.
func leftOut(conditions []metav1.Condition, in []model.Rule) []Rule {
	item := regexp.MustCompile(`(?:: |; )rules\[(\d{1,4})\](?: \(([^()]*)\))? (is left out|answers (?:500|UNAVAILABLE)): `)
	var all []Rule
	for i := range conditions {
		c := &conditions[i]
		if isGood(c) || c.Type == string(gatewayv1.RouteConditionResolvedRefs) {
			continue
		}
		found := item.FindAllStringSubmatchIndex(c.Message, -1)
		for j, at := range found {
			end := len(c.Message)
			if j+1 < len(found) {
				end = found[j+1][0]
			}
			index, _ := strconv.Atoi(c.Message[at[2]:at[3]]) // it is digits
			known := slices.ContainsFunc(in, func(r model.Rule) bool { return r.Index == index })
			known = known || slices.ContainsFunc(all, func(r Rule) bool { return r.Index == index })
			if known || c.Message[at[6]:at[7]] != "is left out" {
				continue
			}
			r := Rule{Index: index, LeftOut: c.Message[at[1]:end]}
			if at[4] >= 0 {
				r.Name = c.Message[at[4]:at[5]]
			}
			all = append(all, r)
		}
	}
	return all
}

// rulesOf are the rules of a route in a table, in the order of the route.
func rulesOf(t *model.RouteTable, route model.RouteRef) []model.Rule {
	if t == nil {
		return nil
	}
	var all []model.Rule
	for i := range t.Rules {
		if t.Rules[i].Route == route {
			all = append(all, t.Rules[i])
		}
	}
	return all
}
