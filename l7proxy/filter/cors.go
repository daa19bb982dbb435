package filter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// preflightStatus answers preflights, those of origins that are not allowed too: for want of fields the browser asks no further
// (F-61, F-64).
const preflightStatus = 200

// cors is a CORS filter. Lists are joined as they are sent; "": there is nothing to send.
type cors struct {
	any         bool // origins
	origins     []model.Origin
	credentials bool
	methods     string
	anyMethod   bool
	headers     string
	anyHeader   bool
	expose      string
	maxAge      string
}

func compileCORS(m *model.CORS) (*cors, error) {
	c := &cors{
		any: slices.Equal(m.Origins, []string{"*"}), credentials: m.Credentials,
		methods: strings.Join(m.Methods, ", "), anyMethod: slices.Contains(m.Methods, "*"),
		headers: strings.Join(m.Headers, ", "), anyHeader: slices.Contains(m.Headers, "*"),
		maxAge: strconv.Itoa(int(m.MaxAge)),
	}
	expose := slices.Clone(m.Expose)
	if c.credentials { // where there are any, "*" is the name of a header (F-65)
		expose = slices.DeleteFunc(expose, func(s string) bool { return s == "*" })
	}
	c.expose = strings.Join(expose, ", ")
	if c.any {
		return c, nil
	}
	for _, s := range m.Origins {
		o, err := model.ParseOrigin(s)
		if err != nil {
			return nil, err
		}
		c.origins = append(c.origins, o)
	}
	return c, nil
}

// request notes for the response whether the origin is allowed, and tells whether r is a preflight; the answer to it is then in
// the fields of s.
func (c *cors) request(r *message.Request, s *Scratch) (preflight bool) {
	origin, has := r.Fields.Get("origin")
	s.origin = ""
	switch {
	case !has || r.Fields.Count("origin") > 1: // no browser sends two
	case c.any && !c.credentials:
		s.origin = "*"
	case c.any || c.allows(origin):
		start := len(s.text)
		s.text = append(s.text, origin...) // it has to outlive the request
		s.origin = s.since(start)
	}
	method, asks := r.Fields.Get("access-control-request-method")
	if !has || !asks || r.Method != "OPTIONS" { // F-61
		return false
	}
	s.fields = s.fields[:0]
	if s.origin != "" {
		c.grant(r, method, s)
	}
	c.share(&s.fields, s)
	return true
}

// grant adds what a preflight asks for (F-65). GET, HEAD and POST need no mention (F-67).
func (c *cors) grant(r *message.Request, method string, s *Scratch) {
	methods := c.methods
	if c.anyMethod && c.credentials {
		methods = method // "*" would be the name of a method
	}
	headers := c.headers
	if c.anyHeader { // what is asked for, because "*" does not cover Authorization
		headers = requestedHeaders(r, s)
	}
	if methods != "" {
		s.fields.Add("Access-Control-Allow-Methods", methods)
	}
	if headers != "" {
		s.fields.Add("Access-Control-Allow-Headers", headers)
	}
	s.fields.Add("Access-Control-Max-Age", c.maxAge)
}

// requestedHeaders are those of Access-Control-Request-Headers; "": there are none.
func requestedHeaders(r *message.Request, s *Scratch) string {
	const name = "access-control-request-headers"
	first, _ := r.Fields.Get(name)
	if r.Fields.Count(name) < 2 {
		return first
	}
	start := len(s.text)
	for i := range r.Fields {
		if f := &r.Fields[i]; message.EqualName(f.Name, name) {
			if len(s.text) > start {
				s.text = append(s.text, ", "...)
			}
			s.text = append(s.text, f.Value...)
		}
	}
	return s.since(start)
}

// share says who may read a response, in place of what a backend says of it (F-66). Whatever it says depends on the origin, so
// that caches have to know: also where it says nothing.
func (c *cors) share(f *message.Fields, s *Scratch) {
	f.Del("Access-Control-Allow-Origin")
	f.Del("Access-Control-Allow-Credentials")
	f.Del("Access-Control-Expose-Headers")
	if s.origin != "" {
		f.Add("Access-Control-Allow-Origin", s.origin)
		if c.credentials {
			f.Add("Access-Control-Allow-Credentials", "true")
		}
		if c.expose != "" {
			f.Add("Access-Control-Expose-Headers", c.expose)
		}
	}
	if !varies(*f) {
		f.Add("Vary", "Origin")
	}
}

// varies tells whether caches are told already.
func varies(f message.Fields) bool {
	for i := range f {
		if !message.EqualName(f[i].Name, "vary") {
			continue
		}
		for name := range strings.SplitSeq(f[i].Value, ",") {
			if name = strings.Trim(name, " \t"); name == "*" || message.EqualName(name, "origin") {
				return true
			}
		}
	}
	return false
}

// allows tells whether an origin is one of those that are listed (F-62).
func (c *cors) allows(origin string) bool {
	scheme, host, port, ok := splitOrigin(origin)
	if !ok {
		return false
	}
	for i := range c.origins {
		o := &c.origins[i]
		if o.Port == port && message.EqualName(o.Scheme, scheme) && covers(o, host) {
			return true
		}
	}
	return false
}

// covers: a wildcard is anything to the left of the rest, but something.
func covers(o *model.Origin, host string) bool {
	if o.Wildcard && len(host) > len(o.Host) {
		return message.EqualName(host[len(host)-len(o.Host):], o.Host)
	}
	return !o.Wildcard && message.EqualName(host, o.Host)
}

// splitOrigin takes apart what a browser sends as Origin. What is none, such as "null", is in no list.
func splitOrigin(s string) (scheme, host string, port uint16, ok bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case !ok:
		return "", "", 0, false
	case message.EqualName(scheme, "http"):
		port = 80
	case message.EqualName(scheme, "https"):
		port = 443
	default:
		return "", "", 0, false
	}
	host = rest
	if end := strings.LastIndexByte(rest, ':'); end > strings.LastIndexByte(rest, ']') { // an address of IPv6 has colons itself
		host = rest[:end]
		if port, ok = parsePort(rest[end+1:]); !ok {
			return "", "", 0, false
		}
	}
	return scheme, host, port, isHost(host)
}

func parsePort(s string) (uint16, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || n > 0xffff {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return uint16(n), n > 0 && n <= 0xffff
}

// isHost tells whether s can be the host of an origin. A wildcard covers hosts, and not whatever else ends like one.
func isHost(s string) bool {
	inner := s
	others := "-._"
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		inner, others = s[1:len(s)-1], ":."
	}
	for i := range len(inner) {
		c := inner[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return inner != ""
}
