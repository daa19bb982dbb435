package node

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Whatever happens in whatever order, no connection meets a half-made state; and once it is quiet, everything is as the
// objects ask for.
func TestAnyOrderOfEvents(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			bubble(t, func(w *world) {
				c := &chaos{w: w, r: rand.New(rand.NewPCG(seed, 0)), services: map[string]*corev1.Service{}, clients: map[string]bool{}, backends: map[string]string{}}
				for range 80 {
					if c.step(); c.gaveUp() {
						return
					}
				}
				c.calm()
			})
		})
	}
}

// chaos makes things happen by the throw of a dice.
type chaos struct {
	w *world
	r *rand.Rand

	services map[string]*corev1.Service
	backends map[string]string // of the route that each has
	clients  map[string]bool

	alive    []*fakeProxy
	detached []*fakeProxy // that have not found the agent again after it was restarted
}

func (c *chaos) step() {
	events := []struct {
		weight int
		happen func()
	}{
		{8, c.changeServices}, {4, c.changeClients},
		{4, c.connect}, {2, c.crash}, {2, c.drain},
		{12, c.take}, {12, c.ack},
		{1, c.hang}, {2, func() { c.w.do(c.w.kernel.beat) }},
		{3, c.refuseNth}, {1, c.refuseMany}, {3, func() { c.w.do(func() { c.w.kernel.refuse = nil }) }},
		{2, c.changeTaste}, {1, c.restart}, {2, c.reattach},
	}
	sum := 0
	for _, e := range events {
		sum += e.weight
	}
	dice := c.r.IntN(sum)
	for _, e := range events {
		if dice -= e.weight; dice < 0 {
			e.happen()
			break
		}
	}
	c.leave()
	pauses := []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 300 * time.Millisecond, time.Second}
	c.w.after(pauses[c.r.IntN(len(pauses))])
}

func (c *chaos) gaveUp() (broken bool) {
	c.w.do(func() { broken = c.w.broken })
	return broken
}

func pick[T any](r *rand.Rand, all []T) (v T, ok bool) {
	if len(all) == 0 {
		return v, false
	}
	return all[r.IntN(len(all))], true
}

// changeServices adds, changes or removes one of four Services. Their addresses come from a pool, so they move.
func (c *chaos) changeServices() {
	name := string(rune('a' + c.r.IntN(4)))
	if c.services[name] != nil && c.r.IntN(3) == 0 {
		delete(c.services, name)
	} else {
		s := service(name, fmt.Sprintf("10.96.0.%d", 1+c.r.IntN(4)), []int32{80, 81, 82}[:1+c.r.IntN(3)]...)
		if c.r.IntN(4) == 0 {
			closed(s)
		}
		c.services[name] = s
	}
	c.backends[name] = ""
	if c.r.IntN(2) == 0 {
		c.backends[name] = string(rune('a' + c.r.IntN(4)))
	}
	c.publish()
}

func (c *chaos) changeClients() {
	uid := fmt.Sprint("c", c.r.IntN(3))
	c.clients[uid] = !c.clients[uid]
	c.publish()
}

func (c *chaos) objects() []any {
	var all []any
	for name, s := range c.services {
		all = append(all, s)
		if b := c.backends[name]; b != "" {
			all = append(all, route(name, name, b))
		}
	}
	for uid, there := range c.clients {
		if there {
			all = append(all, client(uid))
		}
	}
	return all
}

func (c *chaos) publish() {
	c.w.do(func() { c.w.note("objects: %v %v %v", slices.Sorted(maps.Keys(c.services)), c.backends, c.clients) })
	c.w.publish(c.objects()...)
}

func (c *chaos) connect() {
	if len(c.alive) < 3 {
		hand := c.r.IntN(3) > 0
		c.alive = append(c.alive, c.w.connect(func(p *fakeProxy) { p.manual, p.view.Cgroup = hand, 1+p.view.ID%2 }))
	}
}

func (c *chaos) crash() {
	if p, ok := pick(c.r, c.alive); ok {
		c.end(p)
	}
}

func (c *chaos) end(p *fakeProxy) {
	is := func(o *fakeProxy) bool { return o == p }
	c.alive, c.detached = slices.DeleteFunc(c.alive, is), slices.DeleteFunc(c.detached, is)
	c.w.crash(p)
}

func (c *chaos) drain() {
	if p, ok := pick(c.r, c.alive); ok && !c.view(p).Draining && !slices.Contains(c.detached, p) {
		c.w.drain(p)
	}
}

// leave ends the proxies that were released, and those that have waited for it for two seconds.
func (c *chaos) leave() {
	for _, p := range slices.Clone(c.alive) {
		if v := c.view(p); v.Released && c.r.IntN(3) == 0 || v.Draining && time.Since(v.DrainAt) >= 2*time.Second {
			c.end(p)
		}
	}
}

func (c *chaos) view(p *fakeProxy) (v push.Proxy) {
	c.w.do(func() { v = p.view })
	return v
}

func (c *chaos) take() {
	if p, ok := pick(c.r, c.attached()); ok {
		c.w.take(p)
	}
}

func (c *chaos) ack() {
	if p, ok := pick(c.r, c.attached()); ok {
		c.w.ack(p)
	}
}

func (c *chaos) attached() []*fakeProxy {
	return slices.DeleteFunc(slices.Clone(c.alive), func(p *fakeProxy) bool { return slices.Contains(c.detached, p) })
}

func (c *chaos) hang() { c.w.do(c.w.kernel.hang) }

// refuseNth makes one of the next writes fail.
func (c *chaos) refuseNth() {
	n := 1 + c.r.IntN(6)
	c.w.do(func() {
		c.w.kernel.refuse = func(string) error {
			if n--; n == 0 {
				return errRefused
			}
			return nil
		}
	})
}

// refuseMany makes every second write fail until further notice.
func (c *chaos) refuseMany() {
	r := rand.New(rand.NewPCG(c.r.Uint64(), 0))
	c.w.do(func() {
		c.w.kernel.refuse = func(string) error {
			if r.IntN(2) == 0 {
				return errRefused
			}
			return nil
		}
	})
}

// changeTaste makes a proxy refuse other units and pods than before.
func (c *chaos) changeTaste() {
	p, ok := pick(c.r, c.alive)
	if !ok {
		return
	}
	unit, pod := string(rune('a'+c.r.IntN(6))), fmt.Sprint("c", c.r.IntN(6))
	c.w.do(func() {
		c.w.note("proxy %d refuses %s and %s from now on", p.view.ID, unit, pod)
		p.refuses = func(s *model.Service) string {
			if s.Name == unit {
				return "a matter of taste"
			}
			return ""
		}
		p.lacks = func(x *push.Pod) bool { return x.UID == pod }
	})
}

func (c *chaos) restart() {
	c.w.restart()
	// A proxy that was told to stop does so, agent or not.
	for _, p := range slices.Clone(c.alive) {
		if c.view(p).Draining {
			c.end(p)
		}
	}
	c.detached = slices.Clone(c.alive)
	c.publish()
}

func (c *chaos) reattach() {
	if p, ok := pick(c.r, c.detached); ok {
		c.attach(p)
	}
}

func (c *chaos) attach(p *fakeProxy) {
	is := func(o *fakeProxy) bool { return o == p }
	c.detached, c.alive = slices.DeleteFunc(c.detached, is), slices.DeleteFunc(c.alive, is)
	c.alive = append(c.alive, c.w.again(p, func(q *fakeProxy) { q.manual, q.refuses, q.lacks = p.manual, p.refuses, p.lacks }))
}

// calm ends all trouble, and looks whether everything is as it should be in the end.
func (c *chaos) calm() {
	w := c.w
	for _, p := range slices.Clone(c.detached) {
		c.attach(p)
	}
	w.do(func() {
		w.note("calm")
		w.kernel.refuse = nil
		w.kernel.beat()
		for _, p := range c.alive {
			p.refuses, p.lacks, p.manual = nil, nil, false
			w.proxies.proceed(p)
		}
	})
	for _, s := range c.services { // what was refused is tried again when it changes
		s = s.DeepCopy()
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].Name += "-calm"
		}
		c.services[s.Name] = s
	}
	c.publish()
	w.after(3 * time.Second)
	c.leave()
	if !slices.ContainsFunc(c.alive, func(p *fakeProxy) bool { return !c.view(p).Draining }) {
		c.connect()
		w.do(func() {
			p := c.alive[len(c.alive)-1]
			p.manual = false
			w.proxies.proceed(p)
		})
	}
	for _, p := range c.alive {
		w.retryPods(p)
	}
	w.after(30 * time.Second)
	c.checkOutcome()
}

func (c *chaos) checkOutcome() {
	w := c.w
	result := compile.Compile(setOf(c.objects()...), options())
	want := map[netip.AddrPort]bool{}
	for _, s := range result.Services {
		for a := range addresses(s) {
			want[a] = true
		}
	}
	var clients []string
	for _, uid := range slices.Sorted(maps.Keys(c.clients)) {
		if c.clients[uid] {
			clients = append(clients, uid)
		}
	}
	w.do(func() {
		for a := range w.kernel.frontends {
			if !want[a] {
				w.fail("in the end %s is in the kernel, and nobody wants it", a)
			}
			delete(want, a)
		}
		for a := range want {
			w.fail("in the end %s is not in the kernel", a)
		}
		if len(w.kernel.pods) != len(clients) || len(w.kernel.listeners) != 2*len(clients) {
			w.fail("in the end the kernel has the pods %v and the listeners %v for %v", w.kernel.pods, w.kernel.listeners, clients)
		}
		for _, p := range w.proxies.sessions {
			if !p.view.Released && (len(p.services) != len(result.Services) || len(p.endpoints) != len(result.Endpoints) || len(p.pods) != len(clients)) {
				w.fail("in the end proxy %d has %d services, %d endpoint sets, %d pods; want %d, %d, %d", p.view.ID,
					len(p.services), len(p.endpoints), len(p.pods), len(result.Services), len(result.Endpoints), len(clients))
			}
		}
	})
	if err := w.node.Ready(w.ctx); err != nil {
		w.t.Errorf("in the end it is not ready: %v", err)
	}
	if len(clients) > 0 {
		w.expect("steered", w.steered(), fmt.Sprint(joined(clients)))
	}
}

func joined(all []string) string {
	s := ""
	for i, v := range all {
		if i > 0 {
			s += ", "
		}
		s += v
	}
	return s
}
