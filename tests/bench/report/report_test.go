package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

var (
	nan  = math.NaN()
	load = Workload{Name: "keepalive-16", Title: "16 connections", Connections: 16, Threads: 1, Rate: 4000}
)

func sample(proxy string, round int, cpu, rps, p99 float64) Sample {
	return Sample{Workload: load.Name, Proxy: proxy, Round: round, CPU: cpu, RPS: rps, P50: p99 / 10, P99: p99, P999: p99 * 2, Late: 5, RSS: 10, Unused: nan, Idle: nan}
}

func example() *Report {
	samples := []Sample{
		sample(Direct, 0, nan, 60000, 100), sample(DirectAgain, 0, nan, 50000, 200),
		sample(Direct, 1, nan, 60000, 100), sample(DirectAgain, 1, nan, 60000, 100),
		sample(Reference, 0, 20, 40000, 500), sample(Reference, 1, 40, 20000, 1500), sample(Reference, 2, 22, 40000, 400),
		sample(Ours, 0, 18, 41000, 700), sample(Ours, 1, 60, 21000, 700), sample(Ours, 2, 22, 41000, 700),
		sample("envoy", 0, 60, 10000, 20000), sample("envoy", 1, 120, 10000, 20000),
	}
	r := &Report{
		Machine: Machine{CPU: "A <CPU>", Cores: 2, Kernel: "6.18", Versions: map[string]string{"nginx": "1.2", "haproxy": "2.6"}},
		Rounds:  3, Seconds: 3, Workloads: []Workload{load},
	}
	r.Samples = samples
	r.Rows, r.Noise = Summarize(r.Workloads, []string{Direct, DirectAgain, Ours, Reference, "envoy"}, samples)
	return r
}

func find(t *testing.T, r *Report, proxy string) Row {
	t.Helper()
	for _, row := range r.Rows {
		if row.Proxy == proxy {
			return row
		}
	}
	t.Fatalf("no row of %s", proxy)
	return Row{}
}

// A slow round slows both: ratios are taken round by round and only then the median.
func TestRatiosArePairedByRound(t *testing.T) {
	row := find(t, example(), Ours)
	if *row.CPU != 22 || *row.Ratio != 1 || *row.RatioMin != 0.9 || *row.RatioMax != 1.5 || *row.RPS != 41000 || row.Rounds != 3 {
		t.Errorf("CPU %g, ratio %g (%g to %g), %g/s, %d rounds; want 22, 1 (0.9 to 1.5), 41000, 3", *row.CPU, *row.Ratio, *row.RatioMin, *row.RatioMax, *row.RPS, row.Rounds)
	}
	if envoy := find(t, example(), "envoy"); *envoy.Ratio != 3 || *envoy.CPU != 90 {
		t.Errorf("envoy: ratio %g, CPU %g; want 3 from the two rounds that it has, 90", *envoy.Ratio, *envoy.CPU)
	}
}

func TestWhatWasNotMeasuredIsNil(t *testing.T) {
	row := find(t, example(), Direct)
	if row.CPU != nil || row.Ratio != nil || row.Idle != nil || row.RPS == nil {
		t.Errorf("%+v: no CPU, no ratio, but requests per second", row)
	}
}

func TestNoiseIsDirectAgainstDirect(t *testing.T) {
	r := example()
	for _, row := range r.Rows {
		if row.Proxy == DirectAgain {
			t.Error("the second direct measurement has a row of its own")
		}
	}
	if len(r.Noise) != 3 || r.Noise[0].Measure != "requests per second" || math.Abs(r.Noise[0].Median-1.1) > 1e-9 || r.Noise[0].Min != 1 || r.Noise[0].Max != 1.2 {
		t.Errorf("%+v", r.Noise)
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values       []float64
		mid, lo, top float64
	}{{[]float64{3, 1, 2}, 2, 1, 3}, {[]float64{4, 1, 2, 3}, 2.5, 1, 4}, {[]float64{7}, 7, 7, 7}} {
		before := c.values[0]
		mid, lo, top := Spread(c.values)
		if *mid != c.mid || *lo != c.lo || *top != c.top || c.values[0] != before {
			t.Errorf("%v: %g, %g, %g", c.values, *mid, *lo, *top)
		}
	}
	if mid, lo, top := Spread(nil); mid != nil || lo != nil || top != nil {
		t.Error("nothing has a median")
	}
}

func TestJSONHasTheFieldsThatReadersUse(t *testing.T) {
	b, err := example().JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Rows []map[string]any }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"workload", "proxy", "cpu_us_per_request", "ratio_to_haproxy", "rps", "p50_us", "p99_us", "rss_mb"} {
		if _, ok := got.Rows[1][name]; !ok {
			t.Errorf("a row has no %q: %v", name, got.Rows[1])
		}
	}
	if v, ok := got.Rows[0]["cpu_us_per_request"]; !ok || v != nil {
		t.Errorf("CPU of direct is %v, want null", v)
	}
	if significant(1234567) != 1235000 || significant(0.123456) != 0.1235 || significant(0) != 0 {
		t.Error("digits that mean nothing")
	}
}

func TestTableShowsFiguresNoiseAndFailures(t *testing.T) {
	r := example()
	r.Rows[1].FailedRequests, r.Rows[1].FirstFailure = 7, "status 503"
	r.Missing = []string{"nginx: not there"}
	got := r.Table()
	for _, want := range []string{
		"keepalive-16: 16 connections; latency at 4000 requests/s\n", "22.0", "0.90-1.50", "41,000", "20.0 ms",
		"noise, direct against direct, requests per second: 1.10 (1.00 to 1.20)\n", "FAILED: sluice: 7 requests, the first: status 503\n", "not measured: nginx: not there\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
	if !r.Failed() || example().Failed() {
		t.Error("a failure goes unnoticed, or there is one where there is none")
	}
	var width int
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "  proxy") {
			width = len(line)
		} else if strings.HasPrefix(line, "  sluice") && len(line) != width {
			t.Errorf("columns are not aligned:\n%s", got)
		}
	}
}

func TestTableWithoutLatencyHasNoColumnsForIt(t *testing.T) {
	r := example()
	r.Workloads[0].Rate = 0
	if got := r.Table(); strings.Contains(got, "p99.9") || strings.Contains(got, "latency") || !strings.Contains(got, "0.90-1.50      41,000    10.0\n") {
		t.Errorf("the table:\n%s", got)
	}
}

func TestTableShowsEachRoundsPair(t *testing.T) {
	got := example().Table()
	for _, want := range []string{
		"  CPU by round        sluice  haproxy         envoy\n", "  1             18.0 (x0.90)     20.0  60.0 (x3.00)\n",
		"  2             60.0 (x1.50)     40.0   120 (x3.00)\n", "  3             22.0 (x1.00)     22.0             -\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

func TestIdleHasColumnsOfItsOwn(t *testing.T) {
	w := Workload{Name: "idle", Title: "4,000 idle connections", Connections: 4000, Idle: true}
	r := &Report{Workloads: []Workload{w}}
	r.Rows, _ = Summarize(r.Workloads, []string{Reference, Ours}, []Sample{
		{Workload: "idle", Proxy: Reference, CPU: nan, RPS: nan, P50: nan, P99: nan, P999: nan, Late: nan, RSS: 20, Unused: 11.5, Idle: 2},
		{Workload: "idle", Proxy: Ours, CPU: nan, RPS: nan, P50: nan, P99: nan, P999: nan, Late: nan, RSS: 60, Unused: 23.5, Idle: 9},
	})
	if got := r.Table(); !strings.Contains(got, "KB/connection") || !strings.Contains(got, "4.50") || !strings.Contains(got, "23.5") || strings.Contains(got, "p99") {
		t.Errorf("table:\n%s", got)
	}
	if got := r.weaknesses(); !strings.Contains(got, "KB per idle connection 9.0 against 2.0") {
		t.Errorf("weaknesses:\n%s", got)
	}
}

func TestSVGIsWellFormedAndHasABarForEachRatio(t *testing.T) {
	r := example()
	r.Workloads[0].Name = "a<b"
	for i := range r.Rows {
		r.Rows[i].Workload = "a<b"
	}
	svg := r.SVG()
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	titles := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
			titles++
		}
	}
	if titles != 2 {
		t.Errorf("%d bars, want one for sluice and one for envoy", titles)
	}
	if strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
		t.Errorf("no numbers:\n%s", svg)
	}
	if empty := (&Report{}).SVG(); strings.Contains(string(empty), "NaN") {
		t.Errorf("an empty report:\n%s", empty)
	}
}

func TestMarkdownHasMethodResultsAndWeaknesses(t *testing.T) {
	got := example().Markdown("performance.svg")
	for _, want := range []string{
		"## Method\n", "## How to rerun\n", "A <CPU>, 2 cores, Linux 6.18; 3 rounds of 3 s", "haproxy 2.6, nginx 1.2", "(performance.svg)",
		"### keepalive-16: 16 connections", "| sluice | 22.0 | 1.00 | 0.90-1.50 | 41,000 | 70 us | 700 us |",
		"| keepalive-16 | requests per second | 1.10 | 1.00-1.20 |", "## What we are not good at\n", "- keepalive-16: p50 70 us against 50 us; p99 700 us against 500 us.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the document lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "times the CPU (") {
		t.Errorf("a ratio of 1.00 counts as worse:\n%s", got)
	}
}

func TestPlaceKeepsWhatPeopleWrote(t *testing.T) {
	first, err := Place("", "one\n")
	if err != nil || !strings.Contains(first, begin+"\none\n"+end) {
		t.Fatalf("%q, %v", first, err)
	}
	second, err := Place("before\n"+first+"after\n", "two\n")
	if err != nil || !strings.HasPrefix(second, "before\n") || !strings.HasSuffix(second, "after\n") || strings.Contains(second, "one") || strings.Count(second, "two") != 1 {
		t.Errorf("%q, %v", second, err)
	}
	for _, bad := range []string{"no marks", begin, end + begin} {
		if _, err := Place(bad, "x"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestCallsAndMessagesAreCalledSo(t *testing.T) {
	r := example()
	r.Workloads[0].Unit, r.Workloads[0].Rate = "call", 0
	_, r.Noise = Summarize(r.Workloads, []string{Direct, DirectAgain}, r.Samples)
	if got := r.Table(); !strings.Contains(got, "CPU us/call") || !strings.Contains(got, "calls/s") || strings.Contains(got, "request") {
		t.Errorf("the table:\n%s", got)
	}
	if got := r.Markdown("x.svg"); !strings.Contains(got, "| proxy | CPU us/call | x HAProxy | spread | calls/s | RSS MB |") {
		t.Errorf("the document:\n%s", got)
	}
	b, err := r.JSON()
	if err != nil || !strings.Contains(string(b), `"unit": "call"`) {
		t.Errorf("%v: the data do not say what a call is:\n%s", err, b)
	}
	if b, err := example().JSON(); err != nil || strings.Contains(string(b), `"unit"`) || strings.Contains(string(b), `"streams"`) {
		t.Errorf("%v: requests need no such field:\n%s", err, b)
	}
}

func TestYardsticksHaveOneColour(t *testing.T) {
	if colour("bareh2") != colour("bareloop") || colour("bareh2") == colour("nginx") {
		t.Errorf("bareh2 is %s, bareloop %s", colour("bareh2"), colour("bareloop"))
	}
}
