package compile_test

import (
	"math/rand/v2"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// words are what any text of an object may be: an API server of another version lets through what ours does not.
func words() []string {
	return []string{
		"", "/", "/a", "/a/", "a", "*", "/a?b", "/%2f", "/%", "host", "Host", "X-A", "x-a", "te", "a b", "a\r\nb", "é", "example.org", "*.example.org",
		"10.0.0.1", "a:80", "http", "https", "ftp", "http://a", "https://*.a:1", "http://\u212a", "null", "1s", "0s", "1.5s", "99999h", "-1s", "GET", "ReplaceFullPath",
	}
}

// dice makes objects of words and of numbers around the limits.
type dice struct{ *rand.Rand }

func (d dice) word() string { w := words(); return w[d.IntN(len(w))] }
func (d dice) maybe() bool  { return d.IntN(2) == 0 }
func (d dice) number() int32 {
	n := []int32{-1, 0, 1, 50, 100, 301, 302, 399, 503, 600, 65536}
	return n[d.IntN(len(n))]
}
func (d dice) text() *string { return pick(d, d.word) }
func (d dice) size() *int32  { return pick(d, d.number) }
func (d dice) headers() (all []gatewayv1.HTTPHeader) {
	for range d.IntN(3) {
		all = append(all, gatewayv1.HTTPHeader{Name: gatewayv1.HTTPHeaderName(d.word()), Value: d.word()})
	}
	return all
}

// pick makes a value or none.
func pick[T any](d dice, value func() T) *T {
	if d.maybe() {
		return nil
	}
	return new(value())
}

func list[T ~string](d dice) (all []T) {
	for range d.IntN(3) {
		all = append(all, T(d.word()))
	}
	return all
}

func (d dice) edit() *gatewayv1.HTTPHeaderFilter {
	return &gatewayv1.HTTPHeaderFilter{Set: d.headers(), Add: d.headers(), Remove: list[string](d)}
}

func (d dice) path() *gatewayv1.HTTPPathModifier {
	return &gatewayv1.HTTPPathModifier{
		Type:            []gatewayv1.HTTPPathModifierType{"ReplaceFullPath", "ReplacePrefixMatch", "Other"}[d.IntN(3)],
		ReplaceFullPath: d.text(), ReplacePrefixMatch: d.text(),
	}
}

func (d dice) filter() (f gatewayv1.HTTPRouteFilter) {
	all := []gatewayv1.HTTPRouteFilterType{
		"RequestHeaderModifier", "ResponseHeaderModifier", "URLRewrite", "RequestRedirect", "RequestMirror", "CORS", "ExtensionRef", "ExternalAuth", "Other",
	}
	f.Type = all[d.IntN(len(all))]
	f.RequestHeaderModifier, f.ResponseHeaderModifier = pick(d, func() gatewayv1.HTTPHeaderFilter { return *d.edit() }), d.edit()
	host := func() *gatewayv1.PreciseHostname { return (*gatewayv1.PreciseHostname)(d.text()) }
	f.URLRewrite = &gatewayv1.HTTPURLRewriteFilter{Hostname: host(), Path: pick(d, func() gatewayv1.HTTPPathModifier { return *d.path() })}
	f.RequestRedirect = &gatewayv1.HTTPRequestRedirectFilter{
		Scheme: d.text(), Hostname: host(), Path: pick(d, func() gatewayv1.HTTPPathModifier { return *d.path() }), Port: d.size(),
		StatusCode: pick(d, func() int { return int(d.number()) }),
	}
	f.RequestMirror = &gatewayv1.HTTPRequestMirrorFilter{BackendRef: backend("shop/web").BackendObjectReference, Percent: d.size()}
	if d.maybe() {
		f.RequestMirror.Fraction = &gatewayv1.Fraction{Numerator: d.number(), Denominator: d.size()}
	}
	f.CORS = &gatewayv1.HTTPCORSFilter{
		AllowOrigins: list[gatewayv1.CORSOrigin](d), AllowMethods: list[gatewayv1.HTTPMethodWithWildcard](d), AllowHeaders: list[gatewayv1.HTTPHeaderName](d),
		ExposeHeaders: list[gatewayv1.HTTPHeaderName](d), AllowCredentials: pick(d, d.maybe), MaxAge: d.number(),
	}
	return f
}

func (d dice) rule() gatewayv1.HTTPRouteRule {
	return ruleWith("/a", func(r *gatewayv1.HTTPRouteRule) {
		if d.maybe() {
			r.Matches = append(r.Matches, r.Matches[0])
		}
		for range d.IntN(3) {
			r.Filters = append(r.Filters, d.filter())
		}
		if d.maybe() {
			r.BackendRefs[0].Filters = append(r.BackendRefs[0].Filters, d.filter())
		}
		if d.maybe() {
			r.BackendRefs = nil
		}
		if d.maybe() {
			r.Timeouts = &gatewayv1.HTTPRouteTimeouts{Request: (*gatewayv1.Duration)(d.text()), BackendRequest: (*gatewayv1.Duration)(d.text())}
		}
		if d.maybe() {
			r.Retry = &gatewayv1.HTTPRouteRetry{Attempts: pick(d, func() int { return int(d.number()) }), Backoff: (*gatewayv1.Duration)(d.text())}
			r.Retry.Codes = append(r.Retry.Codes, gatewayv1.HTTPRouteRetryStatusCode(d.number()))
		}
	})
}

// Whatever the objects are, the proxy takes what is made of them and can run it; and what the rule asks for is there, or the rule
// fails: nothing is dropped in silence (F-5).
func TestF5TheProxyCanRunWhateverIsCompiled(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 7))}
	works := 0
	for range 20000 {
		from := d.rule()
		res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), from))
		r := onlyRule(t, res)
		if _, err := filter.Compile(r.Filters); err != nil {
			t.Errorf("the proxy cannot run them: %v", err)
		}
		for _, b := range r.Backends {
			if _, err := filter.Compile(b.Filters); err != nil {
				t.Errorf("the proxy cannot run those of a backend: %v", err)
			}
		}
		if r.Fail == nil {
			works++
			want := len(from.Filters)
			for _, f := range from.Filters {
				if f.Type == "RequestMirror" && mirrorsNothing(f.RequestMirror) {
					want--
				}
			}
			if len(r.Filters) != want {
				t.Errorf("of %d filters %d are left: %+v", want, len(r.Filters), from.Filters)
			}
			for i, b := range r.Backends {
				if b.Invalid == "" && len(b.Filters) != len(from.BackendRefs[i].Filters) {
					t.Errorf("of a backend's %d filters %d are left", len(from.BackendRefs[i].Filters), len(b.Filters))
				}
			}
		} else if len(r.Filters)+len(r.Backends) != 0 || r.Timeouts != (model.Timeouts{}) || r.Retry != nil {
			t.Errorf("a rule that fails does more: %+v", r)
		}
		if t.Failed() {
			t.Fatalf("of the rule %+v", from)
		}
	}
	if works < 500 {
		t.Errorf("only %d rules were in order", works)
	}
}

func mirrorsNothing(m *gatewayv1.HTTPRequestMirrorFilter) bool {
	return m.Percent != nil && *m.Percent == 0 || m.Fraction != nil && m.Fraction.Numerator == 0
}
