package forward

import (
	"math/rand/v2"

	"github.com/sluice-mesh/sluice/l7proxy/filter"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// verdict is what becomes of a request: endpoints get it, or we answer it.
type verdict struct {
	rule    *rule         // nil: none applies
	backend *backend      // nil: none was chosen
	set     *upstream.Set // nil: it is answered
	speaks  upstream.Protocol
	copies  *copies // for those that mirror it; nil: there are none
	answer  answer
}

// answer is one that we make ourselves.
type answer struct {
	status  int
	failure string         // for the record; "": it is none
	reason  string         // for the client, in the body
	fields  message.Fields // of a filter's answer, which has no body
}

// decide takes the port's table, once, and does to the request what its rule says. What it finds is in rec. What the
// request gets is in s.
func (n *session) decide(p *port, req *message.Request, rec *observe.Record, s *filter.Scratch) verdict {
	t := p.table(n.client.Pod.Namespace)
	if t == nil { // the last route went while the connection was open: as without a mesh
		return verdict{set: p.fallback, speaks: p.fallback.Speaks()}
	}
	i := t.match.Match(req)
	if i < 0 {
		return verdict{answer: answer{status: 404, failure: noMatch, reason: "no rule of the routes of the Service matches the request"}}
	}
	v := verdict{rule: &t.rules[i]}
	r := v.rule
	rec.Rule = r.model
	if r.model.Fail != nil {
		return v.refuse(r.model.Fail.Status, ruleFails, r.model.Fail.Reason)
	}
	in := filter.Input{Host: p.host, Port: p.number}
	if a, answered := r.filters.Request(req, in, s); answered {
		v.answer = answer{status: a.Status, fields: a.Fields}
		return v
	}
	at := r.choice.Pick(rand.Uint64())
	if at < 0 {
		return v.refuse(500, noBackend, "the rule has no backend")
	}
	b := &r.backends[at]
	rec.Backend = b.model
	if b.endpoints == nil {
		return v.refuse(500, invalidBackend, b.model.Invalid)
	}
	if len(r.mirrors) > 0 {
		v.copies = n.copy(r, t.grpc, req, rec) // as it is between the rule's filters and the backend's (F-54)
	}
	b.filters.Request(req, in, s) // none of a backend's filters answers (F-6)
	v.backend, v.set, v.speaks = b, b.endpoints, b.endpoints.Speaks()
	if t.grpc {
		v.speaks = upstream.HTTP2Only
	}
	return v
}

func (v verdict) refuse(status int, failure, reason string) verdict {
	v.answer = answer{status: status, failure: failure, reason: reason}
	return v
}

// edit does to a backend's final answer what the filters ask for: the backend's first (F-2).
func (v *verdict) edit(r *message.Response, s *filter.Scratch) {
	if v.backend != nil {
		v.backend.filters.Response(r, s)
	}
	if v.rule != nil {
		v.rule.filters.Response(r, s)
	}
}

// share adds to an answer of our own what CORS wants of any (F-66).
func (v *verdict) share(f *message.Fields, s *filter.Scratch) {
	if v.rule != nil {
		v.rule.filters.Share(f, s)
	}
}

// timeouts are those of the rule, without any if there is none.
func (v *verdict) timeouts() model.Timeouts {
	if v.rule == nil {
		return model.Timeouts{}
	}
	return v.rule.model.Timeouts
}

// retry is the rule's; nil: it has none.
func (v *verdict) retry() *model.Retry {
	if v.rule == nil {
		return nil
	}
	return v.rule.model.Retry
}

// http2 tells whether an endpoint is asked in HTTP/2 for a client that speaks it: what its Service says,
// otherwise what the client speaks, unless the endpoint is known not to.
func (v *verdict) http2(e *upstream.Endpoint) bool {
	return v.speaks == upstream.HTTP2Only || v.speaks == upstream.AnyHTTP && !e.SpeaksHTTP1()
}
