package message

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fields reads lines that are written as "Name: value".
func fields(lines ...string) Fields {
	f := Fields{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		f = append(f, Field{Name: name, Value: value})
	}
	return f
}

func (f Fields) lines() []string {
	out := []string{}
	for _, l := range f {
		out = append(out, l.Name+": "+l.Value)
	}
	return out
}

func check(t *testing.T, f Fields, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), f.lines()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// RFC 9110, 5.1: names are case-insensitive, and they are ASCII.
func TestEqualNameFoldsASCIIOnly(t *testing.T) {
	fold := func(c int) int {
		if 'A' <= c && c <= 'Z' {
			return c | 0x20
		}
		return c
	}
	for a := range 256 {
		for b := range 256 {
			got := EqualName("x"+string([]byte{byte(a)})+"y", "X"+string([]byte{byte(b)})+"Y")
			if want := fold(a) == fold(b); got != want {
				t.Errorf("bytes %#x and %#x: equal %v, want %v", a, b, got, want)
			}
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "a", false},
		{"content-length", "Content-Length", true},
		{"content-length", "content-lengt", false},
		{"content-length", "content-length ", false},
		{"content-length", "content_length", false},
		{"k", "\u212a", false},                            // Kelvin, which strings.EqualFold takes for a k
		{"transfer-encoding", "tranſfer-encoding", false}, // and the long s for an s
		{"É", "é", false},
	} {
		if got := EqualName(c.a, c.b); got != c.want {
			t.Errorf("%q and %q: equal %v, want %v", c.a, c.b, got, c.want)
		}
		if got := EqualName(c.b, c.a); got != c.want {
			t.Errorf("%q and %q: equal %v, want %v", c.b, c.a, got, c.want)
		}
	}
}

func TestGetIsTheFirstLine(t *testing.T) {
	f := fields("A: 1", "x-B: 2", "X-b: 3", "Empty: ")
	for name, want := range map[string]string{"a": "1", "X-B": "2", "empty": ""} {
		if got, ok := f.Get(name); !ok || got != want {
			t.Errorf("%s is %q, %v: want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "x", "x-b:", "absent"} {
		if got, ok := f.Get(name); ok || got != "" {
			t.Errorf("%q is there: %q", name, got)
		}
	}
	if _, ok := Fields(nil).Get("a"); ok {
		t.Error("no fields have a line")
	}
}

func TestCount(t *testing.T) {
	f := fields("A: 1", "x-B: 2", "X-b: 3", "X-B: 2")
	for name, want := range map[string]int{"a": 1, "x-b": 3, "X-B": 3, "x": 0, "": 0} {
		if got := f.Count(name); got != want {
			t.Errorf("%d lines of %q: want %d", got, name, want)
		}
	}
}

func TestSetKeepsPlaceAndSpellingOfTheFirst(t *testing.T) {
	f := fields("A: 1", "x-B: 2", "C: 3", "X-b: 4", "D: 5", "X-B: 6")
	f.Set("X-B", "new")
	check(t, f, "A: 1", "x-B: new", "C: 3", "D: 5")
	f.Set("a", "first")
	f.Set("D", "last")
	check(t, f, "A: first", "x-B: new", "C: 3", "D: last")
	f.Set("x-New", "added")
	check(t, f, "A: first", "x-B: new", "C: 3", "D: last", "x-New: added")

	var none Fields
	none.Set("A", "1")
	check(t, none, "A: 1")
}

func TestAddIsALineAtTheEnd(t *testing.T) {
	f := fields("A: 1", "B: 2")
	f.Add("a", "3")
	f.Add("", "")
	check(t, f, "A: 1", "B: 2", "a: 3", ": ")
}

func TestDelKeepsTheOrderOfTheOthers(t *testing.T) {
	for _, c := range []struct{ of, del, want string }{
		{"A: 1|x-B: 2|C: 3|X-b: 4|D: 5", "X-B", "A: 1|C: 3|D: 5"},
		{"X: 1|A: 2", "x", "A: 2"},
		{"A: 1|X: 2", "x", "A: 1"},
		{"A: 1|X: 2", "absent", "A: 1|X: 2"},
		{"A: 1|A: 2|A: 3", "a", ""},
	} {
		f := fields(strings.Split(c.of, "|")...)
		f.Del(c.del)
		if got := strings.Join(f.lines(), "|"); got != c.want {
			t.Errorf("%s without %s is %s: want %s", c.of, c.del, got, c.want)
		}
	}
	var none Fields
	none.Del("A")
	check(t, none)
}

// What is beyond the end of the slice stays reachable: a view there would keep a buffer, or show another's request.
func TestNoViewIsLeftBehind(t *testing.T) {
	for name, edit := range map[string]func(*Fields){
		"set":      func(f *Fields) { f.Set("X", "new") },
		"del":      func(f *Fields) { f.Del("X") },
		"del last": func(f *Fields) { f.Del("Last") },
		"del all":  func(f *Fields) { f.Del("X"); f.Del("A"); f.Del("B"); f.Del("Last") },
	} {
		f := fields("A: 1", "X: 2", "B: 3", "x: 4", "X: 5", "Last: 6")
		before := f
		edit(&f)
		if len(f) == len(before) {
			t.Fatalf("%s removed nothing", name)
		}
		for i, left := range before[len(f):] {
			if left != (Field{}) {
				t.Errorf("%s left %+v behind, %d beyond the end", name, left, i)
			}
		}
	}
}

// Any sequence of edits does what a slow implementation does.
func TestEditsAgainstAReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "A", "b", "B", "aa", "aA", "", "k", "\u212a"}
	for range 2000 {
		got, want := make(Fields, 0, 4), Fields{}
		for step := range 12 {
			name := names[random.IntN(len(names))]
			value := string(rune('0' + step))
			same := func(f Field) bool { return asciiLower(f.Name) == asciiLower(name) }
			switch first := slices.IndexFunc(want, same); random.IntN(4) {
			case 0:
				got.Del(name)
				want = slices.DeleteFunc(want, same)
			case 1:
				got.Set(name, value)
				if first < 0 {
					want = append(want, Field{Name: name, Value: value})
					break
				}
				head := slices.Clone(want[:first+1])
				head[first].Value = value
				want = append(head, slices.DeleteFunc(want[first+1:], same)...)
			default:
				got.Add(name, value)
				want = append(want, Field{Name: name, Value: value})
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q: want %q", got.lines(), want.lines())
			}
			if n := len(slices.DeleteFunc(slices.Clone(want), func(f Field) bool { return !same(f) })); got.Count(name) != n {
				t.Fatalf("%d lines of %q in %q: want %d", got.Count(name), name, got.lines(), n)
			}
		}
	}
}

func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func TestEditsWithinTheRoomDoNotAllocate(t *testing.T) {
	f := make(Fields, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		f = f[:0]
		f.Add("A", "1")
		f.Set("B", "2")
		f.Add("a", "3")
		f.Set("A", "4")
		f.Del("b")
	}); n != 0 {
		t.Errorf("%v allocations: want none", n)
	}
	check(t, f, "A: 4")
}
