package h2

import "fmt"

// staticTable is that of RFC 7541 appendix A, from index 1.
var staticTable = [...]struct{ name, value string }{
	{":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
	{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
	{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
	{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
	{"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
	{"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""}, {"etag", ""},
	{"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""}, {"if-modified-since", ""},
	{"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""}, {"last-modified", ""}, {"link", ""},
	{"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""}, {"proxy-authorization", ""}, {"range", ""},
	{"referer", ""}, {"refresh", ""}, {"retry-after", ""}, {"server", ""}, {"set-cookie", ""},
	{"strict-transport-security", ""}, {"transfer-encoding", ""}, {"user-agent", ""}, {"vary", ""}, {"via", ""},
	{"www-authenticate", ""},
}

// codeLengths are the lengths of the codes of RFC 7541 appendix B in bits, by symbol. The code is canonical: codes of a length
// follow one another in the order of their symbols, after all shorter ones, so that the lengths say it all.
var codeLengths = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

// canonical are the codes by length: the first of each, and the symbols in the order of their codes.
type canonical struct {
	first, count, offset [31]uint32
	symbols              [256]byte
}

func makeCanonical() *canonical {
	t := new(canonical)
	var code, offset uint32
	for length := range 31 {
		code <<= 1
		t.first[length], t.offset[length] = code, offset
		for symbol, n := range codeLengths {
			if int(n) == length {
				t.symbols[offset+t.count[length]] = byte(symbol)
				t.count[length]++
			}
		}
		code += t.count[length]
		offset += t.count[length]
	}
	return t
}

// codes are made once: they are constant.
var codes = makeCanonical()

// appendHuffman decodes bit by bit: what repeats is not sent again, so this is rare.
func appendHuffman(to, b []byte) ([]byte, error) {
	code, length := uint32(0), 0
	for _, c := range b {
		for bit := 7; bit >= 0; bit-- {
			code = code<<1 | uint32(c>>bit)&1
			if length++; length > 30 {
				return nil, fmt.Errorf("%w: no such code", errBlock)
			}
			if at := code - codes.first[length]; code >= codes.first[length] && at < codes.count[length] {
				to = append(to, codes.symbols[codes.offset[length]+at])
				code, length = 0, 0
			}
		}
	}
	if length > 7 || code != 1<<length-1 { // 5.2: the rest is the beginning of the code of all ones
		return nil, fmt.Errorf("%w: a string that ends within a code", errBlock)
	}
	return to, nil
}
