package hpack

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// RFC 7541, C.1: integers.
func TestC1Integers(t *testing.T) {
	for _, c := range []struct {
		wire string
		bits int
		want int
	}{
		{"0a", 5, 10}, {"1f9a0a", 5, 1337}, {"2a", 8, 42},
		{"1e", 5, 30}, {"1f00", 5, 31}, {"7f00", 7, 127}, {"7f8001", 7, 255}, {"ff00", 8, 255}, {"0fffffff7f", 4, 15 + 1<<28 - 1},
	} {
		wire := unhex(t, c.wire)
		n, rest, err := integer(append(wire, 0xee), c.bits)
		if n != c.want || len(rest) != 1 || err != nil {
			t.Errorf("%s by %d bits: %d, %x, %v: want %d", c.wire, c.bits, n, rest, err, c.want)
		}
		if got := appendInteger(nil, 0, c.bits, c.want); string(got) != string(wire) {
			t.Errorf("%d by %d bits: %x, want %s", c.want, c.bits, got, c.wire)
		}
	}
}

// What the examples of RFC 7541, C.3 to C.6 say.
var (
	c3First   = []string{":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"}
	c5Cookie  = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
	c5Date    = "date: Mon, 21 Oct 2013 20:13:21 GMT"
	c5Date22  = "date: Mon, 21 Oct 2013 20:13:22 GMT"
	c5Private = "cache-control: private"
	c5Where   = "location: https://www.example.com"
)

type exampleBlock struct {
	wire   string
	fields []string
	table  []string // the newest first
	size   int
}

// RFC 7541, C.2 to C.6: the examples, with the table after each block.
func TestAppendixC(t *testing.T) {
	second := append(slices.Clip(c3First), "cache-control: no-cache")
	third := []string{":method: GET", ":scheme: https", ":path: /index.html", c3First[3], "custom-key: custom-value"}
	requests := func(wires [3]string) []exampleBlock {
		return []exampleBlock{
			{wires[0], c3First, []string{c3First[3]}, 57},
			{wires[1], second, []string{"cache-control: no-cache", c3First[3]}, 110},
			{wires[2], third, []string{"custom-key: custom-value", "cache-control: no-cache", c3First[3]}, 164},
		}
	}
	responses := func(wires [3]string) []exampleBlock {
		return []exampleBlock{
			{wires[0], []string{":status: 302", c5Private, c5Date, c5Where}, []string{c5Where, c5Date, c5Private, ":status: 302"}, 222},
			{wires[1], []string{":status: 307", c5Private, c5Date, c5Where}, []string{":status: 307", c5Where, c5Date, c5Private}, 222},
			{
				wires[2], []string{":status: 200", c5Private, c5Date22, c5Where, "content-encoding: gzip", c5Cookie},
				[]string{c5Cookie, "content-encoding: gzip", c5Date22}, 215,
			},
		}
	}
	for name, c := range map[string]struct {
		table  int
		blocks []exampleBlock
	}{
		"C.2.1": {4096, []exampleBlock{{
			"400a637573746f6d2d6b65790d637573746f6d2d686561646572",
			[]string{"custom-key: custom-header"}, []string{"custom-key: custom-header"}, 55,
		}}},
		"C.2.2": {4096, []exampleBlock{{"040c2f73616d706c652f70617468", []string{":path: /sample/path"}, nil, 0}}},
		"C.2.4": {4096, []exampleBlock{{"82", []string{":method: GET"}, nil, 0}}},
		"C.3": {4096, requests([3]string{
			"828684410f7777772e6578616d706c652e636f6d",
			"828684be58086e6f2d6361636865",
			"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
		})},
		"C.4": {4096, requests([3]string{
			"828684418cf1e3c2e5f23a6ba0ab90f4ff",
			"828684be5886a8eb10649cbf",
			"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
		})},
		"C.5": {256, responses([3]string{
			"4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
			"4803333037c1c0bf",
			"88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
		})},
		"C.6": {256, responses([3]string{
			"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
			"4883640effc1c0bf",
			"88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
		})},
	} {
		d := NewDecoder(c.table)
		for _, b := range c.blocks {
			same(t, name, decode(t, d, unhex(t, b.wire)), fields(b.fields...))
			same(t, name+", the table", d.entries(), fields(b.table...))
			if d.table.size != b.size {
				t.Errorf("%s: the table has %d bytes, want %d", name, d.table.size, b.size)
			}
			sound(t, d)
		}
	}
}

// RFC 7541, C.2.3 and 6.2.3: never indexed, which is passed on as such.
func TestC23NeverIndexed(t *testing.T) {
	wire := unhex(t, "100870617373776f726406736563726574")
	d := NewDecoder(4096)
	got := decode(t, d, wire)
	same(t, "C.2.3", got, message.Fields{{Name: "password", Value: "secret", Sensitive: true}})
	same(t, "the table", d.entries(), message.Fields{})
	if again := AppendField(nil, &got[0]); string(again) != string(wire) {
		t.Errorf("passed on as %x", again)
	}
	got = decode(t, d, unhex(t, "1f0801 78")) // authorization, by its index
	same(t, "by index", got, message.Fields{{Name: "authorization", Value: "x", Sensitive: true}})
	if again := AppendField(nil, &got[0]); string(again) != string(unhex(t, "1f080178")) {
		t.Errorf("passed on as %x", again)
	}
}

// What each rule forbids, in the first block of a decoder.
func TestErrors(t *testing.T) {
	eos := "ffffffff" // 30 bits of EOS and two more
	for rule, c := range map[string]struct {
		wire string
		want *Error
	}{
		"6.1: index 0":                             {"80", errIndexZero},
		"2.3.3: beyond the static table":           {"be", errIndex},
		"2.3.3: far beyond":                        {"ffffff7f", errIndex},
		"2.3.3: as a name":                         {"7e 01 78", errIndex},
		"2.3.3: as a name without indexing":        {"0f2f 01 78", errIndex},
		"2.3.3: as a name that is never indexed":   {"1f2f 01 78", errIndex},
		"2.3.3: after its entry was evicted":       {"20 40 0178 0179 be", errIndex},
		"2.3.3: one beyond the entries":            {"40 0178 0179 bf", errIndex},
		"5.1: index too large":                     {"ff8080808001", errInteger},
		"5.1: index as large as can be":            {"ffffffffffffffffffff01", errInteger},
		"5.1: too many zeros":                      {"ff8080808000", errInteger},
		"5.1: length too large":                    {"00 7fffffffff0f", errInteger},
		"5.1: update too large":                    {"3fffffffff0f", errInteger},
		"5.1: the index is cut":                    {"ff", errIntegerCut},
		"5.1: the index is cut later":              {"ff8080", errIntegerCut},
		"5.1: a name's index is cut":               {"7f", errIntegerCut},
		"5.1: a length is cut":                     {"00 7f80", errIntegerCut},
		"5.1: a value's length is cut":             {"00 0178 ff", errIntegerCut},
		"5.1: an update is cut":                    {"3f", errIntegerCut},
		"5.2: name beyond the block":               {"00 02 78", errString},
		"5.2: value beyond the block":              {"00 0178 02 79", errString},
		"5.2: coded string beyond the block":       {"00 0178 82 07", errString},
		"5.2: very long":                           {"00 7fffffff7f 78", errString},
		"6.2: no name":                             {"40", errStringNone},
		"6.2: no value":                            {"40 0178", errStringNone},
		"6.2: no value of a static name":           {"41", errStringNone},
		"5.2: EOS":                                 {"00 0178 84" + eos, errEOS},
		"5.2: EOS in a name":                       {"00 84" + eos + "0178", errEOS},
		"5.2: EOS far from the end":                {"00 0178 91 0000000000" + eos + "0000000000000000", errEOS},
		"5.2: EOS behind a symbol":                 {"00 0178 85 07ffffffff", errEOS},
		"5.2: padding of a whole byte":             {"00 0178 81 ff", errPaddingLong},
		"5.2: padding of 8 bits behind symbols":    {"00 0178 86 0000 000000 ff", errPaddingLong},
		"5.2: padding of 11 bits":                  {"00 0178 82 07ff", errPaddingLong},
		"5.2: padding of 29 bits":                  {"00 0178 85 029fffffff", errPaddingLong},
		"5.2: padding of zeros":                    {"00 0178 81 00", errPadding},
		"5.2: padding with a zero at its end":      {"00 0178 81 06", errPadding},
		"5.2: a code that is cut":                  {"00 0178 82 fffc", errPadding},
		"5.2: in a field that the table takes":     {"40 0178 81 06", errPadding},
		"6.3: update above what we allow":          {"3fe21f", errUpdateLarge},
		"4.2: update behind a field":               {"82 20", errUpdateLate},
		"4.2: update behind a literal":             {"40 0178 0179 3fe11f", errUpdateLate},
		"4.2: three updates":                       {"20 20 3fe11f", errUpdates},
		"4.2: between fields, with an empty table": {"82 3fe11f 82", errUpdateLate},
	} {
		t.Run(rule, func(t *testing.T) {
			fails(t, NewDecoder(4096), unhex(t, c.wire), c.want)
			if !strings.HasPrefix(rule, c.want.Rule[len("RFC 7541, "):]+":") {
				t.Errorf("the error names %s", c.want.Rule)
			}
			// What is too large is checked as well.
			if _, _, err := NewDecoder(4096).Decode(nil, join(literal("long", "value"), unhex(t, c.wire)), 10); err == nil {
				t.Error("beyond the limit nothing is wrong")
			}
		})
	}
}

// RFC 7541, 5.1: zeros at the end of an integer are allowed, up to our limit of four bytes.
func TestIntegersMayBePadded(t *testing.T) {
	same(t, "padded", decode(t, NewDecoder(4096), unhex(t, "00 0178 7f80808000"+strings.Repeat("79", 127))),
		fields("x: "+strings.Repeat("y", 127)))
}

// RFC 7541, 4.2 and 6.3: updates at the beginning of a block, at most two.
func TestTableSizeUpdates(t *testing.T) {
	d := NewDecoder(4096)
	decode(t, d, join(insertion("a", "1"), insertion("b", "2")))
	same(t, "nothing but updates", decode(t, d, unhex(t, "3f03 3fe11f")), message.Fields{}) // 34, and the most again
	same(t, "one fits 34", d.entries(), fields("b: 2"))
	same(t, "an update before fields", decode(t, d, join([]byte{0x20}, index(2))), fields(":method: GET"))
	same(t, "none fits 0", d.entries(), message.Fields{})
	decode(t, d, insertion("c", "3"))
	same(t, "0 stays until the next update", d.entries(), message.Fields{})
	decode(t, d, join(AppendTableSizeUpdate(nil, 4096), insertion("c", "3")))
	same(t, "and goes with it", d.entries(), fields("c: 3"))
}

// RFC 9113, 6.5.2: a table that may be larger begins with 4,096 bytes.
func TestLargerTableNeedsAnUpdate(t *testing.T) {
	big := strings.Repeat("x", 3000)
	d := NewDecoder(8192)
	decode(t, d, join(insertion("a", big), insertion("b", big)))
	same(t, "before", d.entries(), fields("b: "+big))
	decode(t, d, join(AppendTableSizeUpdate(nil, 8192), insertion("a", big)))
	same(t, "after", d.entries(), fields("a: "+big, "b: "+big))
	fails(t, d, AppendTableSizeUpdate(nil, 8193), errUpdateLarge)
}

// RFC 7541, 4.4: an entry that is larger than the table empties it, and is a field all the same.
func TestEntryLargerThanTheTable(t *testing.T) {
	d := NewDecoder(4096)
	decode(t, d, insertion("a", "1"))
	fits := strings.Repeat("x", 4096-overhead-1)
	same(t, "one byte more", decode(t, d, insertion("bb", fits)), fields("bb: "+fits))
	same(t, "table", d.entries(), message.Fields{})
	decode(t, d, join(insertion("a", "1"), insertion("b", fits)))
	same(t, "as large as the table", d.entries(), fields("b: "+fits))
	fails(t, d, index(63), errIndex)
}

// RFC 7541, 4.4: a name may be that of an entry which the insertion evicts.
func TestNameOfAnEvictedEntry(t *testing.T) {
	name := strings.Repeat("n", 2000)
	d := NewDecoder(4096)
	decode(t, d, insertion(name, "1"))
	for i := range 200 { // some insertions move the entries to another chunk on the way
		value := strings.Repeat(string(rune('a'+i%26)), 2000-i%3*500)
		same(t, "field", decode(t, d, insertionOf(62, value)), fields(name+": "+value))
		same(t, "table", d.entries()[:1], fields(name+": "+value))
		sound(t, d)
	}
}
