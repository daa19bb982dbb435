package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/bench/config"
	"github.com/sluice-mesh/sluice/tests/bench/h2stream"
	"github.com/sluice-mesh/sluice/tests/bench/openloop"
)

// inside is the first argument of this program when it runs in the client pod. It is told what to do as JSON and answers
// with one line of JSON.
const inside = "inside"

func runInside(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: want a name and options", inside)
	}
	switch args[0] {
	case "openloop":
		return answer(args[1], func(l *openloop.Load) (any, error) { return l.Run(ctx) })
	case "h2stream":
		return answer(args[1], func(l *h2stream.Load) (any, error) { return l.Run(ctx) })
	case "probe":
		return answer(args[1], func(p *probe) (any, error) { return struct{}{}, p.run(ctx) })
	case "hold":
		return answer(args[1], func(h *hold) (any, error) { return struct{}{}, h.run(ctx, os.Stdout) })
	case "sysctl":
		return answer(args[1], func(settings *map[string]string) (any, error) { return struct{}{}, sysctl(*settings) })
	}
	return fmt.Errorf("%s: no %q", inside, args[0])
}

func answer[T any](arg string, run func(*T) (any, error)) error {
	var options T
	if err := json.Unmarshal([]byte(arg), &options); err != nil {
		return fmt.Errorf("options %s: %w", arg, err)
	}
	result, err := run(&options)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// sysctl sets keys below net, which are those of the network namespace that we are in.
func sysctl(settings map[string]string) error {
	for key, value := range settings {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl net/%s: %w", key, err)
		}
	}
	return nil
}

// probe waits until the proxy answers as it should: 200 with the field, 404 without it. Then it checks the weights.
type probe struct {
	Target netip.AddrPort `json:"target"`
	GRPC   bool           `json:"grpc,omitempty"` // a call of each path, over HTTP/2
	Paths  []string       `json:"paths"`
	Limit  time.Duration  `json:"limit"`  // until it has to answer
	Shares map[string]int `json:"shares"` // percent by backend; nil: no proxy, any share is right
}

func (p *probe) run(ctx context.Context) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!p.GRPC)
	protocols.SetUnencryptedHTTP2(p.GRPC)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Protocols: protocols}}
	defer client.CloseIdleConnections()
	for _, path := range p.Paths {
		if err := p.await(ctx, client, path); err != nil {
			return err
		}
	}
	if p.Shares == nil {
		return nil
	}
	const requests, tolerance = 300, 12 // percent: five times the standard deviation
	got := map[string]int{}
	for i := range requests {
		status, backend, err := p.get(ctx, client, p.Paths[i%len(p.Paths)], true)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if status != http.StatusOK {
			return fmt.Errorf("request %d: status %d, want 200", i, status)
		}
		got[backend]++
	}
	for _, backend := range slices.Sorted(maps.Keys(p.Shares)) {
		want := p.Shares[backend]
		if share := got[backend] * 100 / requests; share < want-tolerance || share > want+tolerance {
			return fmt.Errorf("backend %s got %d %% of the requests, want %d %%", backend, share, want)
		}
	}
	return nil
}

// await asks until the path is routed: before that a refused connection or any other status is no error, and before
// Sluice is there its Service answers by itself.
func (p *probe) await(ctx context.Context, client *http.Client, path string) error {
	var last error
	for end := time.Now().Add(p.Limit); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		status, _, err := p.get(ctx, client, path, true)
		if err == nil && status == http.StatusOK {
			if p.Shares == nil {
				return nil
			}
			if status, _, err = p.get(ctx, client, path, false); err == nil && status == http.StatusNotFound {
				return nil
			}
			client.CloseIdleConnections() // it may be one that went past the proxy
			last = fmt.Errorf("without the field %s: %w", config.MatchName, unwanted(status, err, http.StatusNotFound))
			continue
		}
		last = unwanted(status, err, http.StatusOK)
	}
	return errors.Join(fmt.Errorf("%s%s: %w", p.Target, path, last), ctx.Err())
}

func unwanted(status int, err error, want int) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("status %d, want %d", status, want)
}

func (p *probe) get(ctx context.Context, client *http.Client, path string, match bool) (status int, backend string, err error) {
	if p.GRPC {
		return p.call(ctx, client, path, match)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Target.String()+path, nil)
	if err != nil {
		return 0, "", err
	}
	r.Host = config.Host
	if match {
		r.Header.Set(config.MatchName, config.MatchValue)
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, resp.Header.Get("x-backend"), nil
}

// hold opens connections, makes one request on each, says so, and keeps them open until it is told to end.
type hold struct {
	Target      netip.AddrPort `json:"target"`
	Connections int            `json:"connections"`
	Limit       time.Duration  `json:"limit"` // ends by itself after that
}

func (h *hold) run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, h.Limit)
	defer cancel()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var dialer net.Dialer
	for i := range h.Connections {
		c, err := dialer.DialContext(ctx, "tcp", h.Target.String())
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		conns = append(conns, c)
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if err := once(c); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	if _, err := fmt.Fprintln(out, held); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// held is what hold says once all connections are open.
const held = "held"

// once makes one request. The small answer comes in one piece, or nearly: its end is the backend's text.
func once(c net.Conn) error {
	if _, err := io.WriteString(c, config.Request("/", false)); err != nil {
		return err
	}
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.HasSuffix(got.String(), "\n") || !strings.Contains(got.String(), "little to say") {
		n, err := c.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			return fmt.Errorf("%w after %q", err, got.String())
		}
	}
	if !strings.HasPrefix(got.String(), "HTTP/1.1 200 ") {
		return fmt.Errorf("answer %q", got.String())
	}
	return nil
}
