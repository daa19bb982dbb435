package hpack

import "github.com/sluice-mesh/sluice/l7proxy/message"

// staticLen is how many fields the static table has; the dynamic table's indices follow (RFC 7541, 2.3.3).
const staticLen = 61

// Indices of the static table which the encoder names.
const (
	indexAuthority = 1
	indexGET       = 2
	indexPOST      = 3
	indexRoot      = 4
	indexIndexHTML = 5
	indexHTTP      = 6
	indexHTTPS     = 7
	indexStatus    = 8 // the first of seven
)

// static is RFC 7541's appendix A. It is never written.
var static = [staticLen + 1]message.Field{
	1: {Name: ":authority"}, 2: {Name: ":method", Value: "GET"}, 3: {Name: ":method", Value: "POST"},
	4: {Name: ":path", Value: "/"}, 5: {Name: ":path", Value: "/index.html"},
	6: {Name: ":scheme", Value: "http"}, 7: {Name: ":scheme", Value: "https"},
	8: {Name: ":status", Value: "200"}, 9: {Name: ":status", Value: "204"}, 10: {Name: ":status", Value: "206"},
	11: {Name: ":status", Value: "304"}, 12: {Name: ":status", Value: "400"}, 13: {Name: ":status", Value: "404"},
	14: {Name: ":status", Value: "500"},
	15: {Name: "accept-charset"}, 16: {Name: "accept-encoding", Value: "gzip, deflate"}, 17: {Name: "accept-language"},
	18: {Name: "accept-ranges"}, 19: {Name: "accept"}, 20: {Name: "access-control-allow-origin"}, 21: {Name: "age"},
	22: {Name: "allow"}, 23: {Name: "authorization"}, 24: {Name: "cache-control"}, 25: {Name: "content-disposition"},
	26: {Name: "content-encoding"}, 27: {Name: "content-language"}, 28: {Name: "content-length"},
	29: {Name: "content-location"}, 30: {Name: "content-range"}, 31: {Name: "content-type"}, 32: {Name: "cookie"},
	33: {Name: "date"}, 34: {Name: "etag"}, 35: {Name: "expect"}, 36: {Name: "expires"}, 37: {Name: "from"},
	38: {Name: "host"}, 39: {Name: "if-match"}, 40: {Name: "if-modified-since"}, 41: {Name: "if-none-match"},
	42: {Name: "if-range"}, 43: {Name: "if-unmodified-since"}, 44: {Name: "last-modified"}, 45: {Name: "link"},
	46: {Name: "location"}, 47: {Name: "max-forwards"}, 48: {Name: "proxy-authenticate"},
	49: {Name: "proxy-authorization"}, 50: {Name: "range"}, 51: {Name: "referer"}, 52: {Name: "refresh"},
	53: {Name: "retry-after"}, 54: {Name: "server"}, 55: {Name: "set-cookie"}, 56: {Name: "strict-transport-security"},
	57: {Name: "transfer-encoding"}, 58: {Name: "user-agent"}, 59: {Name: "vary"}, 60: {Name: "via"},
	61: {Name: "www-authenticate"},
}

// nameIndices finds the static index of a name by its hash, under which there is one name at most (the factors of hash
// were searched for that). It is never written.
var nameIndices = makeNameIndices()

func makeNameIndices() (t [128]uint8) {
	for i := staticLen; i > 0; i-- { // of those that share a name the first stays
		t[hash(static[i].Name)] = uint8(i)
	}
	return t
}

// hash is of the length and the first and the last letter in either case. The name is not empty.
func hash(name string) uint {
	return (3*uint(len(name)) + 54*uint(name[0]|0x20) + 59*uint(name[len(name)-1]|0x20)) % 128
}

// staticName is the first index of the static table that has that name in any case, or 0.
func staticName(name string) int {
	if name == "" {
		return 0
	}
	i := nameIndices[hash(name)]
	if i == 0 || !message.EqualName(static[i].Name, name) {
		return 0
	}
	return int(i)
}
