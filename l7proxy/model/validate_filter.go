package model

import (
	"fmt"
	"net/netip"
	"strings"
)

// validateFilters checks a rule's list, or a backend's: each filter, and that they can run together (F-3).
func validateFilters(filters []Filter, grpc, ofBackend bool) error {
	seen := map[string]bool{}
	for i := range filters {
		f, path := &filters[i], fmt.Sprintf("filters[%d]", i)
		if err := f.Validate(); err != nil {
			return under(path, err)
		}
		name := f.members()[0].name
		switch {
		case ofBackend && (f.Redirect != nil || f.Mirror != nil || f.CORS != nil): // F-6
			return mistake(path, "%s is a rule's, not a backend's", name)
		case grpc && (f.Redirect != nil || f.Rewrite != nil || f.CORS != nil): // M-36
			return mistake(path, "a gRPC table has no %s", name)
		case seen[name] && (f.Redirect != nil || f.CORS != nil):
			return mistake(path, "there is another %s before it", name)
		}
		seen[name] = true
	}
	return nil
}

type member struct {
	name     string
	validate func() error
}

// members are those that are set.
func (f *Filter) members() (set []member) {
	if e := f.RequestHeaders; e != nil {
		set = append(set, member{"requestHeaders", e.Validate})
	}
	if e := f.ResponseHeaders; e != nil {
		set = append(set, member{"responseHeaders", e.validateResponse})
	}
	if r := f.Rewrite; r != nil {
		set = append(set, member{"rewrite", r.validate})
	}
	if r := f.Redirect; r != nil {
		set = append(set, member{"redirect", r.validate})
	}
	if m := f.Mirror; m != nil {
		set = append(set, member{"mirror", m.validate})
	}
	if c := f.CORS; c != nil {
		set = append(set, member{"cors", c.validate})
	}
	return set
}

// Validate tells what in the filter the proxy cannot work with.
func (f *Filter) Validate() error {
	switch set := f.members(); len(set) {
	case 0: // a newer agent's (F-5)
		return mistake("", "none of its members is set")
	case 1:
		return under(set[0].name, set[0].validate())
	default:
		return mistake("", "%s and %s are set: one filter has one member", set[0].name, set[1].name)
	}
}

func (r *Rewrite) validate() error {
	if r.Host != "" {
		if err := CheckHost(r.Host); err != nil {
			return under("host", err)
		}
	}
	return r.Path.validate()
}

func (r *Redirect) validate() error {
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default: // F-20
		return mistake("status", "%d is no redirect that is known", r.Status)
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" { // F-21
		return mistake("scheme", "%q is not known", r.Scheme)
	}
	if r.Host != "" {
		if err := CheckHost(r.Host); err != nil {
			return under("host", err)
		}
	}
	return r.Path.validate()
}

func (p *PathEdit) validate() error {
	switch {
	case p == nil:
		return nil
	case p.Prefix != "" && p.Prefix[0] != '/':
		return mistake("path.prefix", "%q does not begin with \"/\"", p.Prefix)
	case p.Prefix != "" && p.Value == "":
		return nil
	}
	return under("path.value", CheckPath(p.Value))
}

// CheckPath tells why s cannot become a request's path: it is sent and put into URLs as it is (RFC 3986, 3.3).
func CheckPath(s string) error {
	if !strings.HasPrefix(s, "/") {
		return mistake("", "%q does not begin with \"/\"", s)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
		case c == '%':
			return mistake("", "%q has a \"%%\" that escapes nothing: write it \"%%25\"", s)
		case isAlphanumeric(c), strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0:
		default:
			return mistake("", "%q has a character that a path cannot have: write it \"%%%02X\"", s, c)
		}
	}
	return nil
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// CheckHost tells why s cannot become the host of a request or of a Location: the API has names there, without a port, a
// wildcard, or digits that make an address (F-22).
func CheckHost(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return mistake("", "%q is an address: a name is asked for", s)
	}
	if !isHostName(s) {
		return mistake("", "%q is no name of a host", s)
	}
	return nil
}

func (m *Mirror) validate() error {
	if m.Share.Numerator == 0 || m.Share.Numerator > m.Share.Denominator {
		return mistake("share", "%d/%d is not in 0 to 1, or is 0", m.Share.Numerator, m.Share.Denominator)
	}
	return under("endpoints", m.Endpoints.validate())
}

func (c *CORS) validate() error {
	for i, s := range c.Origins {
		if s == "*" && len(c.Origins) == 1 {
			continue
		}
		if _, err := ParseOrigin(s); err != nil {
			return under(fmt.Sprintf("origins[%d]", i), err)
		}
	}
	for _, list := range []struct {
		name   string
		values []string
		beside bool // "*" may have others beside it
	}{{"methods", c.Methods, false}, {"headers", c.Headers, false}, {"expose", c.Expose, true}} {
		for i, s := range list.values {
			at := fmt.Sprintf("%s[%d]", list.name, i)
			if s == "*" && !list.beside && len(list.values) > 1 {
				return mistake(at, "\"*\" stands alone or not at all")
			}
			if !isToken(s) {
				return mistake(at, "%q is none", s)
			}
		}
	}
	if c.MaxAge < 1 {
		return mistake("maxAge", "%d is less than 1", c.MaxAge)
	}
	return nil
}

// validatePolicies checks what a rule says of time and of tries. GRPCRoutes say nothing of either (M-36).
func (r *Rule) validatePolicies(grpc bool) error {
	switch t := r.Timeouts; {
	case grpc && t != Timeouts{}:
		return mistake("timeouts", "a gRPC table has none")
	case t.Request < 0:
		return mistake("timeouts.request", "%s is negative", t.Request)
	case t.BackendRequest < 0:
		return mistake("timeouts.backendRequest", "%s is negative", t.BackendRequest)
	case t.Request > 0 && t.BackendRequest > t.Request: // B-44
		return mistake("timeouts.backendRequest", "%s is more than the %s that the whole request has", t.BackendRequest, t.Request)
	}
	switch t := r.Retry; {
	case t == nil:
	case grpc:
		return mistake("retry", "a gRPC table has none")
	case t.Attempts < 1:
		return mistake("retry.attempts", "%d is less than 1", t.Attempts)
	case t.Backoff < 0:
		return mistake("retry.backoff", "%s is negative", t.Backoff)
	default:
		for i, code := range t.Codes {
			if code < 400 || code > 599 {
				return mistake(fmt.Sprintf("retry.codes[%d]", i), "%d is no error: want 400 to 599", code)
			}
		}
	}
	return nil
}

// Validate tells why the edit cannot be applied to requests: what frames a message and what belongs to one connection is not a
// route's to change, and a request has exactly one Host (F-14).
func (e *HeaderEdit) Validate() error {
	if err := e.validateResponse(); err != nil {
		return err
	}
	for i, h := range e.Set {
		if isHost(h.Name) && (h.Value == "" || strings.ContainsAny(h.Value, " \t/?#@\\,")) {
			return mistake(fmt.Sprintf("set[%d].value", i), "%q is no host and port", h.Value)
		}
	}
	for i, h := range e.Add {
		if isHost(h.Name) {
			return mistake(fmt.Sprintf("add[%d].name", i), "header %q can only be set: a request has exactly one", h.Name)
		}
	}
	for i, name := range e.Remove {
		if isHost(name) {
			return mistake(fmt.Sprintf("remove[%d]", i), "header %q can only be set: a request has exactly one", name)
		}
	}
	return nil
}

// validateResponse checks what edits of requests and of responses have in common.
func (e *HeaderEdit) validateResponse() error {
	for _, list := range []struct {
		name    string
		headers []Header
	}{{"set", e.Set}, {"add", e.Add}} {
		for i, h := range list.headers {
			path := fmt.Sprintf("%s[%d]", list.name, i)
			if err := checkEditable(h.Name); err != nil {
				return under(path, under("name", err))
			}
			if err := checkFieldValue(h.Value); err != nil {
				return under(path, under("value", err))
			}
		}
	}
	for i, name := range e.Remove {
		if err := checkEditable(name); err != nil {
			return under(fmt.Sprintf("remove[%d]", i), err)
		}
	}
	return nil
}

func isHost(name string) bool { return strings.ToLower(name) == "host" }

func checkEditable(name string) error {
	switch strings.ToLower(name) {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade": // RFC 9110, 7.6.1
		return mistake("", "header %q belongs to one connection", name)
	case "content-length": // RFC 9112, 6: where the message ends
		return mistake("", "header %q says where the message ends", name)
	}
	if !isToken(name) { // this refuses ":authority" too
		return mistake("", "%q is no header name", name)
	}
	return nil
}

// checkFieldValue: a line break in a value would write another header (RFC 9110, 5.5).
func checkFieldValue(value string) error {
	for i := range len(value) {
		if c := value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return mistake("", "it has a control character")
		}
	}
	return nil
}
