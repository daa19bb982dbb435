package demo

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

// Names of the proxy's metrics.
const (
	requestsMetric    = "sluice_requests_total"
	connectionsMetric = "sluice_connections_total"
)

// targets are a Service's addresses, IPv4 and IPv6, at its port.
func targets(s lab.Service) []netip.AddrPort {
	var t []netip.AddrPort
	for _, ip := range s.ClusterIPs {
		t = append(t, netip.AddrPortFrom(ip, s.Port))
	}
	return t
}

// workers is how many clients every load has. Half of them use IPv4 and half IPv6; where connections are mixed, half of each
// of these keep one and half open one for each request.
const workers = 8

// load is what all loads of the demo have in common.
func load() traffic.Load {
	t := targets(web)
	return traffic.Load{
		Targets: append(t, t[1], t[0]), // so that each address gets both kinds of connections
		Host:    "web.demo", Workers: workers, Connections: traffic.Mixed, Backends: "web-", Timeout: 5 * time.Second,
	}
}

// requests sends a number of requests from the client pod and returns what became of them.
func (d *demo) requests(ctx context.Context, n int64, headers map[string]string) (*traffic.Report, error) {
	l := load()
	l.Requests, l.Headers = n, headers
	r, err := d.client.Load(ctx, l)
	if err == nil && r.Failed > 0 {
		f := r.Failures[0]
		err = fmt.Errorf("%d of %d requests failed; the first, to %s: %s", r.Failed, r.Requests, f.Target, f.Error)
	}
	return r, err
}

// seenByProxy reads how many connections and requests the proxy counts.
func (d *demo) seenByProxy(ctx context.Context) (connections, requests float64, err error) {
	if connections, err = lab.Metric(ctx, d.lab.ProxyAdmin(), connectionsMetric); err != nil {
		return 0, 0, err
	}
	requests, err = lab.Metric(ctx, d.lab.ProxyAdmin(), requestsMetric)
	return connections, requests, err
}

// until runs a load that does act once it flows, and goes on until the snapshots after that are as they should be, three
// times in a row. It returns how long that took, counted from the moment before act, and what became of all requests.
func (d *demo) until(ctx context.Context, l traffic.Load, limit time.Duration, act func() error, good func(*traffic.Report) bool) (time.Duration, *traffic.Report, error) {
	l.Snapshots = snapshots
	c, err := d.client.StartLoad(l)
	if err != nil {
		return 0, nil, err
	}
	return d.follow(ctx, c, limit, act, good)
}

// snapshots is how often a load says what came of it that is watched.
const snapshots = 20 * time.Millisecond

// follow is until for what runs already.
func (d *demo) follow(ctx context.Context, c *lab.Running, limit time.Duration, act func() error, good func(*traffic.Report) bool) (time.Duration, *traffic.Report, error) {
	took, err := d.watch(ctx, c, limit, act, good)
	r, stopErr := c.Stop(ctx)
	if err == nil {
		err = stopErr
	}
	return took, r, err
}

func (d *demo) watch(ctx context.Context, c *lab.Running, limit time.Duration, act func() error, good func(*traffic.Report) bool) (time.Duration, error) {
	flows := time.Now().Add(limit)
	for range 10 { // the load flows
		if err := next(ctx, c, flows, limit, nil); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := act(); err != nil {
		return 0, err
	}
	var since time.Time
	for inRow := 0; inRow < 3; {
		var r *traffic.Report
		if err := next(ctx, c, began.Add(limit), limit, &r); err != nil {
			return 0, err
		}
		switch {
		case r.At.Before(began) || r.OK() == 0:
		case good(r):
			if inRow == 0 {
				since = r.At
			}
			inRow++
		default:
			inRow = 0
		}
	}
	return since.Sub(began), nil
}

// next waits for a snapshot until the end of what was limited.
func next(ctx context.Context, c *lab.Running, end time.Time, limit time.Duration, into **traffic.Report) error {
	timer := time.NewTimer(time.Until(end))
	defer timer.Stop()
	select {
	case r, more := <-c.Reports:
		if !more || r.Final {
			return fmt.Errorf("the load ended by itself")
		}
		if into != nil {
			*into = r
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("not so within %v", limit.Round(time.Second))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// worker is the id of the proxy's worker process.
func (d *demo) worker() (int, error) {
	pids, err := d.lab.Workers(d.proxy)
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("the proxy has %d workers %v, not one", len(pids), pids)
	}
	return pids[0], nil
}

// successor waits until another worker than the given one is the only one.
func (d *demo) successor(ctx context.Context, of int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		pid, err := d.worker()
		if err == nil && pid != of {
			return pid, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no successor of worker %d: %w", of, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill worker %d: %w", pid, err)
	}
	return nil
}
