package push

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// book is what is known of one proxy: what it was sent, what it has in force, what it refused. It is plain data.
type book struct {
	full     bool // the full Update was sent
	complete bool // the full list of pods was acked
	podsTurn bool // the last message was an Update: pods are not starved by endpoints that keep changing

	// What was sent last of each unit, whether it was taken or not: a refused unit is not sent again until it changes. The first
	// two are a State's, which nobody edits.
	sentServices  map[model.ServiceKey]*model.Service
	sentEndpoints map[model.EndpointsKey]*model.EndpointSet
	sentPods      map[string]*Pod

	// What is in force. These two are replaced, never edited: snapshots share them.
	services map[model.ServiceKey]*model.Service
	pods     map[string]*Pod

	refused map[string]model.Refusal // by unit
	out     *message                 // sent and not acked yet
}

func newBook() *book {
	return &book{
		sentServices:  map[model.ServiceKey]*model.Service{},
		sentEndpoints: map[model.EndpointsKey]*model.EndpointSet{},
		sentPods:      map[string]*Pod{},
		refused:       map[string]model.Refusal{},
	}
}

// message is an Update, or Pods with the pods that it adds.
type message struct {
	update *model.Update
	pods   *model.Pods
	added  []*Pod
	unsent []model.Refusal // of those added, what the agent itself could not send
}

func (m *message) version() uint64 {
	if m.update != nil {
		return m.update.Version
	}
	return m.pods.Version
}

// next is the message that brings the proxy closer to the state, or nil when it has everything. The full Update comes
// first: a listener is of no use to a proxy that does not know what may arrive on it.
func (b *book) next(want *State, admitted bool) *message {
	if want == nil || b.out != nil {
		return nil
	}
	if admitted && b.podsTurn {
		if m := b.nextPods(want); m != nil {
			return m
		}
	}
	if u := b.nextUpdate(want); u != nil {
		return &message{update: u}
	}
	if !admitted {
		return nil
	}
	return b.nextPods(want)
}

func (b *book) nextUpdate(want *State) *model.Update {
	u := &model.Update{Full: !b.full}
	for k, s := range want.Services {
		if b.sentServices[k] != s {
			u.Services = append(u.Services, *s)
		}
	}
	for k, e := range want.Endpoints {
		if b.sentEndpoints[k] != e {
			u.Endpoints = append(u.Endpoints, *e)
		}
	}
	for k := range b.sentServices {
		if _, stays := want.Services[k]; !stays {
			u.RemovedServices = append(u.RemovedServices, k)
		}
	}
	for k := range b.sentEndpoints {
		if _, stays := want.Endpoints[k]; !stays {
			u.RemovedEndpoints = append(u.RemovedEndpoints, k)
		}
	}
	if !u.Full && len(u.Services)+len(u.Endpoints)+len(u.RemovedServices)+len(u.RemovedEndpoints) == 0 {
		return nil
	}
	slices.SortFunc(u.Services, func(a, b model.Service) int { return a.ServiceKey.Compare(b.ServiceKey) })
	slices.SortFunc(u.Endpoints, func(a, b model.EndpointSet) int { return a.EndpointsKey.Compare(b.EndpointsKey) })
	slices.SortFunc(u.RemovedServices, model.ServiceKey.Compare)
	slices.SortFunc(u.RemovedEndpoints, model.EndpointsKey.Compare)
	return u
}

func (b *book) nextPods(want *State) *message {
	m := &message{pods: &model.Pods{}}
	var added []*Pod
	for uid, p := range want.Pods {
		if b.sentPods[uid] != p {
			added = append(added, p)
		}
	}
	for uid := range b.sentPods {
		if _, stays := want.Pods[uid]; !stays {
			m.pods.Removed = append(m.pods.Removed, uid)
		}
	}
	slices.Sort(m.pods.Removed)
	slices.SortFunc(added, func(a, b *Pod) int { return cmp.Compare(a.UID, b.UID) })
	m.added = added[:fitting(added)]
	m.pods.Complete = !b.complete && len(m.added) == len(added)
	if len(m.added) == 0 && len(m.pods.Removed) == 0 && !m.pods.Complete {
		return nil
	}
	return m
}

// fitting is how many of the pods go into one message.
func fitting(pods []*Pod) int {
	room := channel.MaxDescriptors
	for i, p := range pods {
		room -= 1 + len(p.Families)
		if room < 0 {
			return i
		}
	}
	return len(pods)
}

// sent notes what is under way.
func (b *book) sent(m *message, want *State) {
	b.out = m
	b.podsTurn = m.update != nil
	if m.update != nil {
		b.full = true
		b.sentServices, b.sentEndpoints = want.Services, want.Endpoints
		return
	}
	for _, p := range m.added {
		b.sentPods[p.UID] = p
	}
	for _, uid := range m.pods.Removed {
		delete(b.sentPods, uid)
	}
}

// acked notes the answer to what is under way. It returns the refusals that are new.
func (b *book) acked(a *model.Ack) ([]model.Refusal, error) {
	if b.out == nil || a.Version != b.out.version() {
		return nil, fmt.Errorf("it acked version %d, which was not under way", a.Version)
	}
	m := b.out
	b.out = nil
	refused := map[string]model.Refusal{}
	for _, r := range slices.Concat(m.unsent, a.Refused) {
		refused[unitOf(r)] = r
	}
	if m.update != nil {
		b.ackUpdate(m.update, refused)
	} else {
		b.ackPods(m, refused)
	}
	return b.noteRefused(m, refused), nil
}

func (b *book) ackUpdate(u *model.Update, refused map[string]model.Refusal) {
	if b.services != nil && len(u.Services)+len(u.RemovedServices) == 0 { // endpoints change most
		return
	}
	services := maps.Clone(b.services)
	if services == nil {
		services = map[model.ServiceKey]*model.Service{}
	}
	for i := range u.Services {
		k := u.Services[i].ServiceKey
		if _, not := refused[serviceUnit(k)]; !not {
			services[k] = b.sentServices[k]
		}
	}
	for _, k := range u.RemovedServices {
		delete(services, k)
	}
	b.services = services
}

func (b *book) ackPods(m *message, refused map[string]model.Refusal) {
	b.complete = b.complete || m.pods.Complete
	pods := maps.Clone(b.pods)
	if pods == nil {
		pods = map[string]*Pod{}
	}
	for _, p := range m.added {
		delete(pods, p.UID)
		if _, not := refused[podUnit(p.UID)]; !not {
			pods[p.UID] = p
		}
	}
	for _, uid := range m.pods.Removed {
		delete(pods, uid)
	}
	b.pods = pods
}

// noteRefused keeps the refusals of the units that the message named, and forgets the earlier ones of the same units.
func (b *book) noteRefused(m *message, refused map[string]model.Refusal) []model.Refusal {
	var fresh []model.Refusal
	for _, unit := range unitsOf(m) {
		before, was := b.refused[unit]
		delete(b.refused, unit)
		if r, not := refused[unit]; not {
			b.refused[unit] = r
			if !was || before.Reason != r.Reason {
				fresh = append(fresh, r)
			}
		}
	}
	return fresh
}

// forgetRefusedPods makes the refused pods due again: what a proxy lacked for one, such as descriptors, may be there
// by now. It tells whether there are any.
func (b *book) forgetRefusedPods() bool {
	found := false
	for _, r := range b.refused {
		if r.Pod != "" {
			delete(b.sentPods, r.Pod)
			found = true
		}
	}
	return found
}

func (b *book) refusals() []model.Refusal {
	return slices.SortedFunc(maps.Values(b.refused), func(x, y model.Refusal) int { return cmp.Compare(unitOf(x), unitOf(y)) })
}

func serviceUnit(k model.ServiceKey) string     { return "Service " + k.String() }
func endpointsUnit(k model.EndpointsKey) string { return "endpoints of " + k.String() }
func podUnit(uid string) string                 { return "pod " + uid }

// unitOf names the unit that was refused, for people and as a key.
func unitOf(r model.Refusal) string {
	switch {
	case r.Service != nil:
		return serviceUnit(*r.Service)
	case r.Endpoints != nil:
		return endpointsUnit(*r.Endpoints)
	default:
		return podUnit(r.Pod)
	}
}

func unitsOf(m *message) []string {
	var units []string
	if u := m.update; u != nil {
		for i := range u.Services {
			units = append(units, serviceUnit(u.Services[i].ServiceKey))
		}
		for i := range u.Endpoints {
			units = append(units, endpointsUnit(u.Endpoints[i].EndpointsKey))
		}
		for _, k := range u.RemovedServices {
			units = append(units, serviceUnit(k))
		}
		for _, k := range u.RemovedEndpoints {
			units = append(units, endpointsUnit(k))
		}
		return units
	}
	for _, p := range m.added {
		units = append(units, podUnit(p.UID))
	}
	for _, uid := range m.pods.Removed {
		units = append(units, podUnit(uid))
	}
	return units
}
