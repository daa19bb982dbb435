package kube

import (
	"errors"
	"io"

	"go.yaml.in/yaml/v3"
)

// readDocuments splits a file into its YAML documents; JSON is YAML. Documents that hold nothing are left out.
// Either all of a file parses or none of it counts: what stands before an error may be half of what was meant.
func readDocuments(content io.Reader) ([]*yaml.Node, error) {
	var found []*yaml.Node
	for dec := yaml.NewDecoder(content); ; {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if root := rootOf(&n); root != nil && root.ShortTag() != "!!null" {
			found = append(found, root)
		}
	}
}

// rootOf is the value of a document.
func rootOf(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		return n.Content[0]
	}
	return nil
}

// member is the value of a mapping's key, nil where there is none.
func member(n *yaml.Node, key string) *yaml.Node {
	_, value := find(resolve(n), key)
	return resolve(value)
}

// find is a key of a mapping, and its value; nil where there is none.
func find(n *yaml.Node, key string) (at, value *yaml.Node) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// text is the string that a node holds, "" where it holds something else.
func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return ""
	}
	return n.Value
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
