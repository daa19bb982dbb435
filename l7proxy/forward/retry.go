package forward

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// The time between two tries (B-53).
const (
	usualBackoff = 25 * time.Millisecond // before the first retry, where the route does not say
	maxBackoff   = 10                    // how many times that it grows to
	longBackoff  = time.Hour             // what is as long does not grow
)

// retries tells whether a request that came to a status, or that the endpoint did not process, is tried again after so
// many retries (B-50, B-51, B-54).
func retries(p *model.Retry, after, status int, unprocessed bool) bool {
	return p != nil && after < p.Attempts && (unprocessed || slices.Contains(p.Codes, status))
}

// backoff is how long to wait before the n-th retry, n from 1: it doubles, and a part of it is random, so that those who
// failed together do not come back together.
func backoff(p *model.Retry, n int) time.Duration {
	wait := cmp.Or(time.Duration(p.Backoff), usualBackoff)
	if wait < longBackoff {
		wait = min(wait<<min(n-1, 4), maxBackoff*wait)
	}
	return wait + rand.N(wait/2+1)
}

// unprocessed tells whether what failed is known to have done nothing at the endpoint (B-54). A try that took too long is
// tried again as well (B-55).
func unprocessed(failure string) bool {
	switch failure {
	case connectFailed, notProcessed, notHTTP2, backendTimeout:
		return true
	}
	return false
}

// final tells whether no other try makes sense after a failure, whatever the rule says.
func final(failure string) bool {
	switch failure {
	case requestTimeout, badRequest, clientGone, clientPodIsGone, proxyBug:
		return true
	}
	return false
}

// earliest is the first of the times that are set; the zero time: none is.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// due tells whether a time is set and has come.
func due(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }
