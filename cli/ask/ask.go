// Package ask asks running programs through their admin servers, wherever those can be reached, and says what of their
// answers the command has a use for.
package ask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Where the two programs answer unless they are told otherwise: on loopback, and in a cluster on that of their pod.
const (
	AgentPort  = 15021
	ProxyPort  = 15020
	AgentAdmin = "127.0.0.1:15021"
	ProxyAdmin = "127.0.0.1:15020"
)

// maxAnswer bounds what is read of an answer: a node with 5,000 routes has some 20 MB to say.
const maxAnswer = 256 << 20

// Program is one that can be asked.
type Program struct {
	Name   string // agent or proxy
	At     string // where it is, for people
	Advice string // what to do when it cannot be reached; "": nothing to say
	Dial   func(context.Context) (net.Conn, error)
}

// Local is a program on this machine, at a loopback IP:PORT or unix:PATH.
func Local(name, at string) (Program, error) {
	network, address := "unix", strings.TrimPrefix(at, "unix:")
	if address == at {
		if _, err := netip.ParseAddrPort(at); err != nil {
			return Program{}, fmt.Errorf("--%s: %q is neither IP:PORT nor unix:PATH", name, at)
		}
		network = "tcp"
	}
	return Program{
		Name: name, At: at,
		Advice: fmt.Sprintf("run this on a node where sluice-%[1]s runs, as a user who may ask it; --%[1]s names another admin address", name),
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}, nil
}

// Get reads the JSON that the program answers.
func (p Program) Get(ctx context.Context, path string, into any) error {
	code, body, err := p.do(ctx, http.MethodGet, path)
	switch {
	case err != nil:
		return err
	case code != http.StatusOK:
		return p.refused(code, path, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the %s at %s answered to %s what this version does not read: %w", p.Name, p.At, path, err)
	}
	return nil
}

// Ready asks whether the program is ready; it says why not, and "" if it is.
func (p Program) Ready(ctx context.Context) (notReady string, err error) {
	code, body, err := p.do(ctx, http.MethodGet, "/readyz")
	switch {
	case err != nil:
		return "", err
	case code == http.StatusOK:
		return "", nil
	case code == http.StatusServiceUnavailable:
		return string(bytes.TrimSpace(body)), nil
	}
	return "", p.refused(code, "/readyz", body)
}

// Bypass turns the kill switch of an agent.
func (p Program) Bypass(ctx context.Context, on bool) error {
	path := "/bypass?" + url.Values{"on": {strconv.FormatBool(on)}}.Encode()
	code, body, err := p.do(ctx, http.MethodPost, path)
	if err == nil && code != http.StatusOK {
		err = p.refused(code, path, body)
	}
	return err
}

func (p Program) refused(code int, path string, body []byte) error {
	return fmt.Errorf("the %s at %s answered %d %s to %s: %s", p.Name, p.At, code, http.StatusText(code), path, bytes.TrimSpace(body))
}

// do sends one request over a connection of its own.
func (p Program) do(ctx context.Context, method, path string) (code int, body []byte, err error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// The context that it comes with outlives the request, so that a later one may have the connection.
		DialContext: func(context.Context, string, string) (net.Conn, error) { return p.Dial(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.Name+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, p.noAnswer(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, p.noAnswer(fmt.Errorf("read its answer: %w", err))
	}
	return resp.StatusCode, body, nil
}

// NoAnswer is the error of a program that cannot be reached.
type NoAnswer struct {
	Program Program
	Cause   error
}

// noAnswer leaves of an error what a user has a use for.
func (p Program) noAnswer(err error) error {
	if wrapped, is := errors.AsType[*url.Error](err); is {
		err = wrapped.Err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it took too long: %w", context.DeadlineExceeded)
	}
	return &NoAnswer{p, err}
}

func (e *NoAnswer) Error() string {
	s := fmt.Sprintf("no %s answers at %s: %v", e.Program.Name, e.Program.At, e.Cause)
	if e.Program.Advice != "" {
		s += "\n" + e.Program.Advice
	}
	return s
}

func (e *NoAnswer) Unwrap() error { return e.Cause }
