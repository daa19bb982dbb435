package hpack

import (
	"errors"
	"math/bits"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2/hpack"
)

// RFC 7541, appendix B: with EOS the code is complete, and each symbol has one.
func TestHuffmanCodeIsComplete(t *testing.T) {
	room, seen := uint64(1)<<32-4, map[byte]bool{} // EOS has 30 bits
	for n, symbols := range symbolsOfLength {
		for i := range len(symbols) {
			room -= 1 << (32 - n)
			if seen[symbols[i]] {
				t.Errorf("%q has two codes", symbols[i])
			}
			seen[symbols[i]] = true
			if i > 0 && symbols[i-1] >= symbols[i] {
				t.Errorf("%q is out of order", symbols[i])
			}
			if got := oracle.HuffmanEncodeLength(strings.Repeat(symbols[i:i+1], 8)); got != uint64(n) {
				t.Errorf("%q has %d bits, want %d", symbols[i], n, got)
			}
		}
	}
	if room != 0 || len(seen) != 256 {
		t.Errorf("%d symbols, room for %d codes of 32 bits", len(seen), room)
	}
}

// Each pair of symbols, behind any number of bits.
func TestHuffmanDecodesWhatWasEncoded(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			s := "0000000"[:a%8] + string([]byte{byte(a), byte(b)}) + "/index"[:b%7]
			huffmanIs(t, oracle.AppendHuffmanString(nil, s), s)
		}
	}
	for n := range 100 {
		huffmanIs(t, oracle.AppendHuffmanString(nil, strings.Repeat("a\xffz", n)), strings.Repeat("a\xffz", n))
	}
}

func huffmanIs(t *testing.T, src []byte, want string) {
	t.Helper()
	got, err := whole(src, len(src)*8/minBits+1)
	if got != want || err != nil {
		t.Fatalf("%x: %q, %v: want %q", src, got, err, want)
	}
	if n, err := huffmanLen(src); n != len(want) || err != nil {
		t.Fatalf("%x: length %d, %v: want %d", src, n, err, len(want))
	}
	if pieces, err := whole(src, 3); pieces != want || err != nil {
		t.Fatalf("%x in pieces: %q, %v: want %q", src, pieces, err, want)
	}
}

// whole reads by pieces of that size.
func whole(src []byte, size int) (string, error) {
	h := huffman{src: src}
	var out []byte
	for piece := make([]byte, size); ; {
		n, err := h.read(piece)
		out = append(out, piece[:n]...)
		if n < size || err != nil {
			return string(out), err
		}
	}
}

// RFC 7541, 5.2: padding of up to seven ones, and nothing else.
func TestHuffmanPadding(t *testing.T) {
	for _, symbol := range []string{"a", " ", "B", "X", "!", "'", "#", "~", "}", "{", "\\", "\x80", "\x99", "\x81", "\x01", "\t", "\xc7", "\xff", "\xfe", "\x02", "\n"} {
		for before := range 8 {
			s := strings.Repeat("a", before) + symbol
			src := oracle.AppendHuffmanString(nil, s)
			huffmanIs(t, src, s)
			pad := len(src)*8 - 5*before - bitsOf(symbol)
			for bit := range pad {
				wrong := append([]byte{}, src...)
				wrong[len(wrong)-1] &^= 1 << bit
				if _, err := huffmanLen(wrong); err == nil && pad < minBits {
					t.Errorf("%q: padding without bit %d of %d passes", s, bit, pad)
				}
			}
			for _, more := range []string{"\xff", "\xff\xff", "\xff\xff\xff"} { // too few bits for EOS
				if _, err := huffmanLen(append(slices.Clip(src), more...)); !errors.Is(err, errPaddingLong) && pad+8*len(more) < maxBits {
					t.Errorf("%q: %d bits of padding: %v", s, pad+8*len(more), err)
				}
			}
		}
	}
}

func bitsOf(symbol string) int {
	for n, symbols := range symbolsOfLength {
		if strings.Contains(symbols, symbol) {
			return n
		}
	}
	return 0
}

// Every string of up to two bytes, and all that begin like EOS, mean what they mean to another implementation.
func TestHuffmanAgainstOracle(t *testing.T) {
	for v := range 1 << 16 {
		b := []byte{byte(v >> 8), byte(v)}
		huffmanAgrees(t, b)
		huffmanAgrees(t, b[:1])
		huffmanAgrees(t, []byte{0xff, 0xff, b[0], b[1]})
		huffmanAgrees(t, []byte{b[0], 0xff, 0xff, 0xff, b[1] | byte(1<<bits.Len8(b[1])-1)})
	}
}

func huffmanAgrees(t testing.TB, src []byte) {
	t.Helper()
	want, wrong := oracle.HuffmanDecodeToString(src)
	got, err := whole(src, len(src)*8/minBits+1)
	if (err != nil) != (wrong != nil) || err == nil && got != want {
		t.Fatalf("%x: %q, %v: want %q, %v", src, got, err, want, wrong)
	}
	n, lenErr := huffmanLen(src)
	if !errors.Is(lenErr, err) || err == nil && n != len(want) {
		t.Fatalf("%x: length %d, %v: want %d, %v", src, n, lenErr, len(want), err)
	}
}
