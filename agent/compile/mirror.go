package compile

import (
	"errors"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// compileMirror compiles the share of a RequestMirror (F-51). It may be 0.
func compileMirror(in *gatewayv1.HTTPRequestMirrorFilter) (*model.Mirror, error) {
	switch {
	case in.Percent != nil && in.Fraction != nil:
		return nil, errors.New("requestMirror: it has a percent and a fraction: use one of them")
	case in.Fraction != nil:
		denominator := int32(100)
		if in.Fraction.Denominator != nil {
			denominator = *in.Fraction.Denominator
		}
		if n := in.Fraction.Numerator; n < 0 || denominator < 1 || n > denominator {
			return nil, fmt.Errorf("requestMirror.fraction: %d/%d is not from 0 to 1", n, denominator)
		}
		return &model.Mirror{Share: model.Fraction{Numerator: uint32(in.Fraction.Numerator), Denominator: uint32(denominator)}}, nil
	case in.Percent != nil:
		if *in.Percent < 0 || *in.Percent > 100 {
			return nil, fmt.Errorf("requestMirror.percent: %d is not from 0 to 100", *in.Percent)
		}
		return &model.Mirror{Share: model.Fraction{Numerator: uint32(*in.Percent), Denominator: 100}}, nil
	}
	return &model.Mirror{Share: model.Fraction{Numerator: 100, Denominator: 100}}, nil
}

// aimed are the filters of a rule, whose mirrors have their targets as the parent has them. A mirror whose target
// cannot be used is none, and neither is one of no requests: the rule serves on without it (F-53).
func (q *reader) aimed(from model.RouteRef, parent string, rule *rule) []model.Filter {
	var out []model.Filter
	for i, f := range rule.compiled.Filters { // each is that of the API at the same place
		if f.Mirror != nil {
			key, fault := q.backend(from, parent, &rule.filters[i].RequestMirror.BackendRef)
			if fault != nil || f.Mirror.Share.Numerator == 0 {
				continue
			}
			f.Mirror = &model.Mirror{Endpoints: key, Share: f.Mirror.Share}
		}
		out = append(out, f)
	}
	return out
}
