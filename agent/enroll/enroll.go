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
	searchAtMost = time.Second // between two looks for the processes of a pod that has none yet
)

// errNoProcess is why a pod that names no namespace is not enrolled before it runs.
var errNoProcess = errors.New("no process of the pod was found with a network namespace of its own: " +
	"it does not run yet, or the annotation " + NetNSAnnotation + " is missing")

// Config is what an Enroller needs.
type Config struct {
	Proc     string       // where the host's procfs is mounted, /proc
	Port     uint16       // of the listeners
	PrefixV6 netip.Prefix // of redirected IPv6 connections
	Log      *slog.Logger
}

// Enroller keeps the pods that are held in line with those that are desired. Its methods may be called from any
// goroutine.
type Enroller struct {
	log     *slog.Logger
	machine machine
	kick    chan struct{}
	changed chan struct{}

	mu      sync.Mutex
	given   bool // SetDesired was called
	desired map[string]Wanted
	held    map[string]*held
	failed  map[string]*failure
}

// machine is what is done to the machine: functions, so that a test can do without one.
type machine struct {
	open     func(Wanted, string) (*Pod, error)
	scan     func(uids map[string]bool) (map[string]string, error)
	identify func(path string) (nsID, error)
	check    func(path string, id nsID) error
	release  func(*Pod) error
}

type held struct {
	pod    *Pod
	wanted Wanted // what it was last found to match
	path   string // names the namespace
	ending string // why it is to be released
}

type failure struct {
	err     error
	next    time.Time
	backoff time.Duration
}

// Held is a pod that is enrolled. With Ending set it is to be released, and Ending says why.
type Held struct {
	*Pod
	Ending string
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
	cfg.Proc = cmp.Or(cfg.Proc, "/proc")
	o := opener{proc: cfg.Proc, port: cfg.Port, prefix: cfg.PrefixV6}
	return newEnroller(cfg.Log, machine{
		open:     o.open,
		scan:     func(uids map[string]bool) (map[string]string, error) { return scan(cfg.Proc, uids) },
		identify: statNS,
		check:    check,
		release:  (*Pod).release,
	})
}

func newEnroller(log *slog.Logger, m machine) *Enroller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Enroller{
		log: log, machine: m, kick: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		held: map[string]*held{}, failed: map[string]*failure{},
	}
}

// SetDesired says which pods are to be enrolled from now on.
func (e *Enroller) SetDesired(pods []Wanted) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.given = true
	e.desired = map[string]Wanted{}
	for _, w := range pods {
		e.desired[w.UID] = w
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
		v.Pods = append(v.Pods, Held{Pod: h.pod, Ending: h.ending})
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
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.kick:
		}
		if e.reconcile(ctx) {
			mark(e.changed)
		}
	}
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
