package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/tests/bench/config"
	"github.com/sluice-mesh/sluice/tests/bench/h2stream"
)

// sent is what a closed loop came to.
type sent struct {
	units    int // requests, calls or messages: what CPU time is divided by
	requests int // that a proxy has to have counted
	rate     float64
	failures int
	first    string
}

func (p *place) wrk(ctx context.Context, r *running, w workload, duration time.Duration) (sent, error) {
	script := filepath.Join(p.lab.Dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(config.Wrk(config.Paths(w.routes, w.path), w.fresh)), 0o644); err != nil {
		return sent{}, err
	}
	out, err := p.output(ctx, lab.Command{Name: "wrk", Path: p.programs["wrk"], Args: []string{
		"-t1", "-c" + strconv.Itoa(w.Connections), "-d" + strconv.Itoa(int(duration/time.Second)) + "s", "--timeout", "10s",
		"-s", script, "http://" + r.target.String() + "/",
	}}, duration+30*time.Second)
	if err != nil {
		return sent{}, err
	}
	got, err := config.ParseWrk(string(out))
	return sent{
		units: got.Requests, requests: got.Requests, rate: float64(got.Requests) / max(got.Elapsed, time.Millisecond).Seconds(),
		failures: got.Failures, first: "of the closed loop: connection errors, time-outs or answers that are no success",
	}, err
}

// h2load makes unary calls. Trailers it does not look at; the probe did.
func (p *place) h2load(ctx context.Context, r *running, w workload, duration time.Duration) (sent, error) {
	file := filepath.Join(p.lab.Dir, "message")
	if err := os.WriteFile(file, config.Message(), 0o644); err != nil {
		return sent{}, err
	}
	out, err := p.output(ctx, lab.Command{
		Name: "h2load", Path: p.programs["h2load"], Args: config.H2load(r.target.String(), file, w.Connections, w.Streams, duration),
	}, duration+30*time.Second)
	if err != nil {
		return sent{}, err
	}
	got, err := config.ParseH2load(string(out))
	if err == nil {
		err = got.Check(w.Connections * w.Streams)
	}
	return sent{
		units: got.Requests, requests: got.Requests, rate: got.Rate,
		failures: got.Failures, first: "of the closed loop: resets, time-outs or answers that are no success",
	}, err
}

// streams sends messages over streams that last.
func (p *place) streams(ctx context.Context, r *running, w workload, duration time.Duration) (sent, error) {
	l := h2stream.Load{
		Target: r.target, Connections: w.Connections, Streams: w.Streams, Duration: duration,
		Fields: config.StreamFields(), Message: config.MessageSize,
	}
	var got h2stream.Result
	if err := p.inside(ctx, "h2stream", l, &got, duration+h2stream.Limit+10*time.Second); err != nil {
		return sent{}, err
	}
	if got.Messages == 0 {
		return sent{}, errors.Join(errors.New("no message came back"), errors.New(got.First))
	}
	return sent{
		units: got.Messages, requests: w.Connections * w.Streams, rate: float64(got.Messages) / got.Elapsed.Seconds(),
		failures: got.Failed, first: got.First,
	}, nil
}
