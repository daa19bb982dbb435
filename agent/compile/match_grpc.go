package compile

import (
	"errors"
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// compileCalls is compileMatches for a rule of a GRPCRoute.
func compileCalls(in []gatewayv1.GRPCRouteMatch) ([]model.Match, error) {
	if len(in) == 0 { // every call (M-34)
		in = []gatewayv1.GRPCRouteMatch{{}}
	}
	out := make([]model.Match, 0, len(in))
	for i := range in {
		m, err := compileCall(&in[i])
		if err != nil {
			return nil, fmt.Errorf("matches[%d].%w", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func compileCall(in *gatewayv1.GRPCRouteMatch) (m model.Match, err error) {
	m.RPC = &model.RPCMatch{}
	if in.Method != nil {
		if m.RPC, err = compileRPC(in.Method); err != nil {
			return m, err
		}
	}
	for i, h := range in.Headers {
		// M-15. Metadata travels in lower case, whatever the route has (M-34).
		if m.Headers, err = addHeader(m.Headers, string(h.Name), h.Value, (*string)(h.Type)); err != nil {
			return m, fmt.Errorf("headers[%d]: %w", i, err)
		}
	}
	return m, nil
}

// compileRPC compiles the names that are asked for (M-30 to M-33). An empty one is any. An error begins with where it is.
func compileRPC(in *gatewayv1.GRPCMethodMatch) (*model.RPCMatch, error) {
	m := &model.RPCMatch{Type: model.Exact}
	if in.Type != nil {
		m.Type = model.MatchType(*in.Type)
	}
	if in.Service != nil {
		m.Service = *in.Service
	}
	if in.Method != nil {
		m.Method = *in.Method
	}
	switch {
	case m.Type != model.Exact && m.Type != model.RegularExpression: // M-20
		return m, fmt.Errorf("method: match type %q is not known", m.Type)
	case m.Service == "" && m.Method == "":
		return m, errors.New("method: neither a service nor a method is named")
	case m.Type == model.Exact && strings.Contains(m.Service, "/"):
		return m, fmt.Errorf("method.service: %q has a \"/\", and no service has", m.Service)
	case m.Type == model.Exact:
		return m, nil
	}
	if err := checkExpression(m.Service); err != nil {
		return m, fmt.Errorf("method.service: %w", err)
	}
	if err := checkExpression(m.Method); err != nil {
		return m, fmt.Errorf("method.method: %w", err)
	}
	return m, nil
}
