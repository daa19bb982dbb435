package enroll

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watchAgain is the time between two attempts to watch a folder that cannot be watched, or is not there yet.
const watchAgain = time.Second

// watchFolder marks the channel whenever something appears in the folder or vanishes, until ctx is done. A folder that
// does not exist yet is waited for.
func watchFolder(ctx context.Context, folder string, log *slog.Logger) <-chan struct{} {
	events := make(chan struct{}, 1)
	go func() {
		reported := false
		for ctx.Err() == nil {
			err := watchOnce(ctx, folder, events)
			if err != nil && !reported {
				reported = true
				log.Warn("new pods are found a little later: the folder of network namespaces cannot be watched",
					"folder", folder, "again", watchAgain, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchAgain):
			}
		}
	}()
	return events
}

// watchOnce watches the folder until it is replaced, or the watching ends.
func watchOnce(ctx context.Context, folder string, events chan struct{}) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // nothing more is asked of it
	if err := w.Add(folder); err != nil {
		return err
	}
	mark(events) // what came before
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			mark(events) // events may be lost
			return err
		case ev, ok := <-w.Events:
			if !ok || ev.Name == folder && ev.Has(fsnotify.Remove|fsnotify.Rename) {
				return nil
			}
			mark(events)
		}
	}
}
