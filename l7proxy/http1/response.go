package http1

import (
	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// ParseResponse parses the head of a response to a request of the given method at the beginning of b. It returns the
// head's length in bytes, or 0 when its end has not come yet. The strings of resp are views of b.
func ParseResponse(b []byte, method string, resp *message.Response, limits Limits) (int, Head, *Error) {
	fields := resp.Fields[:0]
	*resp = message.Response{Fields: fields}
	var h Head
	if known := min(len(b), len("HTTP/1.")); string(b[:known]) != "HTTP/1."[:known] {
		return 0, h, errStatusLine
	}
	l, rest, ok, err := line(b)
	switch {
	case err != nil:
		return 0, h, err
	case !ok && len(b) >= limits.Head:
		return 0, h, errHeadLarge
	case !ok:
		return 0, h, nil
	}
	if err := parseStatusLine(l, resp, &h); err != nil {
		return 0, h, err
	}
	var f facts
	size, err := f.section(b, rest, &resp.Fields, limits)
	if size == 0 {
		return 0, h, err
	}
	if err := f.framing(&h, UntilClose); err != nil {
		return 0, h, err
	}
	f.connection(&h, &resp.Fields)
	if Bodiless(method, resp.Status) {
		h.Body, h.Length = NoBody, 0
	}
	if h.Body == UntilClose {
		h.Close = true
	}
	return size, h, nil
}

// Bodiless tells whether a response has no body whatever its fields say (RFC 9112, 6.3): to HEAD, 1xx, 204, 304, and a
// CONNECT that succeeded.
func Bodiless(method string, status int) bool {
	return status < 200 || status == 204 || status == 304 || method == "HEAD" || method == "CONNECT" && status < 300
}

func parseStatusLine(l []byte, resp *message.Response, h *Head) *Error {
	// HTTP/1.1 200 OK; the space before an empty reason is missing now and then.
	if len(l) < len("HTTP/1.1 200") || l[8] != ' ' || parseVersion(l[:8], h) != nil {
		return errStatusLine
	}
	a, b, c := l[9]-'0', l[10]-'0', l[11]-'0'
	if a < 1 || a > 9 || b > 9 || c > 9 || len(l) > 12 && l[12] != ' ' {
		return errStatusLine
	}
	resp.Status = int(a)*100 + int(b)*10 + int(c)
	if len(l) > 13 {
		if control(l[13:]) < len(l)-13 {
			return errStatusLine
		}
		resp.Reason = view(l[13:])
	}
	return nil
}
