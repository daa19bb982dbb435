// Package enroll brings pods in and takes them out: it finds their network namespaces, makes our listeners there, and
// notices when a pod has ended. It tells the kernel nothing; whoever does says when a pod may be released.
package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of the reconciler.
const (
	interval     = 250 * time.Millisecond // a namespace that is gone is noticed within it
	retryFirst   = 250 * time.Millisecond
	retryAtMost  = 10 * time.Second
	searchAtMost = time.Second           // between two looks for the processes of a pod that has none yet
	hurryEvery   = 20 * time.Millisecond // and between them for hurryFor after a sandbox has come or a pod is new
	hurryFor     = 3 * time.Second
)

// ErrNoProcess is why a pod that names no namespace is not enrolled before it runs.
var ErrNoProcess = errors.New("no process of the pod was found with a network namespace of its own: " +
	"it does not run yet, or the annotation " + NetNSAnnotation + " is missing")

// Config is what an Enroller needs.
type Config struct {
	Proc     string       // where the host's procfs is mounted, /proc
	NetNS    string       // where the host's folder of network namespaces is mounted, /run/netns
	Port     uint16       // of the listeners
	PrefixV6 netip.Prefix // of redirected IPv6 connections
	// Sweep: no other agent runs on this machine, so what is found in namespaces of pods that are none of ours is a
	// predecessor's, and is taken away at the start.
	Sweep bool
	Log   *slog.Logger
}

// Enroller keeps the pods that are held in line with those that are desired. Its methods may be called from any
// goroutine.
type Enroller struct {
	log     *slog.Logger
	machine machine
	kick    chan struct{}
	changed chan struct{}

	began time.Time // what was started before had to be found
	swept bool

	mu        sync.Mutex
	given     bool // SetDesired was called
	desired   map[string]Wanted
	held      map[string]*held
	failed    map[string]*failure
	sandboxes map[string]*sandbox // by container
	count     int                 // of sandboxes so far
	hurry     time.Time           // pods without a process are looked for often until then
}

// machine is what is done to the machine: functions, so that a test can do without one.
type machine struct {
	open     func(Wanted, string) (*Pod, error)
	find     func(uids map[string]bool) (map[string]sighting, error)
	identify func(path string) (nsID, error)
	resolve  func(path string) (string, nsID, error)
	check    func(path string, id nsID) error
	release  func(*Pod) error
	sweep    func(ctx context.Context, keep map[nsID]bool) error // what a predecessor left in other namespaces; may be nil
	watch    func(context.Context) <-chan struct{}               // sandboxes come and go; may be nil
}

type held struct {
	pod     *Pod
	wanted  Wanted // what it was last found to match
	path    string // names the namespace
	ending  string // why it is to be released
	leaving bool   // although its namespace lives on
	by      By
	started time.Time
}

// By says how a pod came to be enrolled.
type By string

// Ways into the mesh.
const (
	ByPlugin  By = "plugin"  // announced by the container runtime before its containers started
	ByFound   By = "found"   // found by its processes, after it had started
	ByRunning By = "running" // ran already when the agent was started
	ByName    By = "name"    // its object names its namespace
)

type failure struct {
	err     error
	next    time.Time
	backoff time.Duration
}

// Held is a pod that is enrolled. With Ending set it is to be released, and Ending says why.
type Held struct {
	*Pod
	Ending  string
	Leaving bool // it ends only for us: its namespace lives on, and so do its connections
	By      By
	// Started is since when the pod has been running, and so was not enrolled for a while. Zero: its containers did not
	// start before, or it is not known.
	Started time.Time
}

// Failure is a pod that could not be enrolled. Another attempt follows by itself.
type Failure struct {
	Wanted
	Err error
}

// View is what the Enroller has at one moment, in the order of UIDs.
type View struct {
	Pods    []Held
	Failed  []Failure
	Settled bool // every desired pod is held, or was tried
}

// New makes an Enroller, which does nothing until Run.
func New(cfg Config) *Enroller {
	cfg = cfg.complete()
	m := machine{
		open:     cfg.opener().open,
		find:     newFinder(cfg.Proc).find,
		identify: statNS,
		resolve:  places{proc: cfg.Proc, netns: cfg.NetNS}.resolve,
		check:    check,
		release:  (*Pod).release,
		watch:    func(ctx context.Context) <-chan struct{} { return watchFolder(ctx, cfg.NetNS, cfg.Log) },
	}
	if cfg.Sweep {
		m.sweep = cfg.sweep
	}
	return newEnroller(cfg.Log, m)
}

func (c Config) complete() Config {
	c.Proc = cmp.Or(c.Proc, ownProc)
	c.NetNS = cmp.Or(c.NetNS, "/run/netns")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) opener() opener { return opener{proc: c.Proc, port: c.Port, prefix: c.PrefixV6} }

func newEnroller(log *slog.Logger, m machine) *Enroller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Enroller{
		log: log, machine: m, kick: make(chan struct{}, 1), changed: make(chan struct{}, 1), began: time.Now(),
		held: map[string]*held{}, failed: map[string]*failure{}, sandboxes: map[string]*sandbox{},
	}
}

// SetDesired says which pods are to be enrolled from now on.
func (e *Enroller) SetDesired(pods []Wanted) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.given = true
	before := e.desired
	e.desired = map[string]Wanted{}
	for _, w := range pods {
		e.desired[w.UID] = w
		if _, old := before[w.UID]; !old {
			e.hurry = time.Now().Add(hurryFor)
		}
	}
	mark(e.kick)
}

// Changed is marked whenever View has something new to say.
func (e *Enroller) Changed() <-chan struct{} { return e.changed }

func mark(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// View returns what there is.
func (e *Enroller) View() View {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := View{Settled: e.given}
	for _, h := range e.held {
		v.Pods = append(v.Pods, Held{Pod: h.pod, Ending: h.ending, Leaving: h.leaving, By: h.by, Started: h.started})
	}
	for uid, w := range e.desired {
		if f, ok := e.failed[uid]; ok {
			v.Failed = append(v.Failed, Failure{w, f.err})
		} else if e.held[uid] == nil {
			v.Settled = false
		}
	}
	slices.SortFunc(v.Pods, func(a, b Held) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(v.Failed, func(a, b Failure) int { return cmp.Compare(a.UID, b.UID) })
	return v
}

// Release undoes what was done for a pod and forgets it. If it is desired it is then enrolled anew.
func (e *Enroller) Release(p *Pod) error {
	err := e.machine.release(p)
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.held[p.UID]; h != nil && h.pod == p {
		delete(e.held, p.UID)
	}
	mark(e.kick)
	mark(e.changed)
	if err != nil {
		return fmt.Errorf("undo what was done in pod %s: %w", p, err)
	}
	return nil
}

// Run enrolls until ctx is done. What is held then stays held.
func (e *Enroller) Run(ctx context.Context) error {
	var sandboxes <-chan struct{}
	if e.machine.watch != nil {
		sandboxes = e.machine.watch(ctx)
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-e.kick:
		case <-sandboxes:
			e.hurryUp()
		}
		if e.reconcile(ctx) {
			mark(e.changed)
		}
		e.sweepOnce(ctx)
		timer.Reset(e.pause())
	}
}

// sweepOnce takes away what a predecessor left in the namespaces of pods that opted out, or were excluded, while no agent
// ran. It is done once, after every pod was tried: those that are held keep what they have.
func (e *Enroller) sweepOnce(ctx context.Context) {
	view := e.View()
	if e.swept || e.machine.sweep == nil || !view.Settled || ctx.Err() != nil {
		return
	}
	e.swept = true
	keep := map[nsID]bool{}
	for _, h := range view.Pods {
		keep[h.id] = true
	}
	if err := e.machine.sweep(ctx, keep); err != nil {
		e.log.Warn("what an earlier agent may have left in pods was not looked for everywhere", "error", err)
	}
}

// hurryUp makes pods that have no process yet be looked for at once, and often for a while: a sandbox came or went.
func (e *Enroller) hurryUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurry = time.Now().Add(hurryFor)
	for _, f := range e.failed {
		if errors.Is(f.err, ErrNoProcess) {
			f.next = time.Time{}
		}
	}
}

// pause is the time to the next turn, if nothing happens before.
func (e *Enroller) pause() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().Before(e.hurry) {
		for _, f := range e.failed {
			if errors.Is(f.err, ErrNoProcess) {
				return hurryEvery
			}
		}
	}
	return interval
}

// Close closes our descriptors and leaves the pods as they are: their listeners live on in the proxies that have them,
// and a successor enrolls the pods anew. Run has to have ended.
func (e *Enroller) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.held {
		h.pod.close()
	}
}
