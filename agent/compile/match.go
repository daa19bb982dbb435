package compile

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// compileMatches turns a rule's matches into alternatives. The error says why one of them cannot be implemented; then
// the rule as a whole cannot (M-13, M-20).
func compileMatches(in []gatewayv1.HTTPRouteMatch) ([]model.Match, error) {
	if len(in) == 0 { // the API's default (M-10)
		in = []gatewayv1.HTTPRouteMatch{{}}
	}
	out := make([]model.Match, 0, len(in))
	for i := range in {
		m, err := compileMatch(&in[i])
		if err != nil {
			return nil, fmt.Errorf("matches[%d].%w", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func compileMatch(in *gatewayv1.HTTPRouteMatch) (m model.Match, err error) {
	if m.Path, err = compilePath(in.Path); err != nil {
		return m, fmt.Errorf("path: %w", err)
	}
	if in.Method != nil {
		if m.Method = string(*in.Method); !slices.Contains(methods(), *in.Method) {
			return m, fmt.Errorf("method: %q is not known", m.Method)
		}
	}
	for i, h := range in.Headers {
		if m.Headers, err = addHeader(m.Headers, string(h.Name), h.Value, (*string)(h.Type)); err != nil {
			return m, fmt.Errorf("headers[%d]: %w", i, err)
		}
	}
	for i, q := range in.QueryParams {
		// Parameter names are case-sensitive; here too the first counts (M-18).
		if named(m.Query, string(q.Name)) {
			continue
		}
		v, err := compileValue(string(q.Name), q.Value, (*string)(q.Type))
		if err != nil {
			return m, fmt.Errorf("queryParams[%d]: %w", i, err)
		}
		m.Query = append(m.Query, v)
	}
	return m, nil
}

// addHeader adds a condition on a header. Names are case-insensitive; of several entries for one name the first counts,
// whatever the others say (M-15).
func addHeader(to []model.ValueMatch, name, value string, matchType *string) ([]model.ValueMatch, error) {
	name = strings.ToLower(name)
	if named(to, name) {
		return to, nil
	}
	v, err := compileValue(name, value, matchType)
	if err != nil {
		return to, err
	}
	return append(to, v), nil
}

// methods are those that the API knows (M-19).
func methods() []gatewayv1.HTTPMethod {
	return []gatewayv1.HTTPMethod{
		gatewayv1.HTTPMethodGet, gatewayv1.HTTPMethodHead, gatewayv1.HTTPMethodPost, gatewayv1.HTTPMethodPut, gatewayv1.HTTPMethodDelete,
		gatewayv1.HTTPMethodConnect, gatewayv1.HTTPMethodOptions, gatewayv1.HTTPMethodTrace, gatewayv1.HTTPMethodPatch,
	}
}

func compilePath(in *gatewayv1.HTTPPathMatch) (model.PathMatch, error) {
	p := model.PathMatch{Type: model.PathPrefix, Value: "/"}
	if in == nil {
		return p, nil
	}
	if in.Value != nil {
		p.Value = *in.Value
	}
	if in.Type != nil {
		p.Type = model.MatchType(*in.Type)
	}
	switch p.Type {
	case model.PathPrefix, model.Exact:
		if !strings.HasPrefix(p.Value, "/") { // M-14
			return p, fmt.Errorf("%q does not begin with \"/\"", p.Value)
		}
		return p, nil
	case model.RegularExpression:
		return p, checkExpression(p.Value)
	}
	return p, fmt.Errorf("match type %q is not known", p.Type)
}

func compileValue(name, value string, matchType *string) (model.ValueMatch, error) {
	v := model.ValueMatch{Name: name, Type: model.Exact, Value: value}
	if !isToken(name) {
		return v, fmt.Errorf("%q is no name", name)
	}
	if matchType != nil {
		v.Type = model.MatchType(*matchType)
	}
	switch v.Type {
	case model.Exact:
		return v, nil
	case model.RegularExpression:
		return v, checkExpression(value)
	}
	return v, fmt.Errorf("match type %q is not known", v.Type)
}

// checkExpression: expressions are RE2, matched against the whole value (M-13). The proxy anchors their normal form,
// which one that is nested as deep as can be does not survive: the proxy would refuse the whole Service for it.
func checkExpression(value string) error {
	parsed, err := syntax.Parse(value, syntax.Perl)
	if err != nil {
		return err
	}
	if _, err := regexp.Compile(`\A(?:` + parsed.String() + `)\z`); err != nil {
		return errors.New("the expression is too large or too deep to be anchored")
	}
	return nil
}

func named(list []model.ValueMatch, name string) bool {
	return slices.ContainsFunc(list, func(v model.ValueMatch) bool { return v.Name == name })
}
