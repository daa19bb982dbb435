package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// grpc shows what a route is to gRPC: its clients keep one connection, and without a route all calls of a connection go where
// the connection went. A connection from before the route stays direct, so each part has one of its own.
func (d *demo) grpc(ctx context.Context) (string, error) {
	d.screen.now("300 calls over one connection, without a route")
	r, err := d.calls(ctx, 300)
	if err != nil {
		return "", err
	}
	backend, err := unshared(r)
	if err != nil {
		return "", err
	}
	d.screen.print("  %s without a route, %s answered all %d calls of a connection", d.screen.tick(), backend, r.Requests)

	d.screen.now("applying examples/route-grpc.yaml")
	took, err := d.callsRouted(ctx)
	if err != nil {
		return "", fmt.Errorf("the route takes no effect: %w", err)
	}
	d.screen.now("1,000 calls over one connection")
	if r, err = d.calls(ctx, 1000); err != nil {
		return "", err
	}
	d.showShares(r, "calls", echoV1.Name, 0.9, echoV2.Name)
	if err := errors.Join(near(r, echoV1.Name, 0.9, tolerance), allRouted(r), oneConnection(r)); err != nil {
		return "", err
	}
	return fmt.Sprintf("in effect for new connections after %s; %d calls over one connection were shared, none failed", ms(took), r.Requests), nil
}

// call is what all calls of the demo have in common.
func call() traffic.Calls {
	return traffic.Calls{Targets: targets(echo), Authority: "echo-grpc.demo:9000", Workers: workers, Backends: "echo-grpc-", Timeout: 5 * time.Second}
}

// calls makes a number of calls from the client pod over one connection.
func (d *demo) calls(ctx context.Context, n int64) (*traffic.Report, error) {
	c := call()
	c.Targets, c.Calls = c.Targets[:1], n
	r, err := d.client.Calls(ctx, c)
	if err == nil {
		err = callsFailed(r)
	}
	return r, err
}

// callsRouted applies the route under calls that have a connection each, over IPv4 and IPv6, until all of them are routed.
func (d *demo) callsRouted(ctx context.Context) (time.Duration, error) {
	c := call()
	c.Fresh, c.Rate, c.Snapshots = true, 1000, snapshots
	running, err := d.client.StartCalls(c)
	if err != nil {
		return 0, err
	}
	took, r, err := d.follow(ctx, running, 10*time.Second,
		func() error { return d.manifest("route-grpc.yaml", nil) },
		func(r *traffic.Report) bool { return r.Routed == r.OK() })
	if r != nil {
		err = errors.Join(err, callsFailed(r)) // they tell why it took no effect
	}
	return took, err
}

// callsFailed says what failed, by gRPC's codes.
func callsFailed(r *traffic.Report) error {
	if r.Failed == 0 {
		return nil
	}
	var codes []string
	for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
		if code != 0 {
			codes = append(codes, fmt.Sprintf("code %d: %d", code, r.Codes[code]))
		}
	}
	f := r.Failures[0]
	return fmt.Errorf("%d of %d calls failed (%s); the first, to %s: %s", r.Failed, r.Requests, strings.Join(codes, ", "), f.Target, f.Error)
}

// unshared is who answered all calls, as it is where nothing looks into a connection.
func unshared(r *traffic.Report) (backend string, err error) {
	for _, version := range []string{echoV1.Name, echoV2.Name} {
		if n := r.Backends[version]; n > 0 && n == r.OK() {
			backend = version
		}
	}
	switch {
	case backend == "":
		return "", fmt.Errorf("want one of the two to answer all calls of a connection, have %s", shares(r))
	case r.Routed != 0:
		return "", fmt.Errorf("there is no route, but %d calls bear a route's mark", r.Routed)
	}
	return backend, oneConnection(r)
}

func oneConnection(r *traffic.Report) error {
	if r.Connections != 1 {
		return fmt.Errorf("the calls took %d connections, want one", r.Connections)
	}
	return nil
}
