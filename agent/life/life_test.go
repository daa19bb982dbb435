package life

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sluice-mesh/sluice/agent/handover"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/cni/install"
)

func TestRelayPassesOnWhatThereIsAndWhatComes(t *testing.T) {
	r := NewRelay()
	a, b, c := &objects.Set{}, &objects.Set{}, &objects.Set{}
	var got []*objects.Set
	take := func(set *objects.Set, problems []kube.Problem) { got = append(got, set) }
	r.Attach(take) // nothing has come: nothing is to be compiled
	select {
	case <-r.First():
		t.Error("there are said to be objects before there are")
	default:
	}
	r.Publish(a, nil)
	<-r.First()
	r.Attach(nil)
	r.Publish(b, nil)
	r.Attach(take)
	r.Publish(c, nil)
	if len(got) != 3 || got[0] != a || got[1] != b || got[2] != c {
		t.Errorf("%d Sets came; want the first, the one that came in between, and the last", len(got))
	}
}

// fakeNode answers with its name.
type fakeNode struct {
	name string
	err  error
}

func (f *fakeNode) Healthy(context.Context) error { return f.err }
func (f *fakeNode) Ready(context.Context) error   { return f.err }
func (f *fakeNode) Status(context.Context) (*node.Status, error) {
	return &node.Status{Node: f.name}, f.err
}
func (f *fakeNode) Config(context.Context) (*node.Model, error) { return &node.Model{}, f.err }
func (f *fakeNode) SetBypass(_ context.Context, on bool) error  { return f.err }

// An agent that was replaced must not be taken for one that is broken, or the upgrade would wait for it.
func TestDeskAnswersWithAndWithoutTheNode(t *testing.T) {
	ctx := t.Context()
	own, held := prometheus.NewRegistry(), prometheus.NewRegistry()
	promauto.With(own).NewCounter(prometheus.CounterOpts{Name: "own_total", Help: "."})
	promauto.With(held).NewCounter(prometheus.CounterOpts{Name: "held_total", Help: "."})
	d := NewDesk("v1.2.3", own)
	series := func() int {
		t.Helper()
		all, err := d.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if d.Healthy(ctx) != nil || d.Ready(ctx) == nil || series() != 1 {
		t.Errorf("at the start: healthy %v, ready %v, %d metrics", d.Healthy(ctx), d.Ready(ctx), series())
	}
	broken := errors.New("it is broken")
	n := &fakeNode{name: "n1", err: broken}
	d.Has(Holding{Node: n, Metrics: held, CNI: func() install.Status { return install.Status{State: install.Missing} }})
	if !errors.Is(d.Healthy(ctx), broken) || !errors.Is(d.Ready(ctx), broken) || !errors.Is(d.SetBypass(ctx, true), broken) {
		t.Error("the node's own answer is not passed on")
	}
	n.err = nil
	s, err := d.Status(ctx)
	if err != nil || s.Node != "n1" || s.Version != "v1.2.3" || s.CNI.State != install.Missing || series() != 2 {
		t.Errorf("with the node: %+v, %v, %d metrics", s, err, series())
	}
	d.HasNot()
	if d.Healthy(ctx) != nil || d.Ready(ctx) != nil || series() != 1 {
		t.Errorf("replaced: healthy %v, ready %v", d.Healthy(ctx), d.Ready(ctx))
	}
	for what, err := range map[string]error{
		"status": func() error { _, err := d.Status(ctx); return err }(),
		"config": func() error { _, err := d.Config(ctx); return err }(),
		"bypass": d.SetBypass(ctx, true),
	} {
		if !errors.Is(err, ErrElsewhere) {
			t.Errorf("replaced, %s: %v", what, err)
		}
	}
}

var errLocked = errors.New("locked")

// lock is what only one can have.
type lock struct{ taken atomic.Bool }

func (l *lock) open() (io.Closer, error) {
	if l.taken.Swap(true) {
		return nil, errLocked
	}
	return l, nil
}

func (l *lock) Close() error { l.taken.Store(false); return nil }

func taker(l *lock, path string) *Taker[io.Closer] {
	return &Taker[io.Closer]{Open: l.open, Locked: errLocked, Handover: path, Log: slog.New(slog.DiscardHandler)}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSuccessorAsksForTheNode(t *testing.T) {
	ctx, l, path := limited(t), &lock{}, filepath.Join(t.TempDir(), "handover.sock")
	before := taker(l, path)
	held, err := before.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h, err := handover.Listen(path, before.Log)
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() {
		_, err := taker(l, path).Take(ctx)
		taken <- err
	}()
	asked := h.Run(ctx)
	if asked == nil {
		t.Fatal("nobody asked")
	}
	h.Close()
	held.Close()
	asked.Close()
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

// Whoever gave the node up does not ask for it again: two would pass it to and fro. It has it back when its successor
// died.
func TestPredecessorTakesTheNodeBackOnlyWhenNobodyHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lock{}
		before := taker(l, "/nowhere/handover.sock")
		held, err := before.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held.Close()
		back := make(chan time.Duration, 1)
		start := time.Now()
		go func() {
			if _, err := before.Take(t.Context()); err == nil {
				back <- time.Since(start)
			}
		}()
		time.Sleep(stepAside / 2) // the successor takes its time
		synctest.Wait()
		next, err := l.open()
		if err != nil {
			t.Fatal("the predecessor did not step aside")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case d := <-back:
			t.Fatalf("it has it again after %v", d)
		default:
		}
		next.Close()
		time.Sleep(2 * lookAgain)
		synctest.Wait()
		select {
		case <-back:
		default:
			t.Error("nobody has the node")
		}
	})
}

func TestLockedNodeIsAnErrorWhereNobodyIsAsked(t *testing.T) {
	l := &lock{}
	l.taken.Store(true)
	if _, err := taker(l, "").Take(limited(t)); !errors.Is(err, errLocked) {
		t.Error(err)
	}
}

func TestWaitingForTheNodeEnds(t *testing.T) {
	l := &lock{}
	l.taken.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := taker(l, filepath.Join(t.TempDir(), "none")).Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// leavingNode has proxies that change with time.
type leavingNode struct {
	fakeNode
	start   time.Time
	proxies func(since time.Duration) []node.ProxyStatus
}

func (l *leavingNode) Status(context.Context) (*node.Status, error) {
	return &node.Status{Proxies: l.proxies(time.Since(l.start))}, l.err
}

func TestLinger(t *testing.T) {
	in := func(state string) []node.ProxyStatus { return []node.ProxyStatus{{State: state}} }
	for what, c := range map[string]struct {
		proxies func(since time.Duration) []node.ProxyStatus
		want    time.Duration
	}{
		"there is no proxy":              {func(time.Duration) []node.ProxyStatus { return nil }, 0},
		"only the agent ends":            {func(time.Duration) []node.ProxyStatus { return in("serving") }, tellTime},
		"a proxy that drains for good":   {func(time.Duration) []node.ProxyStatus { return in("draining") }, time.Minute},
		"a proxy that has been released": {func(time.Duration) []node.ProxyStatus { return in("released") }, time.Minute},
		"the whole pod ends": {func(since time.Duration) []node.ProxyStatus {
			switch {
			case since < time.Second:
				return in("serving")
			case since < 5*time.Second:
				return in("draining")
			case since < 20*time.Second:
				return in("released")
			}
			return nil
		}, 20 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said strings.Builder
				n := &leavingNode{start: time.Now(), proxies: c.proxies}
				Linger(t.Context(), n, time.Minute, slog.New(slog.NewTextHandler(&said, nil)))
				if took := time.Since(n.start); took < c.want || took > c.want+lookAtProxies {
					t.Errorf("it stayed for %v, want %v", took, c.want)
				}
				if waits := c.want > 0; strings.Contains(said.String(), "stays") != waits {
					t.Errorf("it said %q", said.String())
				}
			})
		})
	}
}

func TestLingerEndsWithTheNode(t *testing.T) {
	n := &leavingNode{err: errors.New("gone"), proxies: func(time.Duration) []node.ProxyStatus {
		return []node.ProxyStatus{{State: "draining"}}
	}}
	Linger(limited(t), n, time.Hour, nil)
}
