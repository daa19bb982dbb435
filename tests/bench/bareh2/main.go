// Bareh2 is the benchmark's yardstick for HTTP/2: the least that forwarding it to HTTP/2 can cost in Go. It decodes fields,
// looks for one of them, chooses a backend, and keeps to flow control both ways; it validates, limits, times out, retries and
// counts nothing. It is no proxy for any other use.
//
// One goroutine reads each connection, of clients and of backends, and forwards what it read itself: no stream has a goroutine.
// A connection's mutex guards what others write to it; no two are ever held at once. Who makes a connection's empty buffer
// non-empty owes it a flush, and pays when its own read buffer is drained, so that many frames share a write. Fields are sent
// as they were encoded when they were first seen.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("bareh2", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on")
	backends := flags.String("backends", "", "comma-separated `address=weight`")
	match := flags.String("match", "x-bench=yes", "`name=value` of the field that a request must have, else 404")
	if flags.Parse(args) != nil {
		return 2
	}
	if err := serve(*listen, *backends, *match); err != nil {
		fmt.Fprintln(os.Stderr, "bareh2:", err)
		return 1
	}
	return 0
}

func serve(listen, backends, match string) error {
	f, err := newForwarder(backends, match)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	return f.accept(l)
}

func newForwarder(backends, match string) (*forwarder, error) {
	f := &forwarder{}
	f.name, f.value, _ = strings.Cut(match, "=")
	for field := range strings.SplitSeq(backends, ",") {
		address, weight, _ := strings.Cut(field, "=")
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", field, err)
		}
		w, err := strconv.Atoi(weight)
		if err != nil || w < 1 {
			return nil, fmt.Errorf("backend %q: want a weight of 1 or more", field)
		}
		f.total += w
		f.backends = append(f.backends, &backend{address: net.TCPAddrFromAddrPort(a), upTo: f.total})
	}
	return f, nil
}

func (f *forwarder) accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		client, err := f.newConn(c.(*net.TCPConn), nil)
		if err != nil { // it is gone already
			_ = c.Close()
			continue
		}
		go client.serve()
	}
}
