package forward

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// mirror is one that gets copies of a rule's requests.
type mirror struct {
	wants     func(random uint64) bool
	endpoints *upstream.Set
}

// copies is what those get that mirror a request (F-50): its head, and its body when all of it has come, up to a bound.
// The request itself never waits for them. A nil one is nobody's.
type copies struct {
	session *session
	block   []byte // the head
	grpc    bool
	body    []byte // counts as gathered
	over    bool   // sent, or given up
	targets []*upstream.Set
	rec     observe.Record
}

const (
	maxCopy     = 64 << 10 // bytes of a body; a larger one is not mirrored (F-54)
	maxGathered = 16 << 20 // bytes of bodies of a client pod that have not come in full
	maxCopies   = 256      // that are under way for a client pod; more are not sent
	copyWithin  = 30 * time.Second
)

// copy begins the copies of a request; nil: nobody gets one.
func (n *session) copy(r *rule, grpc bool, req *message.Request, rec *observe.Record) *copies {
	if req.Method == "CONNECT" {
		return nil
	}
	var c *copies
	for i := range r.mirrors {
		m := &r.mirrors[i]
		if !m.wants(rand.Uint64()) { // F-51, F-52: each for itself
			continue
		}
		if c == nil {
			c = &copies{session: n, grpc: grpc, block: http2.AppendRequest(nil, req)}
			c.rec = observe.Record{Client: rec.Client, Service: rec.Service, Port: rec.Port, Rule: rec.Rule}
		}
		c.targets = append(c.targets, m.endpoints)
	}
	return c
}

// data is a part of the body.
func (c *copies) data(p []byte) {
	if c == nil || c.over {
		return
	}
	c.body = append(c.body, p...)
	if c.session.client.gathered.Add(int64(len(p))) > maxGathered || len(c.body) > maxCopy {
		c.drop()
	}
}

// drop gives them up, if they were not sent.
func (c *copies) drop() {
	if c == nil || c.over {
		return
	}
	c.ended()
	for range c.targets {
		c.session.server.cfg.Recorder.Mirrored(&c.rec, observe.MirrorDropped)
	}
}

// end sends them: all of the request has come.
func (c *copies) end(t *http2.Turn) {
	if c == nil || c.over {
		return
	}
	body := c.ended()
	for _, set := range c.targets {
		c.send(t, set, body)
	}
}

// ended is for a body that is not gathered any more.
func (c *copies) ended() (body []byte) {
	body, c.body, c.over = c.body, nil, true
	c.session.client.gathered.Add(-int64(len(body)))
	return body
}

// send makes a call of a copy, one that no client waits for.
func (c *copies) send(t *http2.Turn, set *upstream.Set, body []byte) {
	n := c.session
	if n.client.copies.Add(1) > maxCopies {
		n.client.copies.Add(-1)
		n.server.cfg.Recorder.Mirrored(&c.rec, observe.MirrorDropped)
		return
	}
	x := n.server.takeCall()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.session, x.copied = n, true
	x.rec = c.rec
	x.block, x.body = append(x.block[:0], c.block...), append(x.body[:0], body...)
	x.kept, x.ended = true, true
	x.stored = len(x.body)
	n.client.buffered.Add(int64(x.stored))
	x.verdict = verdict{set: set, speaks: c.speak(set)}
	x.downToken = x.token()
	n.server.copying.add(x)
	x.requestBy = time.Now().Add(copyWithin)
	x.arm()
	x.try(t)
}

// speak is what the endpoints of a copy are asked in: where nothing is said of them, what the client speaks.
func (c *copies) speak(set *upstream.Set) upstream.Protocol {
	switch speaks := set.Speaks(); {
	case c.grpc:
		return upstream.HTTP2Only
	case speaks == upstream.AnyHTTP && c.session.h2.Load() == nil:
		return upstream.HTTP1Only
	default:
		return speaks
	}
}

// copyEnded is finish for a copy.
func (x *call) copyEnded() {
	result := observe.MirrorSent
	if x.rec.Failure != "" {
		result = observe.MirrorFailed
	}
	x.server.cfg.Recorder.Mirrored(&x.rec, result)
	x.server.copying.remove(x)
	x.client.copies.Add(-1)
}

// copying is the copies that are under way. They outlive the connections of their clients, so whoever ends a pod has to
// find them here.
type copying struct {
	mu    sync.Mutex
	calls map[*call]copyOf
}

type copyOf struct {
	token uint64
	pod   *upstream.Client
}

func (c *copying) add(x *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[*call]copyOf{}
	}
	c.calls[x] = copyOf{x.downToken, x.client.Upstream}
}

func (c *copying) remove(x *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, x)
}

// end ends those of a pod; nil is any. No lock may be held.
func (c *copying) end(pod *upstream.Client) {
	found := map[*call]uint64{}
	c.mu.Lock()
	for x, of := range c.calls {
		if pod == nil || pod == of.pod {
			found[x] = of.token
		}
	}
	c.mu.Unlock()
	var t http2.Turn
	for x, token := range found {
		(*fromClient)(x).Gone(&t, token, &http2.StreamError{Code: http2.Cancel, Connection: true})
	}
	t.Flush()
}

// mirrorsOf are those that get copies of a rule's requests.
func mirrorsOf(r *rule, set func(model.EndpointsKey) *upstream.Set) (out []mirror) {
	all := r.filters.Mirrors()
	for i := range all {
		out = append(out, mirror{wants: all[i].Wants, endpoints: set(all[i].Endpoints)})
	}
	return out
}
