package kube

import (
	"strings"
	"testing"
)

// The line that is told is the one to look at, not the beginning of the block around it.
func TestLineOfASyntaxError(t *testing.T) {
	const above = "a: 1\nb:\n  c: 2\n  d:\n  - x: 1\n    y: 2\n"
	const below = "  e: 3\nf: 4\ng:\n  h: 5\n  i: 6\nj: 7\n"
	for name, bad := range map[string]string{
		"sequence not indented":   "   - z: 3",
		"mapping not indented":    "   z: 3",
		"one space":               " k: 1",
		"list that does not end":  "  k: [1",
		"object that does not":    "  k: {a: 1",
		"quote that does not end": "  k: 'abc",
		"double quote":            `  k: "abc`,
		"two colons":              "  k: a: b",
		"unknown anchor":          "  k: *no",
		"at sign":                 "  k: @x",
		"tab":                     "\tk: 1",
		"percent":                 "  k: %x",
		"unknown escape":          `  k: "\q"`,
		"no colon":                "  k",
		"brace":                   "  k: }",
		"control character":       "  k: \x01",
		"not UTF-8":               "  k: \xff",
	} {
		f := newFolder(t, map[string]string{"a.yaml": above + bad + "\n" + below})
		_, problems := f.load()
		if len(problems) != 1 || !strings.HasPrefix(problems[0], "a.yaml:7: does not parse as YAML: ") {
			t.Errorf("%s: %q", name, problems)
		}
	}
}

func TestLineOfASyntaxErrorInLaterDocumentsAndLargeFiles(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"first line":      {"a: b: c\n", "a.yaml:1: "},
		"later document":  {service + "---\n" + service + "---\na: {\n", "a.yaml:19: "},
		"very large":      {strings.Repeat("# comment\n", 200_000) + "a: b: c\n", "a.yaml:200001: "},
		"no line is told": {strings.Repeat("# comment\n", 200_000) + "a: *b\n", "a.yaml: does not parse as YAML: unknown anchor"},
	} {
		f := newFolder(t, map[string]string{"a.yaml": c.content})
		if _, problems := f.load(); len(problems) != 1 || !strings.HasPrefix(problems[0], c.want) {
			t.Errorf("%s: %q, want %q", name, problems, c.want)
		}
	}
}

func TestLineOfASyntaxErrorInJSON(t *testing.T) {
	f := newFolder(t, map[string]string{
		"a.json": "{\n\"a\": [1,\n2],\n\"b\": 3\n\"c\": 4\n}\n",
		"b.json": "{\n\"a\": [1,\n2\n",
	})
	_, problems := f.load()
	if len(problems) != 2 || !strings.HasPrefix(problems[0], "a.json:5: does not parse as JSON: invalid character '\"' after object key:value pair") ||
		!strings.HasPrefix(problems[1], "b.json:3: does not parse as JSON: unexpected end of JSON input") {
		t.Errorf("%q", problems)
	}
}
