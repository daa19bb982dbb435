package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

func TestPlanTakesEachMeasurementOnceARound(t *testing.T) {
	o := options{workloads: workloads(), proxies: proxies(), rounds: 3}
	seen := map[job]int{}
	jobs := plan(o, rand.Shuffle)
	for i, j := range jobs {
		seen[j]++
		if i > 0 && (j.round < jobs[i-1].round) {
			t.Fatal("a round starts before the one before is over")
		}
	}
	want := 0
	for _, w := range o.workloads {
		for _, p := range o.proxies {
			if takesPart(w, p) {
				want += o.rounds
			}
		}
	}
	if len(jobs) != want || len(seen) != want {
		t.Errorf("%d measurements, %d different ones, want %d", len(jobs), len(seen), want)
	}
}

func TestPlanShufflesWithinAWorkload(t *testing.T) {
	one := slices.DeleteFunc(proxies(), func(p string) bool { return p == "bareh2" })
	o := options{workloads: workloads()[:2], proxies: one, rounds: 1}
	reverse := func(n int, swap func(i, j int)) {
		for i := range n / 2 {
			swap(i, n-1-i)
		}
	}
	jobs := plan(o, reverse)
	if jobs[0].proxy != "bareloop" || jobs[len(one)-1].proxy != report.Direct || jobs[len(one)].workload.Name != workloads()[1].Name {
		t.Errorf("%v", jobs)
	}
}

// The issue names them; each peer has to be in each comparison that it can be in.
func TestWorkloadsAreThoseOfTheIssue(t *testing.T) {
	var connections []int
	routes := map[int]bool{}
	var fresh, idle, two, large, small bool
	for _, w := range workloads() {
		if w.grpc {
			continue
		}
		if w.path == "/" && w.routes == 1 && !w.fresh && !w.Idle && w.Threads == 1 {
			connections = append(connections, w.Connections)
		}
		routes[w.routes] = true
		fresh, idle, two = fresh || w.fresh, idle || w.Idle, two || w.Threads == 2
		large, small = large || w.path == "/1m", small || w.path == "/10k"
		for _, p := range []string{report.Ours, report.Reference, "nginx", "envoy", "reverseproxy"} {
			if !takesPart(w, p) {
				t.Errorf("%s takes no part in %s", p, w.Name)
			}
		}
	}
	if !slices.Equal(connections, []int{1, 16, 128, 1000}) || !routes[1] || !routes[100] || !routes[5000] || !fresh || !idle || !two || !large || !small {
		t.Errorf("connections %v, routes %v, fresh %v, idle %v, two threads %v, 1 MB %v, 10 KB %v", connections, routes, fresh, idle, two, large, small)
	}
}

// The design's budget names these; all of them once with one thread and once with two, and a stream besides.
func TestGRPCWorkloadsAreThoseOfTheBudget(t *testing.T) {
	var got []string
	for _, w := range workloads() {
		if !w.grpc {
			continue
		}
		got = append(got, fmt.Sprintf("%dx%d/%d/%s", w.Connections, w.Streams, w.Threads, w.Unit))
		for _, p := range []string{report.Ours, report.Reference, "nginx", "envoy", "reverseproxy", "bareh2"} {
			if !takesPart(w, p) {
				t.Errorf("%s takes no part in %s", p, w.Name)
			}
		}
		if takesPart(w, "bareloop") || w.Rate != 0 {
			t.Errorf("%s: the bare loop takes part, or a latency is promised at %g/s: both speak HTTP/1.1", w.Name, w.Rate)
		}
	}
	want := []string{"1x16/1/call", "4x100/1/call", "16x1/1/call", "1x16/2/call", "4x100/2/call", "16x1/2/call", "4x25/1/message"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if takesPart(workloads()[0], "bareh2") {
		t.Error("bareh2 takes part in HTTP/1.1")
	}
}

func TestFlagsTakeTheBeginningOfNames(t *testing.T) {
	for args, want := range map[string]int{"grpc": 7, "grpc-stream,keepalive-16": 2, "keepalive-16": 1, "grpc-16x1": 1, "routes,idle": 3} {
		if o, err := parseFlags([]string{"-workloads", args}); err != nil || len(o.workloads) != want || o.out != "" {
			t.Errorf("%s: %d workloads, out %q, %v, want %d", args, len(o.workloads), o.out, err, want)
		}
	}
	for _, args := range []string{"gr", "grpc-", "keep"} {
		if _, err := parseFlags([]string{"-workloads", args}); err == nil {
			t.Errorf("%q is taken for a name", args)
		}
	}
}

// What only gRPC needs is not installed for others.
func TestProgramsAreThoseThatTheWorkloadsNeed(t *testing.T) {
	for args, want := range map[string][]string{"grpc": {"wrk", "nginx", "haproxy", "h2load"}, "idle": {"wrk", "nginx", "haproxy"}} {
		if o, err := parseFlags([]string{"-workloads", args}); err != nil || !slices.Equal(debian(o), want) {
			t.Errorf("%s: %v, %v, want %v", args, debian(o), err, want)
		}
	}
	if packageOf("h2load") != "nghttp2-client" || packageOf("wrk") != "wrk" {
		t.Errorf("h2load is in %s, wrk in %s", packageOf("h2load"), packageOf("wrk"))
	}
}

func TestFlagsWithoutLatencyHaveNoRate(t *testing.T) {
	o, err := parseFlags([]string{"-latency=false"})
	if err != nil || slices.ContainsFunc(o.workloads, func(w workload) bool { return w.Rate != 0 }) {
		t.Errorf("%+v, %v: the table would name a rate at which nothing was measured", o.workloads, err)
	}
}

func TestFlagsQuickIsOneShortRound(t *testing.T) {
	o, err := parseFlags([]string{"-quick", "-proxies", "haproxy,direct"})
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 1 || o.duration != time.Second || len(o.workloads) != 2 || !o.workloads[1].grpc || o.out != "" || !slices.Equal(o.proxies, []string{"direct", "haproxy"}) {
		t.Errorf("%+v", o)
	}
}

// Half a result must not replace a whole one in docs by accident.
func TestFlagsWriteOnlyWholeResultsUnasked(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "docs"}, {"-rounds 9 -duration 5s", "docs"}, {"-out x -workloads idle", "x"}, {"-out=", ""},
		{"-workloads idle", ""}, {"-proxies haproxy", ""}, {"-latency=false", ""}, {"-profile x", ""}, {"-quick", ""},
	} {
		if o, err := parseFlags(strings.Fields(c.args)); err != nil || o.out != c.want {
			t.Errorf("%s: results go to %q, %v, want %q", c.args, o.out, err, c.want)
		}
	}
}

func TestFlagsBuildUnlessAFolderIsGiven(t *testing.T) {
	for args, want := range map[string]bool{"": true, "-bin x": false} {
		if o, err := parseFlags(strings.Fields(args)); err != nil || o.build != want || !filepath.IsAbs(o.bin) {
			t.Errorf("%q: build %v into %q, %v, want %v and an absolute path", args, o.build, o.bin, err, want)
		}
	}
}

func TestFlagsNameWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-proxies nginy", "nginx"}, {"-workloads x", "keepalive-1"}, {"-rounds 0", "1 to 100"}, {"-duration 1500ms", "whole seconds"}, {"-duration 1h", "whole seconds"},
		{"haproxy", "only flags"},
	} {
		if _, err := parseFlags(strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", c.args, err, c.want)
		}
	}
}
