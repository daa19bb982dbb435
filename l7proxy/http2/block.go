package http2

import (
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/http2/hpack"
	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// AppendRequest appends the header block of a request as it is sent to an endpoint: the pseudo-fields first, names in
// lower case, without what belongs to one connection (RFC 9113, 8.2.2; what Connection names included) and without Host, whose
// place :authority takes. It is the same on any connection.
func AppendRequest(dst []byte, r *message.Request) []byte {
	dst = hpack.AppendMethod(dst, r.Method)
	plainConnect := r.Method == "CONNECT" && r.Protocol == "" // RFC 9113, 8.5
	if !plainConnect {
		scheme := r.Scheme
		if scheme == "" {
			scheme = "http"
		}
		dst = hpack.AppendScheme(dst, scheme)
	}
	if r.Authority != "" { // RFC 9113, 8.3.1
		dst = hpack.AppendAuthority(dst, r.Authority)
	}
	if !plainConnect {
		path := r.Path
		if path == "" {
			path = "/"
		}
		dst = hpack.AppendPath(dst, path, r.Query, r.HasQuery)
	}
	if r.Protocol != "" {
		dst = hpack.AppendField(dst, &message.Field{Name: ":protocol", Value: r.Protocol})
	}
	return appendFields(dst, r.Fields)
}

// AppendResponse appends the header block of a response as it is sent to a client.
func AppendResponse(dst []byte, r *message.Response) []byte {
	dst = hpack.AppendStatus(dst, r.Status)
	if r.Status >= 200 && r.Status != 204 {
		return appendFields(dst, r.Fields)
	}
	named := namedByConnection(r.Fields)
	for i := range r.Fields { // RFC 9110, 8.6: without a length
		if kindOf(r.Fields[i].Name) != lengthField {
			dst = appendField(dst, &r.Fields[i], named)
		}
	}
	return dst
}

// AppendTrailers appends a trailer section. Fields that frame or route a message have no place in it (RFC 9110, 6.5.1).
func AppendTrailers(dst []byte, f message.Fields) []byte {
	for i := range f {
		if kindOf(f[i].Name) == endToEnd {
			dst = hpack.AppendField(dst, &f[i])
		}
	}
	return dst
}

func appendFields(dst []byte, fields message.Fields) []byte {
	named := namedByConnection(fields)
	for i := range fields {
		dst = appendField(dst, &fields[i], named)
	}
	return dst
}

// appendField appends a field that goes further than this connection.
func appendField(dst []byte, f *message.Field, named string) []byte {
	switch kindOf(f.Name) {
	case endToEnd:
		if named != "" && hasOption(named, f.Name) {
			return dst
		}
	case lengthField:
	case teField:
		if !hasOption(f.Value, "trailers") {
			return dst
		}
		return hpack.AppendField(dst, &message.Field{Name: f.Name, Value: "trailers"})
	default:
		return dst
	}
	return hpack.AppendField(dst, f)
}

// namedByConnection is what Connection names (RFC 9110, 7.6.1). That HTTP/1.1 has it is usual; two lines of it are not.
func namedByConnection(fields message.Fields) (named string) {
	for i := range fields {
		switch {
		case kindOf(fields[i].Name) != connectionField:
		case named == "":
			named = fields[i].Value
		default:
			named += "," + fields[i].Value
		}
	}
	return named
}

// hasOption tells whether a comma-separated list has a member, whose parameters do not matter.
func hasOption(list, want string) bool {
	for more := true; more; {
		var member string
		member, list, more = strings.Cut(list, ",")
		member, _, _ = strings.Cut(member, ";")
		if message.EqualName(strings.Trim(member, " \t"), want) {
			return true
		}
	}
	return false
}

// methodOf reads of a block of AppendRequest, which begins with the method, what says something about the answer.
func methodOf(block []byte) asked {
	const method = 2 // of the static table (RFC 7541, appendix A), literal and without indexing
	switch {
	case len(block) < 2 || block[0] != method || int(block[1]) > len(block)-2:
		return askedUsual
	case string(block[2:2+block[1]]) == "HEAD":
		return askedHead
	case string(block[2:2+block[1]]) == "CONNECT":
		return askedConnect
	}
	return askedUsual
}

// isInterim tells whether a block of AppendResponse, which begins with the status, has a status of 1xx.
func isInterim(block []byte) bool {
	const status = 8 // as above; no status of 1xx is in the static table
	return len(block) > 2 && block[0] == status && block[2] == '1'
}
