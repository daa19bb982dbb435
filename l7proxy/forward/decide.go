package forward

import (
	"math/rand/v2"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// verdict is what becomes of a request: endpoints get it, or we answer it.
type verdict struct {
	set    *upstream.Set // nil: it is answered
	speaks upstream.Protocol
	answer answer
}

// answer is one that we make ourselves.
type answer struct {
	status  int
	failure string // for the record
	reason  string // for the client
}

// decide takes the port's table, once, and does to the request what its rule says. What it finds is in rec. What the
// request gets is in s.
func decide(p *port, namespace string, req *message.Request, rec *observe.Record, s *filter.Scratch) verdict {
	t := p.table(namespace)
	if t == nil { // the last route went while the connection was open: as without a mesh
		return verdict{set: p.fallback, speaks: p.fallback.Speaks()}
	}
	i := t.match.Match(req)
	if i < 0 {
		return refused(404, noMatch, "no rule of the routes of the Service matches the request")
	}
	r := &t.rules[i]
	rec.Rule = r.model
	if r.model.Fail != nil {
		return refused(r.model.Fail.Status, ruleFails, r.model.Fail.Reason)
	}
	if _, answered := r.filters.Request(req, filter.Input{Port: p.number}, s); answered {
		return refused(500, ruleFails, "the filters answer the request, which is not passed on yet")
	}
	at := r.choice.Pick(rand.Uint64())
	if at < 0 {
		return refused(500, noBackend, "the rule has no backend")
	}
	b := &r.backends[at]
	rec.Backend = b.model
	if b.endpoints == nil {
		return refused(500, invalidBackend, b.model.Invalid)
	}
	if _, answered := b.filters.Request(req, filter.Input{Port: p.number}, s); answered {
		return refused(500, ruleFails, "the filters answer the request, which is not passed on yet")
	}
	speaks := b.endpoints.Speaks()
	if t.grpc {
		speaks = upstream.HTTP2Only
	}
	return verdict{set: b.endpoints, speaks: speaks}
}

func refused(status int, failure, reason string) verdict {
	return verdict{answer: answer{status, failure, reason}}
}

// http2 tells whether an endpoint is asked in HTTP/2 for a client that speaks it: what its Service says,
// otherwise what the client speaks, unless the endpoint is known not to.
func (v *verdict) http2(e *upstream.Endpoint) bool {
	return v.speaks == upstream.HTTP2Only || v.speaks == upstream.AnyHTTP && !e.SpeaksHTTP1()
}
