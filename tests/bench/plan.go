package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// workload is one thing to measure. Rate is low enough for the slowest proxy on two shared cores.
type workload struct {
	report.Workload
	path   string
	routes int
	fresh  bool // a new connection for each request
}

func load(name, title string, connections int, rate float64, edit func(*workload)) workload {
	w := workload{
		Name: name, Title: title, Connections: connections, Threads: 1, Rate: rate, path: "/", routes: 1,
	}
	if edit != nil {
		edit(&w)
	}
	return w
}

// workloads are all that there are, in the order of the report.
func workloads() []workload {
	two := func(w *workload) { w.Threads = 2 }
	return []workload{
		load("keepalive-1", "1 connection", 1, 1000, nil),
		load("keepalive-16", "16 connections", 16, 4000, nil),
		load("keepalive-128", "128 connections", 128, 4000, nil),
		load("keepalive-1000", "1,000 connections", 1000, 4000, nil),
		load("keepalive-16-2p", "16 connections", 16, 4000, two),
		load("keepalive-128-2p", "128 connections", 128, 4000, two),
		load("body-10k", "16 connections, responses of 10 KB", 16, 3000, func(w *workload) { w.path = "/10k" }),
		load("body-1m", "16 connections, responses of 1 MB", 16, 100, func(w *workload) { w.path = "/1m" }),
		load("new-connection", "a new connection for each request, 16 at once", 16, 1000, func(w *workload) { w.fresh = true }),
		load("routes-100", "16 connections, 100 routes (keepalive-16 has one)", 16, 4000, func(w *workload) { w.routes = 100 }),
		load("routes-5000", "16 connections, 5,000 routes", 16, 4000, func(w *workload) { w.routes = 5000 }),
		load("idle", "4,000 idle connections", 4000, 0, func(w *workload) { w.Idle = true }),
	}
}

// options are the flags.
type options struct {
	workloads []workload
	proxies   []string
	rounds    int
	duration  time.Duration
	latency   bool   // measured too
	profile   string // folder for Sluice's CPU profiles; "": none are taken
	out       string // folder of the results; "": none are written
	bin       string // folder of Sluice's programs and of the benchmark's own
	build     bool   // put them there first
}

// proxies are all names, in the order of the report.
func proxies() []string {
	return []string{report.Direct, report.DirectAgain, report.Ours, report.Reference, "nginx", "envoy", "reverseproxy", "bareloop"}
}

// choose reads a comma-separated list of names; an empty one is all of them.
func choose[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	wanted := strings.Split(list, ",")
	for _, w := range wanted {
		if !slices.ContainsFunc(all, func(t T) bool { return name(t) == w }) {
			var names []string
			for _, t := range all {
				names = append(names, name(t))
			}
			return nil, fmt.Errorf("no %s %q; there are %s", what, w, strings.Join(names, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(t T) bool { return !slices.Contains(wanted, name(t)) }), nil
}

// takesPart says whether a measurement makes sense: the bare loop knows no routes, and without a proxy there is nothing
// whose threads, routes or memory could differ.
func takesPart(w workload, proxy string) bool {
	switch proxy {
	case "bareloop":
		return w.routes == 1
	case report.Direct, report.DirectAgain:
		return w.routes == 1 && !w.Idle && w.Threads == 1
	}
	return true
}

// job is one measurement.
type job struct {
	round    int
	workload workload
	proxy    string
}

// plan orders the measurements: a round takes each workload, and in it the proxies in an order of its own.
func plan(o options, shuffle func(n int, swap func(i, j int))) []job {
	var jobs []job
	for round := range o.rounds {
		for _, w := range o.workloads {
			var taking []string
			for _, p := range o.proxies {
				if takesPart(w, p) {
					taking = append(taking, p)
				}
			}
			shuffle(len(taking), func(i, j int) { taking[i], taking[j] = taking[j], taking[i] })
			for _, p := range taking {
				jobs = append(jobs, job{round: round, workload: w, proxy: p})
			}
		}
	}
	return jobs
}
