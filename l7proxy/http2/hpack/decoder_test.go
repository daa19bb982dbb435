package hpack

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// RFC 9113, 6.5.2: a header list is as large as its names and values and 32 bytes for each field.
func TestHeaderListLimit(t *testing.T) {
	block := join(index(2), literal("abc", "defg"), insertion("i", "j"), []byte{0x00}, coded("k"), coded("lm"))
	all := fields(":method: GET", "abc: defg", "i: j", "k: lm")
	size := 0
	for i, f := range all {
		size += sizeOf(f.Name, f.Value)
		for _, c := range []struct{ limit, fields int }{{size - 1, i}, {size, i + 1}} {
			d := NewDecoder(4096)
			got, tooLarge, err := d.Decode(fields("before: this"), block, c.limit)
			if err != nil || tooLarge != (c.fields < len(all)) {
				t.Errorf("limit %d: too large %v, %v", c.limit, tooLarge, err)
			}
			same(t, fmt.Sprint("limit ", c.limit), got, append(fields("before: this"), all[:c.fields]...))
			same(t, "the table", d.entries(), fields("i: j"))
		}
	}
}

// What is small enough again does not follow: a list with a gap would be another message.
func TestNothingFollowsBeyondTheLimit(t *testing.T) {
	d := NewDecoder(4096)
	got, tooLarge, err := d.Decode(nil, join(index(2), literal("x", strings.Repeat("y", 100)), index(4), literal("a", "")), 150)
	if !tooLarge || err != nil {
		t.Errorf("too large %v, %v", tooLarge, err)
	}
	same(t, "fields", got, fields(":method: GET"))
	same(t, "the next block", decode(t, d, index(4)), fields(":path: /"))
}

// The table goes on as the peer's does, whatever is beyond the limit.
func TestTableIsRightBeyondTheLimit(t *testing.T) {
	long, longer := strings.Repeat("x", 1500), strings.Repeat("z", 4096)
	block := join(insertion("a", long), []byte{0x40}, coded("b"), coded(long), insertionOf(62, long), insertionOf(63, "3"), insertionOf(58, "agent"))
	emptied := join(block, []byte{0x40}, coded("c"), coded(longer), insertion("d", "4"))
	for _, b := range [][]byte{block, emptied, join(emptied, emptied)} {
		within, beyond := NewDecoder(4096), NewDecoder(4096)
		decode(t, within, b)
		got, tooLarge, err := beyond.Decode(nil, b, 10)
		if len(got) != 0 || !tooLarge || err != nil {
			t.Fatalf("%d fields, too large %v, %v", len(got), tooLarge, err)
		}
		if len(within.entries()) == 0 {
			t.Fatal("the table is empty")
		}
		same(t, "the table", beyond.entries(), within.entries())
		sound(t, beyond)
	}
}

// HPACK bombs: a block of a few bytes that means a lot costs what its bytes cost, and no memory.
func TestBomb(t *testing.T) {
	d := NewDecoder(4096)
	for name, block := range map[string][]byte{
		"an entry again and again":          []byte(strings.Repeat(string(index(62)), 1<<16)),
		"its name in new entries":           []byte(strings.Repeat(string(insertionOf(62, "")), 1<<15)),
		"coded entries beyond the limit":    []byte(strings.Repeat(string(join([]byte{0x40}, coded("x"), coded(strings.Repeat("0", 3000)))), 200)),
		"a value that is larger than limit": join([]byte{0x40}, coded("x"), coded(strings.Repeat("0", 1<<18))),
	} {
		decode(t, d, join(AppendTableSizeUpdate(nil, 4096), insertion(strings.Repeat("n", 4000), "")))
		before := allocated()
		got, tooLarge, err := d.Decode(nil, block, 8<<10)
		if grown := allocated() - before; grown > 64<<10 {
			t.Errorf("%s: %d bytes were allocated", name, grown)
		}
		if !tooLarge || err != nil || len(got) > 2 {
			t.Errorf("%s: %d fields, too large %v, %v", name, len(got), tooLarge, err)
		}
		sound(t, d)
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A long name is copied once and not for each field that shares it: else three bytes in a block cost four kilobytes.
func TestNamesAreShared(t *testing.T) {
	name := strings.Repeat("n", 2000)
	d := NewDecoder(4096)
	decode(t, d, insertion(name, ""))
	before := len(d.table.chunk)
	block := []byte(strings.Repeat(string(insertionOf(62, "v")), 100))
	got := decode(t, d, block)
	if grown := len(d.table.chunk) - before; grown != 100 {
		t.Errorf("%d bytes were copied", grown)
	}
	for _, f := range got {
		if f.Name != name || f.Value != "v" {
			t.Fatalf("%.20s: %s", f.Name, f.Value)
		}
	}
}

// Views stay as they are while their block is decoded, when the entries that they show are evicted, the entries move, and
// the strings outgrow their memory; and in the blocks before them nothing of it is left.
func TestViewsStayUntilTheNextBlock(t *testing.T) {
	d := NewDecoder(4096)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var block []byte
		var want message.Fields
		shown := kept(d.entries())
		namesOnly := round%2 == 1
		for i, f := range shown { // first all that there is
			if namesOnly {
				block = appendString(appendInteger(block, 0x00, 4, staticLen+1+i), "v")
				f.Value = "v"
			} else {
				block = append(block, index(staticLen+1+i)...)
			}
			want = append(want, f)
		}
		for i := range 1 + random.IntN(60) { // then what drives it out
			value := strings.Repeat(string(rune('a'+(round+i)%26)), random.IntN(400))
			f := message.Field{Name: fmt.Sprintf("name-%d-%d", round, i), Value: value}
			if want = append(want, f); i%2 == 0 {
				block = append(block, insertion(f.Name, f.Value)...)
			} else {
				block = join(block, []byte{0x40}, coded(f.Name), coded(f.Value))
			}
			if !namesOnly {
				block, want = append(block, index(62)...), append(want, f)
			}
		}
		got, tooLarge, err := d.Decode(nil, block, plenty)
		if tooLarge || err != nil {
			t.Fatal(tooLarge, err)
		}
		same(t, fmt.Sprint("round ", round), got, want)
		sound(t, d)
		if t.Failed() {
			return
		}
	}
}

// Beyond the limit chunks are used again at once, but not those of which there are views.
func TestViewsStayBeyondTheLimit(t *testing.T) {
	d := NewDecoder(4096)
	for round := range 50 {
		value := strings.Repeat(string(rune('a'+round%26)), 50)
		decode(t, d, insertion("shown", value))
		block := index(62)
		for i := range 200 {
			block = append(block, insertion("over", strings.Repeat(string(rune('A'+i%26)), 1000))...)
		}
		got, tooLarge, err := d.Decode(nil, block, 100)
		if !tooLarge || err != nil {
			t.Fatal(tooLarge, err)
		}
		same(t, "the field within the limit", got, fields("shown: "+value))
		sound(t, d)
	}
}

// Trim takes nothing away from fields that were decoded, and the table stays.
func TestTrim(t *testing.T) {
	d := NewDecoder(4096)
	var block []byte
	var want message.Fields
	for i := range 100 {
		f := message.Field{Name: "name", Value: strings.Repeat(string(rune('a'+i%26)), 100)}
		block, want = join(block, []byte{0x40}, coded(f.Name), coded(f.Value)), append(want, f)
	}
	for range 3 {
		got := decode(t, d, block)
		d.Trim()
		if d.scratch != nil || d.table.spare != nil || d.table.shown != nil {
			t.Error("something is left")
		}
		same(t, "fields", got, want)
		same(t, "the newest", d.entries()[:1], want[99:])
	}
}

// Connections that say nothing cost next to nothing; others what the comment on Decoder says.
func TestMemory(t *testing.T) {
	d := NewDecoder(4096)
	if size := unsafe.Sizeof(*d); size > 256 || d.table.ring != nil || d.table.chunk != nil || d.scratch != nil {
		t.Errorf("a new decoder has %d bytes, or more", size)
	}
	decode(t, d, firstCall())
	if n := memoryOf(d); n > 2<<10 {
		t.Errorf("after a call there are %d bytes", n)
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		decode(t, d, join(insertion(strings.Repeat("n", random.IntN(40)), strings.Repeat("v", random.IntN(800))), insertion("", ""),
			[]byte{0x00}, coded("x"), coded(strings.Repeat("y", random.IntN(20_000)))))
	}
	if n := memoryOf(d); n > 2<<10+2*6<<10+maxScratch {
		t.Errorf("after much there are %d bytes", n)
	}
	if d.Trim(); memoryOf(d) > 8<<10 {
		t.Errorf("after Trim there are %d bytes", memoryOf(d))
	}
}

func memoryOf(d *Decoder) int {
	return len(d.table.ring)*int(unsafe.Sizeof(entry{})) + cap(d.table.chunk) + cap(d.table.spare) + cap(d.table.shown) + cap(d.scratch)
}

// Sequences of blocks that a peer with a table of its own makes: the fields come out as they went in.
func TestBlocksOfAnotherEncoder(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, size := range []int{0, 31, 64, 200, 1000, 4096} {
		d, p := NewDecoder(4096), newPeer(t)
		p.SetMaxDynamicTableSize(uint32(size))
		for range 300 {
			want := randomFields(random)
			same(t, fmt.Sprint("table of ", size), decode(t, d, p.encode(want)), want)
			sound(t, d)
			if random.IntN(20) == 0 {
				p.SetMaxDynamicTableSize(uint32(random.IntN(size + 1)))
			}
			if random.IntN(20) == 0 {
				d.Trim()
			}
		}
	}
}

func randomFields(random *rand.Rand) message.Fields {
	f := make(message.Fields, 0, 10)
	for range random.IntN(10) {
		if i := 1 + random.IntN(3*staticLen); i <= staticLen {
			f = append(f, static[i])
			continue
		}
		f = append(f, message.Field{
			Name:      strings.Repeat("n", random.IntN(4)) + strings.Repeat("-", random.IntN(20)),
			Value:     strings.Repeat(string([]byte{byte(random.IntN(256)), 'v'}), random.IntN(1<<random.IntN(8))),
			Sensitive: random.IntN(8) == 0,
		})
	}
	return f
}
