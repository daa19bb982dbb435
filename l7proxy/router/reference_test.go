package router

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// referenceMatch is Match as one would explain it: look at every match of every rule, keep those that hold, rank them.
// It shares no code with the router.
func referenceMatch(t *model.RouteTable, r *message.Request) int {
	if t.GRPC {
		return referenceCall(t, r)
	}
	type hit struct {
		rule    int
		pathway [2]int // what kind of path match, and how long
		match   model.Match
	}
	var hits []hit
	for i, rule := range t.Rules {
		for _, m := range rule.Matches {
			if !referenceHolds(m, r) {
				continue
			}
			h := hit{rule: i, match: m}
			switch m.Path.Type {
			case model.Exact:
				h.pathway = [2]int{3, 0}
			case model.RegularExpression:
				h.pathway = [2]int{2, len(m.Path.Value)}
			case model.PathPrefix:
				h.pathway = [2]int{1, len(strings.TrimSuffix(referenceDecode(m.Path.Value), "/"))}
			}
			hits = append(hits, h)
		}
	}
	if len(hits) == 0 {
		return -1
	}
	return slices.MinFunc(hits, func(a, b hit) int { // the first of those that are equal
		return cmp.Or(
			cmp.Compare(b.pathway[0], a.pathway[0]),
			cmp.Compare(b.pathway[1], a.pathway[1]),
			referenceMethod(b.match)-referenceMethod(a.match),
			len(b.match.Headers)-len(a.match.Headers),
			len(b.match.Query)-len(a.match.Query),
		)
	}).rule
}

var ( // never written
	grpcType = regexp.MustCompile(`(?s)^application/grpc([+;].*)?$`)
	callPath = regexp.MustCompile(`(?s)^/([^/]*)/(.*)$`)
)

// referenceCall is referenceMatch for a gRPC table.
func referenceCall(t *model.RouteTable, r *message.Request) int {
	contentType := ""
	for _, f := range slices.Backward(r.Fields) {
		if referenceLower(f.Name) == "content-type" {
			contentType = referenceLower(f.Value)
		}
	}
	if r.Method != "POST" || !grpcType.MatchString(contentType) {
		return -1
	}
	call := callPath.FindStringSubmatch(referenceDecode(r.Path))
	best, bestRank := -1, []int(nil)
	for i, rule := range t.Rules {
		for _, m := range rule.Matches {
			if !referenceCallHolds(m, call, r) {
				continue
			}
			rank := []int{0, 0, 0, 0, len(m.Headers)}
			for j, name := range []string{m.RPC.Service, m.RPC.Method} {
				switch {
				case name == "":
				case m.RPC.Type == model.Exact:
					rank[2*j] = 2
				default:
					rank[2*j], rank[2*j+1] = 1, len(name)
				}
			}
			if best < 0 || slices.Compare(rank, bestRank) > 0 {
				best, bestRank = i, rank
			}
		}
	}
	return best
}

// referenceCallHolds: call is nil, or has the service and the method at 1 and 2.
func referenceCallHolds(m model.Match, call []string, r *message.Request) bool {
	for i, want := range []string{m.RPC.Service, m.RPC.Method} {
		switch {
		case want == "":
		case call == nil, m.RPC.Type == model.Exact && call[i+1] != want:
			return false
		case m.RPC.Type == model.RegularExpression && !referenceExpression(want, call[i+1]):
			return false
		}
	}
	return !slices.ContainsFunc(m.Headers, func(h model.ValueMatch) bool {
		value, ok := referenceHeader(r, h.Name)
		return !ok || !referenceValue(h, value)
	})
}

func referenceMethod(m model.Match) int {
	if m.Method == "" {
		return 0
	}
	return 1
}

func referenceHolds(m model.Match, r *message.Request) bool {
	if !referencePath(m.Path, r.Path) || m.Method != "" && m.Method != r.Method {
		return false
	}
	for _, h := range m.Headers {
		value, ok := referenceHeader(r, h.Name)
		if !ok || !referenceValue(h, value) {
			return false
		}
	}
	for _, q := range m.Query {
		value, ok := referenceQuery(r, q.Name)
		if !ok || !referenceValue(q, value) {
			return false
		}
	}
	return true
}

func referencePath(m model.PathMatch, path string) bool {
	path = referenceDecode(path)
	switch want := referenceDecode(m.Value); m.Type {
	case model.Exact:
		return path == want
	case model.PathPrefix:
		if want == "/" {
			return true
		}
		elements, prefix := strings.Split(path, "/"), strings.Split(strings.TrimSuffix(want, "/"), "/")
		return len(elements) >= len(prefix) && slices.Equal(elements[:len(prefix)], prefix)
	default:
		return referenceExpression(m.Value, path)
	}
}

func referenceValue(m model.ValueMatch, value string) bool {
	if m.Type == model.RegularExpression {
		return referenceExpression(m.Value, value)
	}
	return m.Value == value
}

// referenceExpression: when the whole of s matches, then the leftmost longest match is the whole.
func referenceExpression(expression, s string) bool {
	e := regexp.MustCompile(expression)
	e.Longest()
	at := e.FindStringIndex(s)
	return at != nil && at[0] == 0 && at[1] == len(s)
}

func referenceHeader(r *message.Request, name string) (string, bool) {
	if name == "host" {
		return r.Authority, r.Authority != ""
	}
	var values []string
	for _, f := range r.Fields {
		if referenceLower(f.Name) == name {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, ","), len(values) > 0
}

// referenceLower folds ASCII only, as names of fields are folded.
func referenceLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func referenceQuery(r *message.Request, name string) (string, bool) {
	if !r.HasQuery {
		return "", false
	}
	for part := range strings.SplitSeq(r.Query, "&") {
		k, v, _ := strings.Cut(part, "=")
		if part != "" && referenceUnescape(strings.ReplaceAll(k, "+", "%20")) == name {
			return referenceUnescape(strings.ReplaceAll(v, "+", "%20")), true
		}
	}
	return "", false
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func referenceUnescape(s string) string {
	return escape.ReplaceAllStringFunc(s, func(e string) string {
		decoded, err := url.PathUnescape(e)
		if err != nil {
			panic(err)
		}
		return decoded
	})
}

// referenceDecode decodes a path, in which an escaped slash stays escaped.
func referenceDecode(path string) string {
	return escape.ReplaceAllStringFunc(path, func(e string) string {
		if strings.ToUpper(e) == "%2F" {
			return "%2F"
		}
		return referenceUnescape(e)
	})
}
