package status

import (
	"log/slog"
	"sync"
	"time"
)

// complainEvery is how often the same thing is logged at most: a server that is away fails thousands of writes.
const complainEvery = 10 * time.Second

// complaints logs failures, so many of one kind as can be read. The others are counted.
type complaints struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]complaint
}

type complaint struct {
	at   time.Time
	more int
}

func (c *complaints) add(message, about string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = map[string]complaint{}
	}
	before, now := c.last[message], time.Now()
	if !before.at.IsZero() && now.Sub(before.at) < complainEvery {
		before.more++
		c.last[message] = before
		return
	}
	c.last[message] = complaint{at: now}
	c.log.Warn("the API server does not have what it should", "problem", message, "object", about, "error", err, "not_logged", before.more)
}
