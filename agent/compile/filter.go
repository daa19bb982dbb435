package compile

import (
	"errors"
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// incompatible is why filters, each of which would do, cannot run together (F-4).
type incompatible struct{ error }

// filterPlace is what a filter's meaning depends on besides the filter.
type filterPlace struct {
	kind      string // of the route
	ofBackend bool
	prefix    string // the path prefix that all of the rule's requests have; "": the rule has not exactly that (F-3)
}

// prefixOf is the path prefix that all requests of a rule with these matches have, and that a filter may replace.
func prefixOf(matches []model.Match) string {
	if len(matches) == 1 && matches[0].Path.Type == model.PathPrefix {
		return matches[0].Path.Value
	}
	return ""
}

// checkType says why a filter of that type cannot be applied there (F-1, F-6, M-20).
func (at filterPlace) checkType(t gatewayv1.HTTPRouteFilterType) error {
	type places struct{ http, grpc, backend bool }
	known, ok := map[gatewayv1.HTTPRouteFilterType]places{
		gatewayv1.HTTPRouteFilterRequestHeaderModifier:  {http: true, grpc: true, backend: true},
		gatewayv1.HTTPRouteFilterResponseHeaderModifier: {http: true, grpc: true, backend: true},
		gatewayv1.HTTPRouteFilterURLRewrite:             {http: true, backend: true},
		gatewayv1.HTTPRouteFilterRequestMirror:          {http: true, grpc: true},
		gatewayv1.HTTPRouteFilterRequestRedirect:        {http: true},
		gatewayv1.HTTPRouteFilterCORS:                   {http: true},
	}[t]
	switch {
	case !ok:
		return fmt.Errorf("filter %s is not supported", t)
	case at.kind == kindGRPCRoute && !known.grpc:
		return fmt.Errorf("filter %s is none of a GRPCRoute's", t)
	case at.ofBackend && !known.backend:
		return fmt.Errorf("filter %s is not supported for one backend: only for a whole rule", t)
	}
	return nil
}

// compileFilter turns a filter into what the proxy runs; the target of a mirror depends on the parent, and is not in it. The
// error says why the filter cannot be applied. It must then not be skipped (F-5).
func compileFilter(f *gatewayv1.HTTPRouteFilter, at filterPlace) (out model.Filter, err error) {
	if err := at.checkType(f.Type); err != nil {
		return out, err
	}
	missing := func(part string) error { return fmt.Errorf("filter %s has no %s", f.Type, part) }
	switch f.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if f.RequestHeaderModifier == nil {
			return out, missing("requestHeaderModifier")
		}
		out.RequestHeaders, err = compileHeaderEdit(f.RequestHeaderModifier, false)
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if f.ResponseHeaderModifier == nil {
			return out, missing("responseHeaderModifier")
		}
		out.ResponseHeaders, err = compileHeaderEdit(f.ResponseHeaderModifier, true)
	case gatewayv1.HTTPRouteFilterURLRewrite:
		if f.URLRewrite == nil {
			return out, missing("urlRewrite")
		}
		out.Rewrite, err = compileRewrite(f.URLRewrite, at.prefix)
	case gatewayv1.HTTPRouteFilterRequestMirror:
		if f.RequestMirror == nil {
			return out, missing("requestMirror")
		}
		out.Mirror, err = compileMirror(f.RequestMirror)
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		if f.RequestRedirect == nil {
			return out, missing("requestRedirect")
		}
		out.Redirect, err = compileRedirect(f.RequestRedirect, at.prefix)
	default:
		if f.CORS == nil {
			return out, missing("cors")
		}
		out.CORS, err = compileCORS(f.CORS)
	}
	return out, err
}

// checkTogether says which filters of one list cannot run together. The API server has looked at most of this, but not every one
// has the rules of our version (F-3).
func checkTogether(filters []gatewayv1.HTTPRouteFilter) error {
	var seen []gatewayv1.HTTPRouteFilterType
	for i := range filters {
		t := filters[i].Type
		if slices.Contains(seen, t) && t != gatewayv1.HTTPRouteFilterRequestMirror && t != gatewayv1.HTTPRouteFilterExtensionRef {
			return incompatible{fmt.Errorf("filters[%d]: there is another %s before it", i, t)}
		}
		seen = append(seen, t)
	}
	if !slices.Contains(seen, gatewayv1.HTTPRouteFilterRequestRedirect) {
		return nil
	}
	for _, t := range []gatewayv1.HTTPRouteFilterType{gatewayv1.HTTPRouteFilterURLRewrite, gatewayv1.HTTPRouteFilterRequestMirror} {
		if slices.Contains(seen, t) {
			return incompatible{fmt.Errorf("filters: RequestRedirect and %s: what is redirected goes to no backend, so that the other has nothing to do", t)}
		}
	}
	return nil
}

// checkRedirected says whether a redirect stands beside backends, which nothing would reach (F-3).
func checkRedirected(filters []gatewayv1.HTTPRouteFilter, backends int) error {
	redirects := slices.ContainsFunc(filters, func(f gatewayv1.HTTPRouteFilter) bool { return f.Type == gatewayv1.HTTPRouteFilterRequestRedirect })
	if redirects && backends > 0 {
		return incompatible{errors.New("filters: RequestRedirect and backendRefs: what is redirected goes to no backend")}
	}
	return nil
}
