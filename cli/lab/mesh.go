package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AgentSocket is where the agent awaits the proxy.
func (l *Lab) AgentSocket() string { return filepath.Join(l.Dir, "agent.sock") }

// AgentAdmin is the socket of the agent's admin server.
func (l *Lab) AgentAdmin() string { return filepath.Join(l.Dir, "agent-admin.sock") }

// ProxyAdmin is the socket of the proxy's admin server.
func (l *Lab) ProxyAdmin() string { return filepath.Join(l.Dir, "proxy-admin.sock") }

// StartAgent starts the agent with the lab's folders, and further flags if there are any.
func (l *Lab) StartAgent(flags ...string) (*Process, error) {
	args := []string{
		"--manifests", l.Manifests, "--cgroup", l.Cgroup, "--bpffs", l.BPFFS, "--socket", l.AgentSocket(),
		"--admin", "unix:" + l.AgentAdmin(), "--node", l.options.Node,
	}
	return l.Start("agent", Command{Name: "sluice-agent", Path: l.bin("sluice-agent"), Args: append(args, flags...)})
}

// StartProxy starts the proxy, and waits for nothing.
func (l *Lab) StartProxy(flags ...string) (*Process, error) {
	args := []string{"--agent-socket", l.AgentSocket(), "--admin", "unix:" + l.ProxyAdmin()}
	return l.Start("proxy", Command{Name: "sluice-proxy", Path: l.bin("sluice-proxy"), Args: append(args, flags...)})
}

// Ready waits until the process's admin server says that it is ready. When that does not come, the error says what
// it said last and what the process wrote.
func (l *Lab) Ready(ctx context.Context, p *Process, admin string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := "no answer yet"
	for {
		body, status, err := Get(ctx, admin, "/readyz")
		switch {
		case err != nil && ctx.Err() == nil:
			last = err.Error()
		case status == http.StatusOK:
			return nil
		case err == nil:
			last = fmt.Sprintf("%d %s", status, bytes.TrimSpace(body))
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended before it was ready: %w%s", p.Name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v (%s): %w%s", p.Name, limit, last, context.Cause(ctx), p.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Get asks an admin server on a unix socket.
func Get(ctx context.Context, socket, path string) (body []byte, status int, err error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.StatusCode, err
}

// Metric reads a metric from an admin server and adds up its series that have all of the given labels, each written as
// name="value". One that has no series counts 0.
func Metric(ctx context.Context, socket, name string, labels ...string) (float64, error) {
	body, status, err := Get(ctx, socket, "/metrics")
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	if status != http.StatusOK {
		return 0, fmt.Errorf("read metrics: status %d: %s", status, body)
	}
	return sumMetric(body, name, labels)
}

// sumMetric adds up series in the Prometheus text format. Our label values have neither braces nor spaces in them.
func sumMetric(text []byte, name string, labels []string) (float64, error) {
	sum := 0.0
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line := s.Text()
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		has := ""
		if rest[0] == '{' {
			has, rest, ok = strings.Cut(rest[1:], "}")
			if !ok {
				return 0, fmt.Errorf("metrics: %q is no series", line)
			}
		}
		pairs := strings.Split(has, ",")
		if slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(pairs, l) }) {
			continue
		}
		value, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics: %q: %w", line, err)
		}
		sum += value
	}
	return sum, nil
}

// Workers are the processes of the proxy other than its master.
func (l *Lab) Workers(master *Process) ([]int, error) {
	pids, err := processesIn(filepath.Join(l.Cgroup, "proxy"))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == master.PID() }), nil
}
