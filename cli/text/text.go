// Package text lays out what the command says.
package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Width is what a line of text has room for. A word that is longer stays whole.
const Width = 100

// Page collects lines.
type Page struct{ strings.Builder }

// Line writes a line, and what does not fit below it, further in.
func (t *Page) Line(indent int, format string, args ...any) {
	margin := strings.Repeat(" ", indent)
	column := 0
	for word := range strings.SplitSeq(strings.Map(printable, fmt.Sprintf(format, args...)), " ") {
		size := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			t.WriteString(margin)
			column = indent
		case column+1+size > Width:
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

// Lines writes each on a line of its own.
func (t *Page) Lines(indent int, all []string) {
	for _, s := range all {
		t.Line(indent, "%s", s)
	}
}

// Blank writes an empty line.
func (t *Page) Blank() { t.WriteString("\n") }

// List writes lines under a heading, if there are any.
func (t *Page) List(heading string, all []string) {
	if len(all) > 0 {
		t.Blank()
		t.Line(0, "%s", heading)
		t.Lines(2, all)
	}
}
