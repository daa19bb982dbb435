package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The marks between which docs/performance.md is written by this program. What is outside of them is people's.
const (
	begin = "<!-- begin: written by make bench -->"
	end   = "<!-- end: written by make bench -->"
)

// Place puts the generated part into the document, which may be empty.
func Place(document, generated string) (string, error) {
	if strings.TrimSpace(document) == "" {
		document = "# Performance\n\n" + begin + "\n" + end + "\n"
	}
	head, rest, ok := strings.Cut(document, begin)
	if !ok {
		return "", fmt.Errorf("the document has no line %q: put it and %q where the results belong", begin, end)
	}
	_, tail, ok := strings.Cut(rest, end)
	if !ok {
		return "", fmt.Errorf("the document has no line %q after %q", end, begin)
	}
	return head + begin + "\n" + generated + end + tail, nil
}

const method = `## Method
Everything runs on one machine, in network namespaces that stand for pods: a client pod, two backend pods (nginx, one worker each), a router namespace between them
with the part of kube-proxy. Sluice runs as it does on a node: its agent redirects the client pod's connections to a ClusterIP into its proxy, metrics on. Every
other proxy listens on the loopback address of the client pod, so that each request takes the same way: client, one proxy, a veth pair to the router, one to the backend.

- All do the same: match a request field (and a path prefix where there are many routes), choose one of two backends by weight 80 to 20, keep connections to them
  alive, answer 404 where nothing matches, which is checked before each measurement. Access logs are off. HAProxy, nginx and Envoy have one worker or thread, Go programs
  GOMAXPROCS=1, unless a workload says two. Sluice's own count of requests has to agree with the load's. "reverseproxy" is Go's httputil.ReverseProxy. "bareloop" is the
  least that forwarding can cost in Go: it parses next to nothing, checks nothing, counts nothing, and is a yardstick rather than a proxy.
- The gRPC workloads have a backend of their own in the same pods (tests/bench/h2backend), as nginx sends no trailers: it answers a call with the call's message, encodes fields
  as gRPC libraries do, costs less than any proxy here, and speaks HTTP/2 only, so that no proxy can take HTTP/1.1 to it. Calls are small: 10 fields, a message of 16 bytes each
  way, and trailers. Before each measurement the status, the message and the trailers are checked; under load (h2load, one thread) the status of each call and the bytes of all messages.
  "grpc-stream" keeps streams open and counts messages. Latency is not measured. "bareh2" is to HTTP/2 what "bareloop" is to HTTP/1.1. Under strace HAProxy 2.6
  gave the backend its credit back with a write of its own for nearly each answer that trailers follow, which may be a good part of what it costs there.
- One proxy runs at a time, started for each measurement. Rounds take all proxies in a new random order. Figures are medians over the rounds; a ratio is taken in
  each round between neighbours, and its median and its least and greatest are given.
- CPU is user and system time of the proxy's process and its children, all threads, from /proc/PID/stat, divided by the requests of a closed loop (wrk or h2load, one thread). For
  Sluice that is the worker and its master; the agent has no part in a request. The kernel charges part of the network's work to whichever process sends, and
  the redirect of a connect() to the client, so a new connection costs a little more than the column shows.
- Latency is measured at a fixed rate, the same for all, by an open loop: each request has a time at which it is due, and its latency runs from then, sent or not
  (no coordinated omission). It includes the time by which the generator was late itself (generator_late_p99_us in the data).
- RSS is of the same processes, after the load; pages that a master and its worker share count twice. Memory per idle connection is the growth of RSS
  by connections that made one request and then stay open.
- "direct" is the client pod to the backends through a ClusterIP without a route, "direct against direct" the same measured twice a round: what differs there is noise.

## How to rerun
` + "`make bench`" + ` as root; what is missing of HAProxy, nginx, wrk, h2load and Envoy is installed. The machine should be quiet: client, proxy and backends share its cores. For one figure, and each
round's pair: ` + "`go run ./tests/bench -workloads keepalive-16 -proxies haproxy,sluice -rounds 5 -latency=false`" + `; ` + "`-workloads grpc`" + ` takes all of gRPC; -h names the flags.

`

// Markdown renders the generated part of docs/performance.md. plot is the picture's path from there.
func (r *Report) Markdown(plot string) string {
	var b strings.Builder
	b.WriteString(method)
	fmt.Fprintf(&b, "## Results\n%s, %d cores, Linux %s; %d rounds of %g s for each measurement. ", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Rounds, r.Seconds)
	for i, name := range slices.Sorted(maps.Keys(r.Machine.Versions)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", name, r.Machine.Versions[name])
	}
	fmt.Fprintf(&b, ".\nThe same as data: [performance.json](performance.json).\n\n![CPU per request as a ratio to HAProxy's](%s)\n", plot)
	for _, w := range r.Workloads {
		if rows := r.cells(w); len(rows) > 0 {
			fmt.Fprintf(&b, "\n### %s\n", r.heading(w))
			markdownTable(&b, columnsOf(w), rows)
			b.WriteString(r.failures(w, "\nFailed: "))
		}
	}
	b.WriteString("\n### Noise: direct against direct\n")
	var rows [][]string
	for _, n := range r.Noise {
		rows = append(rows, []string{n.Workload, n.Measure, two(n.Median), two(n.Min) + "-" + two(n.Max)})
	}
	markdownTable(&b, []string{"workload", "measure", "median ratio", "spread"}, rows)
	b.WriteString(r.weaknesses())
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", m)
	}
	return b.String()
}

func markdownTable(b *strings.Builder, columns []string, rows [][]string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}

// weaknesses lists where ours is worse than HAProxy, from the figures and nothing else. Within the spread is no difference.
func (r *Report) weaknesses() string {
	reference := map[string]Row{}
	for _, row := range r.Rows {
		if row.Proxy == Reference {
			reference[row.Workload] = row
		}
	}
	var b strings.Builder
	b.WriteString("\n## What we are not good at\nTaken from the figures above: workloads where Sluice is more than 5 % worse than HAProxy.\n\n")
	found := false
	for _, row := range r.Rows {
		if row.Proxy != Ours {
			continue
		}
		ref, ok := reference[row.Workload]
		if worse := worseThan(row, ref); ok && len(worse) > 0 {
			fmt.Fprintf(&b, "- %s: %s.\n", row.Workload, strings.Join(worse, "; "))
			found = true
		}
	}
	if !found {
		b.WriteString("None in this run.\n")
	}
	return b.String()
}

func worseThan(row, ref Row) []string {
	const margin = 1.05
	var out []string
	if row.Ratio != nil && *row.Ratio > margin {
		out = append(out, fmt.Sprintf("%s times the CPU (%s to %s)", two(*row.Ratio), two(*row.RatioMin), two(*row.RatioMax)))
	}
	for _, m := range []struct {
		name      string
		mine, its *float64
		unit      func(*float64) string
		lower     bool // lower is worse
	}{
		{"requests per second", row.RPS, ref.RPS, number, true},
		{"p50", row.P50, ref.P50, duration, false},
		{"p99", row.P99, ref.P99, duration, false},
		{"RSS in MB", row.RSS, ref.RSS, number, false},
		{"RSS in MB without a connection", row.Unused, ref.Unused, number, false},
		{"KB per idle connection", row.Idle, ref.Idle, number, false},
	} {
		if m.mine == nil || m.its == nil {
			continue
		}
		worse := *m.mine > *m.its*margin
		if m.lower {
			worse = *m.its > *m.mine*margin
		}
		if worse {
			out = append(out, fmt.Sprintf("%s %s against %s", m.name, m.unit(m.mine), m.unit(m.its)))
		}
	}
	return out
}
