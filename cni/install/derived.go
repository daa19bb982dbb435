package install

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

// A configuration that is a single plugin's (.conf, .json) cannot have another behind it. A list is made of it, whose name
// comes before it, so that the runtimes choose the list; the file itself stays untouched, and is what counts again when
// the list is removed. Between the two there is no moment without a configuration.

// derivedEnd ends the name of such a list. It sorts before .conf and .json.
const derivedEnd = "-sluice.conflist"

// derivedName is the name of the list that is made of a file.
func derivedName(base string) string {
	return strings.TrimSuffix(base, filepath.Ext(base)) + derivedEnd
}

// baseOf is the name of the file of which a list was made, or empty when it is not one of ours.
func baseOf(name string, text []byte) string {
	if !strings.HasSuffix(name, derivedEnd) {
		return ""
	}
	l, err := parseList(text)
	if err != nil || l.ours() < 0 {
		return ""
	}
	var e netconf.Entry
	p := l.plugins[l.ours()]
	if json.Unmarshal(text[p.start:p.end], &e) != nil || e.DerivedFrom == "" || derivedName(e.DerivedFrom) != name {
		return ""
	}
	return e.DerivedFrom
}

// single is what counts of a single plugin's configuration.
type single struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type,omitempty"`
}

// derive makes a list of a single plugin's configuration and our entry, as the runtimes themselves make one of it. What
// others put into the list that was there stays.
func derive(base, entry, before []byte) ([]byte, error) {
	var s, was single
	if err := json.Unmarshal(base, &s); err != nil {
		return nil, err
	}
	if s.Type == "" || s.Name == "" {
		return nil, errors.New("it has no name or no type")
	}
	if err := supported(base); err != nil {
		return nil, err
	}
	if l, err := parseList(before); err == nil && json.Unmarshal(before, &was) == nil && len(l.plugins) > 0 && l.plugins[0].kind != netconf.Type &&
		was.Name == s.Name && was.CNIVersion == s.CNIVersion {
		if p := l.plugins[0]; !sameJSON(before[p.start:p.end], base) {
			before = slices.Concat(before[:p.start], base, before[p.end:])
		}
		return withEntry(before, entry)
	}
	text, err := json.MarshalIndent(struct {
		single
		Plugins []json.RawMessage `json:"plugins"`
	}{single{CNIVersion: s.CNIVersion, Name: s.Name}, []json.RawMessage{base, entry}}, "", "  ")
	return append(text, '\n'), err
}
