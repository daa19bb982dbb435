package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// steps are what is shown, in order. Each returns a sentence of what was seen, or an error that says what is not so.
var steps = []struct {
	title string
	run   func(*demo, context.Context) (string, error)
}{
	{"Without a route, traffic passes untouched", (*demo).untouched},
	{"An HTTPRoute sends 90 % to v1 and 10 % to v2", (*demo).split},
	{"A header match sends x-canary: true to v2 only", (*demo).canary},
	{"The YAML is edited to 50/50", (*demo).edit},
	{"A GRPCRoute shares the calls of one connection, 90 % to v1 and 10 % to v2", (*demo).grpc},
	{"The proxy's worker is killed under load", (*demo).crash},
	{"The proxy is stopped for good under load, then started again", (*demo).restart},
	{"The servers saw nobody but the client pod", (*demo).addresses},
}

func (d *demo) untouched(ctx context.Context) (string, error) {
	d.screen.now("200 requests")
	r, err := d.requests(ctx, 200, nil)
	if err != nil {
		return "", err
	}
	if r.Routed != 0 || r.Backends["web-v1"] == 0 || r.Backends["web-v2"] == 0 {
		return "", fmt.Errorf("want answers of both versions and no route's mark, have %s", shares(r))
	}
	connections, requests, err := d.seenByProxy(ctx)
	if err != nil {
		return "", err
	}
	if connections != 0 || requests != 0 {
		return "", fmt.Errorf("the proxy has seen %v connections and %v requests, want none", connections, requests)
	}
	return fmt.Sprintf("%d requests answered by both, %d failed; the proxy has seen 0 connections", r.Requests, r.Failed), nil
}

// tolerance of a share over 1,000 requests: four standard deviations of a 90 % share are 3.8 points.
const tolerance = 0.04

func (d *demo) split(ctx context.Context) (string, error) {
	d.screen.now("applying examples/route-split.yaml")
	l := load()
	l.Connections, l.Rate = traffic.New, 2000
	took, _, err := d.until(ctx, l, 10*time.Second,
		func() error { return d.manifest("route-split.yaml", nil) },
		func(r *traffic.Report) bool { return r.Routed == r.OK() })
	if err != nil {
		return "", fmt.Errorf("the route takes no effect: %w", err)
	}
	if err := d.share(ctx, 0.9, tolerance); err != nil {
		return "", err
	}
	return fmt.Sprintf("in effect after %s; every request was routed, over IPv4 and IPv6, none failed", ms(took)), nil
}

// share sends 1,000 requests, prints who answered, and checks v1's share.
func (d *demo) share(ctx context.Context, want, tolerance float64) error {
	d.screen.now("1,000 requests, over kept connections and new ones")
	r, err := d.requests(ctx, 1000, nil)
	if err != nil {
		return err
	}
	d.showShares(r, "requests", "web-v1", want, "web-v2")
	return errors.Join(near(r, "web-v1", want, tolerance), allRouted(r))
}

// showShares prints who answered: the first backend is to have the share wanted, the other the rest.
func (d *demo) showShares(r *traffic.Report, what, first string, want float64, second string) {
	rows := [][]string{{"backend", what, "share", "weight"}}
	for i, backend := range []string{first, second} {
		weight := []float64{want, 1 - want}[i]
		rows = append(rows, []string{backend, fmt.Sprint(r.Backends[backend]), percent(r.Share(backend)), percent(weight)})
	}
	d.screen.table(rows)
}

// near says whether a backend's share is what it should be.
func near(r *traffic.Report, backend string, want, tolerance float64) error {
	if off := r.Share(backend) - want; off > tolerance || off < -tolerance {
		return fmt.Errorf("%s's share is %s, want %s give or take %s", backend, percent(r.Share(backend)), percent(want), percent(tolerance))
	}
	return nil
}

func allRouted(r *traffic.Report) error {
	if r.Routed != r.OK() {
		return fmt.Errorf("%d of %d requests were not routed", r.OK()-r.Routed, r.OK())
	}
	return nil
}

func (d *demo) canary(ctx context.Context) (string, error) {
	d.screen.now("applying examples/route-canary.yaml")
	l := load()
	l.Headers, l.Rate = map[string]string{"x-canary": "true"}, 2000
	took, _, err := d.until(ctx, l, 10*time.Second,
		func() error { return d.manifest("route-canary.yaml", nil) },
		func(r *traffic.Report) bool { return r.Backends["web-v2"] == r.OK() && r.OK() > 10 })
	if err != nil {
		return "", fmt.Errorf("the route takes no effect: %w", err)
	}
	d.screen.now("300 requests with the header, 300 without")
	with, err := d.requests(ctx, 300, l.Headers)
	if err != nil {
		return "", err
	}
	if err := allRouted(with); err != nil {
		return "", err
	}
	without, err := d.requests(ctx, 300, map[string]string{"x-canary": "false"})
	if err != nil {
		return "", err
	}
	if with.Backends["web-v2"] != 300 || without.Share("web-v1") < 0.8 {
		return "", fmt.Errorf("with the header %s, want v2 only; without it %s, want 90 %% v1", shares(with), shares(without))
	}
	return fmt.Sprintf("in effect after %s; with the header: %s; with another value: %s", ms(took), shares(with), shares(without)), nil
}

func (d *demo) edit(ctx context.Context) (string, error) {
	d.screen.now("editing route-split.yaml under load")
	l := load()
	l.Rate = 3000
	took, r, err := d.until(ctx, l, 10*time.Second, func() error {
		return d.manifest("route-split.yaml", half)
	}, func(r *traffic.Report) bool { return r.Share("web-v2") > 0.3 })
	if err != nil {
		return "", fmt.Errorf("the edit takes no effect: %w", err)
	}
	if r.Failed > 0 {
		return "", fmt.Errorf("%d of %d requests failed during the edit: %s", r.Failed, r.Requests, r.Failures[0].Error)
	}
	// Four standard deviations of a 50 % share over 1,000 requests are 6.3 points.
	if err := d.share(ctx, 0.5, 0.065); err != nil {
		return "", err
	}
	return fmt.Sprintf("the share followed %s after the file was saved; 0 of %d requests failed meanwhile", ms(took), r.Requests), nil
}

// half edits the example's weights to 50/50.
func half(yaml string) string {
	return strings.NewReplacer("weight: 90", "weight: 50", "weight: 10", "weight: 50").Replace(yaml)
}

func (d *demo) crash(ctx context.Context) (string, error) {
	d.screen.now("%d clients send as fast as they can; then kill -9", workers)
	before, err := d.worker()
	if err != nil {
		return "", err
	}
	c, err := d.client.StartLoad(load())
	if err != nil {
		return "", err
	}
	err = pause(ctx, 700*time.Millisecond)
	if err == nil {
		err = kill(before)
	}
	began := time.Now()
	after, successorErr := d.successor(ctx, before)
	took := time.Since(began)
	err = errors.Join(err, successorErr, pause(ctx, time.Second))
	r, stopErr := c.Stop(ctx)
	if err := errors.Join(err, stopErr); err != nil {
		return "", err
	}
	if r.Failed > workers {
		return "", fmt.Errorf("%d requests failed, but only %d can have been in flight; the last: %s", r.Failed, workers, r.Failures[len(r.Failures)-1].Error)
	}
	if err := allRouted(r); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d requests failed, all in flight at the kill; worker %d followed %d after %s, the longest request took %s",
		r.Failed, r.Requests, after, before, ms(took), ms(r.Longest)), nil
}

func (d *demo) restart(ctx context.Context) (string, error) {
	d.screen.now("SIGTERM to the proxy under load")
	l := load()
	l.Rate = 2000
	down, r, err := d.until(ctx, l, 10*time.Second,
		func() error { return d.proxy.Signal(syscall.SIGTERM) },
		func(r *traffic.Report) bool { return r.Routed == 0 })
	if err != nil {
		return "", fmt.Errorf("connections do not go direct: %w", err)
	}
	if r.Failed > workers {
		return "", fmt.Errorf("%d requests failed while the proxy went away: %s", r.Failed, r.Failures[0].Error)
	}
	gone, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := d.proxy.Wait(gone); err != nil {
		return "", err
	}
	direct, err := d.requests(ctx, 200, nil)
	if err != nil {
		return "", err
	}
	if direct.Routed > 0 {
		return "", fmt.Errorf("%d requests were routed without a proxy", direct.Routed)
	}
	d.screen.print("  %s stopped: direct after %s, %d of %d requests failed; then 200 more, all direct", d.screen.tick(), ms(down), r.Failed, r.Requests)
	return d.back(ctx)
}

// back starts the proxy again. New connections are used: those that were kept since it was away are closed, on purpose, so
// that they come back routed.
func (d *demo) back(ctx context.Context) (string, error) {
	l := load()
	l.Connections, l.Rate = traffic.New, 2000
	took, r, err := d.until(ctx, l, 20*time.Second,
		func() error { return d.startProxy(ctx) },
		func(r *traffic.Report) bool { return r.Routed == r.OK() })
	if err != nil {
		return "", fmt.Errorf("connections are not routed again: %w", err)
	}
	again, err := d.requests(ctx, 200, nil)
	if err != nil {
		return "", err
	}
	if err := allRouted(again); err != nil {
		return "", err
	}
	return fmt.Sprintf("started: routed after %s, %d of %d requests failed; then 200 more, all routed", ms(took), r.Failed, r.Requests), nil
}

func (d *demo) addresses(ctx context.Context) (string, error) {
	// The servers write their logs every 20 ms.
	if err := pause(ctx, 100*time.Millisecond); err != nil {
		return "", err
	}
	lines := 0
	for _, p := range slices.Concat(d.web, d.echo) {
		clients, err := p.Clients()
		if err != nil {
			return "", err
		}
		for addr, n := range clients {
			if addr != d.client.IPv4 && addr != d.client.IPv6 {
				return "", fmt.Errorf("%s saw %s, which is not the client pod (%s, %s): %d times", p.Name, addr, d.client.IPv4, d.client.IPv6, n)
			}
			lines += n
		}
		if clients[d.client.IPv4] == 0 || clients[d.client.IPv6] == 0 {
			return "", fmt.Errorf("%s did not see the client over both IPv4 and IPv6: %v", p.Name, clients)
		}
	}
	return fmt.Sprintf("%d connections and requests in their logs, all from %s and %s", lines, d.client.IPv4, d.client.IPv6), nil
}

func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func ms(t time.Duration) string { return fmt.Sprintf("%d ms", t.Milliseconds()) }

func shares(r *traffic.Report) string {
	var s []string
	for _, b := range slices.Sorted(maps.Keys(r.Backends)) {
		s = append(s, fmt.Sprintf("%s %s", b, percent(r.Share(b))))
	}
	return strings.Join(s, ", ")
}
