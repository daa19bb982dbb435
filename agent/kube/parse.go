package kube

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxFaults bounds what is said about one object.
const maxFaults = 10

// entry is one object as a file has it.
type entry struct {
	key    key
	line   int
	digest [sha256.Size]byte // of all of it
	spec   [sha256.Size]byte // of all but metadata and status
	object object            // nil: this version is bad
}

// contents is what one version of a file holds.
type contents struct {
	digest   [sha256.Size]byte
	entries  []entry
	problems []Problem
	// incomplete: something in the file could not be told, so objects that were in it and now are not may only be
	// misspelt. They are kept.
	incomplete bool
}

// parser reads files. It is not for concurrent use.
type parser struct {
	schemas *schemas
	kinds   map[string]kind
	others  map[string][]string
	// known finds an object that was read before and is good, so that it is not validated again; nil: none is.
	known func(key, [sha256.Size]byte) (entry, bool)
}

func newParser() *parser {
	return &parser{schemas: &schemas{made: map[string]*customResource{}}, kinds: readKinds(), others: otherKinds()}
}

// file reads one file.
func (p *parser) file(name string, data []byte) *contents {
	c := &contents{digest: sha256.Sum256(data)}
	docs, err := readDocuments(bytes.NewReader(data))
	if err != nil {
		broken := syntaxFault(name, data, err)
		c.incomplete = true
		c.problems = []Problem{{File: name, Line: broken.line, Reason: broken.reason + "; its objects stay as they were"}}
		return c
	}
	for _, n := range docs {
		p.value(c, name, n)
	}
	return c
}

// value reads one document or one item of a List.
func (p *parser) value(c *contents, file string, n *yaml.Node) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		c.incomplete = true
		c.problems = append(c.problems, Problem{File: file, Line: n.Line, Reason: "this is no object: a mapping with apiVersion and kind is expected"})
		return
	}
	apiVersion, name := text(member(n, "apiVersion")), text(member(n, "kind"))
	if apiVersion == "v1" && name == "List" {
		p.list(c, file, n)
		return
	}
	k, verdict, reason := p.judge(apiVersion, name)
	id, found := identify(k, name, n)
	problem := Problem{File: file, Line: n.Line, Object: id.String(), Reason: reason}
	if key, _ := find(n, "kind"); key != nil && reason != "" {
		problem.Line = key.Line
	}
	switch {
	case verdict == ignored:
		c.problems = append(c.problems, problem)
	case verdict == unknown || !found:
		if reason == "" {
			problem.Reason = "metadata.name is missing, or is no string"
		}
		problem.Object = ""
		c.incomplete = true
		c.problems = append(c.problems, problem)
	case reason != "":
		c.problems = append(c.problems, problem)
		c.entries = append(c.entries, entry{key: id, line: n.Line})
	default:
		p.object(c, file, k, id, n)
	}
}

// list reads the items of a List.
func (p *parser) list(c *contents, file string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		at, value := n.Content[i], resolve(n.Content[i+1])
		switch at.Value {
		case "apiVersion", "kind", "metadata":
		case "items":
			if value.Kind != yaml.SequenceNode && value.ShortTag() != "!!null" {
				c.incomplete = true
				c.problems = append(c.problems, Problem{File: file, Line: at.Line, Object: "List", Reason: "items is no list"})
				continue
			}
			for _, item := range value.Content {
				p.value(c, file, item)
			}
		default:
			c.incomplete = true
			c.problems = append(c.problems, Problem{File: file, Line: at.Line, Object: "List", Reason: fmt.Sprintf("%s: unknown field", at.Value)})
		}
	}
}

// identify finds an object's name, as far as it has one.
func identify(k kind, name string, n *yaml.Node) (key, bool) {
	meta := member(n, "metadata")
	id := key{kind: name, name: text(member(meta, "name"))}
	if !k.clusterScoped {
		id.namespace = text(member(meta, "namespace"))
	}
	if id.namespace == "" && k.read != nil && !k.clusterScoped {
		id.namespace = metav1.NamespaceDefault
	}
	return id, id.name != ""
}

// object reads one object of a kind that is read.
func (p *parser) object(c *contents, file string, k kind, id key, n *yaml.Node) {
	doc, faults := newDocument(n)
	e := entry{key: id, line: n.Line, digest: doc.digest()}
	if len(faults) == 0 {
		if p.known != nil {
			if before, ok := p.known(id, e.digest); ok {
				before.line = e.line
				c.entries = append(c.entries, before)
				return
			}
		}
		e.object, faults = k.read(p.schemas, doc)
	}
	if len(faults) == 0 {
		e.spec = specDigest(doc)
	}
	for i, f := range faults {
		if i == maxFaults {
			c.problems = append(c.problems, Problem{file, n.Line, id.String(), fmt.Sprintf("%d more like these", len(faults)-i)})
			break
		}
		c.problems = append(c.problems, Problem{file, f.line, id.String(), f.reason})
	}
	c.entries = append(c.entries, e)
}

// specDigest is of all that counts as the object's specification: an API server starts a new generation when it changes.
func specDigest(doc *document) [sha256.Size]byte {
	var parts map[string]any
	// The document was decoded before; what cannot fail now would at worst be taken for a change.
	_ = json.Unmarshal(doc.json, &parts)
	delete(parts, "metadata")
	delete(parts, "status")
	delete(parts, "apiVersion") // one object has several
	b, _ := json.Marshal(parts)
	return sha256.Sum256(b)
}
