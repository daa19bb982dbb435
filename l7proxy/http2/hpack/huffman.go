package hpack

import "encoding/binary"

// symbolsOfLength are the symbols whose codes have that many bits, without EOS. The code of RFC 7541's appendix B is
// canonical: symbols are numbered by the length of their code and then by value, and so the lengths say everything. It
// is never written.
var symbolsOfLength = [maxBits + 1]string{
	5:  "012aceiost",
	6:  " %-./3456789=A_bdfghlmnpru",
	7:  ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
	8:  "&*,;XZ",
	10: "!\"()?",
	11: "'+|",
	12: "#>",
	13: "\x00$@[]~",
	14: "^}",
	15: "<`{",
	19: "\\\xc3\xd0",
	20: "\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
	21: "\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
	22: "\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
	23: "\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef",
	24: "\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
	25: "\xc7\xcf\xea\xeb",
	26: "\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
	27: "\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
	28: "\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
	30: "\n\r\x16",
}

const (
	shortBits = 8  // codes up to here are found at once; that is what text is made of
	minBits   = 5  // of the shortest code
	maxBits   = 30 // of the longest one
)

// code is a symbol and the bits of its code. The zero value is none.
type code struct{ symbol, bits uint8 }

// codes finds the code that the next bits begin with. It is never written.
var codes = makeCodes()

type codeTables struct {
	short [1 << shortBits]code // by the next bits; none: the code is longer
	// first is the first code of each length, in the upper bits of a word; of those without codes it is the next length's.
	first [maxBits + 2]uint32
}

func makeCodes() (t codeTables) {
	next := uint64(0) // the next code, in the upper bits of 32
	for bits, symbols := range symbolsOfLength {
		t.first[bits] = uint32(next)
		for i := range len(symbols) {
			if bits <= shortBits {
				for at := next >> (32 - shortBits); at < (next+1<<(32-bits))>>(32-shortBits); at++ {
					t.short[at] = code{symbols[i], uint8(bits)}
				}
			}
			next += 1 << (32 - bits)
		}
	}
	t.first[maxBits+1] = uint32(next) // EOS: what is left, all ones
	return t
}

// long finds a code of more than shortBits bits. Without one the bits begin with EOS.
func (t *codeTables) long(window uint64) code {
	next := uint32(window >> 32)
	if t.isEOS(window) {
		return code{bits: maxBits}
	}
	bits := shortBits + 1
	for next >= t.first[bits+1] {
		bits++
	}
	return code{symbolsOfLength[bits][(next-t.first[bits])>>(32-bits)], uint8(bits)}
}

// isEOS tells whether the bits begin with EOS.
func (t *codeTables) isEOS(window uint64) bool { return uint32(window>>32) >= t.first[maxBits+1] }

// huffman reads a Huffman-coded string.
type huffman struct {
	src    []byte
	window uint64 // the next bits, at its upper end; below the first `bits` there may be those that follow in src, or zeros
	bits   uint
}

// read writes to out what the string has next: as much as there is room for, less only at its end. Until then the padding
// was not looked at.
func (h *huffman) read(out []byte) (n int, err error) {
	src, window, bits := h.src, h.window, h.bits
	for n < len(out) {
		if len(src) >= 8 {
			window |= binary.BigEndian.Uint64(src) >> bits
			src = src[(63-bits)/8:]
			bits |= 56
		}
		for bits >= shortBits && n < len(out) {
			c := codes.short[window>>(64-shortBits)]
			if c.bits == 0 {
				if bits < maxBits {
					break
				}
				if codes.isEOS(window) {
					return n, errEOS
				}
				c = codes.long(window)
			}
			out[n] = c.symbol
			n++
			window <<= c.bits & 63
			bits -= uint(c.bits)
		}
		if len(src) < 8 {
			h.src, h.window, h.bits = src, window, bits
			rest, err := h.readEnd(out[n:])
			return n + rest, err
		}
	}
	h.src, h.window, h.bits = src, window, bits
	return n, nil
}

// readEnd reads where there are less than eight bytes behind the window.
func (h *huffman) readEnd(out []byte) (n int, err error) {
	for n < len(out) {
		for h.bits <= 56 && len(h.src) > 0 {
			h.window |= uint64(h.src[0]) << (56 - h.bits)
			h.src = h.src[1:]
			h.bits += 8
		}
		padded := h.window | ^uint64(0)>>h.bits
		c := codes.short[padded>>(64-shortBits)]
		if c.bits == 0 {
			if h.bits >= maxBits && codes.isEOS(padded) {
				return n, errEOS
			}
			c = codes.long(padded)
		}
		if uint(c.bits) > h.bits {
			return n, h.padding(padded)
		}
		out[n] = c.symbol
		n++
		h.window <<= c.bits & 63
		h.bits -= uint(c.bits)
	}
	return n, nil
}

// padding checks the bits behind the last symbol: at most seven, all ones.
func (h *huffman) padding(padded uint64) error {
	switch {
	case padded != ^uint64(0):
		return errPadding
	case h.bits >= 8:
		return errPaddingLong
	}
	h.window, h.bits = 0, 0
	return nil
}

// huffmanLen is how long a coded string is. It stores nothing.
func huffmanLen(src []byte) (int, error) {
	var piece [128]byte
	h := huffman{src: src}
	for total := 0; ; {
		n, err := h.read(piece[:])
		total += n
		if n < len(piece) || err != nil {
			return total, err
		}
	}
}
