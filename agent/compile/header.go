package compile

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// compileHeaderEdit compiles an edit of requests, or of responses.
func compileHeaderEdit(e *gatewayv1.HTTPHeaderFilter, ofResponse bool) (*model.HeaderEdit, error) {
	if err := checkHeaderEdit(e, ofResponse); err != nil {
		return nil, err
	}
	return &model.HeaderEdit{
		Set: compileHeaders(e.Set), Add: compileHeaders(e.Add), Remove: firstOfEach(e.Remove, func(name string) string { return name }),
	}, nil
}

// checkHeaderEdit refuses edits that are ambiguous (F-11) or that would change what the connection itself needs (F-14).
func checkHeaderEdit(e *gatewayv1.HTTPHeaderFilter, ofResponse bool) error {
	action := map[string]string{}
	note := func(name, does string) error {
		if err := checkHeaderName(name, does, ofResponse); err != nil {
			return err
		}
		lower := strings.ToLower(name)
		if before, ok := action[lower]; ok && before != does {
			return fmt.Errorf("header %q is named by %s and by %s: one action for each header", name, before, does)
		}
		action[lower] = does
		return nil
	}
	for _, list := range []struct {
		does    string
		headers []gatewayv1.HTTPHeader
	}{{"set", e.Set}, {"add", e.Add}} {
		for _, h := range list.headers {
			if err := note(string(h.Name), list.does); err != nil {
				return err
			}
			if err := checkHeaderValue(string(h.Name), h.Value, ofResponse); err != nil {
				return err
			}
		}
	}
	for _, name := range e.Remove {
		if err := note(name, "remove"); err != nil {
			return err
		}
	}
	return nil
}

// checkHeaderName keeps routes from what frames a message and from what belongs to one connection (RFC 9110, 7.6.1).
func checkHeaderName(name, does string, ofResponse bool) error {
	switch strings.ToLower(name) {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "content-length":
		return fmt.Errorf("header %q belongs to the connection and cannot be edited", name)
	case "host":
		if does != "set" && !ofResponse {
			return fmt.Errorf("header %q can be set, but %s is not possible: a request has exactly one", name, does)
		}
	}
	if !isToken(name) { // refuses ":authority" too
		return fmt.Errorf("%q is no header name", name)
	}
	return nil
}

// isToken: RFC 9110, 5.6.2. The API has names of query parameters of this form too.
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x80 && strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}

// checkHeaderValue: the API does not restrict values, but a line break in one would write another header (RFC 9110, 5.5).
func checkHeaderValue(name, value string, ofResponse bool) error {
	for i := range len(value) {
		if c := value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return fmt.Errorf("the value of header %q has a control character", name)
		}
	}
	if !ofResponse && strings.EqualFold(name, "host") && (value == "" || strings.ContainsAny(value, " \t/?#@\\,")) {
		return fmt.Errorf("%q is no value for header %q: a host and perhaps a port is", value, name)
	}
	return nil
}

// compileHeaders keeps the spelling; of several entries that differ in case only, the first counts (F-11).
func compileHeaders(in []gatewayv1.HTTPHeader) []model.Header {
	var out []model.Header
	for _, h := range firstOfEach(in, func(h gatewayv1.HTTPHeader) string { return string(h.Name) }) {
		out = append(out, model.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

func firstOfEach[T any](in []T, name func(T) string) []T {
	var out []T
	for _, v := range in {
		if !slices.ContainsFunc(out, func(o T) bool { return strings.EqualFold(name(o), name(v)) }) {
			out = append(out, v)
		}
	}
	return out
}
