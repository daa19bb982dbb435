package kube

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// lineOf is the line of the value that a field path such as spec.rules[0].matches names. Where part of the path is
// not in the file (a field that is missing, say), it is the line of what should hold it.
func (d *document) lineOf(path string) int {
	n, line := d.node, d.node.Line
	for path != "" {
		var key *yaml.Node
		key, n, path = step(resolve(n), strings.TrimPrefix(path, "."))
		if key == nil {
			break
		}
		line = key.Line
	}
	return line
}

// step takes the first part off a path. It returns where the part stands, its value, and the rest of the path.
func step(n *yaml.Node, path string) (at, value *yaml.Node, rest string) {
	switch {
	case n == nil:
		return nil, nil, ""
	case strings.HasPrefix(path, "["):
		inside, rest, _ := strings.Cut(path[1:], "]")
		if n.Kind == yaml.SequenceNode {
			i, err := strconv.Atoi(inside)
			if err != nil || i < 0 || i >= len(n.Content) {
				return nil, nil, ""
			}
			return n.Content[i], n.Content[i], rest
		}
		at, value = find(n, inside)
		return at, value, rest
	default:
		// A key may itself hold dots, as labels do: the longest one that fits is it.
		for end := len(path); end > 0; end = strings.LastIndexAny(path[:end], ".[") {
			if at, value = find(n, path[:end]); at != nil {
				return at, value, path[end:]
			}
		}
		return nil, nil, ""
	}
}
