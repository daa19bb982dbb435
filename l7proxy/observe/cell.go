package observe

import (
	"math"
	"sync/atomic"
	"time"
)

// cell is one shard of the counters of a series: a histogram, whose count is that of the exchanges, and bytes.
//
// An exchange is in one native bucket, and thereafter in one classic bucket if its duration is within their bounds.
// Whoever reads in the opposite order finds no more in the classic ones than in the native ones.
type cell struct {
	octaves       [maxOctave - minOctave + 1]atomic.Pointer[octave]
	classic       [len(classicBounds)]atomic.Uint64
	instant       atomic.Uint64 // the native histogram's zero bucket
	micros        atomic.Uint64 // nanoseconds would overflow where thousands wait for weeks
	requestBytes  atomic.Uint64
	responseBytes atomic.Uint64

	_ [8]byte // to whole cache lines
}

// octave has the native buckets for the durations above 2^n seconds up to 2^(n+1). It is a cache line. Most series use
// three or four.
type octave [perOctave]atomic.Uint64

const (
	schema    = 3           // of the native histogram
	perOctave = 1 << schema // each bucket ends 9 % higher than the one before

	minOctave = -17 // what took less than 8 µs is in the zero bucket
	maxOctave = 19  // what took longer than 12 days counts as 12 days
)

// zeroThreshold is where the zero bucket ends, in seconds.
const zeroThreshold = 1.0 / (1 << -minOctave)

// classicBounds are the upper ends of the classic buckets. They are never written.
var classicBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

func (c *cell) add(rec *Record) {
	d := max(0, rec.Duration)
	c.native(d).Add(1)
	for i := range classicBounds {
		if d <= classicBounds[i] {
			c.classic[i].Add(1)
			break
		}
	}
	c.micros.Add(uint64(d+time.Microsecond/2) / uint64(time.Microsecond))
	if rec.RequestBytes > 0 {
		c.requestBytes.Add(uint64(rec.RequestBytes))
	}
	if rec.ResponseBytes > 0 {
		c.responseBytes.Add(uint64(rec.ResponseBytes))
	}
}

// native returns the native bucket of d.
func (c *cell) native(d time.Duration) *atomic.Uint64 {
	const lowest = minOctave * perOctave
	at := min(bucketKey(d), (maxOctave+1)*perOctave) - lowest - 1
	if at < 0 {
		return &c.instant
	}
	o := &c.octaves[at/perOctave]
	buckets := o.Load()
	if buckets == nil {
		o.CompareAndSwap(nil, new(octave)) // or another has just done so
		buckets = o.Load()
	}
	return &buckets[at%perOctave]
}

// bucketKey numbers the buckets as Prometheus does: the one with the key k ends at 2^(k/8) seconds, included.
func bucketKey(d time.Duration) int {
	fraction, exponent := math.Frexp(float64(d) / float64(time.Second))
	if fraction == 0 {
		return math.MinInt
	}
	i := 0
	for i < perOctave && eighths[i] < fraction {
		i++
	}
	return (exponent-1)*perOctave + i
}

// eighths are 2^(i/8) / 2. They are never written.
var eighths = [perOctave]float64{
	0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
	0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
}

// totals are what the cells of a series add up to.
type totals struct {
	count         uint64
	native        map[int]int64 // by bucketKey
	instant       uint64
	classic       [len(classicBounds)]uint64 // not cumulative
	micros        uint64
	requestBytes  uint64
	responseBytes uint64
}

func (t *totals) add(c *cell) {
	for i := range c.classic { // before the native ones: see cell
		t.classic[i] += c.classic[i].Load()
	}
	t.micros += c.micros.Load()
	t.requestBytes += c.requestBytes.Load()
	t.responseBytes += c.responseBytes.Load()
	instant := c.instant.Load()
	t.instant += instant
	t.count += instant
	for i := range c.octaves {
		buckets := c.octaves[i].Load()
		if buckets == nil {
			continue
		}
		for j := range buckets {
			if n := buckets[j].Load(); n > 0 {
				t.native[(minOctave+i)*perOctave+j+1] += int64(n)
				t.count += n
			}
		}
	}
}
