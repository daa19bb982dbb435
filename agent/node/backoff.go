package node

import "time"

// Bounds of the time between two attempts.
const (
	backoffFirst  = 100 * time.Millisecond
	backoffAtMost = 10 * time.Second
)

// backoff says when to try again what failed. The zero value is ready.
type backoff struct {
	delay time.Duration // 0: the last attempt went well
	at    time.Time
	bad   bool // something failed since begin
}

// begin starts an attempt that may consist of many steps.
func (b *backoff) begin() { b.bad = false }

// failed notes that a step failed; the time of the next attempt is set by end, or, outside of an attempt, here.
func (b *backoff) failed(now time.Time) {
	b.bad = true
	if b.delay == 0 {
		b.at = now.Add(backoffFirst)
	}
}

// end ends an attempt: when the next one is due, if this one failed.
func (b *backoff) end(now time.Time) (time.Time, bool) {
	if !b.bad {
		b.delay = 0
		return time.Time{}, false
	}
	if b.due(now) { // an attempt that came early, because of something else, does not make the next one late
		b.delay = min(max(2*b.delay, backoffFirst), backoffAtMost)
		b.at = now.Add(b.delay)
	}
	return b.at, true
}

// due tells whether the time of the next attempt has come.
func (b *backoff) due(now time.Time) bool { return b.delay == 0 || !now.Before(b.at) }
