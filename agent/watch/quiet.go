package watch

import (
	"context"
	"log/slog"
)

// quieter is a handler to which everything is a matter of debugging.
type quieter struct{ slog.Handler }

// Enabled is part of slog.Handler.
func (q quieter) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle is part of slog.Handler.
func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = slog.LevelDebug; !q.Handler.Enabled(ctx, r.Level) { // for errors logr does not ask
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs is part of slog.Handler.
func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

// WithGroup is part of slog.Handler.
func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }
