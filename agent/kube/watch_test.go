package kube

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// published is what Run published last.
type published struct {
	mu       sync.Mutex
	set      *objects.Set
	problems []Problem
	times    int
}

func (p *published) publish(set *objects.Set, problems []Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.problems = set, problems
	p.times++
}

func (p *published) is(f func(*objects.Set, []Problem) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set != nil && f(p.set, p.problems)
}

func (p *published) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times
}

// run runs a folder until the end of the test.
func run(t *testing.T, f *Folder) *published {
	t.Helper()
	p := &published{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx, p.publish) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// within waits for something to be published, for less time than the poll takes: an event has to tell.
func (p *published) within(t *testing.T, what string, f func(*objects.Set, []Problem) bool) {
	t.Helper()
	for start := time.Now(); !p.is(f); time.Sleep(time.Millisecond) {
		if time.Since(start) > pollTime*3/4 {
			t.Fatalf("%s: not published", what)
		}
	}
}

func hasWeight(w int32) func(*objects.Set, []Problem) bool {
	return func(s *objects.Set, _ []Problem) bool { return weight(s, "web") == w }
}

func TestChangesArePublished(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": route})
	p := run(t, f.Folder)
	p.within(t, "at once", hasWeight(90))

	f.write("a.yaml", edit(route, "90", "80"))
	p.within(t, "written in place", hasWeight(80))

	f.write(".a.yaml.new", edit(route, "90", "70"))
	if err := os.Rename(filepath.Join(f.dir, ".a.yaml.new"), filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	p.within(t, "replaced by rename", hasWeight(70))

	f.write("a.yaml", edit(route, "90", "-1"))
	p.within(t, "a problem", func(s *objects.Set, problems []Problem) bool { return len(problems) == 1 && weight(s, "web") == 70 })

	f.remove("a.yaml")
	p.within(t, "removed", func(s *objects.Set, problems []Problem) bool { return len(s.HTTPRoutes) == 0 && len(problems) == 0 })

	f.write("new/folder/a.yaml", edit(route, "90", "60"))
	p.within(t, "in a new folder", hasWeight(60))
	f.write("new/folder/a.yaml", edit(route, "90", "50"))
	p.within(t, "again in the new folder", hasWeight(50))
	f.remove("new")
	p.within(t, "the folder removed", hasWeight(-1))
}

// The kubelet writes each version of a ConfigMap to a folder of its own and swaps the link ..data.
func TestConfigMapSwaps(t *testing.T) {
	f := newFolder(t, map[string]string{"..1/a.yaml": route, "..2/a.yaml": edit(route, "90", "80")})
	swap := func(version string) {
		t.Helper()
		tmp := filepath.Join(f.dir, "..data_tmp")
		if err := os.Symlink(version, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(f.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1")
	if err := os.Symlink("..data/a.yaml", filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	p := run(t, f.Folder)
	p.within(t, "first version", hasWeight(90))
	swap("..2")
	p.within(t, "second version", hasWeight(80))
	if set := f.set; len(set.HTTPRoutes) != 1 {
		t.Errorf("%d routes", len(set.HTTPRoutes))
	}
}

// What no event tells, the poll finds; while the folder is away, what was read before counts.
func TestPollAndFolderThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t, map[string]string{"m/a.yaml": route})
		f.Folder.dir = filepath.Join(f.dir, "m")
		p := &published{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			if err := f.run(ctx, nil, func([]string) bool { return false }, p.publish); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		f.write("m/a.yaml", edit(route, "90", "80"))
		time.Sleep(pollTime + time.Millisecond)
		if !p.is(hasWeight(80)) || p.count() != 2 {
			t.Errorf("published %d times", p.count())
		}
		f.remove("m")
		time.Sleep(3 * pollTime)
		if !p.is(func(s *objects.Set, problems []Problem) bool {
			return weight(s, "web") == 80 && len(problems) == 1 && problems[0].File == f.Folder.dir &&
				strings.Contains(problems[0].Reason, "what was read before still counts")
		}) || p.count() != 3 {
			t.Errorf("published %d times: %v", p.count(), p.problems)
		}
		f.write("m/a.yaml", edit(route, "90", "70"))
		time.Sleep(pollTime + time.Millisecond)
		if !p.is(hasWeight(70)) || len(p.problems) != 0 {
			t.Errorf("not read again: %v", p.problems)
		}
	})
}

// Events are gathered: nothing is read before they pause for 20 ms, nor later than 200 ms after the first.
func TestEventsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t, map[string]string{"a.yaml": route})
		p := &published{}
		events := make(chan fsnotify.Event)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			if err := f.run(ctx, events, func([]string) bool { return false }, p.publish); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		expect := func(times int) {
			t.Helper()
			synctest.Wait()
			if p.count() != times {
				t.Fatalf("published %d times, want %d", p.count(), times)
			}
		}
		expect(1)

		f.write("a.yaml", edit(route, "90", "80"))
		for range 3 {
			events <- fsnotify.Event{}
			time.Sleep(holdOff - time.Millisecond)
			expect(1)
		}
		time.Sleep(2 * time.Millisecond)
		expect(2)

		f.write("a.yaml", edit(route, "90", "70"))
		start := time.Now()
		for time.Since(start) < maxDelay-time.Millisecond {
			events <- fsnotify.Event{}
			expect(2)
			time.Sleep(9 * time.Millisecond)
		}
		time.Sleep(2 * time.Millisecond)
		expect(3)

		close(events) // the watcher is gone: the poll goes on
		f.write("a.yaml", edit(route, "90", "60"))
		time.Sleep(pollTime + time.Millisecond)
		expect(4)
		time.Sleep(10 * pollTime) // nothing changes
		expect(4)
	})
}

func TestWatchedFolderThatIsReplacedIsWatchedAnew(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": route})
	w := newWatcher(f.Folder)
	defer w.close()
	events := w.events()
	sub := filepath.Join(f.dir, "sub")
	f.write("sub/a.txt", "")
	if !w.watch([]string{sub}) || w.watch([]string{sub}) {
		t.Error("want the folder to be new once")
	}
	if err := os.Rename(sub, sub+"2"); err != nil {
		t.Fatal(err)
	}
	f.write("sub/a.txt", "")
	if !w.watch([]string{sub}) {
		t.Error("another folder of the same name is not new")
	}
	drain(events)
	f.write("sub/b.txt", "")
	select {
	case <-events:
	case <-time.After(time.Second):
		t.Error("no event from the new folder")
	}
	w.watch([]string{})
	if len(w.watched) != 0 {
		t.Error("still watched")
	}
}

// drain takes the events that are there until they pause.
func drain(events <-chan fsnotify.Event) {
	for {
		select {
		case <-events:
		case <-time.After(20 * time.Millisecond):
			return
		}
	}
}

// Without a watcher Run goes on with the poll alone, and says so once.
func TestWatcherThatCannotBeMade(t *testing.T) {
	var log strings.Builder
	f, err := NewFolder(t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{folder: f, watched: map[string]os.FileInfo{}}
	w.report(os.ErrPermission)
	w.report(os.ErrPermission)
	if w.events() != nil || w.watch([]string{f.dir}) {
		t.Error("want neither events nor folders")
	}
	if n := strings.Count(log.String(), "seen late"); n != 1 {
		t.Errorf("reported %d times: %s", n, log.String())
	}
}
