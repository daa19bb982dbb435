package compile

import (
	"errors"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// unsupportedSetting names what of a rule, its filters aside, is not supported and must not be ignored. A time-out of
// 0s (B-43) and 0 attempts (B-51) ask for what happens anyway.
func unsupportedSetting(r *gatewayv1.HTTPRouteRule) error {
	switch {
	case r.Timeouts != nil && (limits(r.Timeouts.Request) || limits(r.Timeouts.BackendRequest)):
		return errors.New("timeouts are not supported yet")
	case r.Retry != nil && (r.Retry.Attempts == nil || *r.Retry.Attempts != 0):
		return errors.New("retry is not supported yet")
	case r.SessionPersistence != nil: //nolint:staticcheck // deprecated, and still in the experimental CRD: it must not be ignored
		return errors.New("sessionPersistence is not supported yet")
	}
	return nil
}

// unsupportedGRPCSetting is unsupportedSetting for a GRPCRoute, whose rules have nothing else of that sort (M-36).
func unsupportedGRPCSetting(r *gatewayv1.GRPCRouteRule) error {
	if r.SessionPersistence != nil { //nolint:staticcheck // as above
		return errors.New("sessionPersistence is not supported yet")
	}
	return nil
}

func limits(d *gatewayv1.Duration) bool {
	if d == nil {
		return false
	}
	parsed, err := time.ParseDuration(string(*d))
	return err != nil || parsed != 0
}
