package http2

import "github.com/sluice-mesh/sluice/l7proxy/message"

// parseResponse makes a response of the fields of a header block, and returns what Content-Length says; -1: nothing.
func parseResponse(fields message.Fields, r *message.Response) (int64, *Error) {
	if len(fields) == 0 || fields[0].Name != ":status" {
		return 0, errStatus
	}
	status, ok := parseStatus(fields[0].Value)
	if !ok || status == 101 { // RFC 9113, 8.6
		return 0, errStatus
	}
	var f facts
	rest, err := f.check(fields[1:]) // a second pseudo-field is no field name
	*r = message.Response{Status: status, Fields: rest}
	return f.length, err
}

func parseStatus(s string) (int, bool) {
	if len(s) != 3 {
		return 0, false
	}
	a, b, c := s[0]-'0', s[1]-'0', s[2]-'0'
	if a < 1 || a > 9 || b > 9 || c > 9 {
		return 0, false
	}
	return int(a)*100 + int(b)*10 + int(c), true
}

// bodyOf says how long a response's body is; -1: as long as it comes (RFC 9110, 6.4.1 and 8.6).
func bodyOf(asked asked, status int, length int64) int64 {
	switch {
	case asked == askedHead || status == 204 || status == 304:
		return 0
	case asked == askedConnect && status < 300:
		return -1
	}
	return length
}
