package text

import (
	"strings"
	"unicode/utf8"
)

// Table writes rows under a heading, in columns as wide as they need to be. All rows have as many cells as the first.
func (t *Page) Table(indent int, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(strings.Map(printable, cell) + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		t.WriteString(strings.Repeat(" ", indent) + strings.TrimRight(line.String(), " ") + "\n")
	}
}
