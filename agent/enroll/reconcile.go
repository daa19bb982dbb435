package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// reconcile is one turn: what has ended is marked, what is missing is enrolled. It tells whether anything changed.
// Only Run's goroutine is here, and the lock is not held while the machine is asked, which may take its time.
func (e *Enroller) reconcile(ctx context.Context) bool {
	changed := e.markEnding()
	due := e.due(time.Now())
	paths := e.locate(due)
	for _, w := range due {
		if ctx.Err() != nil {
			break
		}
		changed = e.enroll(w, paths[w.UID]) || changed
	}
	return changed
}

// markEnding looks at every pod that is held: is it still wanted, and is its namespace still there?
func (e *Enroller) markEnding() bool {
	changed := false
	var lost []*held
	for _, h := range e.current() {
		w, wanted := e.wanted(h.pod.UID)
		switch {
		case !wanted:
			changed = e.end(h, "it is not to be enrolled any more")
		case !h.suits(w):
			changed = e.end(h, "its object changed")
		default:
			h.wanted = w
			err := e.machine.check(h.path, h.pod.id)
			if err != nil && w.NetNS == "" {
				lost = append(lost, h) // that process ended; another may hold the namespace
			} else if err != nil {
				changed = e.end(h, err.Error())
			}
		}
	}
	changed = e.lookAgain(lost) || changed
	return e.forgetFailures() || changed
}

// current returns the pods that are held and not ending.
func (e *Enroller) current() []*held {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*held
	for _, h := range e.held {
		if h.ending == "" {
			all = append(all, h)
		}
	}
	return all
}

func (e *Enroller) wanted(uid string) (Wanted, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.desired[uid]
	return w, ok
}

// end marks a pod as one to be released; it returns true.
func (e *Enroller) end(h *held, why string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	h.ending = why
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
	// Its status was filled in meanwhile: a change only if we found other addresses than it names.
	v4, v6, err := addresses(w.IPs)
	return len(w.IPs) == 0 || err == nil && v4 == h.pod.IPv4 && v6 == h.pod.IPv6
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
	found, err := e.machine.scan(uids)
	if err != nil {
		e.log.Error("the processes of pods cannot be listed", "error", err)
		return false
	}
	ended := false
	for _, h := range lost {
		path, ok := found[h.pod.UID]
		if !ok {
			ended = e.end(h, "its last process ended")
		} else if err := e.machine.check(path, h.pod.id); err != nil {
			ended = e.end(h, err.Error())
		} else {
			h.path = path
		}
	}
	return ended
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

// locate returns a path to the namespace of each pod that has one: what its annotation says, or a process of it.
func (e *Enroller) locate(due []Wanted) map[string]string {
	paths, search := map[string]string{}, map[string]bool{}
	for _, w := range due {
		if w.NetNS != "" {
			paths[w.UID] = w.NetNS
		} else {
			search[w.UID] = true
		}
	}
	if len(search) == 0 {
		return paths
	}
	found, err := e.machine.scan(search)
	if err != nil {
		e.log.Error("the processes of pods cannot be listed", "error", err)
		return paths
	}
	maps.Copy(paths, found)
	return paths
}

// enroll tries one pod. It tells whether there is something new to say of it.
func (e *Enroller) enroll(w Wanted, path string) bool {
	pod, err := e.attempt(w, path)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		return e.noteFailure(w, err)
	}
	delete(e.failed, w.UID)
	e.held[w.UID] = &held{pod: pod, wanted: w, path: path}
	e.log.Info("pod enrolled", "pod", w, "cookie", pod.Cookie, "ipv4", pod.IPv4, "ipv6", pod.IPv6)
	return true
}

func (e *Enroller) attempt(w Wanted, path string) (*Pod, error) {
	if path == "" {
		return nil, errNoProcess
	}
	id, err := e.machine.identify(path)
	if err != nil {
		return nil, fmt.Errorf("find the network namespace %s: %w", path, err)
	}
	if other := e.holder(id); other != "" {
		return nil, fmt.Errorf("the network namespace %s is that of pod %s", path, other)
	}
	return e.machine.open(w, path)
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
	if errors.Is(err, errNoProcess) {
		f.backoff = min(f.backoff, searchAtMost)
	}
	f.next = time.Now().Add(f.backoff)
	if fresh {
		e.log.Warn("pod cannot be enrolled, more attempts follow", "pod", w, "reason", err)
	}
	return fresh
}
