package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

// list is a network configuration list and where its plugins stand in the text. The text is edited, not written anew: what
// we do not know, and how it is spelled, stays.
type list struct {
	text    []byte
	plugins []plugin
}

// plugin is one element of the list: text[start:end].
type plugin struct {
	start, end int
	kind       string
}

// errUnsupported marks a configuration that is sound, but not one to which our plugin can be added.
var errUnsupported = errors.New("sluice-cni cannot be added")

// parseList reads a list. Its errors say what a container runtime would not take either.
func parseList(text []byte) (*list, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	l := &list{text: text}
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil { // the brace
		return nil, err
	}
	seen := false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		if name != "plugins" {
			if err := d.Decode(new(json.RawMessage)); err != nil {
				return nil, err
			}
			continue
		}
		if seen {
			return nil, errors.New(`"plugins" is there twice`)
		}
		seen = true
		if err := l.readPlugins(d); err != nil {
			return nil, err
		}
	}
	if !seen {
		return nil, errors.New(`it has no "plugins"`)
	}
	return l, nil
}

func (l *list) readPlugins(d *json.Decoder) error {
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return errors.Join(errors.New(`"plugins" is no array`), err)
	}
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		var p struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || p.Type == "" {
			return errors.Join(fmt.Errorf("element %d of \"plugins\" has no type", len(l.plugins)), err)
		}
		end := int(d.InputOffset())
		l.plugins = append(l.plugins, plugin{start: end - len(raw), end: end, kind: p.Type})
	}
	_, err := d.Token() // the bracket
	return err
}

// ours is the index of an entry of ours, or -1.
func (l *list) ours() int {
	return slices.IndexFunc(l.plugins, func(p plugin) bool { return p.kind == netconf.Type })
}

// withEntry returns the list's text with our entry in it: last, unless somebody put something behind it. Text that needs
// no change is returned as it is.
func withEntry(text, entry []byte) ([]byte, error) {
	l, err := parseList(text)
	if err != nil {
		return nil, err
	}
	if err := supported(text); err != nil {
		return nil, err
	}
	if l.wellPlaced() {
		p := l.plugins[l.ours()]
		if sameJSON(text[p.start:p.end], entry) {
			return text, nil
		}
		return slices.Concat(text[:p.start], entry, text[p.end:]), nil
	}
	if text, err = withoutEntry(text); err != nil {
		return nil, err
	}
	if l, err = parseList(text); err != nil {
		return nil, err
	}
	if len(l.plugins) == 0 {
		return nil, fmt.Errorf("%w: there is no plugin behind which it could stand", errUnsupported)
	}
	last := l.plugins[len(l.plugins)-1]
	return slices.Concat(text[:last.end], []byte(","), l.indent(), entry, text[last.end:]), nil
}

// wellPlaced says whether our entry is there once, behind another.
func (l *list) wellPlaced() bool {
	n := 0
	for _, p := range l.plugins {
		if p.kind == netconf.Type {
			n++
		}
	}
	return n == 1 && l.ours() > 0
}

// indent is the white space before the last plugin.
func (l *list) indent() []byte {
	before := l.text[:l.plugins[len(l.plugins)-1].start]
	return before[len(bytes.TrimRight(before, " \t\r\n")):]
}

// withoutEntry returns the list's text without entries of ours. It undoes withEntry to the byte.
func withoutEntry(text []byte) ([]byte, error) {
	for {
		l, err := parseList(text)
		if err != nil {
			return nil, err
		}
		i := l.ours()
		if i < 0 {
			return text, nil
		}
		from, to := l.plugins[i].start, l.plugins[i].end
		switch {
		case i > 0:
			from = l.plugins[i-1].end
		case len(l.plugins) > 1:
			to = l.plugins[1].start
		}
		text = slices.Concat(text[:from], text[to:])
	}
}

// supported says whether our plugin speaks the versions of a configuration. With one that it does not speak, no pod could
// start.
func supported(text []byte) error {
	var c struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"` // since 1.1: the runtime chooses one
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	wanted := c.CNIVersions
	if c.CNIVersion != "" || len(wanted) == 0 {
		wanted = append(slices.Clone(wanted), c.CNIVersion)
	}
	for _, v := range wanted {
		if !slices.Contains(netconf.Versions(), v) {
			return fmt.Errorf("%w: it speaks %s of CNI, and the configuration has version %q", errUnsupported, strings.Join(netconf.Versions(), ", "), v)
		}
	}
	return nil
}

func sameJSON(a, b []byte) bool {
	x, errX := exact(a)
	y, errY := exact(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// exact decodes without rounding numbers.
func exact(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}
