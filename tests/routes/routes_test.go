// Package routes_test runs the cases in the lab. It needs root. SLUICE_CASES=expression runs those whose names match;
// SLUICE_UPDATE=1 writes docs/conformance.md; SLUICE_RACE=1 builds the programs with the race detector.
package routes_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/tests/routes"
)

// parallel is how many cases run at the same time. Most of their time they wait, so that the tests' own limit, which is the
// number of CPUs, is too low for them.
const parallel = 12

func TestRoutes(t *testing.T) {
	all, features := load(t)
	only := regexp.MustCompile(os.Getenv("SLUICE_CASES"))
	some := slices.DeleteFunc(slices.Clone(all), func(c *routes.Case) bool { return !only.MatchString(c.Name) })
	n := startNamespaces(t)
	outcomes := start(t, n, some)
	for _, c := range some {
		err := <-outcomes[c] // also when another subtest is asked for: all have to end before the lab does
		t.Run(c.Name, func(t *testing.T) {
			if c.Wants != "" {
				t.Skipf("it needs %s", c.Wants)
			}
			if err != nil {
				t.Errorf("%s (%v): %v", c.What, c.Rules, err)
			}
		})
	}
	if !t.Failed() && len(some) == len(all) {
		compareDocument(t, features.Document(all))
	}
}

// start runs the cases, several at a time.
func start(t *testing.T, n *namespaces, cases []*routes.Case) map[*routes.Case]chan error {
	outcomes := map[*routes.Case]chan error{}
	slots := make(chan struct{}, parallel)
	for _, c := range cases {
		outcome := make(chan error, 1)
		outcomes[c] = outcome
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if c.Wants != "" {
				outcome <- nil
				return
			}
			outcome <- c.Run(t.Context(), n)
		}()
	}
	return outcomes
}

// compareDocument is reached when every case has passed: the document says nothing that was not proved just now.
func compareDocument(t *testing.T, want []byte) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "conformance.md")
	if os.Getenv("SLUICE_UPDATE") == "1" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("docs/conformance.md is not what was proved (%v): run SLUICE_UPDATE=1 go test ./tests/routes, and commit it", err)
	}
}
