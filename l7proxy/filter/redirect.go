package filter

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// redirect is a RequestRedirect.
type redirect struct {
	status int
	scheme string    // "": the request's
	host   string    // "": the request's
	port   uint16    // 0: it follows from the scheme, or is the Service's
	path   *pathEdit // nil: the request's
}

func compileRedirect(m *model.Redirect) *redirect {
	d := &redirect{status: m.Status, scheme: m.Scheme, host: m.Host, port: m.Port, path: compilePath(m.Path)}
	if d.port == 0 && d.scheme != "" { // F-25
		d.port = wellKnown(d.scheme)
	}
	return d
}

func wellKnown(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// location is an absolute URL (F-29): that of the request, with what the filter names in its place. The query stays (F-28).
func (d *redirect) location(r *message.Request, authority string, in Input, s *Scratch) string {
	path := r.Path
	if d.path != nil {
		path = d.path.apply(s.original(r), s)
	}
	if path == "*" { // RFC 9110, 7.1: the server as a whole, whose URL has no path
		path = ""
	}
	scheme := cmp.Or(d.scheme, schemeOf(r), in.Scheme, "http")
	port := cmp.Or(d.port, in.Port)
	start := len(s.text)
	b := append(s.text, scheme...)
	b = append(b, "://"...)
	b = append(b, cmp.Or(d.host, hostOf(authority), in.Host)...)
	if port != 0 && port != wellKnown(scheme) { // F-27
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(port), 10)
	}
	b = append(b, path...)
	if r.HasQuery {
		b = append(b, '?')
		b = append(b, r.Query...)
	}
	s.text = b
	return s.since(start)
}

// schemeOf is the request's scheme where it can be that of a Location (F-21); "": it has none.
func schemeOf(r *message.Request) string {
	if r.Scheme == "http" || r.Scheme == "https" {
		return r.Scheme
	}
	return ""
}

// hostOf is an authority without its port (F-22).
func hostOf(authority string) string {
	if strings.HasPrefix(authority, "[") { // of IPv6, which has colons itself
		if end := strings.IndexByte(authority, ']'); end >= 0 {
			return authority[:end+1]
		}
	}
	host, _, _ := strings.Cut(authority, ":")
	return host
}
