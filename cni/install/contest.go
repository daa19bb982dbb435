package install

import (
	"slices"
	"time"
)

const (
	maxLosses   = 5                // so often our entry may be taken out
	lossWindow  = time.Minute      // within this time
	contestRest = 10 * time.Minute // before it is put in again
)

// contest tells whether somebody takes our entry out whenever we put it in. Against such a one we do not win, and both
// would only keep the container runtime busy.
type contest struct {
	losses []time.Time // of the last lossWindow
	lost   bool        // it is somebody else's file, until our entry stays in it for lossWindow
	restTo time.Time
}

// lose notes that our entry was taken out.
func (c *contest) lose(now time.Time) {
	if c.lost && now.Sub(c.restTo) > lossWindow {
		*c = contest{} // it had stayed
	}
	c.losses = slices.DeleteFunc(c.losses, func(t time.Time) bool { return now.Sub(t) > lossWindow })
	c.losses = append(c.losses, now)
	if c.lost || len(c.losses) >= maxLosses {
		c.lost, c.restTo = true, now.Add(contestRest)
	}
}

// resting says whether the file is to be left alone.
func (c *contest) resting(now time.Time) bool { return c.lost && now.Before(c.restTo) }
