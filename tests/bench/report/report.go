// Package report turns samples of the benchmark into medians, ratios, a table, a plot, JSON and the generated part of
// docs/performance.md. Data in, text out.
package report

import (
	"math"
	"slices"
)

// The names that have a part of their own.
const (
	Reference   = "haproxy"      // what ratios are to
	Direct      = "direct"       // no proxy at all
	DirectAgain = "direct again" // the same once more: the machine's noise
	Ours        = "sluice"
)

// Workload is what was measured, as a reader needs it.
type Workload struct {
	Name        string  `json:"name"`
	Title       string  `json:"title"`
	Connections int     `json:"connections"`
	Streams     int     `json:"streams,omitempty"` // at a time on each connection, where it is HTTP/2
	Unit        string  `json:"unit,omitempty"`    // what is counted, where it is not requests: "call", "message"
	Threads     int     `json:"threads"`
	Rate        float64 `json:"rate"`           // of the latency measurement, requests a second; 0: not measured
	Idle        bool    `json:"idle,omitempty"` // only the memory of so many idle connections is measured
}

// Sample is one measurement of one proxy in one round. What was not measured is NaN.
type Sample struct {
	Workload, Proxy string
	Round           int
	CPU             float64 // microseconds per request, user and system
	RPS             float64
	P50, P99, P999  float64 // microseconds
	Late            float64 // microseconds: how late the load generator itself was, 99th percentile
	RSS             float64 // MB, at the end of the load
	Unused          float64 // MB, before there was any load
	Idle            float64 // KB per idle connection
	Failures        int
	FirstFailure    string
}

// Row is one proxy under one workload: medians over the rounds. A nil was not measured.
type Row struct {
	Workload       string   `json:"workload"`
	Proxy          string   `json:"proxy"`
	CPU            *float64 `json:"cpu_us_per_request"`
	Ratio          *float64 `json:"ratio_to_haproxy"` // median of the ratios of each round
	RatioMin       *float64 `json:"ratio_min,omitempty"`
	RatioMax       *float64 `json:"ratio_max,omitempty"`
	RPS            *float64 `json:"rps"`
	P50            *float64 `json:"p50_us"`
	P99            *float64 `json:"p99_us"`
	P999           *float64 `json:"p999_us,omitempty"`
	Late           *float64 `json:"generator_late_p99_us,omitempty"` // part of the latencies
	RSS            *float64 `json:"rss_mb"`
	Unused         *float64 `json:"rss_unused_mb,omitempty"` // before there was any load
	Idle           *float64 `json:"kb_per_idle_connection,omitempty"`
	IdleRatio      *float64 `json:"idle_ratio_to_haproxy,omitempty"`
	Rounds         int      `json:"rounds"`
	FailedRequests int      `json:"failed_requests"`
	FirstFailure   string   `json:"first_failure,omitempty"`
}

// Noise is what one direct measurement was of the other in the same round: 1 would be a machine without noise.
type Noise struct {
	Workload string  `json:"workload"`
	Measure  string  `json:"measure"`
	Median   float64 `json:"median"`
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
}

// Machine is where it ran, and what was compared.
type Machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Kernel   string            `json:"kernel"`
	Versions map[string]string `json:"versions"` // of each proxy
}

// Report is a whole run.
type Report struct {
	Machine   Machine    `json:"machine"`
	Rounds    int        `json:"rounds"`
	Seconds   float64    `json:"seconds"` // of each measurement
	Workloads []Workload `json:"workloads"`
	Rows      []Row      `json:"rows"`
	Noise     []Noise    `json:"noise"`
	Missing   []string   `json:"missing,omitempty"` // what could not be measured, and why
	Samples   []Sample   `json:"-"`                 // of which the rows are made
}

// Summarize takes the medians. Rows come in the order of the workloads, then of the proxies.
func Summarize(workloads []Workload, proxies []string, samples []Sample) (rows []Row, noise []Noise) {
	for _, w := range workloads {
		of := map[string][]Sample{}
		for _, s := range samples {
			if s.Workload == w.Name {
				of[s.Proxy] = append(of[s.Proxy], s)
			}
		}
		for _, p := range proxies {
			if len(of[p]) > 0 && p != DirectAgain {
				rows = append(rows, row(w.Name, p, of[p], of[Reference]))
			}
		}
		noise = append(noise, noiseOf(w, of[Direct], of[DirectAgain])...)
	}
	return rows, noise
}

func row(workload, proxy string, samples, reference []Sample) Row {
	r := Row{
		Workload: workload, Proxy: proxy, Rounds: len(samples),
		CPU: median(samples, cpu), RPS: median(samples, rps), RSS: median(samples, rss),
		P50: median(samples, p50), P99: median(samples, p99), P999: median(samples, p999), Late: median(samples, late),
		Unused: median(samples, unused), Idle: median(samples, idle),
	}
	r.IdleRatio, _, _ = Spread(pairs(samples, reference, idle))
	r.Ratio, r.RatioMin, r.RatioMax = Spread(pairs(samples, reference, cpu))
	for _, s := range samples {
		r.FailedRequests += s.Failures
		if r.FirstFailure == "" {
			r.FirstFailure = s.FirstFailure
		}
	}
	return r
}

func noiseOf(w Workload, one, other []Sample) []Noise {
	var out []Noise
	for _, m := range []struct {
		name string
		of   func(Sample) float64
	}{{w.unit() + "s per second", rps}, {"p50", p50}, {"p99", p99}} {
		if mid, lo, hi := Spread(pairs(one, other, m.of)); mid != nil {
			out = append(out, Noise{Workload: w.Name, Measure: m.name, Median: *mid, Min: *lo, Max: *hi})
		}
	}
	return out
}

func cpu(s Sample) float64  { return s.CPU }
func rps(s Sample) float64  { return s.RPS }
func p50(s Sample) float64  { return s.P50 }
func p99(s Sample) float64  { return s.P99 }
func p999(s Sample) float64 { return s.P999 }
func late(s Sample) float64 { return s.Late }
func rss(s Sample) float64  { return s.RSS }
func idle(s Sample) float64 { return s.Idle }

func unused(s Sample) float64 { return s.Unused }

// pairs are the ratios of what was measured in the same round, so that what slows the machine for a while slows both.
func pairs(samples, reference []Sample, of func(Sample) float64) []float64 {
	var out []float64
	for _, s := range samples {
		for _, r := range reference {
			if ratio := of(s) / of(r); s.Round == r.Round && !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
				out = append(out, ratio)
			}
		}
	}
	return out
}

func median(samples []Sample, of func(Sample) float64) *float64 {
	var values []float64
	for _, s := range samples {
		if v := of(s); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	m, _, _ := Spread(values)
	return m
}

// Spread is the median, the least and the greatest; nil where there is nothing.
func Spread(values []float64) (mid, least, greatest *float64) {
	if len(values) == 0 {
		return nil, nil, nil
	}
	v := slices.Clone(values)
	slices.Sort(v)
	n := len(v)
	m := v[n/2]
	if n%2 == 0 {
		m = (v[n/2-1] + v[n/2]) / 2
	}
	return new(m), new(v[0]), new(v[n-1])
}
