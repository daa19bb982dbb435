package status

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxParents is what the API takes of status.parents (S-3).
const maxParents = 32

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// change is what makes status.parents say what we want of it.
type change struct {
	operations []operation
	told       bool // conditions change in what they say, not only in the generation that they are of
	left       int  // entries that the list has no room for
}

// plan compares status.parents as it is with our part of it as it should be. Each operation touches one entry of ours:
// what others wrote stays as it is, wherever it is, and whatever is in it that we do not know (S-4). An entry of ours is
// where it was; new ones go to the end, in the order of the route.
func plan(has, want []gatewayv1.RouteParentStatus, controller gatewayv1.GatewayController, now metav1.Time) change {
	var c change
	var stale []int
	used := make([]bool, len(want))
	for i := range has {
		if has[i].ControllerName != controller {
			continue
		}
		w := slices.IndexFunc(want, func(w gatewayv1.RouteParentStatus) bool {
			return reflect.DeepEqual(w.ParentRef, has[i].ParentRef) // S-1
		})
		if w < 0 || used[w] { // S-5
			stale = append(stale, i)
			continue
		}
		used[w] = true
		c.compare(i, &has[i], &want[w], now)
	}
	for _, i := range slices.Backward(stale) { // from the end, so that the places of the others hold
		c.operations = append(c.operations, operation{Op: "remove", Path: fmt.Sprintf("/status/parents/%d", i)})
	}
	c.add(has == nil, len(has)-len(stale), unused(want, used), now)
	return c
}

// unused are the entries that are not there yet, each once.
func unused(want []gatewayv1.RouteParentStatus, used []bool) []*gatewayv1.RouteParentStatus {
	var all []*gatewayv1.RouteParentStatus
	for i := range want {
		twice := slices.ContainsFunc(want[:i], func(w gatewayv1.RouteParentStatus) bool {
			return reflect.DeepEqual(w.ParentRef, want[i].ParentRef)
		})
		if !used[i] && !twice {
			all = append(all, &want[i])
		}
	}
	return all
}

// compare replaces an entry that is not as it should be (S-7).
func (c *change) compare(place int, has, want *gatewayv1.RouteParentStatus, now metav1.Time) {
	same, told := sameConditions(has.Conditions, want.Conditions)
	if same {
		return
	}
	c.told = c.told || told
	c.operations = append(c.operations, operation{
		Op: "replace", Path: fmt.Sprintf("/status/parents/%d", place), Value: stamped(want, has.Conditions, now),
	})
}

// add appends what is new, as far as there is room beside the others. Where there is no status, the list is made (S-3).
func (c *change) add(missing bool, stay int, fresh []*gatewayv1.RouteParentStatus, now metav1.Time) {
	room := max(0, maxParents-stay)
	c.left = max(0, len(fresh)-room)
	fresh = fresh[:min(len(fresh), room)]
	c.told = c.told || len(fresh) > 0
	var entries []gatewayv1.RouteParentStatus
	for _, w := range fresh {
		entries = append(entries, stamped(w, nil, now))
	}
	if missing && len(entries) > 0 {
		c.operations = append(c.operations, operation{Op: "add", Path: "/status", Value: gatewayv1.RouteStatus{Parents: entries}})
		return
	}
	for _, e := range entries {
		c.operations = append(c.operations, operation{Op: "add", Path: "/status/parents/-", Value: e})
	}
}

// sameConditions compares conditions as a map by type. told says whether they differ in more than the generation.
func sameConditions(has, want []metav1.Condition) (same, told bool) {
	same, told = len(has) == len(want), len(has) != len(want)
	for i := range want {
		w := &want[i]
		h := find(has, w.Type)
		if h == nil || h.Status != w.Status || h.Reason != w.Reason || h.Message != w.Message {
			return false, true
		}
		same = same && h.ObservedGeneration == w.ObservedGeneration // S-6
	}
	return same, told
}

// stamped is a copy of the entry. What has the status that it had keeps the time of its last transition (S-7).
func stamped(want *gatewayv1.RouteParentStatus, before []metav1.Condition, now metav1.Time) gatewayv1.RouteParentStatus {
	e := *want
	e.Conditions = stamp(want.Conditions, before, now)
	return e
}

func stamp(want, before []metav1.Condition, now metav1.Time) []metav1.Condition {
	all := slices.Clone(want)
	for i := range all {
		c := &all[i]
		c.LastTransitionTime = now
		if b := find(before, c.Type); b != nil && b.Status == c.Status {
			c.LastTransitionTime = b.LastTransitionTime
		}
	}
	return all
}

func find(all []metav1.Condition, kind string) *metav1.Condition {
	i := slices.IndexFunc(all, func(c metav1.Condition) bool { return c.Type == kind })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// patch is the body of the request. It holds for that version of the object only: the server answers Conflict to one
// that was made from another.
func (c *change) patch(version string) ([]byte, error) {
	all := append([]operation{{Op: "replace", Path: "/metadata/resourceVersion", Value: version}}, c.operations...)
	return json.Marshal(all)
}
