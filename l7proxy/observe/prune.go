package observe

import (
	"iter"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// linger is how long a series stays after what it counts went: long enough to be scraped, and for a route that is
// deleted and made anew.
const linger = 5 * time.Minute

// pruneEvery bounds what many changes cost.
const pruneEvery = time.Second

// inForce is what there is in the model, as far as there are series of it.
type inForce struct {
	pods    map[*model.Pod]bool
	clients map[clientKey]bool
	rules   map[*model.Rule]bool // false: is not in force
	scopes  map[scope]bool       // of the Services of which it has to be looked at
}

func (m *metrics) prune(now time.Time, pods []*model.Pod, services []*model.Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := now.Sub(m.pruned); 0 <= since && since < pruneEvery {
		return
	}
	m.pruned = now
	f := m.inForce(pods, services)
	known := m.known(f)
	f.addScopes(services, m.unknown(known))

	gone := map[*series]bool{}
	for id, s := range m.series {
		if expired(&s.stale, f.clients[id.client] && (known[s] || f.scopes[id.scope]), now) {
			delete(m.series, id)
			gone[s] = true
		}
	}
	room := len(m.series) < m.max
	m.handles.keep(func(h handle, s *series) bool {
		// A handle of an old rule keeps all of its Service in memory, and few exchanges will still use it.
		current := f.rules[h.rule] || h.rule == nil && h.backend == nil
		outdated := gone[s] || room && s == m.other
		return current && f.pods[h.pod] && !outdated
	})
	m.pruneClients(now, f)
}

// pruneClients keeps a workload that has something open: what is subtracted has to find what was added. So whoever is
// counted as other stays that.
func (m *metrics) pruneClients(now time.Time, f inForce) {
	for key, c := range m.clients {
		if expired(&c.stale, f.clients[key] || c.totals().active(), now) {
			delete(m.clients, key)
		}
	}
	m.pods.keep(func(pod *model.Pod, c *client) bool {
		return m.clients[c.key] == c && (f.pods[pod] || c.key == otherClient() && c.totals().active())
	})
}

// expired keeps the time since when something is not in force, and tells whether that was long enough ago.
func expired(since *time.Time, live bool, now time.Time) bool {
	switch {
	case live:
		*since = time.Time{}
		return false
	case since.IsZero():
		*since = now
		return false
	default:
		return now.Sub(*since) >= linger
	}
}

func (m *metrics) inForce(pods []*model.Pod, services []*model.Service) inForce {
	f := inForce{
		pods:    map[*model.Pod]bool{nil: true}, // an unknown client's
		clients: map[clientKey]bool{{}: true},
		rules:   map[*model.Rule]bool{},
		scopes:  map[scope]bool{},
	}
	for _, p := range pods {
		f.pods[p] = true
		f.clients[clientOf(p)] = true
	}
	for e := range m.handles.entries {
		f.rules[e.key.rule] = false
	}
	for _, s := range services {
		for _, rules := range tables(s) {
			for i := range rules {
				if _, used := f.rules[&rules[i]]; used {
					f.rules[&rules[i]] = true
				}
			}
		}
	}
	return f
}

// known are the series of which a handle tells that their rule is in force. Most changes leave most rules alone, and
// to look at names would cost ten times as much.
func (m *metrics) known(f inForce) map[*series]bool {
	known := map[*series]bool{}
	for e := range m.handles.entries {
		if f.rules[e.key.rule] {
			known[e.value] = true
		}
	}
	return known
}

// unknown are the Services of the other series.
func (m *metrics) unknown(known map[*series]bool) map[model.ServiceKey]bool {
	unknown := map[model.ServiceKey]bool{}
	for id, s := range m.series {
		if !known[s] {
			unknown[id.scope.service] = true
		}
	}
	return unknown
}

func (f *inForce) addScopes(services []*model.Service, of map[model.ServiceKey]bool) {
	for _, s := range services {
		if !of[s.ServiceKey] {
			continue
		}
		for i := range s.Ports {
			p := scope{service: s.ServiceKey, port: s.Ports[i].Number}
			f.scopes[p] = true
			p.setBackend(s.Ports[i].Default) // what passes through
			f.scopes[p] = true
		}
		for port, rules := range tables(s) {
			for i := range rules {
				f.scopes[scopeOf(s.ServiceKey, port, &rules[i], nil)] = true
				for j := range rules[i].Backends {
					f.scopes[scopeOf(s.ServiceKey, port, &rules[i], &rules[i].Backends[j])] = true
				}
			}
		}
	}
}

// tables are the rules of each table of a Service, with the number of their port.
func tables(s *model.Service) iter.Seq2[uint16, []model.Rule] {
	return func(yield func(uint16, []model.Rule) bool) {
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Producer != nil && !yield(p.Number, p.Producer.Rules) {
				return
			}
			for _, t := range p.Consumers {
				if t != nil && !yield(p.Number, t.Rules) {
					return
				}
			}
		}
	}
}
