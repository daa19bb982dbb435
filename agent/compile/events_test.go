package compile_test

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/agent/compile"
)

// S-24, A-51, A-52: what an operator should notice of the routes of the golden inputs.
func TestEventsOfRoutesWhoseTrafficIsNotTheirs(t *testing.T) {
	for file, want := range map[string][]string{
		"A50-one-kind-for-a-port": {
			"HTTPRoute shop/", "PortLost", "for Service shop/", "taken by GRPCRoute",
		},
		"F4-filters-that-are-wrong": {"AllRulesInvalid: no rule is implemented: rules[0]"},
	} {
		events := compile.Compile(load(t, "testdata/"+file+".in.yaml"), options()).Events
		var all []string
		for i, e := range events {
			all = append(all, e.String())
			if i > 0 && e == events[i-1] {
				t.Errorf("%s: %s is there twice", file, e)
			}
		}
		for _, text := range want {
			if !strings.Contains(strings.Join(all, "\n"), text) {
				t.Errorf("%s: no event says %q:\n%s", file, text, strings.Join(all, "\n"))
			}
		}
	}
	for _, file := range []string{"consumer", "endpoints", "F2-filters-and-policies"} {
		if events := compile.Compile(load(t, "testdata/"+file+".in.yaml"), options()).Events; len(events) > 0 {
			t.Errorf("%s: %v", file, events)
		}
	}
}
