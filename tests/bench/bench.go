package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/report"
)

// progress tells on standard error what is going on; the results go to standard output.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func bench(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the benchmark makes network namespaces and needs root: run it with sudo")
	}
	found, missing, err := find(ctx, o)
	if err != nil {
		return err
	}
	o.proxies = slices.DeleteFunc(slices.Clone(o.proxies), func(name string) bool {
		return needsProgram(name) && found[name] == ""
	})
	for _, m := range missing {
		progress("left out: %s", m)
	}
	p, err := build(ctx, o, found)
	if err != nil {
		return err
	}
	samples, failed, err := measureAll(ctx, p, o)
	err = errors.Join(err, p.lab.Close())
	r := &report.Report{
		Machine: machine(found), Rounds: o.rounds, Seconds: o.duration.Seconds(), Missing: append(missing, failed...),
	}
	for _, w := range o.workloads {
		r.Workloads = append(r.Workloads, w.Workload)
	}
	r.Rows, r.Noise = report.Summarize(r.Workloads, o.proxies, samples)
	r.Samples = samples
	fmt.Print(r.Table()) // also what there is after Ctrl-C
	switch {
	case err != nil:
		return err
	case o.out != "":
		err = write(r, o.out)
	default:
		progress("no file is written: -out names a folder for the results")
	}
	if len(r.Missing) > 0 || r.Failed() {
		err = errors.Join(err, errors.New("some of it was not measured, or failed: see above"))
	}
	return err
}

func needsProgram(name string) bool { return name != report.Direct && name != report.DirectAgain }

// measureAll takes all measurements. One that fails is named and the others go on; only the end of ctx ends it.
func measureAll(ctx context.Context, p *place, o options) (samples []report.Sample, failed []string, err error) {
	jobs := plan(o, rand.Shuffle)
	start := time.Now()
	for i, j := range jobs {
		left := ""
		if i > 0 {
			left = fmt.Sprintf(", about %v left", (time.Since(start) / time.Duration(i) * time.Duration(len(jobs)-i)).Round(time.Second))
		}
		s, err := p.measure(ctx, j, o)
		if ctx.Err() != nil {
			return samples, failed, ctx.Err()
		}
		what := fmt.Sprintf("round %d of %d, %s, %s", j.round+1, o.rounds, j.workload.Name, j.proxy)
		if err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", what, err))
			progress("[%d/%d%s] %s: %v", i+1, len(jobs), left, what, err)
			continue
		}
		samples = append(samples, s)
		progress("[%d/%d%s] %s: %s", i+1, len(jobs), left, what, line(s))
	}
	return samples, failed, nil
}

// line is a sample in short.
func line(s report.Sample) string {
	out := ""
	add := func(format string, v float64) {
		if !math.IsNaN(v) {
			if out != "" {
				out += ", "
			}
			out += fmt.Sprintf(format, v)
		}
	}
	add("%.1f us of CPU each", s.CPU)
	add("%.0f/s", s.RPS)
	add("p50 %.0f us", s.P50)
	add("p99 %.0f us", s.P99)
	add("%.1f MB before", s.Unused)
	add("%.1f MB", s.RSS)
	add("%.1f KB a connection", s.Idle)
	if s.Failures > 0 {
		out += fmt.Sprintf(", %d FAILED (%s)", s.Failures, s.FirstFailure)
	}
	return out
}

// write puts the results into the folder: data, plot, and the generated part of the document.
func write(r *report.Report, dir string) error {
	const name = "performance"
	data, err := r.JSON()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, name+".md")
	document, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := report.Place(string(document), r.Markdown(name+".svg"))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for file, content := range map[string][]byte{name + ".json": data, name + ".svg": r.SVG(), name + ".md": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			return err
		}
	}
	progress("wrote %s, .json and .svg", path)
	return nil
}
