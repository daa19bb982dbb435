package install

import (
	"testing"
	"time"
)

func TestContest(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lose := func(c *contest, at ...time.Duration) {
		for _, d := range at {
			c.lose(start.Add(d))
		}
	}
	const s, m = time.Second, time.Minute
	for name, c := range map[string]struct {
		losses  []time.Duration
		at      time.Duration
		resting bool
	}{
		"now and then":                    {[]time.Duration{0, 30 * s, 61 * s, 92 * s, 123 * s, 154 * s}, 154 * s, false},
		"four times":                      {[]time.Duration{0, s, 2 * s, 3 * s}, 3 * s, false},
		"five times":                      {[]time.Duration{0, s, 2 * s, 3 * s, 4 * s}, 4 * s, true},
		"until ten minutes later":         {[]time.Duration{0, 0, 0, 0, 0}, 10*m - 1, true},
		"then it is tried again":          {[]time.Duration{0, 0, 0, 0, 0}, 10 * m, false},
		"once, and lost again":            {[]time.Duration{0, 0, 0, 0, 0, 10*m + s}, 20 * m, true},
		"each time":                       {[]time.Duration{0, 0, 0, 0, 0, 10*m + s, 20*m + 2*s}, 30 * m, true},
		"it stayed for a while, and then": {[]time.Duration{0, 0, 0, 0, 0, 12 * m}, 12 * m, false},
	} {
		t.Run(name, func(t *testing.T) {
			var state contest
			lose(&state, c.losses...)
			if got := state.resting(start.Add(c.at)); got != c.resting {
				t.Errorf("resting: %v", got)
			}
		})
	}
}
