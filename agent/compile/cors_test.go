package compile_test

import (
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestF60CORS(t *testing.T) {
	type in = gatewayv1.HTTPCORSFilter
	origins := func(all ...gatewayv1.CORSOrigin) gatewayv1.HTTPRouteFilter {
		return cors(func(c *in) { c.AllowOrigins = all })
	}
	const alone = `: "*" is all there are: no other can stand beside it`
	checkFilters(t, map[string]filterCase{
		"nothing":                       {cors(func(*in) {}), `{"cors":{"maxAge":5}}`, ""},
		"origins":                       {origins("https://www.foo.com", "https://*.bar.com:8443", "http://*"), `{"cors":{"origins":["https://www.foo.com","https://*.bar.com:8443","http://*"],"maxAge":5}}`, ""},
		"any origin":                    {origins("*"), `{"cors":{"origins":["*"],"maxAge":5}}`, ""},
		"any beside another":            {origins("http://a", "*"), "", "cors.allowOrigins[1]" + alone},
		"no origin":                     {origins("http://a", "b"), "", `cors.allowOrigins[1]: "b" begins with neither "http://" nor "https://"`},
		"a path":                        {origins("http://a/"), "", `cors.allowOrigins[0]: "http://a/" has the host "a/", which is neither a name nor "*" or "*." and a name`},
		"a port that is none":           {origins("http://a:70000"), "", `cors.allowOrigins[0]: "http://a:70000" has the port "70000", which is none`},
		"any method beside another":     {cors(func(c *in) { c.AllowMethods = []gatewayv1.HTTPMethodWithWildcard{"*", "PUT"} }), "", "cors.allowMethods[0]" + alone},
		"any header beside another":     {cors(func(c *in) { c.AllowHeaders = []gatewayv1.HTTPHeaderName{"a", "*"} }), "", "cors.allowHeaders[1]" + alone},
		"no method":                     {cors(func(c *in) { c.AllowMethods = []gatewayv1.HTTPMethodWithWildcard{"a b"} }), "", `cors.allowMethods[0]: "a b" is no name`},
		"no header":                     {cors(func(c *in) { c.AllowHeaders = []gatewayv1.HTTPHeaderName{""} }), "", `cors.allowHeaders[0]: "" is no name`},
		"no header of a response":       {cors(func(c *in) { c.ExposeHeaders = []gatewayv1.HTTPHeaderName{"a\n"} }), "", `cors.exposeHeaders[0]: "a\n" is no name`},
		"a negative age":                {cors(func(c *in) { c.MaxAge = -1 }), "", "cors.maxAge: -1 is negative"},
		"credentials that are not sent": {cors(func(c *in) { c.AllowCredentials = new(false) }), `{"cors":{"maxAge":5}}`, ""},
		"all of it": {cors(func(c *in) {
			*c = in{
				AllowOrigins: []gatewayv1.CORSOrigin{"*"}, AllowMethods: []gatewayv1.HTTPMethodWithWildcard{"*"}, AllowHeaders: []gatewayv1.HTTPHeaderName{"*"},
				ExposeHeaders: []gatewayv1.HTTPHeaderName{"*", "X-A"}, AllowCredentials: new(true), MaxAge: 3600,
			}
		}), `{"cors":{"origins":["*"],"methods":["*"],"headers":["*"],"expose":["*","X-A"],"credentials":true,"maxAge":3600}}`, ""},
	})
}
