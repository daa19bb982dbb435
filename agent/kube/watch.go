package kube

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sluice-mesh/sluice/agent/objects"
)

const (
	holdOff  = 20 * time.Millisecond  // so long nothing more may happen before the folder is read
	maxDelay = 200 * time.Millisecond // but no later than this after the first event
	pollTime = 2 * time.Second        // for what no event tells: links to elsewhere, network file systems
)

// Run publishes the folder's objects at once, and again whenever they or the problems have changed, until the context
// ends; then it returns nil. It returns an error when the folder cannot be read at the start. When that happens later,
// what was read before still counts, and the problem is published.
func (f *Folder) Run(ctx context.Context, publish func(*objects.Set, []Problem)) error {
	w := newWatcher(f)
	defer w.close()
	return f.run(ctx, w.events(), w.watch, publish)
}

// run is the loop. Events only mark the folder as dirty; a timer reads it.
func (f *Folder) run(ctx context.Context, events <-chan fsnotify.Event, watch func([]string) bool, publish func(*objects.Set, []Problem)) error {
	set, problems, folders, err := f.load()
	if err != nil {
		return err
	}
	publish(set, problems)
	var due dueTime
	wait := func() time.Duration {
		// What changed between reading and watching is found by reading again.
		if due = (dueTime{}); watch(folders) {
			due.event(time.Now())
			return due.in(time.Now())
		}
		return pollTime
	}

	timer := time.NewTimer(wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			if !ok {
				events = nil // the poll goes on
				continue
			}
			due.event(time.Now())
			timer.Reset(due.in(time.Now()))
		case <-timer.C:
			newSet, newProblems, newFolders, err := f.load()
			if err != nil {
				newSet, newProblems, newFolders = f.set, []Problem{{File: f.dir, Reason: err.Error() + "; what was read before still counts"}}, nil
			}
			folders = newFolders
			if newSet != set || !slices.Equal(newProblems, problems) {
				set, problems = newSet, newProblems
				publish(set, problems)
			}
			timer.Reset(wait())
		}
	}
}

// dueTime is when a folder is to be read: a little after the last event, but not long after the first.
type dueTime struct{ first, last time.Time }

func (d *dueTime) event(now time.Time) {
	if d.first.IsZero() {
		d.first = now
	}
	d.last = now
}

func (d *dueTime) in(now time.Time) time.Duration {
	return max(0, min(d.last.Add(holdOff).Sub(now), d.first.Add(maxDelay).Sub(now)))
}

// watcher tells of changes in folders. Without one (the kernel's limit is reached, say), the poll is left.
type watcher struct {
	folder   *Folder
	notify   *fsnotify.Watcher
	watched  map[string]os.FileInfo
	reported bool
}

func newWatcher(f *Folder) *watcher {
	w := &watcher{folder: f, watched: map[string]os.FileInfo{}}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.report(err)
		w.notify = nil
	}
	return w
}

// report says once that changes will be seen late.
func (w *watcher) report(err error) {
	if !w.reported {
		w.folder.log.Warn("changes of the manifests are seen late: the folder cannot be watched", "folder", w.folder.dir,
			"poll", pollTime, "error", err)
	}
	w.reported = true
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	go func() {
		for err := range w.notify.Errors { // has to be read; ends when the watcher is closed
			w.folder.log.Debug("an event of the manifests was lost; the poll makes up for it", "error", err)
		}
	}()
	return w.notify.Events
}

// watch makes the watched folders the given ones; nil leaves them as they are. A folder that was replaced by another
// of the same name is watched anew. It says whether there is a folder that was not watched before.
func (w *watcher) watch(folders []string) (added bool) {
	if w.notify == nil || folders == nil {
		return false
	}
	for path := range w.watched {
		if !slices.Contains(folders, path) {
			w.forget(path)
		}
	}
	for _, path := range folders {
		isNew, err := w.add(path)
		if err != nil {
			w.report(err)
		}
		added = added || isNew
	}
	return added
}

func (w *watcher) add(path string) (added bool, _ error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, nil //nolint:nilerr // it has just gone; the next reading sees that
	}
	if before, ok := w.watched[path]; ok {
		if os.SameFile(before, info) {
			return false, nil
		}
		w.forget(path)
	}
	if err := w.notify.Add(path); err != nil {
		return false, fmt.Errorf("watch %s: %w", path, err)
	}
	w.watched[path] = info
	return true, nil
}

func (w *watcher) forget(path string) {
	delete(w.watched, path)
	// A folder that is gone has lost its watch by itself.
	_ = w.notify.Remove(path)
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close() // nothing is left to lose
	}
}
