package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// fakeProxies is package push and the proxies at the other ends: one message at a time to each, which is taken in and
// then acked, by themselves at once or when the test says so.
type fakeProxies struct {
	w       *world
	changed chan struct{}

	state    *push.State
	sessions map[uint64]*fakeProxy
	all      []*fakeProxy // that live: also those without an agent
	lastID   uint64
}

// fakeProxy is a conversation, and the proxy that it is with.
type fakeProxy struct {
	view   push.Proxy
	manual bool // it takes in and acks when it is told to

	// What was sent.
	full, complete bool
	sentServices   map[model.ServiceKey]*model.Service
	sentEndpoints  map[model.EndpointsKey]*model.EndpointSet
	sentPods       map[string]*push.Pod
	out            *packet

	// What it has in force, before the agent knows.
	services  map[model.ServiceKey]*model.Service
	endpoints map[model.EndpointsKey]*model.EndpointSet
	pods      map[string]*heldPod
	lingering []*heldPod // of pods that were replaced
	refused   map[model.ServiceKey]refusedUnit
	refuses   func(*model.Service) string // why it does not take a unit
	lacks     func(*push.Pod) bool        // it does not take a pod
	docile    bool                        // it takes the first state as it is
}

type packet struct {
	state *push.State
	pods  bool
	taken bool
}

type heldPod struct {
	told    *push.Pod
	fds     []int
	sockets []uint64
	until   time.Time // when it is closed, if it was replaced
}

type refusedUnit struct {
	unit   *model.Service
	reason string
}

// connect registers a proxy, with the cgroup 1 unless edits say otherwise.
func (w *world) connect(edits ...func(*fakeProxy)) *fakeProxy {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.proxies
	f.lastID++
	p := &fakeProxy{
		view:          push.Proxy{ID: f.lastID, PID: 1000 + int(f.lastID), Cgroup: 1, Since: time.Now()},
		sentServices:  map[model.ServiceKey]*model.Service{},
		sentEndpoints: map[model.EndpointsKey]*model.EndpointSet{},
		sentPods:      map[string]*push.Pod{},
		services:      map[model.ServiceKey]*model.Service{}, endpoints: map[model.EndpointsKey]*model.EndpointSet{},
		pods: map[string]*heldPod{}, refused: map[model.ServiceKey]refusedUnit{},
	}
	for _, edit := range edits {
		edit(p)
	}
	f.sessions[p.view.ID] = p
	f.all = append(f.all, p)
	w.note("proxy %d registers", p.view.ID)
	mark(f.changed)
	f.proceed(p)
	return p
}

func manual(p *fakeProxy) { p.manual = true }

// restart ends the agent and starts its successor. Kernel and proxies are as they were; the namespaces get new listeners.
func (w *world) restart() {
	if err := w.stop(); err != nil {
		w.t.Errorf("the loop ended with %v", err)
	}
	w.mu.Lock()
	w.note("the agent starts anew")
	w.proxies.sessions, w.proxies.state = map[uint64]*fakeProxy{}, nil
	w.pods.restart()
	w.mu.Unlock()
	w.make()
	w.run()
}

// again connects a proxy that outlived the agent: it has what it had.
func (w *world) again(old *fakeProxy, edits ...func(*fakeProxy)) *fakeProxy {
	w.do(func() { w.proxies.all = slices.DeleteFunc(w.proxies.all, func(p *fakeProxy) bool { return p == old }) })
	return w.connect(append([]func(*fakeProxy){func(p *fakeProxy) {
		p.services, p.endpoints, p.pods, p.lingering, p.view.Cgroup = old.services, old.endpoints, old.pods, old.lingering, old.view.Cgroup
		// An agent that has just been started does not know what a proxy has from its predecessor, so it cannot keep it for
		// a proxy that refuses the first state. This one does not.
		p.docile = true
	}}, edits...)...)
}

// retryPods offers the pods that were refused again.
func (w *world) retryPods(p *fakeProxy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(p.sentPods, func(uid string, _ *push.Pod) bool { return p.pods[uid] == nil })
	w.proxies.proceed(p)
}

// crash ends a proxy: its sockets are closed by the kernel.
func (w *world) crash(p *fakeProxy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("proxy %d is gone", p.view.ID)
	p.closeAll()
	delete(w.proxies.sessions, p.view.ID)
	w.proxies.all = slices.DeleteFunc(w.proxies.all, func(o *fakeProxy) bool { return o == p })
	mark(w.proxies.changed)
}

// drain announces that a proxy is about to stop.
func (w *world) drain(p *fakeProxy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("proxy %d drains", p.view.ID)
	p.view.Draining, p.view.DrainAt = true, time.Now()
	mark(w.proxies.changed)
}

// take lets a proxy take in what is under way to it; ack lets it answer. They tell whether there was anything.
func (w *world) take(p *fakeProxy) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proxies.take(p)
}

func (w *world) ack(p *fakeProxy) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proxies.ack(p)
}

func (f *fakeProxies) Set(s *push.State) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.state = s
	f.w.note("state: %d services, %d endpoint sets, %d pods", len(s.Services), len(s.Endpoints), len(s.Pods))
	for _, id := range slices.Sorted(maps.Keys(f.sessions)) {
		f.proceed(f.sessions[id])
	}
}

func (f *fakeProxies) Proxies() []push.Proxy {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	var all []push.Proxy
	for _, id := range slices.Sorted(maps.Keys(f.sessions)) {
		all = append(all, f.sessions[id].view)
	}
	return all
}

func (f *fakeProxies) Admit(id uint64) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	p := f.sessions[id]
	if p == nil {
		return
	}
	f.w.note("proxy %d is admitted", id)
	p.view.Admitted = true
	f.proceed(p)
}

// Release: the proxy accepts what is queued and nothing more.
func (f *fakeProxies) Release(id uint64) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	p := f.sessions[id]
	if p == nil {
		return
	}
	f.w.note("proxy %d is told that it is released", id)
	if !p.view.Draining {
		f.w.fail("proxy %d is released, which it did not ask for", id)
	}
	p.view.Released = true
	var sockets []uint64
	for _, h := range p.pods {
		sockets = append(sockets, h.sockets...)
	}
	p.closeAll()
	for _, socket := range sockets {
		f.w.mustBeAccepted(fmt.Sprintf("the release of proxy %d", id), socket)
	}
}

func (f *fakeProxies) Changed() <-chan struct{} { return f.changed }

// proceed sends what is due, and lets a proxy that is not under the test's control answer. The lock is held.
func (f *fakeProxies) proceed(p *fakeProxy) {
	for {
		if p.out == nil && f.state != nil {
			p.out = p.next(f.state)
		}
		if p.manual || p.out == nil {
			return
		}
		f.take(p)
		f.ack(p)
	}
}

// next is the message that is due: units before pods, and pods only for who was admitted.
func (p *fakeProxy) next(want *push.State) *packet {
	switch {
	case !p.full, !maps.Equal(p.sentServices, want.Services), !maps.Equal(p.sentEndpoints, want.Endpoints):
		p.full = true
		p.sentServices, p.sentEndpoints = maps.Clone(want.Services), maps.Clone(want.Endpoints)
		return &packet{state: want}
	case p.view.Admitted && (!p.complete || !maps.Equal(p.sentPods, want.Pods)):
		p.complete = true
		p.sentPods = maps.Clone(want.Pods)
		return &packet{state: want, pods: true}
	}
	return nil
}

func (f *fakeProxies) take(p *fakeProxy) bool {
	if p.out == nil || p.out.taken {
		return false
	}
	p.out.taken = true
	what := fmt.Sprintf("proxy %d taking in units", p.view.ID)
	if p.out.pods {
		what = fmt.Sprintf("proxy %d taking in pods", p.view.ID)
		f.takePods(p, what)
	} else {
		p.takeUnits()
	}
	f.w.note("%s", what)
	f.w.checkInvariants(what)
	return true
}

// takeUnits does what package state does: units that leave go first, one whose id another one has waits for that one, and
// one that was refused is not looked at again until it changes.
func (p *fakeProxy) takeUnits() {
	want := p.out.state
	maps.DeleteFunc(p.services, func(k model.ServiceKey, _ *model.Service) bool { return want.Services[k] == nil })
	maps.DeleteFunc(p.refused, func(k model.ServiceKey, _ refusedUnit) bool { return want.Services[k] == nil })
	p.endpoints = maps.Clone(want.Endpoints)
	todo := slices.SortedFunc(maps.Keys(want.Services), model.ServiceKey.Compare)
	todo = slices.DeleteFunc(todo, func(key model.ServiceKey) bool {
		return p.services[key] == want.Services[key] || p.refused[key].unit == want.Services[key]
	})
	for before := len(todo) + 1; len(todo) < before; {
		before = len(todo)
		todo = slices.DeleteFunc(todo, func(key model.ServiceKey) bool {
			s := want.Services[key]
			reason := p.why(s)
			if reason == "" {
				delete(p.refused, key)
				p.services[key] = s
				return true
			}
			p.refused[key] = refusedUnit{s, reason}
			return reason != idTaken
		})
	}
	p.swap(todo)
}

// swap takes units in that wait for each other's ids.
func (p *fakeProxy) swap(todo []model.ServiceKey) {
	before := maps.Clone(p.services)
	for _, key := range todo {
		delete(p.services, key)
	}
	for _, key := range todo {
		if p.why(p.out.state.Services[key]) != "" {
			p.services = before // the id is that of a unit which stays
			return
		}
		p.services[key] = p.out.state.Services[key]
	}
	for _, key := range todo {
		delete(p.refused, key)
	}
}

const idTaken = "a frontend's id is taken"

func (p *fakeProxy) why(s *model.Service) string {
	if err := s.Validate(); err != nil {
		return err.Error()
	}
	if p.refuses != nil && (!p.docile || p.view.Synced) {
		if reason := p.refuses(s); reason != "" {
			return reason
		}
	}
	for _, id := range addresses(s) {
		for key, other := range p.services {
			for _, has := range addresses(other) {
				if has == id && key != s.ServiceKey {
					return idTaken
				}
			}
		}
	}
	return ""
}

func (f *fakeProxies) takePods(p *fakeProxy, what string) {
	want := p.out.state
	for uid, h := range p.pods {
		if want.Pods[uid] == h.told {
			continue
		}
		delete(p.pods, uid)
		if want.Pods[uid] != nil { // as package state does: until the new listeners are steered to
			h.until = time.Now().Add(2 * time.Second)
			p.lingering = append(p.lingering, h)
			continue
		}
		h.close()
		for _, socket := range h.sockets {
			f.w.mustBeAccepted(what, socket)
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(want.Pods)) {
		told := want.Pods[uid]
		if p.pods[uid] != nil || p.view.Released || p.lacks != nil && p.lacks(told) {
			continue
		}
		fds, err := told.Descriptors()
		if err != nil {
			continue // it was released meanwhile
		}
		h := &heldPod{told: told, fds: fds}
		for _, fd := range fds[1:] {
			socket, err := inode(fd)
			if err != nil {
				panic(err)
			}
			h.sockets = append(h.sockets, socket)
		}
		p.pods[uid] = h
	}
}

func (f *fakeProxies) ack(p *fakeProxy) bool {
	if p.out == nil || !p.out.taken {
		return false
	}
	if p.out.pods {
		p.view.Pods = map[string]*push.Pod{}
		for uid, h := range p.pods {
			if p.sentPods[uid] == h.told {
				p.view.Pods[uid] = h.told
			}
		}
		p.view.Ready = true
	} else {
		p.view.Services = maps.Clone(p.services)
		p.view.Refused = nil
		for _, key := range slices.SortedFunc(maps.Keys(p.refused), model.ServiceKey.Compare) {
			p.view.Refused = append(p.view.Refused, model.Refusal{Service: &key, Reason: p.refused[key].reason})
		}
		p.view.Synced = true
	}
	f.w.note("proxy %d acks", p.view.ID)
	p.out = nil
	mark(f.changed)
	if f.state != nil {
		p.out = p.next(f.state)
	}
	return true
}

// holders are the proxies that accept on a socket. The lock is held.
func (f *fakeProxies) holders(socket uint64) []*fakeProxy {
	var found []*fakeProxy
	for _, p := range f.all {
		if p.holds(socket) {
			found = append(found, p)
		}
	}
	return found
}

func (f *fakeProxies) has(socket uint64) bool { return len(f.holders(socket)) > 0 }

func (p *fakeProxy) holds(socket uint64) bool {
	p.lingering = slices.DeleteFunc(p.lingering, func(h *heldPod) bool {
		over := !time.Now().Before(h.until)
		if over {
			h.close()
		}
		return over
	})
	return slices.ContainsFunc(slices.AppendSeq(slices.Clone(p.lingering), maps.Values(p.pods)),
		func(h *heldPod) bool { return slices.Contains(h.sockets, socket) })
}

func (p *fakeProxy) closeAll() {
	for uid, h := range p.pods {
		h.close()
		delete(p.pods, uid)
	}
	for _, h := range p.lingering {
		h.close()
	}
	p.lingering = nil
}

func (h *heldPod) close() {
	for _, fd := range h.fds {
		unix.Close(fd)
	}
	h.fds = nil
}

func (f *fakeProxies) closeAll() {
	for _, p := range f.all {
		p.closeAll()
	}
}
