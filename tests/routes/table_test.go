package routes_test

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/tests/routes"
)

// Every feature and every edge case is proved by a case, or says where it is.
func TestTableHasNoGaps(t *testing.T) {
	cases, features := load(t)
	for _, gap := range features.Gaps(cases) {
		t.Error(gap)
	}
	// The check itself has to be able to fail.
	if gaps := features.Gaps(nil); len(gaps) < 100 {
		t.Errorf("without cases there are %d gaps", len(gaps))
	}
}

func load(t *testing.T) ([]*routes.Case, *routes.Features) {
	t.Helper()
	cases, err := routes.Load()
	if err != nil {
		t.Fatal(err)
	}
	features, err := routes.LoadFeatures()
	if err != nil {
		t.Fatal(err)
	}
	return cases, features
}

// The document names what a user gets, and claims nothing for which there is no case that runs.
func TestDocumentClaimsNoMoreThanIsProved(t *testing.T) {
	features := routes.Features{
		Groups: []routes.FeatureGroup{{Title: "Things", Features: []routes.Feature{
			{ID: "works", Text: "that works"}, {ID: "not", Text: "that does not", Answer: "`Accepted=False`"},
			{ID: "later", Text: "that comes"}, {ID: "other", Text: "of others", Elsewhere: "not ours"},
		}}},
		Edges: []routes.Edge{{Number: 7, Text: "an edge"}},
	}
	cases := []*routes.Case{
		{Name: "One", Features: []string{"works"}, Rules: []string{"9.7"}}, {Name: "Two", Features: []string{"works", "not"}},
		{Name: "Three", Features: []string{"later"}, Wants: "a cluster"},
	}
	text := string(features.Document(cases))
	for _, line := range []string{
		"| that works | supported | One, Two |\n", "| that does not | answered as unsupported: `Accepted=False` | Two |\n",
		"| that comes | not proved yet | Three (needs a cluster) |\n", "| of others | unsupported | not ours |\n", "| 7. an edge | One |\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("there is no line %q in\n%s", line, text)
		}
	}
}
