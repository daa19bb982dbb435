package enroll

import (
	"fmt"
	"net/netip"
	"time"
)

// Sandbox is what the container runtime says of a pod's sandbox, before the pod's containers start.
type Sandbox struct {
	Attachment
	UID, Namespace, Name string       // of the pod; UID is "" where the runtime does not tell it
	NetNS                string       // path of its network namespace, as the host names it
	IPs                  []netip.Addr // what the pod was given
}

// Attachment names an interface of a sandbox.
type Attachment struct{ Network, ContainerID, IfName string }

// sandbox is one that is known.
type sandbox struct {
	Sandbox
	path    string // by which we reach its namespace
	id      nsID
	number  int       // a later one is greater
	started time.Time // its containers may have been started since; zero: not yet
}

// of tells whether the sandbox is the pod's.
func (s *sandbox) of(w Wanted) bool {
	if s.UID != "" {
		return s.UID == w.UID
	}
	return s.Namespace == w.Namespace && s.Name == w.Name
}

// Announce says that a sandbox was made. Its pod is enrolled as soon as it is desired, which may be later. The path is
// looked at: an error says that it names no pod's network namespace.
func (e *Enroller) Announce(s Sandbox) error {
	path, id, err := e.machine.resolve(s.NetNS)
	if err != nil {
		return fmt.Errorf("the sandbox of pod %s/%s: %w", s.Namespace, s.Name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count++
	e.sandboxes[s.ContainerID] = &sandbox{Sandbox: s, path: path, id: id, number: e.count}
	for uid, f := range e.failed {
		if s.UID == uid || s.UID == "" {
			f.next = time.Time{} // it can be tried now
		}
	}
	mark(e.kick)
	return nil
}

// Started says that the containers of a sandbox may start from now on, although the pod is not served yet.
func (e *Enroller) Started(containerID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sandboxes[containerID]
	if s == nil || !s.started.IsZero() {
		return
	}
	s.started = time.Now()
	for _, h := range e.held {
		if h.pod.id == s.id {
			h.started = s.started
		}
	}
}

// Cookie is that of the namespace in which the sandbox's pod is enrolled; 0: it is not, or not any more.
func (e *Enroller) Cookie(containerID string) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sandboxes[containerID]
	for _, h := range e.held {
		if s != nil && h.pod.id == s.id && h.ending == "" {
			return h.pod.Cookie
		}
	}
	return 0
}

// TakenDown says that a sandbox is on its end: its pod is let go of at once. NetNS may be "". A sandbox that was not
// announced, because the agent was started since, is known by its namespace.
func (e *Enroller) TakenDown(a Attachment, netns string) {
	var id nsID
	if netns != "" {
		// Without its namespace there is nothing to be found, and nothing that the reconciler would not find.
		_, id, _ = e.machine.resolve(netns)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sandboxes[a.ContainerID]; s != nil {
		if s.IfName != a.IfName { // a further interface of it, which is none of ours
			return
		}
		id = s.id
		delete(e.sandboxes, a.ContainerID)
	}
	e.letGo(id, "its sandbox is taken down")
}

// Keep says which attachments of a network there are: every other sandbox of it is gone.
func (e *Enroller) Keep(network string, valid []Attachment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	there := map[Attachment]bool{}
	for _, a := range valid {
		there[Attachment{network, a.ContainerID, a.IfName}] = true
	}
	for id, s := range e.sandboxes {
		if s.Network == network && !there[s.Attachment] {
			delete(e.sandboxes, id)
			e.letGo(s.id, "its sandbox is gone, as the container runtime says")
		}
	}
}

// letGo ends the pod that has the namespace. The lock is held.
func (e *Enroller) letGo(id nsID, why string) {
	for _, h := range e.held {
		if h.pod.id == id && (h.ending == "" || h.leaving) {
			e.markEnd(h, why, false)
			mark(e.changed)
		}
	}
}

// sandboxOf returns the latest sandbox of the pod, or nil. The lock is held.
func (e *Enroller) sandboxOf(w Wanted) *sandbox {
	var latest *sandbox
	for _, s := range e.sandboxes {
		if s.of(w) && (latest == nil || s.number > latest.number) {
			latest = s
		}
	}
	return latest
}

// forgetSandboxes drops those whose namespace is gone: nobody said so.
func (e *Enroller) forgetSandboxes() {
	e.mu.Lock()
	all := make([]*sandbox, 0, len(e.sandboxes))
	for _, s := range e.sandboxes {
		all = append(all, s)
	}
	e.mu.Unlock()
	for _, s := range all {
		if e.machine.check(s.path, s.id) == nil {
			continue
		}
		e.mu.Lock()
		if e.sandboxes[s.ContainerID] == s {
			delete(e.sandboxes, s.ContainerID)
		}
		e.mu.Unlock()
	}
}
