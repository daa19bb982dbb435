package life

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluice-mesh/sluice/agent/handover"
)

const (
	askAgain  = 200 * time.Millisecond // when the node is locked, and nobody is to be asked for it
	stepAside = 5 * time.Second        // after having given the node up, until it is looked for whether somebody took it
	lookAgain = time.Second            // and between two looks
)

// Taker gets the node for an agent. Only one that has just started asks for it; one that gave it up takes it back only
// when nobody has it: its successor died.
type Taker[T any] struct {
	Open     func() (T, error) // takes the node, whose lock is what it returns; Locked where another process has it
	Locked   error
	Handover string // path of the socket on which the agent that has the node is asked; "": nobody is, and Locked is an error
	Log      *slog.Logger

	gaveUp bool
}

// Take returns the node, or ctx's error.
func (t *Taker[T]) Take(ctx context.Context) (T, error) {
	wait := askAgain
	if t.gaveUp {
		wait = stepAside
	}
	told := false
	for {
		if t.gaveUp {
			if err := pause(ctx, wait); err != nil {
				var none T
				return none, err
			}
			wait = lookAgain
		}
		got, err := t.Open()
		if !errors.Is(err, t.Locked) || t.Handover == "" {
			t.gaveUp = err == nil // the next time, if there is one, is after having given it up
			return got, err
		}
		if t.gaveUp {
			continue
		}
		if !told {
			t.Log.Info("another agent has the node; it is asked to hand it over", "socket", t.Handover)
			told = true
		}
		err = handover.Ask(ctx, t.Handover)
		if err == nil {
			continue
		}
		if !errors.Is(err, handover.ErrNobody) && ctx.Err() == nil {
			t.Log.Warn("the agent that has the node does not hand it over; it is asked again", "error", err)
		}
		if err := pause(ctx, wait); err != nil {
			return got, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
