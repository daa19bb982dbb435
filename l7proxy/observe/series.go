package observe

import (
	"cmp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// metrics are the counters of all series. An exchange finds its series by a handle, whose key is what it has at hand;
// only the first of a kind takes the lock and looks at names.
type metrics struct {
	max    int // of series, and of clients
	shards *shards
	began  time.Time

	handles *table[handle, series]
	pods    *table[*model.Pod, client]

	mu      sync.Mutex // of what follows, and for writing to the two tables
	series  map[identity]*series
	clients map[clientKey]*client
	other   *series // of what comes when there are max already
	pruned  time.Time
}

// handle is what tells exchanges apart without looking at names. Pods and rules keep their pointers from one change of
// the model to the next; after it, other handles lead to the same series.
type handle struct {
	pod     *model.Pod
	rule    *model.Rule // it implies the Service
	backend *model.Backend
	status  int
	grpc    GRPC
	port    int

	failure string
	service model.ServiceKey // set only where there is no rule: hashing strings is what costs most here
}

func handleOf(rec *Record) handle {
	h := handle{pod: rec.Client, rule: rec.Rule, backend: rec.Backend, status: rec.Status, grpc: rec.GRPC, port: int(rec.Port), failure: rec.Failure}
	if rec.Rule == nil {
		h.service = rec.Service
	}
	return h
}

// identity is what a series counts. Its labels are made of nothing else.
type identity struct {
	client  clientKey
	scope   scope
	status  int
	grpc    GRPC
	failure string
}

// clientKey is a client workload.
type clientKey struct{ namespace, name string }

// scope is the part of an identity that has to be in force.
type scope struct {
	service model.ServiceKey
	port    uint16
	route   model.RouteRef
	rule    string
	backend model.EndpointsKey
}

// series are the counters of one identity.
type series struct {
	identity identity
	cells    []atomic.Pointer[cell] // by shard; nil: not used yet
	stale    time.Time              // since when it is not in force; metrics.mu
}

// client are the counters of one client workload.
type client struct {
	key    clientKey
	shards []activity
	stale  time.Time // metrics.mu
}

// activity is one shard of a client. What is added in one shard may be subtracted in another.
type activity struct {
	connections       atomic.Uint64
	activeConnections atomic.Int64
	activeRequests    atomic.Int64

	_ [40]byte // to a whole cache line
}

// other is the label of what is beyond the limit.
const other = "other"

func otherClient() clientKey { return clientKey{other, other} }

func newMetrics(maxSeries int) *metrics {
	m := &metrics{
		max: maxSeries, shards: newShards(), began: time.Now(),
		handles: newTable[handle, series](), pods: newTable[*model.Pod, client](),
		series: map[identity]*series{}, clients: map[clientKey]*client{},
	}
	m.other = m.newSeries(identity{})
	return m
}

func (m *metrics) newSeries(id identity) *series {
	return &series{identity: id, cells: make([]atomic.Pointer[cell], m.shards.count())}
}

// done counts an exchange.
func (m *metrics) done(rec *Record) {
	h := handleOf(rec)
	s := m.handles.get(h)
	if s == nil {
		s = m.resolve(h, rec)
	}
	c := &s.cells[m.shards.pick()]
	if c.Load() == nil {
		c.CompareAndSwap(nil, new(cell)) // or another has just done so
	}
	c.Load().add(rec)
}

// handlesPerSeries bounds the handles: many pods of a workload, and many versions of a rule, share a series.
const handlesPerSeries = 8

// resolve finds or makes the series of an exchange that has no handle yet.
func (m *metrics) resolve(h handle, rec *Record) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.handles.get(h); s != nil {
		return s
	}
	id := identify(rec)
	s := m.series[id]
	switch {
	case s != nil:
	case len(m.series) < m.max:
		s = m.newSeries(id)
		m.series[id] = s
	default:
		s = m.other
	}
	if m.handles.count >= handlesPerSeries*m.max {
		m.handles.keep(func(handle, *series) bool { return false }) // they come back as they are needed
	}
	h.failure = id.failure // rec's may be a view
	if h.rule == nil {
		h.service = model.ServiceKey{Namespace: strings.Clone(h.service.Namespace), Name: strings.Clone(h.service.Name)}
	}
	m.handles.put(h, s)
	return s
}

// activity returns the counters of a pod's workload for the current shard.
func (m *metrics) activity(pod *model.Pod) *activity {
	c := m.pods.get(pod)
	if c == nil {
		c = m.resolveClient(pod)
	}
	return &c.shards[m.shards.pick()]
}

func (m *metrics) resolveClient(pod *model.Pod) *client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.pods.get(pod); c != nil {
		return c
	}
	key := clientOf(pod)
	if len(m.clients) >= m.max && m.clients[key] == nil {
		key = otherClient()
	}
	c := m.clients[key]
	if c == nil {
		c = &client{key: key, shards: make([]activity, m.shards.count())}
		m.clients[key] = c
	}
	m.pods.put(pod, c)
	return c
}

func identify(rec *Record) identity {
	service := model.ServiceKey{Namespace: label(rec.Service.Namespace), Name: label(rec.Service.Name)}
	return identity{
		client:  clientOf(rec.Client),
		scope:   scopeOf(service, rec.Port, rec.Rule, rec.Backend),
		status:  rec.Status,
		grpc:    rec.GRPC,
		failure: label(rec.Failure),
	}
}

// clientOf names the workload of a pod by what people call it.
func clientOf(pod *model.Pod) clientKey {
	if pod == nil {
		return clientKey{}
	}
	return clientKey{valid(pod.Namespace), valid(cmp.Or(pod.Workload, pod.Name))}
}

func scopeOf(service model.ServiceKey, port uint16, rule *model.Rule, backend *model.Backend) scope {
	s := scope{service: service, port: port}
	if rule != nil {
		s.route = model.RouteRef{Kind: valid(rule.Route.Kind), Namespace: valid(rule.Route.Namespace), Name: valid(rule.Route.Name)}
		if s.rule = valid(rule.Name); s.rule == "" {
			s.rule = strconv.Itoa(rule.Index)
		}
	}
	if backend != nil {
		s.setBackend(backend.Endpoints)
	}
	return s
}

func (s *scope) setBackend(k model.EndpointsKey) {
	s.backend = model.EndpointsKey{Namespace: valid(k.Namespace), Name: valid(k.Name), Port: k.Port}
}

// appendRoute and appendBackend append labels' values, which are empty where there is none.
func (s *scope) appendRoute(b []byte) []byte {
	if s.route == (model.RouteRef{}) {
		return b
	}
	b = append(append(b, s.route.Kind...), '/')
	b = append(append(b, s.route.Namespace...), '/')
	return append(b, s.route.Name...)
}

func (s *scope) appendBackend(b []byte) []byte {
	if s.backend == (model.EndpointsKey{}) {
		return b
	}
	b = append(append(b, s.backend.Namespace...), '/')
	b = append(append(b, s.backend.Name...), ':')
	return strconv.AppendUint(b, uint64(s.backend.Port), 10)
}

// label makes a label's value of what may be a view.
func label(s string) string { return strings.Clone(valid(s)) }

// valid: Prometheus refuses a label's value that is not UTF-8, and with it everything else.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
