package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
)

// helperVariable makes the test binary run one of helpers instead of the tests: it does in a pod what a test asks for.
const helperVariable = "SLUICE_NETNS_HELPER"

// helper gets its arguments and returns what is printed as JSON.
type helper func(args []string) (any, error)

var helpers = map[string]helper{"bind": bindAll, "scan": scan, "dial": dialAll, "raw": raw}

func runHelper(name string, args []string) int {
	h, ok := helpers[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no helper %q\n", name)
		return 1
	}
	result, err := h(args)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// in runs a helper in a pod and reads its result.
func (m *mesh) in(pod *lab.Pod, name string, into any, args ...string) {
	m.t.Helper()
	var out bytes.Buffer
	p, err := pod.Start(lab.Command{
		Name: pod.Name + "-" + name, Path: self(m.t), Args: args, Env: []string{helperVariable + "=" + name}, Stdout: &out,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		m.t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		m.t.Fatalf("%s: %v in %.200s", name, err, out.Bytes())
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// bindAll listens on every port of the given host, one after another, and returns those that it could not have. The
// ports of connections that applications of the pod made to Services are their own affair: the kernel keeps such a port
// for a minute after the connection has ended. Ours go to the servers' port.
func bindAll(args []string) (any, error) {
	taken := []int{}
	applications := map[int]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		if err := localPorts(table, 80, applications); err != nil {
			return nil, err
		}
	}
	for port := 1; port < 1<<16; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort(args[0], strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			if !applications[port] {
				taken = append(taken, port)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		l.Close()
	}
	return taken, nil
}

// localPorts adds the local ports of the connections in the table to the given remote port.
func localPorts(table string, remote uint64, into map[int]bool) error {
	content, err := os.ReadFile(table)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line) // number, local address:port, remote address:port, state, ... in hexadecimal
		if len(fields) < 4 || fields[0] == "sl" {
			continue
		}
		var ports [2]uint64
		for i := range ports {
			_, port, _ := strings.Cut(fields[1+i], ":")
			if ports[i], err = strconv.ParseUint(port, 16, 16); err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
		if ports[1] == remote {
			into[int(ports[0])] = true
		}
	}
	return nil
}

// scan connects to every port of the given address and returns those that answer, or that are silent for a second.
func scan(args []string) (any, error) {
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return nil, err
	}
	ports, found := make(chan uint16), []uint16{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for port := range ports {
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, port).String(), time.Second)
				if errors.Is(err, syscall.ECONNREFUSED) {
					continue
				}
				if err == nil {
					c.Close()
				}
				mu.Lock()
				found = append(found, port)
				mu.Unlock()
			}
		})
	}
	for port := 1; port < 1<<16; port++ {
		ports <- uint16(port)
	}
	close(ports)
	group.Wait()
	return found, nil
}

// dialAll connects to each address and returns what came of it: "refused", "connected" or the error.
func dialAll(args []string) (any, error) {
	results := map[string]string{}
	for _, addr := range args {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		switch {
		case err == nil:
			c.Close()
			results[addr] = "connected"
		case errors.Is(err, syscall.ECONNREFUSED):
			results[addr] = "refused"
		default:
			results[addr] = err.Error()
		}
	}
	return results, nil
}

// raw sends bytes, which are quoted, to an address and returns all that comes back until the other side closes, or 3 s have passed.
func raw(args []string) (any, error) {
	request, err := strconv.Unquote(args[1])
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.Copy(c, strings.NewReader(request)); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return nil, fmt.Errorf("after %q: %w", b, err)
	}
	return string(b), nil
}
