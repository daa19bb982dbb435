package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// Subcommand is what the sluice command calls the program that runs package traffic in a pod.
const Subcommand = "lab-traffic"

func (p *Pod) traffic(name, program string, options any, out io.Writer) (*Process, error) {
	b, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	return p.Start(Command{Name: name, Path: p.lab.bin("sluice"), Args: []string{Subcommand, program, string(b)}, Stdout: out})
}

func (l *Lab) bin(name string) string { return filepath.Join(l.options.Bin, name) }

// Serve starts a server of HTTP and gRPC in the pod that listens on the port, IPv4 and IPv6, and waits until it does.
func (p *Pod) Serve(ctx context.Context, port uint16) (*Process, error) {
	out, err := os.OpenFile(p.seenPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	server, err := p.traffic(p.Name, "server", traffic.Server{Name: p.Name, Listen: []string{fmt.Sprintf("[::]:%d", port)}}, out)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		listens, err := p.listens(port)
		if err != nil || listens {
			return server, err
		}
		select {
		case <-server.Done():
			return nil, fmt.Errorf("the server in pod %s ended: %w", p.Name, server.Wait(ctx))
		case <-ctx.Done():
			return nil, fmt.Errorf("the server in pod %s does not listen: %w", p.Name, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// listens tells whether something listens on the port, without a connection that the server would see.
func (p *Pod) listens(port uint16) (taken bool, err error) {
	err = p.thread.do(func() error {
		fd, err := probe(port)
		if taken = errors.Is(err, unix.EADDRINUSE); taken {
			return nil
		}
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	return taken, err
}

// probe binds a socket to the port, which fails with EADDRINUSE while another one listens there. It does not listen itself:
// with SO_REUSEADDR, a server that starts in the same moment is not in its way.
func probe(port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (p *Pod) seenPath() string { return filepath.Join(p.lab.logs(), p.Name+".seen") }

// Seen is what the pod's server has logged so far.
func (p *Pod) Seen() ([]traffic.Seen, error) {
	f, err := os.Open(p.seenPath())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen, err := traffic.ReadLog(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.seenPath(), err)
	}
	return seen, nil
}

// Clients are the addresses that the pod's server had connections from, and how many connections and requests.
func (p *Pod) Clients() (map[netip.Addr]int, error) {
	seen, err := p.Seen()
	if err != nil {
		return nil, err
	}
	clients := map[netip.Addr]int{}
	for _, s := range seen {
		addr, err := netip.ParseAddrPort(s.Client)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.seenPath(), err)
		}
		clients[addr.Addr().Unmap()]++
	}
	return clients, nil
}

// Running is a load or a hold that goes on in a pod.
type Running struct {
	Reports <-chan *traffic.Report // snapshots, or what a hold reports when all is held; closed at the end
	process *Process
	final   *traffic.Report
	err     error
	read    chan struct{}
}

// StartLoad starts a load in the pod. The caller reads Reports if it asked for snapshots.
func (p *Pod) StartLoad(l traffic.Load) (*Running, error) { return p.startClient("load", l) }

// StartCalls starts gRPC calls in the pod. The caller reads Reports if it asked for snapshots.
func (p *Pod) StartCalls(c traffic.Calls) (*Running, error) { return p.startClient("calls", c) }

// StartHold starts to open connections and to hold them.
func (p *Pod) StartHold(h traffic.Hold) (*Running, error) { return p.startClient("hold", h) }

func (p *Pod) startClient(program string, options any) (*Running, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	process, err := p.traffic(p.Name+"-"+program, program, options, w)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	reports := make(chan *traffic.Report, 1024)
	c := &Running{Reports: reports, process: process, read: make(chan struct{})}
	go func() {
		defer close(c.read)
		defer close(reports)
		defer r.Close()
		for dec := json.NewDecoder(r); ; {
			report := new(traffic.Report)
			if err := dec.Decode(report); err != nil {
				if !errors.Is(err, io.EOF) {
					c.err = fmt.Errorf("%s: read its report: %w", process.Name, err)
				}
				return
			}
			if report.Final {
				c.final = report
			}
			select {
			case reports <- report:
			default: // nobody looks at the snapshots: the final report says it all
			}
		}
	}()
	return c, nil
}

// Stop tells the client to finish what it has begun, and returns its final report.
func (c *Running) Stop(ctx context.Context) (*traffic.Report, error) {
	if err := c.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	return c.Wait(ctx)
}

// Wait waits for the end of the client and returns its final report.
func (c *Running) Wait(ctx context.Context) (*traffic.Report, error) {
	if err := c.process.Wait(ctx); err != nil {
		return nil, err
	}
	<-c.read
	if c.err != nil {
		return nil, c.err
	}
	if c.final == nil {
		return nil, fmt.Errorf("%s ended without a report%s", c.process.Name, c.process.tail())
	}
	return c.final, nil
}

// Load runs a load that has a number of requests, from its start to its end.
func (p *Pod) Load(ctx context.Context, l traffic.Load) (*traffic.Report, error) {
	c, err := p.StartLoad(l)
	if err != nil {
		return nil, err
	}
	return c.Wait(ctx)
}

// Calls makes a number of gRPC calls, from their start to their end.
func (p *Pod) Calls(ctx context.Context, c traffic.Calls) (*traffic.Report, error) {
	r, err := p.StartCalls(c)
	if err != nil {
		return nil, err
	}
	return r.Wait(ctx)
}
