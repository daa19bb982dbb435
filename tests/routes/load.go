package routes

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed cases/*.yaml base.yaml features.yaml
var files embed.FS

// caseFile is one file of cases. What is shared is there for YAML's anchors.
type caseFile struct {
	Shared any    `yaml:"shared"`
	Cases  []Case `yaml:"cases"`
}

// base is what all cases have.
type base struct {
	Services map[string][]string `yaml:"services"` // and the pods behind each
	Ports    []basePort          `yaml:"ports"`
	Parent   []basePort          `yaml:"parentPorts"`
}

type basePort struct {
	Name       string `yaml:"name"`
	Port       int    `yaml:"port"`
	TargetPort int    `yaml:"targetPort"`
}

// Load reads all cases. Each gets a namespace. Their order is that of the files.
func Load() ([]*Case, error) {
	paths, err := fs.Glob(files, "cases/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*Case
	names := map[string]bool{}
	for _, path := range paths {
		text, err := files.ReadFile(path)
		if err != nil {
			return nil, err
		}
		found, err := parse(text, len(all))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range found {
			if names[c.Name] {
				return nil, fmt.Errorf("%s: there are two cases %q", path, c.Name)
			}
			names[c.Name] = true
		}
		all = append(all, found...)
	}
	return all, nil
}

// parse reads a file's cases; the first is the from-th of all. A namespace has to be known before a case is decoded, because
// its name is all over the case's texts: it is decoded twice.
func parse(text []byte, from int) ([]*Case, error) {
	var f caseFile
	if err := decode(text, &f); err != nil {
		return nil, err
	}
	var found []*Case
	for i := range f.Cases {
		ns := namespaceOf(from+i, f.Cases[i].Name)
		var again caseFile
		if err := decode(bytes.ReplaceAll(text, []byte("$ns"), []byte(ns)), &again); err != nil {
			return nil, err
		}
		c := &again.Cases[i]
		c.Namespace = ns
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		found = append(found, c)
	}
	return found, nil
}

func decode(text []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	return d.Decode(into)
}

// namespaceOf makes a name that is a label of DNS.
func namespaceOf(number int, name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, name)
	return strings.TrimRight(fmt.Sprintf("c%03d-%s", number, clean[:min(len(clean), 40)]), "-")
}

// check refuses cases that could not fail.
func (c *Case) check() error {
	if c.What == "" || len(c.Rules) == 0 || len(c.Features) == 0 && !slices.ContainsFunc(c.Rules, isEdge) {
		return fmt.Errorf("a case says what it proves: what, rules, features")
	}
	looks := 0
	for i, s := range c.Steps {
		kinds := 0
		for _, is := range []bool{s.Apply != nil, len(s.Delete) > 0, s.Status != nil, s.Send != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 || (s.Send != nil) != (s.Want != nil) {
			return fmt.Errorf("step %d: a step applies, deletes, looks at a status, or sends and says what it wants", i)
		}
		if s.Status != nil || s.Send != nil {
			looks++
		}
	}
	if looks == 0 && c.Wants == "" {
		return fmt.Errorf("nothing is looked at")
	}
	return nil
}

func isEdge(rule string) bool { return strings.HasPrefix(rule, "9.") }
