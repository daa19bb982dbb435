package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Table renders all workloads as text for a terminal.
func (r *Report) Table() string {
	var b strings.Builder
	for _, w := range r.Workloads {
		rows := r.cells(w)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s\n", r.heading(w))
		b.WriteString(align(append([][]string{columnsOf(w)}, rows...)))
		for _, n := range r.Noise {
			if n.Workload == w.Name {
				fmt.Fprintf(&b, "  noise, direct against direct, %s: %s (%s to %s)\n", n.Measure, two(n.Median), two(n.Min), two(n.Max))
			}
		}
		b.WriteString(r.failures(w, "  FAILED: "))
		b.WriteString(r.rounds(w))
		b.WriteByte('\n')
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "not measured: %s\n", m)
	}
	return b.String()
}

// rounds are the CPU times of each round, with the ratios that only those of one round have to each other.
func (r *Report) rounds(w Workload) string {
	var proxies []string
	of := map[string][]Sample{}
	last := 0
	for _, row := range r.Rows {
		if row.Workload == w.Name && row.CPU != nil {
			proxies = append(proxies, row.Proxy)
		}
	}
	for _, s := range r.Samples {
		if s.Workload == w.Name {
			of[s.Proxy] = append(of[s.Proxy], s)
			last = max(last, s.Round)
		}
	}
	if last == 0 || len(proxies) < 2 {
		return "" // the table above says it all
	}
	rows := [][]string{append([]string{"CPU by round"}, proxies...)}
	for round := range last + 1 {
		line := []string{fmt.Sprint(round + 1)}
		for _, p := range proxies {
			line = append(line, cellOf(round, of[p], of[Reference], p == Reference))
		}
		rows = append(rows, line)
	}
	return align(rows)
}

func cellOf(round int, samples, reference []Sample, itself bool) string {
	other := func(s Sample) bool { return s.Round != round }
	samples = slices.DeleteFunc(slices.Clone(samples), other)
	cell := number(median(samples, cpu))
	if mid, _, _ := Spread(pairs(samples, reference, cpu)); mid != nil && !itself {
		cell += fmt.Sprintf(" (x%.2f)", *mid)
	}
	return cell
}

// heading is the workload in words.
func (r *Report) heading(w Workload) string {
	h := w.Name + ": " + w.Title
	if w.Threads > 1 {
		h += fmt.Sprintf(", %d threads", w.Threads)
	}
	if w.Rate > 0 {
		h += fmt.Sprintf("; latency at %g requests/s", w.Rate)
	}
	return h
}

func columnsOf(w Workload) []string {
	if w.Idle {
		return []string{"proxy", "KB/connection", "x HAProxy", "RSS MB", "RSS MB before"}
	}
	columns := []string{"proxy", "CPU us/" + w.unit(), "x HAProxy", "spread", w.unit() + "s/s"}
	if w.Rate > 0 {
		columns = append(columns, "p50", "p99", "p99.9")
	}
	return append(columns, "RSS MB")
}

// unit is what one of what is counted is called.
func (w Workload) unit() string { return cmp.Or(w.Unit, "request") }

func (r *Report) cells(w Workload) [][]string {
	var out [][]string
	for _, row := range r.Rows {
		if row.Workload != w.Name {
			continue
		}
		if w.Idle {
			out = append(out, []string{row.Proxy, number(row.Idle), ratio(row.IdleRatio), number(row.RSS), number(row.Unused)})
			continue
		}
		spread := "-"
		if row.RatioMin != nil && row.RatioMax != nil {
			spread = two(*row.RatioMin) + "-" + two(*row.RatioMax)
		}
		line := []string{row.Proxy, number(row.CPU), ratio(row.Ratio), spread, number(row.RPS)}
		if w.Rate > 0 {
			line = append(line, duration(row.P50), duration(row.P99), duration(row.P999))
		}
		out = append(out, append(line, number(row.RSS)))
	}
	return out
}

func (r *Report) failures(w Workload, lead string) string {
	var b strings.Builder
	for _, row := range r.Rows {
		if row.Workload == w.Name && row.FailedRequests > 0 {
			fmt.Fprintf(&b, "%s%s: %d requests, the first: %s\n", lead, row.Proxy, row.FailedRequests, row.FirstFailure)
		}
	}
	return b.String()
}

// Failed says whether any request of any proxy failed.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool { return row.FailedRequests > 0 })
}

// align pads the cells: the first column to the left, the others to the right.
func align(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], len(c))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, c := range row {
			if i == 0 {
				fmt.Fprintf(&b, "  %-*s", widths[i], c)
			} else {
				fmt.Fprintf(&b, "  %*s", widths[i], c)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func two(v float64) string { return fmt.Sprintf("%.2f", v) }

func ratio(v *float64) string {
	if v == nil {
		return "-"
	}
	return two(*v)
}

func number(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 1000:
		return thousands(int(*v + 0.5))
	case *v >= 100:
		return fmt.Sprintf("%.0f", *v)
	default:
		return fmt.Sprintf("%.1f", *v)
	}
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return thousands(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// duration renders microseconds.
func duration(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 1e6:
		return fmt.Sprintf("%.2f s", *v/1e6)
	case *v >= 1e4:
		return fmt.Sprintf("%.1f ms", *v/1e3)
	case *v >= 1e3:
		return fmt.Sprintf("%.2f ms", *v/1e3)
	default:
		return fmt.Sprintf("%.0f us", *v)
	}
}
