package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	holdOff  = 20 * time.Millisecond // after an event: most come in pairs
	pollTime = 5 * time.Second       // for what no event tells
)

// watcher tells that something happened in folders.
type watcher struct {
	log    *slog.Logger
	dirs   []string
	notify *fsnotify.Watcher // nil where there is none: the poll is left
	warned bool
}

func newWatcher(log *slog.Logger, dirs ...string) *watcher {
	w := &watcher{log: log, dirs: dirs}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.warn(err)
	}
	return w
}

func (w *watcher) warn(err error) {
	if !w.warned {
		w.log.Warn("changes of the CNI configuration are seen late: its folder cannot be watched", "poll", pollTime, "error", err)
	}
	w.warned = true
}

// watch watches the folders that exist. One that is watched already stays so.
func (w *watcher) watch() {
	if w.notify == nil {
		return
	}
	for _, dir := range w.dirs {
		if err := w.notify.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.warn(fmt.Errorf("watch %s: %w", dir, err))
		}
	}
}

// wait returns true when it is time for another look, and false when the context has ended.
func (w *watcher) wait(ctx context.Context) bool {
	var events chan fsnotify.Event
	var lost chan error
	if w.notify != nil {
		events, lost = w.notify.Events, w.notify.Errors
	}
	timer := time.NewTimer(pollTime)
	defer timer.Stop()
	marked := false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case err := <-lost: // an overflow, say: something happened
			w.log.Debug("an event of the CNI configuration was lost", "error", err)
		case <-events:
		}
		if !marked {
			marked = true
			timer.Reset(holdOff)
		}
	}
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close() // nothing is left to lose
	}
}
