package hpack

import (
	"strings"
	"testing"

	oracle "golang.org/x/net/http2/hpack"
)

// RFC 7541, appendix A, as another implementation has it.
func TestStaticTable(t *testing.T) {
	for i := 1; i <= staticLen; i++ {
		want, err := oracle.NewDecoder(4096, nil).DecodeFull(index(i))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "index", decode(t, NewDecoder(4096), index(i)), fields(want[0].Name+": "+want[0].Value))
	}
}

// Each name is found by the first index that has it, in any case; nothing else is.
func TestStaticNames(t *testing.T) {
	first := map[string]int{}
	for i := staticLen; i > 0; i-- {
		first[static[i].Name] = i
	}
	for name, want := range first {
		for _, spelled := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:2]) + name[2:]} {
			if got := staticName(spelled); got != want {
				t.Errorf("%s: %d, want %d", spelled, got, want)
			}
		}
		for _, other := range []string{name + "x", name[1:], name[:len(name)-1], name[:1] + "\u212a" + name[1:], "x" + name[1:], strings.Replace(name, "-", "\r", 1)} {
			if _, known := first[other]; !known && staticName(other) != 0 {
				t.Errorf("%q is %d", other, staticName(other))
			}
		}
	}
	if staticName("") != 0 {
		t.Error("the empty name is there")
	}
}
