package watch

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sluice-mesh/sluice/agent/kube"
)

const (
	// patience is how long a kind may not be up to date before that is a problem: an API server that is restarted is
	// none.
	patience = 10 * time.Second
	// grace is how long a refusal may last before it is logged: an API server that has just been started refuses what
	// it does not know the permission for yet.
	grace = 2 * time.Second
)

// health is what keeps kinds from being up to date.
type health struct {
	server  string
	log     *slog.Logger
	changed func()

	mu      sync.Mutex
	failing map[string]failure // by kind
	away    bool               // that the API server does not answer was said
}

type failure struct {
	since   time.Time
	reason  string
	away    bool      // no answer came
	refused time.Time // since when answers have come that were refusals
	said    string    // the refusal that was logged
}

func newHealth(server string, log *slog.Logger, changed func()) *health {
	return &health{server: server, log: log, changed: changed, failing: map[string]failure{}}
}

// report takes the outcome of a request for a kind. Each state is logged once.
func (h *health) report(kind string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, failed := h.failing[kind]
	if err == nil {
		if failed {
			h.recovered(kind, before)
		}
		return
	}
	f := failure{since: time.Now(), reason: reasonOf(err), away: !answered(err), said: before.said}
	if failed {
		f.since, f.refused = before.since, before.refused
	} else {
		time.AfterFunc(patience, h.changed)
	}
	h.say(kind, &f)
	h.failing[kind] = f
	if failed && before.reason != f.reason && time.Since(f.since) >= patience {
		h.changed()
	}
}

// say logs a failure that was not logged yet.
func (h *health) say(kind string, f *failure) {
	switch {
	case f.away:
		f.refused = time.Time{}
		if !h.away {
			h.away = true
			h.log.Warn("the API server does not answer; it is asked again until it does, and what was read before still counts",
				"server", h.server, "kind", kind, "error", f.reason)
		}
	case f.refused.IsZero():
		f.refused = time.Now()
	case time.Since(f.refused) >= grace && f.said != f.reason:
		f.said = f.reason
		h.log.Warn("the API server refuses a kind; it is asked again, and what was read before still counts",
			"server", h.server, "kind", kind, "error", f.reason)
	}
}

// answered says whether an error is an answer of an API server.
func answered(err error) bool {
	_, is := errors.AsType[*apierrors.StatusError](err)
	return is
}

// reasonOf is an error without what is different each time: which request it was, and from which port.
func reasonOf(err error) string {
	if e, is := errors.AsType[*url.Error](err); is {
		err = e.Err
	}
	if e, is := errors.AsType[*net.OpError](err); is {
		return e.Op + ": " + e.Err.Error()
	}
	return err.Error()
}

func (h *health) recovered(kind string, f failure) {
	h.forgetLocked(kind)
	if f.said != "" {
		h.log.Info("the API server serves a kind again", "server", h.server, "kind", kind)
	}
	h.changed()
}

// forget is for a kind that is not asked for any more.
func (h *health) forget(kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgetLocked(kind)
}

func (h *health) forgetLocked(kind string) {
	delete(h.failing, kind)
	if h.away && !slices.ContainsFunc(slices.Collect(maps.Values(h.failing)), func(f failure) bool { return f.away }) {
		h.away = false
		h.log.Info("the API server answers again", "server", h.server)
	}
}

// describe names a kind, and why it is not up to date.
func (h *health) describe(kind string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, failed := h.failing[kind]; failed {
		return kind + ": " + f.reason
	}
	if f, failed := h.failing[discovery]; failed {
		return kind + ": " + f.reason
	}
	return kind
}

// problems are the kinds that have not been up to date for long.
func (h *health) problems() []kube.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []kube.Problem
	for _, kind := range slices.SortedFunc(maps.Keys(h.failing), cmp.Compare) {
		if f := h.failing[kind]; time.Since(f.since) >= patience {
			all = append(all, kube.Problem{File: h.server, Object: kind, Reason: "is not up to date, what was read before still counts: " + f.reason})
		}
	}
	return all
}
