package forward

import (
	"context"
	"testing"
	"time"
)

// Design, "pod ends: closed": an exchange that waits for its endpoint does not notice by itself, and would keep a socket
// in the pod's network namespace.
func TestCutEndsWhatWaitsForAnEndpoint(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	l.server.Cut(l.client.Upstream)
	c.wantReset()
	p.wantReset()
}

// The same when a drain runs out of time.
func TestDrainThatRunsOutOfTimeEndsTheEndpointsSide(t *testing.T) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.server.Drain(ctx); err == nil {
		t.Error("nothing is said of the connection that was reset")
	}
	c.wantReset()
	p.wantReset()
}

// A relay ends on both sides as well.
func TestCutEndsARelay(t *testing.T) {
	l := newLab(t, nil, Limits{})
	b := l.origin()
	c := l.dial()
	c.send("hello")
	p := b.accept()
	p.want("hello")
	l.server.Cut(l.client.Upstream)
	c.wantReset()
	p.wantReset()
}
