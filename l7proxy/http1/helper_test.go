package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

var limits = Limits{Head: 64 << 10, Target: 16 << 10} // the proxy's own; never written

// head makes a head of its lines.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// result is what a parser made of its input.
type result struct {
	n      int
	err    *Error
	about  string // what is not a field, in words
	fields string // a line for each
}

type parser func(in []byte) result

func parseRequest(in []byte) result {
	var req message.Request
	n, h, err := ParseRequest(in, &req, limits)
	if n == 0 {
		return result{err: err}
	}
	return result{n, err, aboutRequest(&req, h), lines(req.Fields)}
}

// responseTo parses a response to a request of that method.
func responseTo(method string) parser {
	return func(in []byte) result {
		var resp message.Response
		n, h, err := ParseResponse(in, method, &resp, limits)
		if n == 0 {
			return result{err: err}
		}
		return result{n, err, strings.TrimSuffix(fmt.Sprintf("%d %s", resp.Status, resp.Reason), " ") + aboutHead(h), lines(resp.Fields)}
	}
}

// aboutRequest is like "GET authority /path?query length=5 close": what is usual is left out.
func aboutRequest(req *message.Request, h Head) string {
	s := fmt.Sprintf("%s %s %s", req.Method, orDash(req.Authority), orDash(req.Path))
	if req.HasQuery {
		s += "?" + req.Query
	}
	return s + aboutHead(h)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func aboutHead(h Head) (s string) {
	if h.Minor == 0 {
		s += " 1.0"
	}
	switch h.Body {
	case NoBody:
	case Length:
		s += fmt.Sprintf(" length=%d", h.Length)
	case Chunked:
		s += " chunked"
	case UntilClose:
		s += " until-close"
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{{h.Close, "close"}, {h.KeepAlive, "keep-alive"}, {h.Continue, "continue"}, {h.Trailers, "trailers"}, {h.Upgrade != "", "upgrade=" + h.Upgrade}} {
		if flag.set {
			s += " " + flag.name
		}
	}
	return s
}

func lines(f message.Fields) string {
	var s strings.Builder
	for i := range f {
		fmt.Fprintf(&s, "%s: %s\n", f[i].Name, f[i].Value)
	}
	return s.String()
}

// short is in for a message of a test.
func short(in string) string {
	if len(in) > 300 {
		return fmt.Sprintf("%.200q... of %d bytes", in, len(in))
	}
	return fmt.Sprintf("%q", in)
}

// refused holds that each input is refused with that error.
func refused(t *testing.T, parse parser, want *Error, inputs ...string) {
	t.Helper()
	for _, in := range inputs {
		got := parse([]byte(in))
		if got.n != 0 || got.err != want {
			t.Errorf("%s:\n got %+v\nwant error %v", short(in), got, want)
		}
		splits(t, parse, in)
	}
}

// accepted holds that what is said about the first of each pair is the second.
func accepted(t *testing.T, parse parser, pairs ...[2]string) {
	t.Helper()
	for _, p := range pairs {
		in, want := p[0], p[1]
		end := strings.Index(strings.TrimPrefix(in, "\r\n"), "\r\n\r\n") + 4 + len(in) - len(strings.TrimPrefix(in, "\r\n"))
		if got := parse([]byte(in)); got.err != nil || got.n != end || got.about != want {
			t.Errorf("%s:\n got %q, %d bytes, error %v\nwant %q, %d bytes", short(in), got.about, got.n, got.err, want, end)
		}
		splits(t, parse, in)
	}
}

// splits holds that a beginning of the input is taken for incomplete or fails like the whole: no sooner and no later do
// we know. What follows the head changes nothing.
func splits(t *testing.T, parse parser, in string) {
	t.Helper()
	step := 1
	if len(in) > 2<<10 {
		step = 509 // a prime: else this would take the square of the length
	}
	whole := parse([]byte(in))
	told := false
	for i := 0; i < len(in); i += step {
		got := parse([]byte(in[:i]))
		switch {
		case got == whole && (whole.err != nil || i >= whole.n):
			told = true
		case got != result{} || told:
			t.Errorf("%s:\nthe first %d bytes are %+v\nthe whole is %+v", short(in), i, got, whole)
			return
		}
	}
	if more := parse([]byte(in + "\r\n\r\nmore")); more != whole && whole != (result{}) {
		t.Errorf("%s:\n with more behind it %+v\nwithout %+v", short(in), more, whole)
	}
}
