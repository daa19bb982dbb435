package forward

import (
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
)

// arm sets the timer to what comes first: the end of the request's time, of the try's, or of a pause. The timer may ring
// for an earlier use of the memory: it only makes the call look.
func (x *call) arm() {
	next := earliest(x.requestBy, x.tryBy, x.retryAt)
	switch {
	case next.IsZero():
	case x.timer == nil:
		x.timer = time.AfterFunc(time.Until(next), x.rings)
	default:
		x.timer.Reset(time.Until(next))
	}
}

// rings does what is due.
func (x *call) rings() {
	var t http2.Turn
	defer t.Flush()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.session == nil {
		return
	}
	defer x.guard()
	switch now := time.Now(); {
	case x.complete: // only the client's side goes on
	case due(x.requestBy, now): // B-41
		x.expired(&t, requestTimeout)
	case due(x.retryAt, now):
		x.retryAt, x.rec.Failure = time.Time{}, ""
		x.arm()
		x.try(&t)
	case due(x.tryBy, now): // B-42
		x.tryExpired(&t)
	default:
		x.arm()
	}
}

// expired ends a call whose time is over: 504, or a reset where the answer has begun (B-46).
func (x *call) expired(t *http2.Turn, failure string) {
	x.rec.Failure = failure
	x.cancel(t, http2.Cancel)
	x.release()
	if x.began {
		x.down.Reset(t, http2.Cancel)
		x.finish()
		return
	}
	x.answer(t, answer{status: 504, failure: failure, reason: "the backend did not answer in the time that the route gives it"})
}

// tryExpired ends a try.
func (x *call) tryExpired(t *http2.Turn) {
	if x.began {
		x.expired(t, backendTimeout)
		return
	}
	x.cancel(t, http2.Cancel)
	x.rec.Failure = backendTimeout
	if !x.tryAgain(504) {
		x.expired(t, backendTimeout)
	}
}

// tryAgain schedules another try, if the rule wants one after what the last one came to. Whatever the endpoint still says
// is not heard any more.
func (x *call) tryAgain(status int) bool {
	p := x.verdict.retry()
	if !x.kept || x.rec.Method == "CONNECT" || final(x.rec.Failure) || !retries(p, x.retried, status, unprocessed(x.rec.Failure)) {
		return false
	}
	x.retried++
	x.refusals, x.asked, x.fresh = 0, 0, false
	x.release()
	x.retryAt = time.Now().Add(backoff(p, x.retried))
	x.arm()
	return true
}

// untimed is for a call that became a tunnel: it may take as long as it likes (B-46).
func (x *call) untimed() { x.requestBy, x.tryBy = time.Time{}, time.Time{} }
