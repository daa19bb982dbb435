package hpack

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// What is decoded again and again costs no memory, also when the peer inserts something new each time.
func TestDecodeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	fresh := AppendTableSizeUpdate(AppendTableSizeUpdate(nil, 0), 4096)
	large := string(insertion("a", strings.Repeat("b", 3000)))
	session := strings.Repeat("Session~0123456789abcdef", 200) // most of it is coded in 6 bits
	p := newPeer(t)
	for name, blocks := range map[string][][]byte{
		"the same fields":   calls(t, 2000, false),
		"a new trace":       calls(t, 2000, true),
		"long literals":     repeat(p.encode(fields(":path: /")), 5, join([]byte{0x00}, coded("cookie"), coded(session))),
		"large insertions":  repeat(nil, 100, []byte(large)),
		"beyond the limit":  repeat(nil, 100, join([]byte(large), literal("c", strings.Repeat("d", 60_000)))),
		"much beyond it":    alternate(100, insertion("a", "b"), index(62), join(literal("c", strings.Repeat("d", 60_000)), []byte(strings.Repeat(large, 10)))),
		"the table's reset": repeat(nil, 100, join(AppendTableSizeUpdate(nil, 0), AppendTableSizeUpdate(nil, 4096), insertion("a", "b"))),
	} {
		d, dst := NewDecoder(4096), make(message.Fields, 0, 16)
		once := func() {
			for _, b := range blocks {
				if _, _, err := d.Decode(dst[:0], b, 32<<10); err != nil {
					t.Fatal(err)
				}
			}
			// The peer's next connection, as far as the table is concerned.
			if _, _, err := d.Decode(dst[:0], fresh, 0); err != nil {
				t.Fatal(err)
			}
		}
		once() // what it needs to begin with
		if n := testing.AllocsPerRun(5, once); n != 0 {
			t.Errorf("%s: %v allocations in %d blocks", name, n, len(blocks))
		}
	}
}

func alternate(n int, blocks ...[]byte) [][]byte {
	var out [][]byte
	for range n {
		out = append(out, blocks...)
	}
	return out
}

func repeat(first []byte, n int, block []byte) [][]byte {
	blocks := [][]byte{first}
	for range n {
		blocks = append(blocks, block)
	}
	return blocks
}

func TestErrorsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, wire := range []string{"80", "be", "ff8080808001", "00 02 78", "00 0178 81 ff", "82 20"} {
		d, block := NewDecoder(4096), unhex(t, wire)
		if n := testing.AllocsPerRun(100, func() {
			if _, _, err := d.Decode(nil, block, 0); err == nil {
				t.Fatal(wire)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", wire, n)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	out := make([]byte, 0, 1<<10)
	f := fields("Content-Type: application/grpc", "X-Request-Id: 7f1d3c52-9a0e-4d0c-8f5e-2f3b1c6a9d10")
	if n := testing.AllocsPerRun(100, func() {
		out = AppendScheme(AppendMethod(AppendTableSizeUpdate(out[:0], 0), "PATCH"), "http")
		out = AppendStatus(AppendAuthority(AppendPath(out, "/a", "b", true), "c"), 418)
		for i := range f {
			out = AppendField(out, &f[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
