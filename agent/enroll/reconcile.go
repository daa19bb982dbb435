package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// errLastProcess is why a pod that was found by its processes is released.
var errLastProcess = errors.New("its last process ended")

// reconcile is one turn: what has ended is marked, what is missing is enrolled. It tells whether anything changed.
// Only Run's goroutine is here, and the lock is not held while the machine is asked, which may take its time.
func (e *Enroller) reconcile(ctx context.Context) bool {
	e.forgetSandboxes()
	changed := e.markEnding()
	due := e.due(time.Now())
	at := e.locate(due)
	for _, w := range due {
		if ctx.Err() != nil {
			break
		}
		changed = e.enroll(w, at[w.UID]) || changed
	}
	return changed
}

// markEnding looks at every pod that is held: is its namespace still there, and is it still wanted?
func (e *Enroller) markEnding() bool {
	changed := false
	var lost []*held
	for _, h := range e.current() {
		err := e.machine.check(h.path, h.pod.id)
		switch {
		case err == nil:
			changed = e.judge(h) || changed
		case h.wanted.NetNS == "":
			lost = append(lost, h) // that process ended; another may hold the namespace
		default:
			changed = e.end(h, err.Error())
		}
	}
	changed = e.lookAgain(lost) || changed
	return e.forgetFailures() || changed
}

// judge compares a pod whose namespace is there with what is wanted. One that was to leave may be wanted again.
func (e *Enroller) judge(h *held) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h.ending != "" && !h.leaving { // its sandbox was taken down meanwhile
		return false
	}
	w, wanted := e.desired[h.pod.UID]
	if !wanted {
		return !h.leaving && e.markEnd(h, "it is not to be enrolled any more", true)
	}
	if s := e.sandboxOf(w); s != nil && w.NetNS == "" && s.id != h.pod.id {
		return e.markEnd(h, "it has a new sandbox", false)
	}
	if !h.suits(w) {
		return e.markEnd(h, "its object changed", false)
	}
	h.wanted = w
	if !h.leaving {
		return false
	}
	h.ending, h.leaving = "", false
	e.log.Info("pod stays enrolled", "pod", w)
	return true
}

// current returns the pods that are held, without those whose end is settled.
func (e *Enroller) current() []*held {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*held
	for _, h := range e.held {
		if h.ending == "" || h.leaving {
			all = append(all, h)
		}
	}
	return all
}

// end marks a pod as one to be released; it returns true.
func (e *Enroller) end(h *held, why string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.markEnd(h, why, false)
}

// markEnd is end with the lock held.
func (e *Enroller) markEnd(h *held, why string, leaving bool) bool {
	h.ending, h.leaving = why, leaving
	e.log.Info("pod is to be released", "pod", h.wanted, "reason", why)
	return true
}

// forgetFailures drops those of pods that are not wanted any more.
func (e *Enroller) forgetFailures() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := false
	for uid := range e.failed {
		if _, wanted := e.desired[uid]; !wanted {
			delete(e.failed, uid)
			changed = true
		}
	}
	return changed
}

// suits tells whether the pod, as it was enrolled, is what w asks for.
func (h *held) suits(w Wanted) bool {
	if h.wanted.equal(w) {
		return true
	}
	if h.wanted.Pod != w.Pod || h.wanted.NetNS != w.NetNS {
		return false
	}
	// Its status was filled in meanwhile: a change only if we found another address than it names. That it does not name
	// one which the namespace has is none.
	same := func(named, found netip.Addr) bool { return !named.IsValid() || named == found }
	v4, v6, err := addresses(w.IPs)
	return len(w.IPs) == 0 || err == nil && same(v4, h.pod.IPv4) && same(v6, h.pod.IPv6)
}

// lookAgain finds pods whose process ended by another of their processes.
func (e *Enroller) lookAgain(lost []*held) bool {
	if len(lost) == 0 {
		return false
	}
	uids := map[string]bool{}
	for _, h := range lost {
		uids[h.pod.UID] = true
	}
	found, err := e.machine.find(uids)
	if err != nil {
		e.log.Error("the processes of pods cannot be listed", "error", err)
		return false
	}
	changed := false
	for _, h := range lost {
		at := found[h.pod.UID]
		err := errLastProcess
		if at.path != "" {
			err = e.machine.check(at.path, h.pod.id)
		} else if at.err != nil {
			continue // it lives, but we may not look at it any more
		}
		if err != nil {
			changed = e.end(h, err.Error())
			continue
		}
		h.path = at.path
		changed = e.judge(h) || changed
	}
	return changed
}

// due returns the pods that are missing and whose time has come.
func (e *Enroller) due(now time.Time) []Wanted {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due []Wanted
	for uid, w := range e.desired {
		if f := e.failed[uid]; e.held[uid] == nil && (f == nil || !now.Before(f.next)) {
			due = append(due, w)
		}
	}
	slices.SortFunc(due, func(a, b Wanted) int { return cmp.Compare(a.UID, b.UID) })
	return due
}

// place is where a pod's namespace was found.
type place struct {
	path    string // "": err says why there is none
	by      By
	started time.Time
	ips     []netip.Addr
	err     error
}

// locate finds the namespace of each pod: by what its object says, what the runtime announced, or a process of it.
func (e *Enroller) locate(due []Wanted) map[string]place {
	all, search := map[string]place{}, map[string]bool{}
	for _, w := range due {
		if p := e.announced(w); p.path != "" {
			all[w.UID] = p
		} else {
			search[w.UID] = true
		}
	}
	if len(search) == 0 {
		return all
	}
	found, err := e.machine.find(search)
	if err != nil {
		e.log.Error("the processes of pods cannot be listed", "error", err)
	}
	for uid := range search {
		at := found[uid]
		p := place{path: at.path, by: ByFound, started: at.started, err: cmp.Or(err, at.err, ErrNoProcess)}
		if at.started.Before(e.began) {
			p.by = ByRunning
		}
		all[uid] = p
	}
	return all
}

// announced returns what is known of a pod's namespace without looking for it.
func (e *Enroller) announced(w Wanted) place {
	if w.NetNS != "" {
		return place{path: w.NetNS, by: ByName}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sandboxOf(w); s != nil {
		return place{path: s.path, by: ByPlugin, started: s.started, ips: s.IPs}
	}
	return place{}
}

// enroll tries one pod. It tells whether there is something new to say of it.
func (e *Enroller) enroll(w Wanted, at place) bool {
	pod, err := e.attempt(w, at)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		return e.noteFailure(w, err)
	}
	delete(e.failed, w.UID)
	if s := e.sandboxOf(w); at.by == ByPlugin && s != nil {
		at.started = s.started
	}
	e.held[w.UID] = &held{pod: pod, wanted: w, path: at.path, by: at.by, started: at.started}
	e.log.Info("pod enrolled", "pod", w, "by", at.by, "cookie", pod.Cookie, "ipv4", pod.IPv4, "ipv6", pod.IPv6)
	return true
}

func (e *Enroller) attempt(w Wanted, at place) (*Pod, error) {
	if at.path == "" {
		return nil, at.err
	}
	id, err := e.machine.identify(at.path)
	if err != nil && w.NetNS == "" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)) {
		return nil, ErrNoProcess // it has just ended
	}
	if err != nil {
		return nil, fmt.Errorf("find the network namespace %s: %w", at.path, err)
	}
	if other := e.holder(id); other != "" {
		return nil, fmt.Errorf("the network namespace %s is that of pod %s", at.path, other)
	}
	if len(w.IPs) == 0 {
		w.IPs = at.ips // its status says nothing yet
	}
	return e.machine.open(w, at.path)
}

// holder names the pod that has the namespace already, or is "".
func (e *Enroller) holder(id nsID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.held {
		if h.pod.id == id {
			return h.pod.String()
		}
	}
	return ""
}

// noteFailure sets the time of the next attempt. A failure is logged when it is new. The lock is held.
func (e *Enroller) noteFailure(w Wanted, err error) bool {
	f := e.failed[w.UID]
	fresh := f == nil || f.err.Error() != err.Error()
	if f == nil {
		f = &failure{backoff: retryFirst / 2}
		e.failed[w.UID] = f
	}
	f.err = err
	f.backoff = min(2*f.backoff, retryAtMost)
	if errors.Is(err, ErrNoProcess) {
		f.backoff = min(f.backoff, searchAtMost)
	}
	now := time.Now()
	f.next = now.Add(f.backoff)
	if errors.Is(err, ErrNoProcess) && now.Before(e.hurry) {
		f.backoff, f.next = retryFirst/2, now.Add(hurryEvery)
	}
	switch {
	case fresh && errors.Is(err, ErrNoProcess): // as each pod before its sandbox is made
		e.log.Debug("pod is to be enrolled when it runs", "pod", w)
	case fresh:
		e.log.Warn("pod cannot be enrolled, more attempts follow", "pod", w, "reason", err)
	}
	return fresh
}
