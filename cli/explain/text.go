// Package explain tells in plain words what is in force: what each route's traffic gets, and which rule a request is for and why
// no other. It is pure: a view goes in, and what comes out is for people as text and for scripts as JSON.
package explain

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// width is what a line of text has room for. A word that is longer stays whole.
const width = 100

// text collects lines.
type text struct{ strings.Builder }

// line writes a line, and what does not fit below it, further in.
func (t *text) line(indent int, format string, args ...any) {
	margin := strings.Repeat(" ", indent)
	column := 0
	for word := range strings.SplitSeq(strings.Map(printable, fmt.Sprintf(format, args...)), " ") {
		size := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			t.WriteString(margin)
			column = indent
		case column+1+size > width:
			t.WriteString("\n" + margin + "    ")
			column = indent + 4
		default:
			t.WriteString(" ")
			column++
		}
		t.WriteString(word)
		column += size
	}
	t.WriteString("\n")
}

// printable keeps what is another's, such as the value of a header, from telling a terminal what to do.
func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// lines writes each on a line of its own.
func (t *text) lines(indent int, all []string) {
	for _, s := range all {
		t.line(indent, "%s", s)
	}
}

// blank writes an empty line.
func (t *text) blank() { t.WriteString("\n") }

// list writes lines under a heading, if there are any.
func (t *text) list(heading string, all []string) {
	if len(all) > 0 {
		t.blank()
		t.line(0, "%s", heading)
		t.lines(2, all)
	}
}
