package upstream

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// speaking is what an endpoint turned out to speak.
type speaking struct {
	http1Until atomic.Int64 // unix time in ns until which HTTP/2 is not tried again; 0: it is

	mu       sync.Mutex
	http2    bool      // it has spoken HTTP/2
	trouble  time.Time // since when it does not any more
	failures int       // of the preface, one after the other, of an endpoint that has not
}

// The time for which an endpoint that does not understand the preface of HTTP/2 is asked in HTTP/1.1. It doubles with each
// failure: one that was starting when it was asked is soon asked again, and one that speaks HTTP/1.1 seldom.
const (
	firstHTTP1 = 10 * time.Second
	maxHTTP1   = time.Hour
)

// maxTrouble is how long an endpoint that has spoken HTTP/2 is not taken for one of HTTP/1.1: it is in trouble, and as good
// as one that cannot be connected to.
const maxTrouble = 10 * time.Second

// spoke notes that the endpoint speaks HTTP/2.
func (e *Endpoint) spoke() {
	s := &e.speaking
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http2, s.trouble, s.failures = true, time.Time{}, 0
	s.http1Until.Store(0)
}

// unspoken takes note of why a connection of HTTP/2 did not come about.
func (e *Endpoint) unspoken(err error) error {
	if !errors.Is(err, http2.ErrNotHTTP2) {
		return err
	}
	s := &e.speaking
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.http2 && (s.trouble.IsZero() || now.Sub(s.trouble) < maxTrouble):
		if s.trouble.IsZero() {
			s.trouble = now
		}
		e.Failed()
		return fmt.Errorf("endpoint %s, which has spoken HTTP/2 before, does not answer its preface", e.Address)
	case now.UnixNano() < s.http1Until.Load(): // others have asked at the same time
		return err
	}
	s.http2 = false
	s.http1Until.Store(now.Add(min(firstHTTP1<<min(s.failures, 10), maxHTTP1)).UnixNano())
	s.failures++
	return err
}

// SpeaksHTTP1 tells whether the endpoint is known not to speak HTTP/2.
func (e *Endpoint) SpeaksHTTP1() bool {
	until := e.speaking.http1Until.Load()
	return until != 0 && time.Now().UnixNano() < until
}
