package routes

import (
	"fmt"
	"slices"
	"strings"
)

// Features are what there is to be proved.
type Features struct {
	Groups []FeatureGroup `yaml:"groups"`
	Edges  []Edge         `yaml:"edges"`
}

// FeatureGroup is a table of the document.
type FeatureGroup struct {
	Title    string    `yaml:"title"`
	Features []Feature `yaml:"features"`
}

// Feature is one thing that the API has.
type Feature struct {
	ID        string `yaml:"id"`
	Text      string `yaml:"text"`
	Answer    string `yaml:"answer"`    // what a user gets who asks for what is not supported
	Elsewhere string `yaml:"elsewhere"` // why no case can prove it
}

// Edge is something that is easily missed. Cases name it as the rule "9." and its number.
type Edge struct {
	Number    int    `yaml:"number"`
	Text      string `yaml:"text"`
	Elsewhere string `yaml:"elsewhere"`
}

// LoadFeatures reads the features.
func LoadFeatures() (*Features, error) {
	text, err := files.ReadFile("features.yaml")
	if err != nil {
		return nil, err
	}
	var f Features
	if err := decode(text, &f); err != nil {
		return nil, fmt.Errorf("features.yaml: %w", err)
	}
	return &f, nil
}

// Gaps are features and edge cases that nothing proves, and features of cases that there are not.
func (f *Features) Gaps(cases []*Case) []string {
	var gaps []string
	known := map[string]bool{}
	for _, g := range f.Groups {
		for _, feature := range g.Features {
			known[feature.ID] = true
			if found := proving(cases, feature.ID); (len(found) == 0) != (feature.Elsewhere != "") {
				gaps = append(gaps, fmt.Sprintf("feature %s has %d cases, and elsewhere is %q", feature.ID, len(found), feature.Elsewhere))
			}
		}
	}
	for _, e := range f.Edges {
		if found := proving(cases, e.rule()); (len(found) == 0) != (e.Elsewhere != "") {
			gaps = append(gaps, fmt.Sprintf("edge case %d has %d cases, and elsewhere is %q", e.Number, len(found), e.Elsewhere))
		}
		known[e.rule()] = true
	}
	for _, c := range cases {
		for _, id := range c.Features {
			if !known[id] {
				gaps = append(gaps, fmt.Sprintf("case %s: there is no feature %q", c.Name, id))
			}
		}
		for _, id := range c.Rules {
			if isEdge(id) && !known[id] {
				gaps = append(gaps, fmt.Sprintf("case %s: there is no edge case %q", c.Name, id))
			}
		}
	}
	return gaps
}

func (e *Edge) rule() string { return fmt.Sprintf("9.%d", e.Number) }

// proving are the cases that name a feature or a rule.
func proving(cases []*Case, id string) []*Case {
	var found []*Case
	for _, c := range cases {
		if slices.Contains(c.Features, id) || slices.Contains(c.Rules, id) {
			found = append(found, c)
		}
	}
	return found
}

// Document is docs/conformance.md.
func (f *Features) Document(cases []*Case) []byte {
	var b strings.Builder
	b.WriteString(`# What routes do, and what proves it

Each test below runs the agent, the proxy and pods for real: ` + "`make test`" + ` does it on one machine. Those with the names of the Gateway API's own tests are
their twins, with a Service where those have a Gateway; beside the answer's status they look at its fields and Location, at the path, Host and fields that the
backend saw, and at the route's conditions. tests/routes/cases has them, and writes this page.

`)
	for _, g := range f.Groups {
		fmt.Fprintf(&b, "## %s\n| feature | | proved by |\n|---|---|---|\n", g.Title)
		for _, feature := range g.Features {
			found := proving(cases, feature.ID)
			fmt.Fprintf(&b, "| %s | %s | %s |\n", feature.Text, feature.support(found), names(found, feature.Elsewhere))
		}
		b.WriteString("\n")
	}
	b.WriteString("## What is easily missed\n| | proved by |\n|---|---|\n")
	for _, e := range f.Edges {
		fmt.Fprintf(&b, "| %d. %s | %s |\n", e.Number, e.Text, names(proving(cases, e.rule()), e.Elsewhere))
	}
	return []byte(b.String())
}

// support is what the document says of a feature. What only a case says that cannot run yet is not said.
func (f *Feature) support(cases []*Case) string {
	switch {
	case f.Answer != "":
		return "answered as unsupported: " + f.Answer
	case f.Elsewhere != "":
		return "unsupported"
	case !slices.ContainsFunc(cases, func(c *Case) bool { return c.Wants == "" }):
		return "not proved yet"
	}
	return "supported"
}

func names(cases []*Case, elsewhere string) string {
	var all []string
	for _, c := range cases {
		name := c.Name
		if c.Wants != "" {
			name += " (needs " + c.Wants + ")"
		}
		all = append(all, name)
	}
	if len(all) == 0 {
		return elsewhere
	}
	return strings.Join(all, ", ")
}
