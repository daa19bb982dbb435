package compile

import (
	"fmt"
	"regexp"
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
		// Header names are case-insensitive; of several entries for one name the first counts (M-15).
		v, err := compileValue(strings.ToLower(string(h.Name)), h.Value, (*string)(h.Type))
		if err != nil {
			return m, fmt.Errorf("headers[%d]: %w", i, err)
		}
		m.Headers = appendFirst(m.Headers, v)
	}
	for i, q := range in.QueryParams {
		// Parameter names are case-sensitive; here too the first counts (M-18).
		v, err := compileValue(string(q.Name), q.Value, (*string)(q.Type))
		if err != nil {
			return m, fmt.Errorf("queryParams[%d]: %w", i, err)
		}
		m.Query = appendFirst(m.Query, v)
	}
	return m, nil
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
	if in.Type == nil {
		return p, nil
	}
	switch *in.Type {
	case gatewayv1.PathMatchPathPrefix:
	case gatewayv1.PathMatchExact:
		p.Type = model.Exact
	case gatewayv1.PathMatchRegularExpression:
		p.Type = model.RegularExpression
		return p, checkExpression(p.Value)
	default:
		return p, fmt.Errorf("match type %q is not known", *in.Type)
	}
	return p, nil
}

func compileValue(name, value string, matchType *string) (model.ValueMatch, error) {
	v := model.ValueMatch{Name: name, Type: model.Exact, Value: value}
	if matchType == nil {
		return v, nil
	}
	switch model.MatchType(*matchType) {
	case model.Exact:
	case model.RegularExpression:
		v.Type = model.RegularExpression
		return v, checkExpression(value)
	default:
		return v, fmt.Errorf("match type %q is not known", *matchType)
	}
	return v, nil
}

// checkExpression: expressions are RE2, matched against the whole value (M-13). The proxy anchors them, which turns no
// good one into a bad one.
func checkExpression(value string) error {
	_, err := regexp.Compile(value)
	return err
}

func appendFirst(list []model.ValueMatch, v model.ValueMatch) []model.ValueMatch {
	if slices.ContainsFunc(list, func(o model.ValueMatch) bool { return o.Name == v.Name }) {
		return list
	}
	return append(list, v)
}
