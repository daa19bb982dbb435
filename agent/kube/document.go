package kube

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Limits of one object; an API server takes neither larger ones.
const (
	maxDepth = 64
	maxNodes = 1 << 20 // aliases count each time they are used, so they cannot grow without bound
)

// document is one object of a file: its YAML, the same as JSON, and where in the file each value of that JSON stands.
type document struct {
	node  *yaml.Node
	json  []byte
	marks []mark // by offset
}

// mark says that the value at an offset of the JSON stands on a line of the file.
type mark struct{ offset, line int }

// newDocument writes a YAML value as JSON. What JSON has no form for, and keys that are there twice, are faults; what
// is written is then the rest.
func newDocument(n *yaml.Node) (*document, []fault) {
	w := jsonWriter{doc: &document{node: n}}
	w.value(n, 0)
	return w.doc, w.faults
}

func (d *document) digest() [sha256.Size]byte { return sha256.Sum256(d.json) }

// lineAt is the line of the value that a JSON decoder was reading when it had read so many bytes.
func (d *document) lineAt(offset int64) int {
	i, _ := slices.BinarySearchFunc(d.marks, int(offset), func(m mark, o int) int { return cmp.Compare(m.offset, o) })
	if i == 0 {
		return d.node.Line
	}
	return d.marks[i-1].line
}

type jsonWriter struct {
	doc    *document
	nodes  int
	faults []fault
}

func (w *jsonWriter) fault(n *yaml.Node, format string, args ...any) {
	w.faults = append(w.faults, fault{n.Line, fmt.Sprintf(format, args...)})
}

func (w *jsonWriter) write(s string) { w.doc.json = append(w.doc.json, s...) }

func (w *jsonWriter) value(n *yaml.Node, depth int) {
	n = resolve(n)
	w.doc.marks = append(w.doc.marks, mark{len(w.doc.json), n.Line})
	if w.nodes++; depth > maxDepth || w.nodes > maxNodes {
		if depth > maxDepth {
			w.fault(n, "values are nested more than %d deep", maxDepth)
		} else if w.nodes == maxNodes+1 {
			w.fault(n, "the object has more than %d values, aliases counted each time", maxNodes)
		}
		w.write("null")
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		w.mapping(n, depth)
	case yaml.SequenceNode:
		w.write("[")
		for i, item := range n.Content {
			if i > 0 {
				w.write(",")
			}
			w.value(item, depth+1)
		}
		w.write("]")
	default:
		w.scalar(n)
	}
}

func (w *jsonWriter) mapping(n *yaml.Node, depth int) {
	seen := map[string]int{}
	w.write("{")
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		switch line, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			w.fault(key, "a key must be a string")
			continue
		case key.ShortTag() == "!!merge":
			w.fault(key, "merge keys (<<) are not supported: write the fields out")
			continue
		case twice:
			w.fault(key, "the key %q is here twice, first on line %d: remove one", key.Value, line)
			continue
		}
		if len(seen) > 0 {
			w.write(",")
		}
		seen[key.Value] = key.Line
		w.quoted(key.Value)
		w.write(":")
		w.value(value, depth+1)
	}
	w.write("}")
}

func (w *jsonWriter) scalar(n *yaml.Node) {
	tag := n.ShortTag()
	switch b, is := boolean(n); {
	case is:
		w.write(fmt.Sprint(b))
	case tag == "!!null":
		w.write("null")
	case tag == "!!str", tag == "!!timestamp": // JSON has no timestamps: they are strings
		w.quoted(n.Value)
	case tag == "!!int", tag == "!!float":
		w.number(n)
	default:
		w.fault(n, "the tag %s has no meaning here", tag)
		w.write("null")
	}
}

// boolean reads the booleans of YAML 1.1, which is what kubectl and API servers read: an unquoted "on" is true.
func boolean(n *yaml.Node) (value, is bool) {
	if n.Style != 0 {
		return false, false
	}
	switch n.Value {
	case "true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true, true
	case "false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

func (w *jsonWriter) number(n *yaml.Node) {
	var i int64
	if n.Decode(&i) == nil && n.ShortTag() == "!!int" {
		w.write(fmt.Sprint(i))
		return
	}
	var f float64
	if err := n.Decode(&f); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		w.fault(n, "%s is no number that JSON has", n.Value)
		w.write("null")
		return
	}
	b, _ := json.Marshal(f) // a finite number always has a form
	w.doc.json = append(w.doc.json, b...)
}

func (w *jsonWriter) quoted(s string) {
	b, _ := json.Marshal(s) // a string always has a form
	w.doc.json = append(w.doc.json, b...)
}
