package compile

import (
	"errors"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// compileRewrite compiles an URLRewrite.
func compileRewrite(in *gatewayv1.HTTPURLRewriteFilter, prefix string) (out *model.Rewrite, err error) {
	out = &model.Rewrite{}
	if out.Host, err = compileHost(in.Hostname); err != nil {
		return nil, fmt.Errorf("urlRewrite.%w", err)
	}
	if out.Path, err = compilePathEdit(in.Path, prefix); err != nil {
		return nil, fmt.Errorf("urlRewrite.%w", err)
	}
	return out, nil
}

// compileRedirect compiles a RequestRedirect. What the API has defaults for may be absent.
func compileRedirect(in *gatewayv1.HTTPRequestRedirectFilter, prefix string) (out *model.Redirect, err error) {
	out = &model.Redirect{Status: 302}
	if in.StatusCode != nil {
		out.Status = *in.StatusCode
	}
	switch out.Status { // F-20
	case 301, 302, 303, 307, 308:
	default:
		return nil, fmt.Errorf("requestRedirect.statusCode: %d is not supported: use 301, 302, 303, 307 or 308", out.Status)
	}
	if in.Scheme != nil {
		out.Scheme = *in.Scheme
	}
	if out.Scheme != "" && out.Scheme != "http" && out.Scheme != "https" { // F-21
		return nil, fmt.Errorf("requestRedirect.scheme: %q is not supported: use \"http\" or \"https\"", out.Scheme)
	}
	if in.Port != nil {
		if *in.Port < 1 || *in.Port > 65535 {
			return nil, fmt.Errorf("requestRedirect.port: %d is no port", *in.Port)
		}
		out.Port = uint16(*in.Port)
	}
	if out.Host, err = compileHost(in.Hostname); err != nil {
		return nil, fmt.Errorf("requestRedirect.%w", err)
	}
	if out.Path, err = compilePathEdit(in.Path, prefix); err != nil {
		return nil, fmt.Errorf("requestRedirect.%w", err)
	}
	return out, nil
}

// compileHost: an empty name is none (F-22).
func compileHost(name *gatewayv1.PreciseHostname) (string, error) {
	if name == nil || *name == "" {
		return "", nil
	}
	if err := model.CheckHost(string(*name)); err != nil {
		return "", fmt.Errorf("hostname: %w", err)
	}
	return string(*name), nil
}

// compilePathEdit compiles what replaces the path, or the prefix that the rule matches (F-23, F-41).
func compilePathEdit(in *gatewayv1.HTTPPathModifier, prefix string) (*model.PathEdit, error) {
	if in == nil {
		return nil, nil
	}
	switch in.Type {
	case gatewayv1.FullPathHTTPPathModifier:
		if in.ReplaceFullPath == nil {
			return nil, errors.New("path: ReplaceFullPath has no replaceFullPath")
		}
		value := *in.ReplaceFullPath
		if value == "" { // in a URL it is the same (RFC 9110, 4.2.3)
			value = "/"
		}
		if err := model.CheckPath(value); err != nil {
			return nil, fmt.Errorf("path.replaceFullPath: %w", err)
		}
		return &model.PathEdit{Value: value}, nil
	case gatewayv1.PrefixMatchHTTPPathModifier:
		if in.ReplacePrefixMatch == nil {
			return nil, errors.New("path: ReplacePrefixMatch has no replacePrefixMatch")
		}
		if prefix == "" { // F-3
			return nil, errors.New("path.replacePrefixMatch: the rule has to have exactly one match, and that of type PathPrefix")
		}
		if value := *in.ReplacePrefixMatch; value != "" {
			if err := model.CheckPath(value); err != nil {
				return nil, fmt.Errorf("path.replacePrefixMatch: %w", err)
			}
		}
		return &model.PathEdit{Prefix: prefix, Value: *in.ReplacePrefixMatch}, nil
	}
	return nil, fmt.Errorf("path: type %q is not known", in.Type) // M-20
}
