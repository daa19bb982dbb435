package filter

import (
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/syntax"
)

// rewrite is an URLRewrite.
type rewrite struct {
	host string    // "": stays as it is (F-43)
	path *pathEdit // nil: stays as it is
}

// request changes the target. Of two rewrites of the path, the rule's and the backend's, the later wins: both start from what
// the rule matched (F-42).
func (w *rewrite) request(r *message.Request, s *Scratch) {
	if w.host != "" {
		r.Authority = w.host
	}
	if w.path != nil {
		r.Path = w.path.apply(s.original(r), s)
	}
}

// pathEdit replaces a path, or a prefix of it (gamma 3.4). Paths are edited as they are sent: an escape that was sent is kept.
type pathEdit struct {
	full        bool
	prefix      string // in the form in which paths are compared, without its trailing slash
	replacement string // of a prefix of which nothing is left, or of the whole
	before      string // what precedes the rest: the replacement without its trailing slashes
}

func compilePath(m *model.PathEdit) *pathEdit {
	if m == nil {
		return nil
	}
	p := &pathEdit{full: m.Prefix == "", prefix: strings.TrimSuffix(normal(m.Prefix), "/"), replacement: m.Value}
	if p.replacement == "" {
		p.replacement = "/"
	}
	p.before = strings.TrimRight(m.Value, "/")
	return p
}

// apply returns the path that path becomes. What is no path, as in "OPTIONS *" and CONNECT, stays what it is.
func (p *pathEdit) apply(path string, s *Scratch) string {
	if path == "" || path[0] != '/' {
		return path
	}
	if p.full {
		return p.replacement
	}
	rest, ok := cutPrefix(path, p.prefix)
	switch {
	case !ok: // the rule has matched another
		return path
	case rest == "":
		return p.replacement
	case p.before == "":
		return rest
	}
	start := len(s.text)
	s.text = append(s.text, p.before...)
	s.text = append(s.text, rest...)
	return s.since(start)
}

// cutPrefix returns what of path, which may have escapes, follows prefix, which is in the form in which paths are compared. It has
// to be whole elements (M-12).
func cutPrefix(path, prefix string) (rest string, ok bool) {
	i := 0
	for j := 0; j < len(prefix); {
		if i == len(path) {
			return "", false
		}
		b, size := path[i], 1
		if decoded, is := syntax.Escaped(path[i:]); is {
			b, size = decoded, 3
		}
		switch {
		case b == '/' && size == 3 && strings.HasPrefix(prefix[j:], escapedSlash):
			j += len(escapedSlash)
		case b == '/' && size == 3 || b != prefix[j]:
			return "", false
		default:
			j++
		}
		i += size
	}
	rest = path[i:]
	return rest, rest == "" || rest[0] == '/'
}

// escapedSlash is how paths that are compared have a slash that separates no elements.
const escapedSlash = "%2F"

// normal is a path in the form in which the router compares it (M-14): without escapes, except for those of slashes.
func normal(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); {
		switch b, ok := syntax.Escaped(path[i:]); {
		case !ok:
			out.WriteByte(path[i])
			i++
			continue
		case b == '/':
			out.WriteString(escapedSlash)
		default:
			out.WriteByte(b)
		}
		i += 3
	}
	return out.String()
}
