// Package node keeps one node in step: the kernel and the proxies with the model, and the model with the objects.
//
// One loop owns everything that changes. Events only mark that there is something to do; a pass then looks at what is
// desired and at what there is, and takes the next steps. A pass that fails half-way is repaired by the next one.
//
// The order is what matters (make before break): a frontend goes into the kernel after every proxy that accepts has
// acked the unit that carries it, and leaves the kernel before it leaves a proxy; a pod's listeners are steered to
// after the proxy acked the pod, and not any more before it loses them.
package node

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/rollup"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Periods of the loop.
const (
	holdOff      = 2 * time.Millisecond  // events that come within it share a pass
	beatEvery    = 50 * time.Millisecond // the heartbeat, and everything that waits for a time, is looked at
	checkEvery   = 10 * time.Second      // the programs are looked at
	stragglers   = 200 * time.Millisecond
	endPatience  = 500 * time.Millisecond // for proxies to give up a pod that ended
	nextPatience = time.Second            // of a draining proxy, for its successor to be ready
	bypassedRate = 200                    // connections closed a second
	busyPatience = 10 * time.Second       // for those of them that are in the middle of an exchange
	busyAgain    = 50 * time.Millisecond  // until these are looked at again
)

// Kernel is what the node needs of the datapath.
type Kernel interface {
	Number(addrs []netip.AddrPort) (map[netip.AddrPort]uint32, error)
	Frontends() ([]datapath.Frontend, error)
	SetFrontends(want []datapath.Frontend) error
	Pods() ([]uint64, error)
	AddPod(datapath.Pod) error
	RemovePod(cookie uint64) error
	SetListener(cookie uint64, f model.Family, fd int) error
	ClearListener(cookie uint64, f model.Family) error
	LastBeat() time.Duration
	ProxyCgroups() [2]uint64
	SetProxyCgroups(ids [2]uint64) error
	SetBypass(on bool) error
	Bypass() bool
	CloseBypassed(ctx context.Context, netns, perSecond int, evenBusy bool) (closed, busy int, err error)
	Counters() (map[string]uint64, error)
	Check() error
}

// Proxies is what the node needs of the push server.
type Proxies interface {
	Set(*push.State)
	Proxies() []push.Proxy
	Admit(id uint64)
	Release(id uint64)
	Changed() <-chan struct{}
}

// Pods is what the node needs of enrolment.
type Pods interface {
	SetDesired([]enroll.Wanted)
	View() enroll.View
	Release(*enroll.Pod) error
	Changed() <-chan struct{}
}

// Config is what a Node needs.
type Config struct {
	Compile        func(*objects.Set) *compile.Result // pure
	Report         func(rollup.Report)                // told what is new of the routes; must not block; nil: nobody is
	CheckPod       func(uid string) error             // whether the programs see what the pod does; nil: nobody knows
	Select         enroll.Selector
	HeartbeatLimit time.Duration // 2 s
	Registerer     prometheus.Registerer
	Log            *slog.Logger
}

// Node owns the loop. Publish, Status, Config, SetBypass, Healthy and Ready may be called from any goroutine.
type Node struct {
	cfg     Config
	log     *slog.Logger
	kernel  Kernel
	proxies Proxies
	pods    Pods
	metrics *metrics

	published chan struct{} // marked by Publish
	calls     chan func()   // run by the loop
	bypassed  *closer

	mu    sync.Mutex
	input input // the last that was published

	// What follows is the loop's own.
	loop
}

// input is what the source published.
type input struct {
	set      *objects.Set
	problems []kube.Problem
}

// loop is the state of the one goroutine that changes things.
type loop struct {
	dirty   bool // objects were published and not compiled yet
	desired *desired
	live    liveness
	retry   backoff   // of kernel writes
	wakeAt  time.Time // when a pass is due although nothing was marked; zero: never

	frontends frontends
	podTable  podTable
	exempt    exempt
	sent      *push.State // what was set last
	resend    bool        // it is to be derived anew
	spare     bool        // it has endpoints that are not desired any more
	resetting time.Time   // connections that are queued are reset until then

	checkErr error            // of the programs
	checked  int              // pods that were looked at
	outside  map[string]error // enrolled pods that our programs do not run for, by UID
	status   reported
	said     journal
}

// New makes a Node, which does nothing until Run.
func New(cfg Config, k Kernel, p Proxies, pods Pods) *Node {
	cfg.HeartbeatLimit = cmp.Or(cfg.HeartbeatLimit, 2*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	n := &Node{
		cfg: cfg, log: cfg.Log, kernel: k, proxies: p, pods: pods,
		published: make(chan struct{}, 1), calls: make(chan func()),
		bypassed: newCloser(k, cfg.Log),
	}
	n.podTable = newPodTable()
	n.outside = map[string]error{}
	n.said = journal{log: cfg.Log, lines: map[string]bool{}}
	n.metrics = newMetrics(cfg.Registerer, n)
	return n
}

// Publish says what the objects are from now on. It does not wait.
func (n *Node) Publish(set *objects.Set, problems []kube.Problem) {
	n.mu.Lock()
	n.input = input{set, problems}
	n.mu.Unlock()
	select {
	case n.published <- struct{}{}:
	default:
	}
}

// Run keeps the node in step until ctx is done. It leaves everything as it is then: kernel and proxies serve on.
func (n *Node) Run(ctx context.Context) error {
	var closing sync.WaitGroup
	defer closing.Wait()
	closing.Go(func() { n.bypassed.run(ctx) })
	n.takeOver(time.Now())
	beat, check := time.NewTicker(beatEvery), time.NewTicker(checkEvery)
	defer beat.Stop()
	defer check.Stop()
	due := dueTimer{timer: time.NewTimer(holdOff)}
	defer due.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.published:
			n.dirty = true
			due.arm()
		case <-n.proxies.Changed():
			due.arm()
		case <-n.pods.Changed():
			due.arm()
		case <-beat.C:
			if n.beat(time.Now()) {
				n.pass(time.Now())
			}
		case <-due.timer.C:
			due.armed = false
			n.pass(time.Now())
		case <-check.C:
			n.check()
		case f := <-n.calls:
			f()
		}
	}
}

// dueTimer fires once, a hold-off after the first event: those that come meanwhile do not put it off.
type dueTimer struct {
	timer *time.Timer
	armed bool
}

func (d *dueTimer) arm() {
	if !d.armed {
		d.armed = true
		d.timer.Reset(holdOff)
	}
}

// takeOver reads what a predecessor left in the kernel.
func (n *Node) takeOver(now time.Time) {
	n.live = newLiveness(n.cfg.HeartbeatLimit, now)
	ids := n.kernel.ProxyCgroups() // proxies that have not come back yet run on
	n.exempt = exempt{ids: ids, done: ids != [2]uint64{}}
	n.readPods()
	n.readFrontends()
}

// did takes the outcome of a write to the kernel, or a read: a failure is logged, counted, and repaired by a pass that
// follows. It tells whether it went well.
func (n *Node) did(what string, err error) bool {
	if err == nil {
		return true
	}
	n.log.Error("the kernel refused; another attempt follows", "step", what, "error", err)
	n.metrics.kernelErrors.WithLabelValues(what).Inc()
	n.retry.failed(time.Now())
	return false
}

// beat looks at the heartbeat and at the time; it tells whether a pass is due.
func (n *Node) beat(now time.Time) bool {
	n.resetQueued(now)
	due := !n.wakeAt.IsZero() && !now.Before(n.wakeAt)
	return n.observe(now, n.proxies.Proxies()) || due
}

// observe brings the liveness up to date. Before there is a model, no proxy can have acked one: a node whose agent
// has just been started serves on as it did, unless its proxy hangs, which the kernel sees by itself.
func (n *Node) observe(now time.Time, proxies []push.Proxy) bool {
	if n.desired == nil {
		n.live.since = now
		return false
	}
	acked := slices.ContainsFunc(proxies, func(p push.Proxy) bool { return p.Ready && !p.Released })
	if !n.live.observe(now, acked, n.kernel.LastBeat()) {
		return false
	}
	n.log.Info("liveness changed", "state", n.live.state, "reason", n.live.why)
	return true
}

// wake asks for a pass at that time at the latest.
func (n *Node) wake(at time.Time) {
	if n.wakeAt.IsZero() || at.Before(n.wakeAt) {
		n.wakeAt = at
	}
}

// pass takes every step that can be taken now. The order of the steps is the order that the package promises.
func (n *Node) pass(now time.Time) {
	n.wakeAt = time.Time{}
	n.retry.begin()
	n.compile()
	proxies := n.proxies.Proxies()
	n.observe(now, proxies)
	n.exemptProxies(proxies)
	n.trackPods(now)
	n.unsteer(now, proxies) // listeners out ...
	n.writeFrontends(proxies)
	n.addPods(now)
	n.publish(proxies)
	n.admit(proxies)
	n.steer(now, proxies) // ... and in
	n.endPods(now, proxies)
	n.release(now, proxies)
	n.report(proxies)
	if at, failed := n.retry.end(now); failed {
		n.wake(at)
	}
}

// check asks the kernel whether our programs still run.
func (n *Node) check() {
	n.checkPod()
	err := n.kernel.Check()
	if (err == nil) != (n.checkErr == nil) || err != nil && err.Error() != n.checkErr.Error() {
		if err != nil {
			n.log.Error("the redirect does not work as it should", "error", err)
		} else {
			n.log.Info("the redirect works again")
		}
	}
	n.checkErr = err
}

// checkPod looks at one enrolled pod in turn: do our programs run for what it does?
func (n *Node) checkPod() {
	if n.cfg.CheckPod == nil {
		return
	}
	var pods []*pod
	for _, p := range n.podTable.sorted() {
		if p.ending == "" {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		return
	}
	n.checked++
	p := pods[n.checked%len(pods)]
	err := n.cfg.CheckPod(p.UID)
	if err != nil && n.outside[p.UID] == nil {
		n.log.Error("a pod is enrolled, and its connections are not redirected", "pod", p.String(), "error", err)
	}
	maps.DeleteFunc(n.outside, func(uid string, _ error) bool {
		return uid == p.UID || !slices.ContainsFunc(pods, func(p *pod) bool { return p.UID == uid })
	})
	if err != nil {
		n.outside[p.UID] = err
	}
}
