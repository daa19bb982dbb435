package text

import (
	"strings"
	"testing"
)

func TestLinesKeepToTheirWidth(t *testing.T) {
	out := &Page{}
	out.Line(2, "%s", strings.Repeat("word ", 60)+"\x1b[31m"+strings.Repeat("x", 120)+" a  b")
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[1], "      word") || lines[5] != "      a  b" || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if len(l) > Width && !strings.Contains(l, "xxx") {
			t.Errorf("too wide: %q", l)
		}
	}
}

func TestColumnsAreAsWideAsTheyNeedToBe(t *testing.T) {
	out := &Page{}
	out.Table(2, [][]string{{"A", "B", "C"}, {"é long one", "x", ""}, {"a\tb", "", "z"}})
	want := "  A           B  C\n  é long one  x\n  a b            z\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out, want)
	}
}
