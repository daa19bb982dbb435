// Bareloop is the benchmark's yardstick: the least that forwarding HTTP/1.1 can cost in Go. It finds the end of a head, one
// field and the length of a body, and validates, limits, times out and counts nothing. It is no proxy for any other use.
//
// It serves each client connection by a goroutine and reads and writes without blocking by raw system calls, which saves
// net.Conn's locks and allocations; after a write it gives way, so that one epoll_wait gathers what many wait for.
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
	flags := flag.NewFlagSet("bareloop", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on")
	backends := flags.String("backends", "", "comma-separated `address=weight`")
	match := flags.String("match", "x-bench=yes", "`name=value` of the field that a request must have, else 404")
	if flags.Parse(args) != nil {
		return 2
	}
	if err := serve(*listen, *backends, *match); err != nil {
		fmt.Fprintln(os.Stderr, "bareloop:", err)
		return 1
	}
	return 0
}

func serve(listen, backends, match string) error {
	name, value, _ := strings.Cut(match, "=")
	f := &forwarder{name: []byte(name), value: []byte(value)}
	for field := range strings.SplitSeq(backends, ",") {
		address, weight, _ := strings.Cut(field, "=")
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("backend %q: %w", field, err)
		}
		w, err := strconv.Atoi(weight)
		if err != nil {
			return fmt.Errorf("backend %q: weight: %w", field, err)
		}
		b := &backend{address: net.TCPAddrFromAddrPort(a)}
		for range w {
			f.choices = append(f.choices, b)
		}
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go f.connection(c.(*net.TCPConn))
	}
}
