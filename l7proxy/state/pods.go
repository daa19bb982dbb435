package state

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/forward"
	"github.com/sluice-mesh/sluice/l7proxy/inbound"
	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/upstream"
)

// Pod is an enrolled pod: whoever connects through its listeners.
type Pod struct {
	Model   model.Pod
	Serving *forward.Client // what its connections share, and where its upstream connections come from

	netns     namespace
	listeners map[model.Family]*inbound.Listener
	open      *connections
}

// namespace tells network namespaces apart.
type namespace struct{ dev, ino uint64 }

// Resync begins the list of pods that follows Hello. When a message says that it is complete, the pods that it did not
// name are gone.
func (s *State) Resync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named = map[string]bool{}
}

// ApplyPods brings a change of the pods into force, and returns those that were refused. It takes over the
// descriptors, of which there are as many as the message needs (package channel sees to that).
func (s *State) ApplyPods(m *model.Pods, fds []int) []model.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.edit(m.Version)
	next.pods = maps.Clone(next.pods)
	var refused []model.Refusal
	var gone []*Pod
	for i := range m.Added {
		p := &m.Added[i]
		own := fds[:1+len(p.Families)]
		fds = fds[len(own):]
		s.name(p.UID)
		delete(next.refused, podUnit(p.UID))
		old := next.pods[p.UID]
		taken, err := s.enroll(p, own, old)
		if err != nil {
			next.refuse(&refused, podUnit(p.UID), model.Refusal{Pod: p.UID, Reason: err.Error()})
			continue
		}
		switch {
		case old == nil:
		case old.netns != taken.netns: // all that it had is in the other namespace
			gone = append(gone, old)
		default:
			s.replaced(old)
		}
		next.pods[p.UID] = taken
	}
	for _, uid := range slices.Concat(m.Removed, s.unnamed(m, next)) {
		delete(next.refused, podUnit(uid))
		if old := next.pods[uid]; old != nil {
			delete(next.pods, uid)
			gone = append(gone, old)
		}
	}
	s.current.Store(next)
	for _, p := range gone {
		s.end(p)
	}
	return refused
}

func (s *State) name(uid string) {
	if s.named != nil {
		s.named[uid] = true
	}
}

// unnamed returns the pods that a list which is complete now did not name.
func (s *State) unnamed(m *model.Pods, next *view) (uids []string) {
	if !m.Complete || s.named == nil {
		return nil
	}
	for uid := range next.pods {
		if !s.named[uid] {
			uids = append(uids, uid)
		}
	}
	s.named = nil
	return uids
}

// enroll makes a Pod of what was sent: the descriptor of its namespace, then its listeners. After an error all of them
// are closed. A pod that is known in the same namespace keeps its connections.
func (s *State) enroll(p *model.EnrolledPod, fds []int, old *Pod) (_ *Pod, err error) {
	taken := &Pod{Model: p.Pod, listeners: map[model.Family]*inbound.Listener{}}
	defer func() {
		if err != nil {
			s.undo(taken, old)
			closeAll(fds)
		}
	}()
	if s.closed {
		return nil, errClosed
	}
	if err := p.Pod.Validate(); err != nil {
		return nil, err
	}
	if taken.netns, err = namespaceOf(fds[0]); err != nil {
		return nil, err
	}
	s.share(taken, fds[0], old) // before the listeners: connections come at once
	fds[0] = -1
	for i, family := range p.Families {
		if taken.listeners[family] != nil || family != model.IPv4 && family != model.IPv6 {
			return nil, fmt.Errorf("listener %d is for %q: want ipv4 or ipv6, each once", i, family)
		}
		l, err := s.cfg.Inbound.Add(fds[1+i], func(fd int) { s.cfg.Accept(fd, taken) })
		if err != nil {
			return nil, fmt.Errorf("its listener for %s: %w", family, err)
		}
		fds[1+i] = -1 // the loop's
		taken.listeners[family] = l
	}
	return taken, nil
}

// undo takes back what enroll did. What old has, if there is an old one, goes on.
func (s *State) undo(taken, old *Pod) {
	s.closeListeners(taken)
	if taken.Serving != nil && (old == nil || old.open != taken.open) {
		taken.Serving.Upstream.Close()
		taken.open.closeAll()
	}
}

// share gives a pod what its connections share, and takes over the descriptor of its namespace. A pod that is added again in
// the same namespace keeps what it had: limits go on counting, and upstream connections stay.
func (s *State) share(p *Pod, netns int, old *Pod) {
	if old == nil || old.netns != p.netns {
		p.open = &connections{}
		p.Serving = &forward.Client{Pod: &p.Model, Upstream: upstream.NewClient(netns, s.cfg.Pools)}
		return
	}
	syscall.Close(netns) // there is one of the same namespace already
	p.open, p.Serving = old.open, old.Serving
	if old.Model != p.Model {
		p.Serving = &forward.Client{Pod: &p.Model, Upstream: old.Serving.Upstream}
	}
}

func namespaceOf(fd int) (namespace, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return namespace{}, fmt.Errorf("look at its network namespace: %w", err)
	}
	return namespace{st.Dev, st.Ino}, nil
}

// replaced lets go of the listeners of a pod that has new ones.
func (s *State) replaced(old *Pod) {
	s.lingering[old] = true
	time.AfterFunc(s.replacedLinger, func() {
		s.closeListeners(old)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.lingering, old)
	})
}

// end lets go of a pod: what is queued is accepted, and what is open gets a moment to end.
func (s *State) end(p *Pod) {
	s.closeListeners(p)
	time.AfterFunc(s.endGrace, func() {
		p.Serving.Upstream.Close()
		p.open.closeAll()
		if s.cfg.Gone != nil {
			s.cfg.Gone(p)
		}
	})
}

func (s *State) closeListeners(p *Pod) {
	for family, l := range p.listeners {
		if err := l.Close(); err != nil {
			s.cfg.Log.Warn("a listener did not close properly", "pod", p.String(), "family", string(family), "error", err)
		}
	}
}

// Close ends accepting: what is queued on the listeners is accepted first. Pods that are added later are refused.
func (s *State) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.current.Load().pods {
		s.closeListeners(p)
	}
	for p := range s.lingering {
		s.closeListeners(p)
	}
}

func (p *Pod) String() string { return p.Model.Namespace + "/" + p.Model.Name }

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			syscall.Close(fd) // nothing was written to it
		}
	}
}
