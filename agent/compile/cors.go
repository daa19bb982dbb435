package compile

import (
	"errors"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// defaultMaxAge is the API's, in seconds.
const defaultMaxAge = 5

// compileCORS compiles a CORS filter (F-60). Without origins it allows none.
func compileCORS(in *gatewayv1.HTTPCORSFilter) (*model.CORS, error) {
	out := &model.CORS{Credentials: in.AllowCredentials != nil && *in.AllowCredentials, MaxAge: in.MaxAge}
	if out.MaxAge == 0 {
		out.MaxAge = defaultMaxAge
	}
	if out.MaxAge < 0 {
		return nil, fmt.Errorf("cors.maxAge: %d is negative", out.MaxAge)
	}
	for i, o := range in.AllowOrigins {
		switch _, err := model.ParseOrigin(string(o)); {
		case o == "*" && len(in.AllowOrigins) > 1:
			return nil, fmt.Errorf("cors.allowOrigins[%d]: %w", i, errNotAlone)
		case o != "*" && err != nil:
			return nil, fmt.Errorf("cors.allowOrigins[%d]: %w", i, err)
		}
		out.Origins = append(out.Origins, string(o))
	}
	var err error
	if out.Methods, err = corsList("allowMethods", in.AllowMethods, true); err != nil {
		return nil, err
	}
	if out.Headers, err = corsList("allowHeaders", in.AllowHeaders, true); err != nil {
		return nil, err
	}
	out.Expose, err = corsList("exposeHeaders", in.ExposeHeaders, false)
	return out, err
}

var errNotAlone = errors.New(`"*" is all there are: no other can stand beside it`)

// corsList compiles names, which may be "*".
func corsList[T ~string](field string, in []T, alone bool) (out []string, err error) {
	for i, s := range in {
		switch {
		case s == "*" && alone && len(in) > 1:
			return nil, fmt.Errorf("cors.%s[%d]: %w", field, i, errNotAlone)
		case !isToken(string(s)):
			return nil, fmt.Errorf("cors.%s[%d]: %q is no name", field, i, s)
		}
		out = append(out, string(s))
	}
	return out, nil
}
