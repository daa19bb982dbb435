package hpack

import "github.com/sluice-mesh/sluice/l7proxy/message"

// The encoder uses the static table only, and no Huffman code: what it writes depends on nothing before it, so that it is
// right on any connection and in any order.

// The representations of a field (RFC 7541, 6), and how many bits their first byte leaves to an integer.
const (
	indexedField      = 0x80
	indexedBits       = 7
	neverIndexed      = 0x10
	withoutIndexing   = 0x00
	literalBits       = 4
	tableSizeUpdate   = 0x20
	tableSizeBits     = 5
	stringBits        = 7
	staticStatusCodes = "200204206304400404500" // from indexStatus on
)

// AppendField appends a literal field, never indexed if it is sensitive and without indexing otherwise. Its name goes out
// in lower case (RFC 9113, 8.2.1).
func AppendField(dst []byte, f *message.Field) []byte {
	kind := byte(withoutIndexing)
	if f.Sensitive {
		kind = neverIndexed
	}
	if i := staticName(f.Name); i > 0 {
		dst = appendInteger(dst, kind, literalBits, i)
	} else {
		dst = appendLower(append(dst, kind), f.Name)
	}
	return appendString(dst, f.Value)
}

// AppendIndexed appends the field with that index of the static table, from 1 to 61.
func AppendIndexed(dst []byte, i int) []byte { return append(dst, indexedField|byte(i)) }

// AppendMethod appends :method.
func AppendMethod(dst []byte, method string) []byte {
	switch method {
	case "GET":
		return AppendIndexed(dst, indexGET)
	case "POST":
		return AppendIndexed(dst, indexPOST)
	}
	return appendString(append(dst, withoutIndexing|indexGET), method)
}

// AppendScheme appends :scheme.
func AppendScheme(dst []byte, scheme string) []byte {
	switch scheme {
	case "http":
		return AppendIndexed(dst, indexHTTP)
	case "https":
		return AppendIndexed(dst, indexHTTPS)
	}
	return appendString(append(dst, withoutIndexing|indexHTTP), scheme)
}

// AppendAuthority appends :authority.
func AppendAuthority(dst []byte, authority string) []byte {
	return appendString(append(dst, withoutIndexing|indexAuthority), authority)
}

// AppendPath appends :path, in which "?" joins path and query if there is one.
func AppendPath(dst []byte, path, query string, hasQuery bool) []byte {
	switch {
	case hasQuery:
		dst = appendInteger(append(dst, withoutIndexing|indexRoot), 0, stringBits, len(path)+len("?")+len(query))
		return append(append(append(dst, path...), '?'), query...)
	case path == "/":
		return AppendIndexed(dst, indexRoot)
	case path == "/index.html":
		return AppendIndexed(dst, indexIndexHTML)
	}
	return appendString(append(dst, withoutIndexing|indexRoot), path)
}

// AppendStatus appends :status, which has three digits.
func AppendStatus(dst []byte, status int) []byte {
	digits := [3]byte{'0' + byte(status/100%10), '0' + byte(status/10%10), '0' + byte(status%10)}
	for i := range len(staticStatusCodes) / 3 {
		if string(digits[:]) == staticStatusCodes[3*i:3*i+3] {
			return AppendIndexed(dst, indexStatus+i)
		}
	}
	return append(append(dst, withoutIndexing|indexStatus, byte(len(digits))), digits[:]...)
}

// AppendTableSizeUpdate appends a table size update (RFC 7541, 6.3). An encoder without a table owes one, of 0, at the beginning
// of its next block when the peer allows less than the 4,096 bytes of a new connection (4.2).
func AppendTableSizeUpdate(dst []byte, size int) []byte {
	return appendInteger(dst, tableSizeUpdate, tableSizeBits, size)
}

func appendString(dst []byte, s string) []byte {
	return append(appendInteger(dst, 0, stringBits, len(s)), s...)
}

func appendLower(dst []byte, s string) []byte {
	dst = appendString(dst, s)
	name := dst[len(dst)-len(s):]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			name[i] = c + ('a' - 'A')
		}
	}
	return dst
}

// appendInteger appends an integer that begins in the lower bits of first (RFC 7541, 5.1).
func appendInteger(dst []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, 0x80|byte(n))
	}
	return append(dst, byte(n))
}
