package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	maxPrefixes     = 64      // how many lines above the place where the parser gave up are looked at
	maxPrefixedFile = 1 << 20 // and in files of what size at most, because each look parses the file again
)

// syntaxFault says where and why a file does not parse.
func syntaxFault(name string, content []byte, err error) fault {
	line, text := 0, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(text); m != nil {
		// The expression admits digits only; a number that is too large leaves 0, the file as a whole.
		line, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	if filepath.Ext(name) == ".json" {
		if l, reason := jsonSyntax(content); l > 0 {
			return fault{l, "does not parse as JSON: " + reason}
		}
	}
	if l := brokenLine(content); l > 0 {
		line = l
	}
	return fault{line, "does not parse as YAML: " + text}
}

// brokenLine finds the line that breaks a YAML file: what stands above it parses, and it does not together with it. The
// parser itself tells where the innermost block begins, which may be far above. 0: it is not found.
func brokenLine(content []byte) int {
	if len(content) > maxPrefixedFile {
		return 0
	}
	seen := &lineReader{rest: content}
	if parses(seen) { // reads no further than it has to
		return 0
	}
	lines := bytes.SplitAfter(content, []byte("\n"))
	end := 0
	ends := make([]int, len(lines))
	for i, l := range lines {
		end += len(l)
		ends[i] = end
	}
	for n := min(seen.lines, len(lines)); n > max(0, seen.lines-maxPrefixes); n-- {
		if n == 1 || parses(&lineReader{rest: content[:ends[n-2]]}) {
			return n
		}
	}
	return 0
}

// jsonSyntax is the line of a JSON file's first error; 0: it has none.
func jsonSyntax(content []byte) (line int, reason string) {
	var value json.RawMessage
	var at *json.SyntaxError
	if err := json.Unmarshal(content, &value); !errors.As(err, &at) {
		return 0, ""
	}
	return 1 + bytes.Count(content[:min(max(0, int(at.Offset)-1), len(content))], []byte("\n")), at.Error()
}

func parses(r io.Reader) bool {
	_, err := readDocuments(r)
	return err == nil
}

// lineReader gives out a line at a time and counts them.
type lineReader struct {
	rest  []byte
	lines int
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := bytes.IndexByte(r.rest, '\n') + 1
	if n == 0 {
		n = len(r.rest)
	}
	if n = copy(p, r.rest[:n]); len(r.rest) == n || r.rest[n-1] == '\n' {
		r.lines++
	}
	r.rest = r.rest[n:]
	return n, nil
}
