package node

import "time"

// State says whether connections may be steered to the proxy.
type State int

// The states.
const (
	// Waiting: no proxy serves at this moment, one is expected. What is steered queues.
	Waiting State = iota
	// Up: a proxy serves.
	Up
	// Down: connections go direct, or are refused where the Service fails closed.
	Down
)

func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "waiting"
}

// patience is how long connections queue for a successor of a proxy that is gone.
const patience = 500 * time.Millisecond

// A proxy that beats serves on with what an earlier agent gave it: it beats every 100 ms, and less often where it gets
// little of the machine. An agent that was started anew waits longer for such a one to find its way back than for one
// that is not there.
const (
	beatingFor    = time.Second
	startPatience = 2 * time.Second
)

// liveness decides whether the node has a proxy that serves. It is plain data with a clock handed in.
type liveness struct {
	limit time.Duration // the oldest heartbeat that counts
	state State
	since time.Time // when no proxy served for the first time; in Waiting
	why   string    // of the last change
	acked bool      // a proxy acked since the agent started
}

func newLiveness(limit time.Duration, now time.Time) liveness {
	return liveness{limit: limit, state: Waiting, since: now, why: "no proxy has registered yet"}
}

// observe takes what is known now: whether a proxy acked the full state and is still there, and the age of the
// heartbeat. Age is signed: a beat on another CPU may be a little ahead. It tells whether the state changed.
func (l *liveness) observe(now time.Time, acked bool, age time.Duration) bool {
	l.acked = l.acked || acked
	switch before := l.state; {
	case acked && age > l.limit:
		// The proxy is there and makes no progress.
		l.set(Down, "the proxy hangs: its last heartbeat is "+age.Round(time.Millisecond).String()+" old")
		return before != Down
	case acked:
		// One that hung is back when it beats properly, not when one late beat came through.
		if before == Down && age > l.limit/2 {
			return false
		}
		l.set(Up, "a proxy acked the full state")
		return before != Up
	case before == Up:
		l.set(Waiting, "the proxy is gone")
		l.since = now
		return true
	case before == Waiting:
		limit := patience
		if !l.acked && age < beatingFor {
			limit = startPatience
		}
		if now.Sub(l.since) >= limit {
			l.set(Down, "no proxy for "+limit.String())
			return true
		}
	}
	return false
}

func (l *liveness) set(s State, why string) {
	if l.state != s {
		l.state, l.why = s, why
	}
}
