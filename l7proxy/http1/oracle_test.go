package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// net/http is the second opinion. Where we accept, it has to accept, and to read the same message. Where it refuses what
// we accept there has to be a reason in acceptable; that we refuse more is what we are for.

// canonical groups the fields that both show, with names in net/http's spelling. It keeps some to itself: what frames the
// message, and Host. hidden are others that one of the two does not show.
func canonical(f message.Fields, hidden ...string) http.Header {
	h := http.Header{}
	for i := range f {
		name := http.CanonicalHeaderKey(f[i].Name)
		h[name] = append(h[name], f[i].Value)
	}
	return visible(h, hidden...)
}

func visible(h http.Header, hidden ...string) http.Header {
	h = h.Clone()
	for _, name := range append(hidden, "Host", "Transfer-Encoding") {
		delete(h, name)
	}
	return h
}

// differing are the fields that we remove, because Connection names them (RFC 9110, 7.6.1), and those that net/http
// does: it moves Trailer elsewhere, takes Connection: close out of a response, and makes a Cache-Control of Pragma.
func differing(f message.Fields) []string {
	names := []string{"Trailer", "Connection"}
	for i := range f {
		if message.EqualName(f[i].Name, "Connection") {
			for name := range strings.SplitSeq(f[i].Value, ",") {
				names = append(names, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
			}
		}
	}
	pragma, _ := f.Get("Pragma")
	if _, has := f.Get("Cache-Control"); !has && pragma == "no-cache" {
		names = append(names, "Cache-Control")
	}
	return names
}

// acceptable says why net/http may refuse what we accept. "" is no reason.
func acceptable(err error, target string, fields message.Fields) string {
	bad, isURL := errors.AsType[*url.Error](err)
	switch {
	case isURL && hasEscapeError(bad) && strings.Contains(target, "%"):
		return "the path is passed on as it was sent: what a malformed escape means is for the server to say"
	case strings.Contains(err.Error(), "transfer encoding") && fields.Count("Transfer-Encoding") > 0 && lenientCodings(fields):
		return "a list may have empty members (RFC 9110, 5.6.1.2)"
	case strings.Contains(err.Error(), "bad trailer key"):
		return "Trailer is only a hint; such trailers are left out when they come"
	}
	return ""
}

func hasEscapeError(err error) bool {
	_, path := errors.AsType[url.EscapeError](err)
	_, host := errors.AsType[url.InvalidHostError](err)
	return path || host
}

// lenientCodings tells whether Transfer-Encoding says chunked once, and nothing else but commas.
func lenientCodings(fields message.Fields) bool {
	all := ""
	for i := range fields {
		if message.EqualName(fields[i].Name, "Transfer-Encoding") {
			all += "," + fields[i].Value
		}
	}
	return strings.EqualFold(strings.Trim(all, ", \t"), "chunked")
}

// difference says in what two heads differ.
type difference struct {
	what         string
	ours, theirs any
}

func same(t *testing.T, in []byte, list ...difference) {
	t.Helper()
	for _, d := range list {
		if !reflect.DeepEqual(d.ours, d.theirs) {
			t.Errorf("%s of %q:\n    ours %+v\nnet/http %+v", d.what, in, d.ours, d.theirs)
		}
	}
}

// compareRequest holds our reading of a request against net/http's.
func compareRequest(t *testing.T, in []byte, n int, req *message.Request, h *Head) {
	t.Helper()
	input := bufio.NewReaderSize(bytes.NewReader(skipEmptyLine(in)), len(in)+16) // net/http knows no empty line before
	target := string(bytes.Fields(in)[1])
	theirs, err := http.ReadRequest(input)
	if err != nil {
		if acceptable(err, target, req.Fields) == "" {
			t.Errorf("%q: we read %s, and net/http says %v", in, aboutRequest(req, *h), err)
		}
		return
	}
	hidden := differing(req.Fields)
	same(t, in,
		difference{"method", req.Method, theirs.Method},
		difference{"target", ourTarget(req, target), target},
		difference{"host", req.Authority, theirHost(theirs, req.Authority)},
		difference{"query", req.Query, theirs.URL.RawQuery},
		difference{"having a query", req.HasQuery, theirs.URL.RawQuery != "" || theirs.URL.ForceQuery},
		difference{"minor version", h.Minor, min(theirs.ProtoMinor, 1)},
		difference{"fields", canonical(req.Fields, hidden...), visible(theirs.Header, hidden...)},
		difference{"closing", h.Close, theirs.Close},
		difference{"length", ourLength(h), theirs.ContentLength},
	)
	if path, err := url.PathUnescape(req.Path); err != nil || theirs.URL.Path != path && theirs.URL.Path != "" {
		t.Errorf("path of %q:\n    ours %q, %v\nnet/http %q", in, path, err, theirs.URL.Path)
	}
	compareBody(t, in, n, h, theirs.Body, func() http.Header { return theirs.Trailer })
}

// ourTarget is the target again, for what comes from it.
func ourTarget(req *message.Request, target string) string {
	path := req.Path
	if req.HasQuery {
		path += "?" + req.Query
	}
	switch {
	case req.Method == "CONNECT":
		return req.Authority
	case strings.HasPrefix(target, "/") || target == "*":
		return path
	}
	absolute := target[:len("http://")] + req.Authority
	for _, end := range []string{path, strings.TrimPrefix(path, "/"), strings.TrimPrefix(path, "*")} { // an empty path is "/" or "*" for us
		if absolute+end == target {
			return target
		}
	}
	return absolute + path
}

// theirHost is net/http's, which takes escapes in the host of a target for what they mean.
func theirHost(theirs *http.Request, ours string) string {
	if theirs.URL.Host != "" && strings.Contains(ours, "%") {
		return ours
	}
	return theirs.Host
}

func ourLength(h *Head) int64 {
	switch h.Body {
	case Length:
		return h.Length
	case Chunked, UntilClose:
		return -1
	}
	return 0
}

// compareResponse holds our reading of a response against net/http's.
func compareResponse(t *testing.T, in []byte, n int, method string, resp *message.Response, h *Head) {
	t.Helper()
	input := bufio.NewReaderSize(bytes.NewReader(in), len(in)+16)
	theirs, err := http.ReadResponse(input, &http.Request{Method: method})
	if err != nil {
		if acceptable(err, "", resp.Fields) == "" {
			t.Errorf("%q: we read %d %s%s, and net/http says %v", in, resp.Status, resp.Reason, aboutHead(*h), err)
		}
		return
	}
	hidden := differing(resp.Fields)
	line, _, _ := strings.Cut(string(in), "\r\n")
	same(t, in,
		difference{"status", resp.Status, theirs.StatusCode},
		difference{"reason", strings.TrimSuffix(fmt.Sprintf("%d %s", resp.Status, resp.Reason), " "), strings.TrimSuffix(theirs.Status, " ")},
		difference{"status line", strings.TrimSuffix(line[len("HTTP/1.1 "):], " "), strings.TrimSuffix(theirs.Status, " ")},
		difference{"minor version", h.Minor, min(theirs.ProtoMinor, 1)},
		difference{"fields", canonical(resp.Fields, hidden...), visible(theirs.Header, hidden...)},
	)
	if method == "CONNECT" && resp.Status < 300 { // a tunnel follows, which net/http leaves to its Transport
		return
	}
	same(t, in, difference{"closing", h.Close, theirs.Close})
	if method != "HEAD" { // of which net/http tells the length that a body would have
		same(t, in, difference{"length", ourLength(h), theirs.ContentLength})
	}
	compareBody(t, in, n, h, theirs.Body, func() http.Header { return theirs.Trailer })
}

// compareBody holds our reading of what follows the head against net/http's.
func compareBody(t *testing.T, in []byte, n int, h *Head, theirs io.Reader, trailer func() http.Header) {
	t.Helper()
	if h.Body == Chunked {
		compareChunks(t, in[n:], theirs, trailer)
		return
	}
	want := in[n:]
	switch {
	case h.Body == NoBody:
		want = nil
	case h.Body == Length && h.Length < int64(len(want)):
		want = want[:h.Length]
	}
	got, err := io.ReadAll(theirs)
	if complete := h.Body != Length || h.Length == int64(len(want)); (err == nil) != complete || !bytes.Equal(got, want) {
		t.Errorf("body of %q:\n    ours %q\nnet/http %q, %v", in, want, got, err)
	}
}

// compareChunks holds our reading of a chunked body against net/http's.
func compareChunks(t *testing.T, in []byte, theirs io.Reader, trailer func() http.Header) {
	t.Helper()
	ours := decode(string(in), len(in)+1)
	data, err := io.ReadAll(theirs)
	switch {
	case err != nil && strings.Contains(err.Error(), "too much non-data"):
		// We go by the length of each chunk's line: what a chunk costs us has a limit too.
	case err != nil && strings.Contains(err.Error(), "invalid byte in chunk length") && spaceBeforeExtension.Match(in):
		// RFC 9112, 7.1.1 and RFC 9110, 5.6.3: such space is to be parsed.
	case ours.last && err != nil:
		t.Errorf("chunks %q: we read %+v, and net/http says %v", in, ours, err)
	case ours.last && string(data) != ours.data:
		t.Errorf("chunks %q:\n    ours %q\nnet/http %q", in, ours.data, data)
	case ours.last:
		same(t, in, difference{"trailers", canonical(fieldsOf(ours.trailers), differentTrailers...), trailers(trailer())})
	case ours.err == nil && err == nil:
		t.Errorf("chunks %q: we wait for more after %+v, and net/http has %q", in, ours, data)
	}
}

var spaceBeforeExtension = regexp.MustCompile(`(?m)^[0-9a-fA-F]+[ \t]+;`) // never written

// differentTrailers are those that we leave out of a trailer section.
var differentTrailers = []string{ // never written
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Expect", "Content-Length",
}

// trailers are those that came: net/http also names the ones that were announced.
func trailers(h http.Header) http.Header {
	h = visible(h, differentTrailers...)
	for name, values := range h {
		if values == nil {
			delete(h, name)
		}
	}
	if h == nil {
		return http.Header{}
	}
	return h
}

// fieldsOf is what lines made text of.
func fieldsOf(text string) (f message.Fields) {
	for l := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), ": ")
		f.Add(name, value)
	}
	return f
}
