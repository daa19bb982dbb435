package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// pipe is a transport without a kernel. The test is the proxy at its other end.
type pipe struct {
	toProxy chan packet
	toAgent chan packet
	closed  chan struct{}
	once    sync.Once
}

type packet struct {
	msg any
	fds int
	err error
}

func newPipe() *pipe {
	return &pipe{toProxy: make(chan packet, 100), toAgent: make(chan packet, 100), closed: make(chan struct{})}
}

func (p *pipe) Send(msg any, fds ...int) error {
	select {
	case <-p.closed:
		return io.ErrClosedPipe
	default:
	}
	p.toProxy <- packet{msg: msg, fds: len(fds)}
	return nil
}

func (p *pipe) Receive() (any, []int, error) {
	select {
	case m := <-p.toAgent:
		return m.msg, nil, m.err
	case <-p.closed:
		return nil, nil, io.ErrClosedPipe
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipe) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// world is a Server in a bubble.
type world struct {
	t   *testing.T
	s   *Server
	ctx context.Context
	log *bytes.Buffer
}

// bubble runs f with a Server that ends with it.
func bubble(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &world{t: t, ctx: ctx, log: &bytes.Buffer{}}
		w.s = newServer(Config{Node: "n1", HeartbeatFD: 7, Log: slog.New(slog.NewTextHandler(w.log, nil))})
		f(w)
		cancel()
		synctest.Wait()
	})
}

func (w *world) connect(peer Peer) *pipe {
	p := newPipe()
	w.s.identify = func(int) (Peer, error) { return peer, nil }
	go w.s.serve(w.ctx, p)
	return p
}

// registered returns a proxy that has had its Hello.
func (w *world) registered() *pipe {
	w.t.Helper()
	p := w.connect(Peer{PID: 1, Cgroup: 5})
	p.toAgent <- packet{msg: &model.Register{Protocol: model.ProtocolVersion, PID: 1}}
	if m := w.next(p); m.fds != 1 || m.msg.(*model.Hello).Node != "n1" {
		w.t.Fatalf("instead of Hello with the heartbeat came %+v", m)
	}
	return p
}

// next is what the proxy receives next.
func (w *world) next(p *pipe) packet {
	w.t.Helper()
	synctest.Wait()
	select {
	case m := <-p.toProxy:
		return m
	default:
		w.t.Fatalf("nothing was sent; log: %s", w.log)
		return packet{}
	}
}

func (w *world) silent(p *pipe) {
	w.t.Helper()
	synctest.Wait()
	select {
	case m := <-p.toProxy:
		w.t.Fatalf("%T was sent, which should not have been: %+v", m.msg, m.msg)
	default:
	}
}

// ack answers a message, with refusals.
func (w *world) ack(p *pipe, m packet, refused ...model.Refusal) {
	p.toAgent <- packet{msg: &model.Ack{Version: versionOf(m.msg), Refused: refused}}
	synctest.Wait()
}

func versionOf(msg any) uint64 {
	switch m := msg.(type) {
	case *model.Update:
		return m.Version
	case *model.Pods:
		return m.Version
	}
	return 0
}

func (w *world) only() Proxy {
	w.t.Helper()
	synctest.Wait()
	all := w.s.Proxies()
	if len(all) != 1 {
		w.t.Fatalf("%d proxies are registered, not 1; log: %s", len(all), w.log)
	}
	return all[0]
}

func service(name string, id uint32) *model.Service {
	return &model.Service{
		Namespace: "ns", Name: name,
		Ports: []model.Port{{Number: 80, Frontends: []model.Frontend{{
			ID: id, Address: netip.AddrFrom4([4]byte{10, 96, 0, byte(id)}),
		}}}},
	}
}

func endpoints(name string) *model.EndpointSet {
	return &model.EndpointSet{Namespace: "ns", Name: name, Port: 80}
}

// testPod has descriptors of /dev/null.
func testPod(uid string) *Pod {
	return &Pod{
		UID: uid, Families: []model.Family{model.IPv4, model.IPv6},
		Descriptors: func() ([]int, error) {
			var fds []int
			for range 3 {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return nil, err
				}
				fds = append(fds, fd)
			}
			return fds, nil
		},
	}
}

func state(services []*model.Service, sets []*model.EndpointSet, pods []*Pod) *State {
	s := &State{
		Services:  map[model.ServiceKey]*model.Service{},
		Endpoints: map[model.EndpointsKey]*model.EndpointSet{},
		Pods:      map[string]*Pod{},
	}
	for _, x := range services {
		s.Services[x.ServiceKey] = x
	}
	for _, x := range sets {
		s.Endpoints[x.EndpointsKey] = x
	}
	for _, x := range pods {
		s.Pods[x.UID] = x
	}
	return s
}

func TestProxyGetsTheFullStateThenPodsWhenAdmitted(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.registered()
		w.silent(p) // nothing is known yet
		a := service("a", 1)
		w.s.Set(state([]*model.Service{a}, []*model.EndpointSet{endpoints("a")}, []*Pod{testPod("p1")}))
		full := w.next(p)
		u := full.msg.(*model.Update)
		if !u.Full || len(u.Services) != 1 || len(u.Endpoints) != 1 || u.Version == 0 {
			t.Fatalf("the first update is %+v", u)
		}
		if w.only().Synced || w.only().Services[a.ServiceKey] != nil {
			t.Error("the proxy counts as synced before it acked")
		}
		w.ack(p, full)
		if x := w.only(); !x.Synced || x.Services[a.ServiceKey] != a || x.Ready || x.PID != 1 || x.Cgroup != 5 {
			t.Errorf("after the full ack the proxy is %+v", x)
		}
		w.silent(p) // no listeners before it is admitted
		w.s.Admit(w.only().ID)
		pods := w.next(p)
		m := pods.msg.(*model.Pods)
		if len(m.Added) != 1 || pods.fds != 3 || !m.Complete || m.Version <= u.Version {
			t.Fatalf("the pods are %+v with %d descriptors", m, pods.fds)
		}
		if w.only().Ready {
			t.Error("the proxy is ready before it acked its pods")
		}
		w.ack(p, pods)
		if x := w.only(); !x.Ready || x.Pods["p1"] == nil {
			t.Errorf("after all acks the proxy is %+v", x)
		}
		w.silent(p)
	})
}

func TestEmptyStateMakesAProxyReady(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.registered()
		w.s.Set(state(nil, nil, nil))
		w.ack(p, w.next(p))
		w.s.Admit(w.only().ID)
		m := w.next(p)
		if !m.msg.(*model.Pods).Complete {
			t.Errorf("the list of no pods is not complete: %+v", m.msg)
		}
		w.ack(p, m)
		if !w.only().Ready {
			t.Error("the proxy is not ready")
		}
	})
}

// serving returns a proxy that has everything.
func (w *world) serving(s *State) *pipe {
	w.t.Helper()
	w.s.Set(s)
	p := w.registered()
	w.ack(p, w.next(p))
	all := w.s.Proxies()
	w.s.Admit(all[len(all)-1].ID)
	for {
		synctest.Wait()
		select {
		case m := <-p.toProxy:
			w.ack(p, m)
		default:
			return p
		}
	}
}

func TestEndpointChangeSendsOnlyTheSet(t *testing.T) {
	bubble(t, func(w *world) {
		a, b := service("a", 1), service("b", 2)
		p := w.serving(state([]*model.Service{a, b}, []*model.EndpointSet{endpoints("a"), endpoints("b")}, nil))
		was := w.s.state.Endpoints
		changed := endpoints("a")
		next := state([]*model.Service{a, b}, []*model.EndpointSet{changed}, nil)
		next.Endpoints[endpoints("b").EndpointsKey] = was[endpoints("b").EndpointsKey]
		w.s.Set(next)
		m := w.next(p)
		u := m.msg.(*model.Update)
		if u.Full || len(u.Services)+len(u.RemovedServices)+len(u.RemovedEndpoints) != 0 || len(u.Endpoints) != 1 {
			t.Errorf("an endpoint change sends %+v", u)
		}
		w.ack(p, m)
		w.silent(p)
	})
}

func TestChangesCoalesceWhileAnAckIsOwed(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.serving(state(nil, nil, nil))
		w.s.Set(state([]*model.Service{service("a", 1)}, nil, nil))
		first := w.next(p)
		for i := range uint32(50) {
			w.s.Set(state([]*model.Service{service("a", 1), service("b", i)}, nil, nil))
		}
		w.silent(p)
		w.ack(p, first)
		second := w.next(p)
		if n := len(second.msg.(*model.Update).Services); n != 2 {
			t.Errorf("%d services were sent", n)
		}
		w.ack(p, second)
		w.silent(p)
	})
}

func TestPodsAreSplitByDescriptors(t *testing.T) {
	before := openDescriptors(t)
	bubble(t, func(w *world) {
		var pods []*Pod
		for i := range 200 { // 600 descriptors
			pods = append(pods, testPod(fmt.Sprintf("pod-%03d", i)))
		}
		w.s.Set(state(nil, nil, pods))
		p := w.registered()
		w.ack(p, w.next(p))
		w.s.Admit(w.only().ID)
		seen, messages := map[string]bool{}, 0
		for complete := false; !complete; messages++ {
			m := w.next(p)
			added := m.msg.(*model.Pods)
			if m.fds > 250 || m.fds != 3*len(added.Added) {
				t.Fatalf("a message of %d pods has %d descriptors", len(added.Added), m.fds)
			}
			for _, x := range added.Added {
				seen[x.UID] = true
			}
			complete = added.Complete
			if complete != (len(seen) == 200) {
				t.Fatalf("complete is %v after %d pods", complete, len(seen))
			}
			w.ack(p, m)
		}
		if messages != 3 || len(w.only().Pods) != 200 {
			t.Errorf("%d pods came in %d messages", len(w.only().Pods), messages)
		}
	})
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestRefusedUnitKeepsItsPreviousVersion(t *testing.T) {
	bubble(t, func(w *world) {
		a1, b1 := service("a", 1), service("b", 2)
		p := w.serving(state([]*model.Service{a1, b1}, nil, nil))
		a2, b2 := service("a", 1), service("b", 2)
		w.s.Set(state([]*model.Service{a2, b2}, nil, nil))
		w.ack(p, w.next(p), model.Refusal{Service: &a2.ServiceKey, Reason: "bad"})
		x := w.only()
		if x.Services[a2.ServiceKey] != a1 || x.Services[b2.ServiceKey] != b2 {
			t.Error("the refused unit is not at its previous version, or the other one is not at its new one")
		}
		if len(x.Refused) != 1 || x.Refused[0].Reason != "bad" {
			t.Errorf("the refusals are %+v", x.Refused)
		}
		if !strings.Contains(w.log.String(), "Service ns/a") {
			t.Errorf("the refusal is not in the log: %s", w.log)
		}
		w.silent(p) // it is not sent again as it is
		a3 := service("a", 1)
		w.s.Set(state([]*model.Service{a3, b2}, nil, nil))
		w.ack(p, w.next(p))
		if x := w.only(); x.Services[a3.ServiceKey] != a3 || len(x.Refused) != 0 {
			t.Errorf("after the repair the proxy is %+v", x)
		}
	})
}

func TestRefusedPodIsOfferedAgain(t *testing.T) {
	bubble(t, func(w *world) {
		w.s.Set(state(nil, nil, []*Pod{testPod("p1")}))
		p := w.registered()
		w.ack(p, w.next(p))
		w.s.Admit(w.only().ID)
		w.ack(p, w.next(p), model.Refusal{Pod: "p1", Reason: "too many open files"})
		if x := w.only(); x.Pods["p1"] != nil || len(x.Refused) != 1 || !x.Ready {
			t.Fatalf("after the refusal the proxy is %+v", x)
		}
		w.silent(p)
		time.Sleep(6 * time.Second)
		w.ack(p, w.next(p))
		if x := w.only(); x.Pods["p1"] == nil || len(x.Refused) != 0 {
			t.Errorf("after the second offer the proxy is %+v", x)
		}
	})
}

func TestPodWithoutDescriptorsHurtsNoOther(t *testing.T) {
	bubble(t, func(w *world) {
		bad := testPod("bad")
		bad.Descriptors = func() ([]int, error) { return nil, errors.New("released") }
		w.s.Set(state(nil, nil, []*Pod{bad, testPod("good")}))
		p := w.registered()
		w.ack(p, w.next(p))
		w.s.Admit(w.only().ID)
		m := w.next(p)
		if added := m.msg.(*model.Pods).Added; len(added) != 1 || added[0].UID != "good" || m.fds != 3 {
			t.Fatalf("the pods are %+v", m)
		}
		w.ack(p, m)
		if x := w.only(); x.Pods["good"] == nil || x.Pods["bad"] != nil || len(x.Refused) != 1 {
			t.Errorf("the proxy is %+v", x)
		}
	})
}

func TestPodsAreNotStarvedByChangingEndpoints(t *testing.T) {
	bubble(t, func(w *world) {
		p := w.serving(state(nil, nil, nil))
		w.s.Set(state(nil, []*model.EndpointSet{endpoints("a")}, []*Pod{testPod("p1")}))
		for range 3 {
			m := w.next(p)
			w.s.Set(state(nil, []*model.EndpointSet{endpoints("a")}, w.pods())) // always something new
			w.ack(p, m)
		}
		if w.only().Pods["p1"] == nil {
			t.Error("the pod was never sent")
		}
	})
}

func (w *world) pods() []*Pod {
	var all []*Pod
	for _, p := range w.s.state.Pods {
		all = append(all, p)
	}
	return all
}

func TestBadProxyIsDroppedAndNothingElseStops(t *testing.T) {
	register := packet{msg: &model.Register{Protocol: model.ProtocolVersion}}
	cases := map[string]struct {
		does func(w *world, p *pipe)
		log  string
	}{
		"another protocol": {func(w *world, p *pipe) {
			p.toAgent <- packet{msg: &model.Register{Protocol: model.ProtocolVersion + 1}}
			if _, ok := w.next(p).msg.(*model.Hello); !ok {
				w.t.Error("it is not told which protocol the agent speaks")
			}
		}, fmt.Sprintf("it speaks protocol %d and this agent %d", model.ProtocolVersion+1, model.ProtocolVersion)},
		"garbage":            {func(_ *world, p *pipe) { p.toAgent <- packet{err: errors.New("decode a message: no JSON")} }, "no JSON"},
		"silence":            {func(*world, *pipe) { time.Sleep(3 * time.Second) }, "did not register within 2s"},
		"an ack at first":    {func(_ *world, p *pipe) { p.toAgent <- packet{msg: &model.Ack{}} }, "not Register"},
		"registers twice":    {func(_ *world, p *pipe) { p.toAgent <- register; p.toAgent <- register }, "which a registered proxy does not send"},
		"acks what was not":  {func(_ *world, p *pipe) { p.toAgent <- register; p.toAgent <- packet{msg: &model.Ack{Version: 999}} }, "version 999"},
		"acks twice":         {ackTwice, "which was not under way"},
		"never acks":         {func(_ *world, p *pipe) { p.toAgent <- register; time.Sleep(11 * time.Second) }, "did not ack within 10s"},
		"closes the channel": {func(_ *world, p *pipe) { p.toAgent <- register; p.toAgent <- packet{err: io.EOF} }, "proxy gone"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				good := w.serving(state([]*model.Service{service("a", 1)}, nil, nil))
				bad := w.connect(Peer{PID: 2})
				c.does(w, bad)
				synctest.Wait()
				if !bad.isClosed() || !strings.Contains(w.log.String(), c.log) {
					t.Errorf("closed: %v; log: %s", bad.isClosed(), w.log)
				}
				if x := w.only(); x.PID != 1 || !x.Ready {
					t.Errorf("the other proxy is %+v", x)
				}
				w.s.Set(state([]*model.Service{service("b", 2)}, nil, nil))
				w.ack(good, w.next(good))
			})
		})
	}
}

func ackTwice(w *world, p *pipe) {
	p.toAgent <- packet{msg: &model.Register{Protocol: model.ProtocolVersion}}
	w.next(p)
	full := w.next(p)
	w.ack(p, full)
	w.ack(p, full)
}

func TestHandoverOfTwoProxies(t *testing.T) {
	bubble(t, func(w *world) {
		s := state([]*model.Service{service("a", 1)}, nil, []*Pod{testPod("p1")})
		old := w.serving(s)
		fresh := w.serving(s)
		all := w.s.Proxies()
		if len(all) != 2 || all[0].ID >= all[1].ID || !all[0].Ready || !all[1].Ready {
			t.Fatalf("the proxies are %+v", all)
		}
		old.toAgent <- packet{msg: &model.Draining{}}
		synctest.Wait()
		if all = w.s.Proxies(); !all[0].Draining || all[0].Released || !all[0].Accepts() {
			t.Errorf("the draining proxy is %+v", all[0])
		}
		w.silent(old)
		w.s.Release(all[0].ID)
		if _, ok := w.next(old).msg.(*model.Released); !ok {
			t.Error("no Released came")
		}
		if all = w.s.Proxies(); all[0].Accepts() {
			t.Error("a released proxy still counts as accepting")
		}
		w.s.Set(state(nil, nil, nil)) // both are kept up to date: the old one has connections
		w.ack(old, w.next(old))
		w.ack(fresh, w.next(fresh))
		old.toAgent <- packet{err: io.EOF}
		if x := w.only(); x.ID != all[1].ID {
			t.Errorf("the one that is left is %+v", x)
		}
	})
}

// Whatever changes and is refused, a proxy that applies the messages ends up with what the book says it has, and
// that is the state but for what it refused.
func TestBookAgreesWithTheProxy(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := newBook()
		has := map[model.ServiceKey]model.Service{} // in the proxy
		refusedNow := map[model.ServiceKey]bool{}
		current := map[string]*model.Service{}
		var version uint64
		var want *State
		for range 60 {
			name := string(rune('a' + r.IntN(5)))
			if r.IntN(3) == 0 {
				delete(current, name)
			} else {
				current[name] = service(name, r.Uint32())
			}
			var list []*model.Service
			for _, s := range current {
				list = append(list, s)
			}
			want = state(list, nil, nil)
			for rounds := 0; rounds < r.IntN(3); rounds++ {
				step(t, r, b, want, &version, has, refusedNow, r.IntN(4) == 0)
			}
		}
		for range 10 {
			step(t, r, b, want, &version, has, refusedNow, false)
		}
		checkBook(t, b, want, has, refusedNow)
	}
}

func step(t *testing.T, r *rand.Rand, b *book, want *State, version *uint64, has map[model.ServiceKey]model.Service, refusedNow map[model.ServiceKey]bool, refuse bool) {
	t.Helper()
	m := b.next(want, false)
	if m == nil {
		return
	}
	*version++
	m.update.Version = *version
	b.sent(m, want)
	ack := &model.Ack{Version: *version}
	if m.update.Full {
		clear(has)
	}
	for _, s := range m.update.Services {
		if refuse && r.IntN(2) == 0 {
			ack.Refused = append(ack.Refused, model.Refusal{Service: &s.ServiceKey, Reason: "no"})
			refusedNow[s.ServiceKey] = true
			continue
		}
		has[s.ServiceKey] = s
		delete(refusedNow, s.ServiceKey)
	}
	for _, k := range m.update.RemovedServices {
		delete(has, k)
		delete(refusedNow, k)
	}
	if _, err := b.acked(ack); err != nil {
		t.Fatal(err)
	}
}

func checkBook(t *testing.T, b *book, want *State, has map[model.ServiceKey]model.Service, refusedNow map[model.ServiceKey]bool) {
	t.Helper()
	if len(b.services) != len(has) || len(b.refused) != len(refusedNow) {
		t.Fatalf("the book has %d units and %d refusals, the proxy %d and %d", len(b.services), len(b.refused), len(has), len(refusedNow))
	}
	for k, s := range b.services {
		if has[k].Ports[0].Frontends[0].ID != s.Ports[0].Frontends[0].ID {
			t.Fatalf("%s is not the version that the proxy has", k)
		}
		if !refusedNow[k] && want.Services[k] != s {
			t.Fatalf("%s is not up to date", k)
		}
	}
	for k := range want.Services {
		if b.services[k] == nil && !refusedNow[k] {
			t.Fatalf("%s is missing", k)
		}
	}
}
