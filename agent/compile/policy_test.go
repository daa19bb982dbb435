package compile_test

import (
	"encoding/json"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// withPolicy compiles a rule, and returns it with what is reported.
func withPolicy(t *testing.T, edit func(*gatewayv1.HTTPRouteRule)) (r *model.Rule, status string) {
	t.Helper()
	res := result(t, service("shop/web", "10.96.0.1"), route("shop/r", to("shop/web"), ruleWith("/", edit)))
	return onlyRule(t, res), statusOf(res, "shop/r")
}

const refused = "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs"

// The vectors of GEP-2257, and what Go's own durations have more.
func TestB40Durations(t *testing.T) {
	for in, want := range map[string]string{
		"0h": "0s", "0s": "0s", "0h0m0s": "0s", "1h": "1h0m0s", "30m": "30m0s", "10s": "10s", "500ms": "500ms", "2h30m": "2h30m0s", "150m": "2h30m0s",
		"7230s": "2h0m30s", "1h30m10s": "1h30m10s", "10s30m1h": "1h30m10s", "100ms200ms300ms": "600ms", "01h": "1h0m0s", "1h1h1h1h": "4h0m0s",
		"99999h": "99999h0m0s", "99999h99999h99999h99999h": "399996h0m0s", "00001ms": "1ms", "1m1ms": "1m0.001s",
		"": "", "0": "", "1": "", "1m1": "", "1d": "", "1h30m10s20ms50h": "", "999999h": "", "1.5h": "", "-15m": "", "+1s": "", "1 s": "", " 1s": "", "1s ": "",
		"1us": "", "1ns": "", "1µs": "", "1H": "", "h": "", "1sm": "", "soon": "", "1h-1m": "", "000001s": "", "1s\n": "", "1ms1": "",
	} {
		r, status := withPolicy(t, func(r *gatewayv1.HTTPRouteRule) {
			r.Timeouts = &gatewayv1.HTTPRouteTimeouts{Request: new(gatewayv1.Duration(in))}
		})
		if want == "" {
			expect(t, in, status, refused)
			if r.Fail == nil || !strings.HasPrefix(r.Fail.Reason, "timeouts.request: \"") || !strings.Contains(r.Fail.Reason, "is no duration") {
				t.Errorf("%q: the rule's failure is %+v", in, r.Fail)
			}
			continue
		}
		expect(t, in, status, good)
		expect(t, in, r.Timeouts.Request.String(), want)
	}
}

func TestB41Timeouts(t *testing.T) {
	for name, c := range map[string]struct {
		request, backendRequest string // "-": not there
		want                    string // JSON, or
		bad                     string
	}{
		"B-41, B-42: both":          {"2s", "500ms", `{"request":"2s","backendRequest":"500ms"}`, ""},
		"B-41: the whole":           {"1m", "-", `{"request":"1m0s"}`, ""},
		"B-42: a try":               {"-", "1m", `{"backendRequest":"1m0s"}`, ""},
		"B-43: 0s is none":          {"0s", "0h", `{}`, ""},
		"B-44: a try of any length": {"0s", "1h", `{"backendRequest":"1h0m0s"}`, ""},
		"B-44: as long as all":      {"60s", "1m", `{"request":"1m0s","backendRequest":"1m0s"}`, ""},
		"B-44: longer than all":     {"1s", "1001ms", "", "timeouts.backendRequest: 1001ms is more than the 1s that the whole request has"},
		"B-45: none":                {"-", "-", `{}`, ""},
		"B-40: no duration":         {"1s", "soon", "", `timeouts.backendRequest: "soon" is no duration`},
	} {
		r, status := withPolicy(t, func(r *gatewayv1.HTTPRouteRule) {
			r.Timeouts = &gatewayv1.HTTPRouteTimeouts{}
			if c.request != "-" {
				r.Timeouts.Request = new(gatewayv1.Duration(c.request))
			}
			if c.backendRequest != "-" {
				r.Timeouts.BackendRequest = new(gatewayv1.Duration(c.backendRequest))
			}
		})
		if c.bad != "" {
			expect(t, name, status, refused)
			if r.Fail == nil || !strings.HasPrefix(r.Fail.Reason, c.bad) {
				t.Errorf("%s: the rule's failure is %+v", name, r.Fail)
			}
			continue
		}
		got, err := json.Marshal(r.Timeouts)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, name, status, good)
		expect(t, name, string(got), c.want)
	}
}

func TestB50Retries(t *testing.T) {
	codes := func(all ...gatewayv1.HTTPRouteRetryStatusCode) []gatewayv1.HTTPRouteRetryStatusCode { return all }
	backoff := func(s string) *gatewayv1.Duration { return new(gatewayv1.Duration(s)) }
	for name, c := range map[string]struct {
		in   gatewayv1.HTTPRouteRetry
		want string // JSON, or
		bad  string
	}{
		"B-51: once by default":         {gatewayv1.HTTPRouteRetry{}, `{"attempts":1}`, ""},
		"B-51: often":                   {gatewayv1.HTTPRouteRetry{Attempts: new(3)}, `{"attempts":3}`, ""},
		"B-51: never":                   {gatewayv1.HTTPRouteRetry{Attempts: new(0), Codes: codes(500), Backoff: backoff("1s")}, `null`, ""},
		"B-51: less than never":         {gatewayv1.HTTPRouteRetry{Attempts: new(-1)}, "", "retry.attempts: -1 is negative"},
		"B-50: codes":                   {gatewayv1.HTTPRouteRetry{Codes: codes(500, 502, 503, 504)}, `{"attempts":1,"codes":[500,502,503,504]}`, ""},
		"B-50: all that there are":      {gatewayv1.HTTPRouteRetry{Codes: codes(400, 429, 599)}, `{"attempts":1,"codes":[400,429,599]}`, ""},
		"B-50: one twice":               {gatewayv1.HTTPRouteRetry{Codes: codes(503, 500, 503)}, `{"attempts":1,"codes":[503,500]}`, ""},
		"B-50: no error":                {gatewayv1.HTTPRouteRetry{Codes: codes(500, 399)}, "", "retry.codes[1]: 399 is no error: use 400 to 599"},
		"B-50: beyond all":              {gatewayv1.HTTPRouteRetry{Codes: codes(600)}, "", "retry.codes[0]: 600 is no error: use 400 to 599"},
		"B-53: backoff":                 {gatewayv1.HTTPRouteRetry{Backoff: backoff("25ms")}, `{"attempts":1,"backoff":"25ms"}`, ""},
		"B-53: none":                    {gatewayv1.HTTPRouteRetry{Backoff: backoff("0s")}, `{"attempts":1}`, ""},
		"B-53: no duration":             {gatewayv1.HTTPRouteRetry{Backoff: backoff("1.5s")}, "", `retry.backoff: "1.5s" is no duration`},
		"B-51: never, but with mistake": {gatewayv1.HTTPRouteRetry{Attempts: new(0), Codes: codes(200)}, "", "retry.codes[0]: 200 is no error"},
	} {
		r, status := withPolicy(t, func(r *gatewayv1.HTTPRouteRule) { r.Retry = &c.in })
		if c.bad != "" {
			expect(t, name, status, refused)
			if r.Fail == nil || !strings.HasPrefix(r.Fail.Reason, c.bad) {
				t.Errorf("%s: the rule's failure is %+v", name, r.Fail)
			}
			continue
		}
		got, err := json.Marshal(r.Retry)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, name, status, good)
		expect(t, name, string(got), c.want)
	}
	if r, status := withPolicy(t, func(*gatewayv1.HTTPRouteRule) {}); r.Retry != nil || status != good { // B-56
		t.Errorf("without retry: %+v, %s", r.Retry, status)
	}
}
