package http1

import (
	"bytes"
	"cmp"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// ParseRequest parses the head of a request at the beginning of b. It returns the head's length in bytes, or 0 when its
// end has not come yet. The strings of req are views of b. Of req.Fields the memory is used again; fields that
// Connection names are not in it (RFC 9110, 7.6.1).
func ParseRequest(b []byte, req *message.Request, limits Limits) (int, Head, *Error) {
	fields := req.Fields[:0]
	*req = message.Request{Fields: fields}
	var h Head
	l, rest, ok, err := line(skipEmptyLine(b))
	switch {
	case err != nil:
		return 0, h, cmp.Or(begunRequestLine(b, limits), err)
	case !ok:
		return 0, h, begunRequestLine(b, limits)
	}
	if err := parseRequestLine(l, req, &h, limits); err != nil {
		return 0, h, err
	}
	var f facts
	size, err := f.section(b, rest, &req.Fields, limits)
	if size == 0 {
		return 0, h, err
	}
	if err := f.framing(&h, NoBody); err != nil {
		return 0, h, err
	}
	if err := f.authority(req, h.Minor); err != nil {
		return 0, h, err
	}
	f.connection(&h, &req.Fields)
	h.Upgrade = usefulUpgrade(h.Upgrade)
	h.Continue = f.expected && h.Minor > 0 && h.Body != NoBody // RFC 9110, 10.1.1
	return size, h, nil
}

// skipEmptyLine: a client may have sent one after its last request (RFC 9112, 2.2).
func skipEmptyLine(b []byte) []byte {
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		return b[2:]
	}
	return b
}

// begunRequestLine looks for what can be said to be wrong before the line has ended.
func begunRequestLine(b []byte, limits Limits) *Error {
	l, _, _ := bytes.Cut(skipEmptyLine(b), []byte("\n"))
	_, _, err := cutMethod(bytes.TrimSuffix(l, []byte("\r")), limits)
	return err
}

// maxMethod is longer than any method that is registered (BASELINE-CONTROL) or known to be in use.
const maxMethod = 64

// cutMethod cuts a request line, or its beginning, after the method. The rest can be judged by its length.
func cutMethod(l []byte, limits Limits) (method, rest []byte, err *Error) {
	i := syntax.Span(l, syntax.TokenByte)
	switch {
	case i > maxMethod || i < len(l) && l[i] != ' ':
		return nil, nil, errMethod
	case i == len(l):
		return l, nil, nil
	case len(l)-i-1 > limits.Target+len(" HTTP/1.1"):
		return nil, nil, errTargetLong
	}
	return l[:i], l[i+1:], nil
}

func parseRequestLine(l []byte, req *message.Request, h *Head, limits Limits) *Error {
	method, rest, err := cutMethod(l, limits)
	if err != nil {
		return err
	}
	j := len(rest) - len(" HTTP/1.1")
	if len(method) == 0 || j < 0 || rest[j] != ' ' {
		return errRequestLine
	}
	target, version := rest[:j], rest[j+1:]
	if len(target) == 0 || syntax.Span(target, syntax.TargetByte) < len(target) {
		return errTarget
	}
	if err := parseVersion(version, h); err != nil {
		if err == errVersionForm {
			return errRequestLine
		}
		return err
	}
	req.Method = view(method)
	return parseTarget(view(target), req)
}

// errVersionForm is never told: the line that has such a version is malformed.
var errVersionForm = &Error{Status: 400}

func parseVersion(v []byte, h *Head) *Error {
	if len(v) != len("HTTP/1.1") || string(v[:5]) != "HTTP/" || v[6] != '.' || v[5]-'0' > 9 || v[7]-'0' > 9 {
		return errVersionForm
	}
	if v[5] != '1' {
		return errVersion
	}
	h.Minor = min(int(v[7]-'0'), 1) // a higher minor version is sent by who also speaks 1.1 (RFC 9110, 2.5)
	return nil
}

// parseTarget splits the four forms of RFC 9112, 3.2. Absolute form leaves what origin form would have been: that is
// how it goes to an origin server (3.2.2).
func parseTarget(target string, req *message.Request) *Error {
	switch {
	case target[0] == '/' && req.Method != "CONNECT":
		req.Path, req.Query, req.HasQuery = strings.Cut(target, "?")
		return nil
	case req.Method == "CONNECT":
		if host, port, ok := cutLast(target, ':'); !ok || host == "" || port == "" || !syntax.IsPort(port) || !syntax.ValidHost(target) {
			return errTarget
		}
		req.Authority = target
		return nil
	case target == "*":
		if req.Method != "OPTIONS" {
			return errTarget
		}
		req.Path = "*"
		return nil
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !message.EqualName(scheme, "http") {
		return errTarget
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	req.Authority = rest[:end]
	if req.Authority == "" || !syntax.ValidHost(req.Authority) {
		return errTarget
	}
	req.Path, req.Query, req.HasQuery = strings.Cut(rest[end:], "?")
	if req.Path == "" {
		req.Path = "/"
		if req.Method == "OPTIONS" && !req.HasQuery {
			req.Path = "*" // RFC 9112, 3.2.4
		}
	}
	return nil
}

// authority applies RFC 9112, 3.2: exactly one Host, and a target's own authority wins.
func (f *facts) authority(req *message.Request, minor int) *Error {
	switch {
	case f.hosts > 1:
		return errHostRepeated
	case f.hosts == 0 && minor > 0:
		return errHostMissing
	case !syntax.ValidHost(f.host):
		return errHost
	}
	if req.Authority == "" {
		req.Authority = f.host
	}
	return nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// usefulUpgrade leaves out protocols that clients offer unasked: h2c (Java's HttpClient) and TLS (Apache's). A server
// that took the offer would turn the connection into one that nobody can route.
func usefulUpgrade(value string) string {
	if value == "" || !strings.ContainsAny(value, "hHtT") {
		return value
	}
	unwanted := false
	for protocol := range members(value) {
		unwanted = unwanted || unasked(protocol)
	}
	if !unwanted {
		return value
	}
	var kept []string
	for protocol := range members(value) {
		if protocol != "" && !unasked(protocol) {
			kept = append(kept, protocol)
		}
	}
	return strings.Join(kept, ", ")
}

func unasked(protocol string) bool {
	name, _, _ := strings.Cut(protocol, "/")
	return message.EqualName(name, "h2c") || message.EqualName(name, "TLS") || message.EqualName(name, "HTTP")
}
