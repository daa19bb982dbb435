package hpack

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	oracle "golang.org/x/net/http2/hpack"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// plenty is a limit that no test comes near by accident.
const plenty = 1 << 24

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fields reads lines that are written as "name: value".
func fields(lines ...string) message.Fields {
	f := message.Fields{}
	for _, l := range lines {
		name, value, _ := strings.CutLast(l, ": ")
		f.Add(name, value)
	}
	return f
}

// decode decodes a block that is right and within its limit.
func decode(t testing.TB, d *Decoder, block []byte) message.Fields {
	t.Helper()
	got, tooLarge, err := d.Decode(message.Fields{}, block, plenty)
	if err != nil || tooLarge {
		t.Fatalf("%x: %v, too large: %v", block, err, tooLarge)
	}
	return got
}

func same(t testing.TB, what string, got, want message.Fields) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}

// kept are copies, which outlive the block.
func kept(f message.Fields) message.Fields {
	out := message.Fields{}
	for _, x := range f {
		out = append(out, message.Field{Name: strings.Clone(x.Name), Value: strings.Clone(x.Value), Sensitive: x.Sensitive})
	}
	return out
}

// entries is the dynamic table, the newest first.
func (d *Decoder) entries() message.Fields {
	out := message.Fields{}
	for age := range d.table.count {
		e, _ := d.table.at(age)
		out.Add(strings.Clone(d.table.name(e)), strings.Clone(d.table.value(e)))
	}
	return out
}

// sound holds what has to be true of a table at any time.
func sound(t testing.TB, d *Decoder) {
	t.Helper()
	size := 0
	for _, f := range d.entries() {
		size += sizeOf(f.Name, f.Value)
	}
	tab := &d.table
	most := max(tab.limit+tab.limit/2, 0)
	if size != tab.size || size > tab.max || tab.max > tab.limit {
		t.Fatalf("the entries have %d bytes; size %d, max %d, limit %d", size, tab.size, tab.max, tab.limit)
	}
	if cap(tab.chunk) > most || cap(tab.spare) > most || cap(tab.shown) > most || cap(d.scratch) > maxScratch || len(tab.ring) > max(2*tab.limit/overhead, minRing) {
		t.Fatalf("chunks of %d, %d and %d bytes, %d of scratch, %d entries", cap(tab.chunk), cap(tab.spare), cap(tab.shown), cap(d.scratch), len(tab.ring))
	}
	if tab.spare != nil && tab.shown != nil && cap(tab.chunk) > 0 && &tab.spare[:1][0] == &tab.shown[:1][0] {
		t.Fatal("a chunk of which there are views is about to be used again")
	}
}

// fails holds that a block is refused, and by which rule.
func fails(t *testing.T, d *Decoder, block []byte, want *Error) {
	t.Helper()
	_, _, err := d.Decode(nil, block, plenty)
	if got, ok := errors.AsType[*Error](err); !ok || got != want {
		t.Errorf("%x: %v, want %v", block, err, want)
	}
	if want.Reason == "" || !strings.HasPrefix(want.Rule, "RFC 7541, ") {
		t.Errorf("%+v does not say which rule is broken", want)
	}
}

// Pieces of blocks, written by the rules that the decoder reads by.

func insertion(name, value string) []byte {
	return appendString(appendString([]byte{0x40}, name), value)
}

// insertionOf names an entry or a static field by its index.
func insertionOf(index int, value string) []byte {
	return appendString(appendInteger(nil, 0x40, 6, index), value)
}

func literal(name, value string) []byte {
	return appendString(appendString([]byte{0x00}, name), value)
}

func index(i int) []byte { return appendInteger(nil, 0x80, 7, i) }

func coded(s string) []byte {
	return oracle.AppendHuffmanString(appendInteger(nil, 0x80, 7, int(oracle.HuffmanEncodeLength(s))), s)
}

func join(pieces ...[]byte) []byte { return slices.Concat(pieces...) }
