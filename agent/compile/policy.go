package compile

import (
	"errors"
	"fmt"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// policy is what a rule says besides matches, filters and backends.
type policy struct {
	timeouts model.Timeouts
	retry    *model.Retry
	bad      error // why the rule must not be applied as it is
}

func compilePolicy(r *gatewayv1.HTTPRouteRule) (p policy) {
	var badTimeouts, badRetry, unsupported error
	p.timeouts, badTimeouts = compileTimeouts(r.Timeouts)
	p.retry, badRetry = compileRetry(r.Retry)
	if r.SessionPersistence != nil { //nolint:staticcheck // deprecated, and still in the experimental CRD: it must not be ignored
		unsupported = errNoPersistence
	}
	p.bad = firstError(badTimeouts, badRetry, unsupported)
	return p
}

// compileGRPCPolicy is compilePolicy for a GRPCRoute, whose rules have nothing else of that sort (M-36).
func compileGRPCPolicy(r *gatewayv1.GRPCRouteRule) (p policy) {
	if r.SessionPersistence != nil { //nolint:staticcheck // as above
		p.bad = errNoPersistence
	}
	return p
}

var errNoPersistence = errors.New("sessionPersistence is not supported")

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// compileTimeouts: what is not there limits nothing (B-45), and 0s neither (B-43).
func compileTimeouts(in *gatewayv1.HTTPRouteTimeouts) (out model.Timeouts, err error) {
	if in == nil {
		return out, nil
	}
	if out.Request, err = compileDuration("timeouts.request", in.Request); err != nil {
		return model.Timeouts{}, err
	}
	if out.BackendRequest, err = compileDuration("timeouts.backendRequest", in.BackendRequest); err != nil {
		return model.Timeouts{}, err
	}
	if out.Request > 0 && out.BackendRequest > out.Request { // B-44
		return model.Timeouts{}, fmt.Errorf("timeouts.backendRequest: %s is more than the %s that the whole request has", *in.BackendRequest, *in.Request)
	}
	return out, nil
}

// compileRetry: a rule that has retry without attempts has one (B-51); nil is none.
func compileRetry(in *gatewayv1.HTTPRouteRetry) (*model.Retry, error) {
	if in == nil {
		return nil, nil
	}
	out := &model.Retry{Attempts: 1}
	if in.Attempts != nil {
		out.Attempts = *in.Attempts
	}
	if out.Attempts < 0 {
		return nil, fmt.Errorf("retry.attempts: %d is negative", out.Attempts)
	}
	for i, code := range in.Codes { // B-50
		if code < 400 || code > 599 {
			return nil, fmt.Errorf("retry.codes[%d]: %d is no error: use 400 to 599", i, code)
		}
		if !slices.Contains(out.Codes, int(code)) {
			out.Codes = append(out.Codes, int(code))
		}
	}
	var err error
	if out.Backoff, err = compileDuration("retry.backoff", in.Backoff); err != nil { // B-53
		return nil, err
	}
	if out.Attempts == 0 {
		return nil, nil
	}
	return out, nil
}

func compileDuration(at string, d *gatewayv1.Duration) (model.Duration, error) {
	if d == nil {
		return 0, nil
	}
	parsed, ok := parseDuration(string(*d))
	if !ok {
		return 0, fmt.Errorf("%s: %q is no duration: use up to four whole numbers of at most five digits with h, m, s or ms, as in \"1m30s\"", at, *d)
	}
	return model.Duration(parsed), nil
}

// parseDuration reads a duration of the API: ([0-9]{1,5}(h|m|s|ms)){1,4} (GEP-2257). Go's own form has more, such as fractions.
func parseDuration(s string) (sum time.Duration, ok bool) {
	for range 4 {
		digits := 0
		for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
			digits++
		}
		unit := 0
		for digits+unit < len(s) && (s[digits+unit] < '0' || s[digits+unit] > '9') {
			unit++
		}
		size, known := map[string]time.Duration{"h": time.Hour, "m": time.Minute, "s": time.Second, "ms": time.Millisecond}[s[digits:digits+unit]]
		if digits == 0 || digits > 5 || !known {
			return 0, false
		}
		n := 0
		for _, c := range s[:digits] {
			n = 10*n + int(c-'0')
		}
		sum += time.Duration(n) * size
		if s = s[digits+unit:]; s == "" {
			return sum, true
		}
	}
	return 0, false
}
