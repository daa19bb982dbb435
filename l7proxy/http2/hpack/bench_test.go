package hpack

import (
	"strings"
	"testing"

	oracle "golang.org/x/net/http2/hpack"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// BenchmarkDecode decodes the blocks of gRPC calls, beside another implementation: with fields that the table has, with a
// trace that is new in each call and enters the table, and with one that does not.
func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name   string
		blocks [][]byte
	}{
		{"indexed", calls(b, 1000, false)[1:]},
		{"traced", calls(b, 1000, true)},
		{"literal", literalCalls(b, 1000)},
	} {
		b.Run(c.name+"/ours", func(b *testing.B) {
			d, dst := NewDecoder(4096), make(message.Fields, 0, 16)
			begin := func() { begun(b, d) }
			begin()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i == len(c.blocks) {
					i = 0
					begin()
				}
				if got, _, err := d.Decode(dst[:0], c.blocks[i], 16<<10); err != nil || len(got) != 9 {
					b.Fatal(len(got), err)
				}
			}
		})
		b.Run(c.name+"/x-net", func(b *testing.B) {
			dst := make([]oracle.HeaderField, 0, 16)
			d := oracle.NewDecoder(4096, func(f oracle.HeaderField) { dst = append(dst, f) })
			begin := func() {
				if _, err := d.Write(AppendTableSizeUpdate(nil, 0)); err != nil || d.Close() != nil {
					b.Fatal(err)
				}
				if _, err := d.Write(join(AppendTableSizeUpdate(nil, 4096), firstCall())); err != nil || d.Close() != nil {
					b.Fatal(err)
				}
			}
			begin()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i == len(c.blocks) {
					i = 0
					begin()
				}
				dst = dst[:0]
				if _, err := d.Write(c.blocks[i]); err != nil || d.Close() != nil || len(dst) != 9 {
					b.Fatal(len(dst), err)
				}
			}
		})
	}
}

// begun gives a decoder the table of a connection after its first call.
func begun(t testing.TB, d *Decoder) {
	decode(t, d, join(AppendTableSizeUpdate(nil, 0), AppendTableSizeUpdate(nil, 4096), firstCall()))
}

// literalCalls are calls whose trace does not enter the table.
func literalCalls(t testing.TB, n int) [][]byte {
	p := newPeer(t)
	all := call("")
	p.encode(all[:8])
	blocks := make([][]byte, n)
	for i := range blocks {
		trace := strings.Repeat(string("0123456789abcdef"[i&15]), 55)
		blocks[i] = join(p.encode(all[:8]), []byte{0x00}, coded("traceparent"), coded(trace))
	}
	return blocks
}

func BenchmarkHuffman(b *testing.B) {
	for name, s := range map[string]string{
		"trace":  "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"path":   "/helloworld.Greeter/SayHello",
		"binary": "\x80\xff\x01\n\xc3\x99{}<|\\",
	} {
		src, out := oracle.AppendHuffmanString(nil, s), make([]byte, 2*len(s)+1)
		b.Run(name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				h := huffman{src: src}
				if n, err := h.read(out); n != len(s) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
		b.Run(name+"/x-net", func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				if got, err := oracle.HuffmanDecodeToString(src); len(got) != len(s) || err != nil {
					b.Fatal(got, err)
				}
			}
		})
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	f := call("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	out := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		out = AppendScheme(AppendMethod(out[:0], f[0].Value), f[1].Value)
		out = AppendAuthority(AppendPath(out, f[2].Value, "", false), f[3].Value)
		for i := range f[4:] {
			out = AppendField(out, &f[4+i])
		}
	}
}
