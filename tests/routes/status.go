package routes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// checkStatus looks at a route's status.
func (x *execution) checkStatus(ctx context.Context, want *Status) error {
	key := x.c.key(want.Route)
	have, err := x.runner.Status(ctx, key)
	if err != nil {
		return err
	}
	switch {
	case want.None && have == nil:
		return nil
	case want.None:
		return fmt.Errorf("%s has a status, %+v, and should have none of ours", key, have)
	case have == nil:
		return fmt.Errorf("%s has no status", key)
	case want.Parents != 0 && want.Parents != len(have.Parents):
		return fmt.Errorf("%s has a status for %d parents, want %d", key, len(have.Parents), want.Parents)
	case want.Parent >= len(have.Parents):
		return fmt.Errorf("%s has a status for %d parents, and none with the index %d", key, len(have.Parents), want.Parent)
	case have.Generation < want.Generation:
		return fmt.Errorf("%s has generation %d, want at least %d", key, have.Generation, want.Generation)
	}
	if err := want.compare(&have.Parents[want.Parent], have.Generation); err != nil {
		return fmt.Errorf("status of %s, parent %d: %w", key, want.Parent, err)
	}
	return nil
}

// conditions are those that there have to be, and no others, with their reasons (S-20, S-23).
func (s *Status) conditions() map[string]string {
	want := map[string]string{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}
	if s.Accepted != "" {
		want["Accepted"] = s.Accepted
	}
	if s.ResolvedRefs != "" {
		want["ResolvedRefs"] = s.ResolvedRefs
	}
	if s.Partially != "" {
		want["PartiallyInvalid"] = s.Partially
	}
	return want
}

func (s *Status) compare(have *ParentStatus, generation int64) error {
	want := s.conditions()
	if err := s.sameParent(have.ParentRef); err != nil {
		return err
	}
	if domain, path, _ := strings.Cut(have.ControllerName, "/"); domain == "" || path == "" { // S-2
		return fmt.Errorf("the controller is called %q, which is no DOMAIN/PATH", have.ControllerName)
	}
	left := maps.Clone(want)
	var said strings.Builder
	for _, c := range have.Conditions {
		reason, expected := want[c.Type]
		switch {
		case !expected:
			return fmt.Errorf("condition %s is there: %s", c.Type, c.Message)
		case c.Reason != reason || c.Status != statusFor(c.Type, reason):
			return fmt.Errorf("%s is %s/%s, want %s/%s; it says: %s", c.Type, c.Status, c.Reason, statusFor(c.Type, reason), reason, c.Message)
		case c.ObservedGeneration != generation: // S-6
			return fmt.Errorf("%s is of generation %d, and the route has %d", c.Type, c.ObservedGeneration, generation)
		case c.Message == "":
			return fmt.Errorf("%s has no message", c.Type)
		}
		delete(left, c.Type)
		fmt.Fprintln(&said, c.Message)
	}
	if len(left) > 0 {
		return fmt.Errorf("there are no conditions %v", left)
	}
	for _, words := range s.Says {
		if !strings.Contains(said.String(), words) {
			return fmt.Errorf("the messages do not say %q:\n%s", words, said.String())
		}
	}
	return nil
}

// statusFor is the status that goes with a reason.
func statusFor(condition, reason string) string {
	if condition == "PartiallyInvalid" || reason == condition {
		return "True"
	}
	return "False"
}

// unnamed are the statuses of the routes that the case says nothing of: everything is in order with them.
func (c *Case) unnamed(objects []Object) []Step {
	named := map[Key]bool{}
	for _, s := range c.Steps {
		if s.Status != nil {
			named[c.key(s.Status.Route)] = true
		}
	}
	var steps []Step
	for _, o := range objects {
		if !strings.HasSuffix(o.Kind, "Route") || named[o.Key] {
			continue
		}
		spec, _ := o.Content["spec"].(map[string]any)
		parents, _ := spec["parentRefs"].([]map[string]any)
		for i := range parents {
			steps = append(steps, Step{Status: &Status{Route: o.Kind + "/" + o.Namespace + "/" + o.Name, Parent: i}})
		}
	}
	return steps
}

// sameParent: a status repeats the parentRef as it is in the route, so that its author finds it (S-1).
func (s *Status) sameParent(have map[string]any) error {
	if s.ParentRef == nil {
		return nil
	}
	// Through JSON, because numbers of JSON and of YAML have different types.
	w, err := json.Marshal(s.ParentRef)
	if err != nil {
		return err
	}
	h, err := json.Marshal(have)
	if err != nil {
		return err
	}
	if string(w) != string(h) {
		return fmt.Errorf("the parentRef is %s, want %s", h, w)
	}
	return nil
}
