package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/config"
	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// workload is one thing to measure. Rate is low enough for the slowest proxy on two shared cores.
type workload struct {
	report.Workload
	path   string
	routes int
	fresh  bool // a new connection for each request
	grpc   bool // calls over HTTP/2: unary ones, unless
	stream bool // each stream lasts and carries messages, one at a time each way
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

// call is a gRPC workload. It has no latency measurement: the open loop speaks HTTP/1.1.
func call(name string, connections, streams, threads int, edit func(*workload)) workload {
	return load(name, config.GRPCTitle(connections, streams), connections, 0, func(w *workload) {
		w.grpc, w.path, w.Streams, w.Threads, w.Unit = true, config.GRPCPath, streams, threads, "call"
		if edit != nil {
			edit(w)
		}
	})
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
		call("grpc-1x16", 1, 16, 1, nil),
		call("grpc-4x100", 4, 100, 1, nil),
		call("grpc-16x1", 16, 1, 1, nil),
		call("grpc-1x16-2p", 1, 16, 2, nil),
		call("grpc-4x100-2p", 4, 100, 2, nil),
		call("grpc-16x1-2p", 16, 1, 2, nil),
		call("grpc-stream", 4, 25, 1, func(w *workload) {
			w.stream, w.Unit = true, "message"
			w.Title += " that last, one message at a time each way"
		}),
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
	return []string{report.Direct, report.DirectAgain, report.Ours, report.Reference, "nginx", "envoy", "reverseproxy", "bareloop", "bareh2"}
}

// choose reads a comma-separated list of names; an empty one is all of them. Where there is no such name, it may be the
// beginning of several, up to a hyphen: "grpc" is all of gRPC.
func choose[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var names, wanted []string
	for _, t := range all {
		names = append(names, name(t))
	}
	for w := range strings.SplitSeq(list, ",") {
		before := len(wanted)
		for _, n := range names {
			if n == w || strings.HasPrefix(n, w+"-") && !slices.Contains(names, w) {
				wanted = append(wanted, n)
			}
		}
		if len(wanted) == before {
			return nil, fmt.Errorf("no %s %q; there are %s", what, w, strings.Join(names, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(t T) bool { return !slices.Contains(wanted, name(t)) }), nil
}

// takesPart says whether a measurement makes sense: the bare loops know no routes and one protocol each, and without a proxy
// there is nothing whose threads, routes or memory could differ.
func takesPart(w workload, proxy string) bool {
	switch proxy {
	case "bareloop":
		return w.routes == 1 && !w.grpc
	case "bareh2":
		return w.grpc
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
