// Command pod is what runs in the pods of the tests: the routes' backends and clients, and loads.
//
//	pod routes OPTIONS    serve, and send what it is told over its control socket (package echo)
//	pod pipe SOCKET       join standard input and output to a socket: the way to that one from outside
//	pod load OPTIONS      send requests until standard input ends, and print reports (package traffic); so do calls and hold
//	pod refuse OPTIONS    be a proxy that refuses a Service, until standard input ends
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want a command and what it is told, got %q", args)
	}
	switch command, told := args[0], args[1]; command {
	case "routes":
		var p echo.Pod
		if err := json.Unmarshal([]byte(told), &p); err != nil {
			return err
		}
		return p.Run(ctx)
	case "pipe":
		return pipe(told)
	default:
		// Whoever asked for it may be gone without a word.
		ctx, cancel := context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // however it ends
			cancel()
		}()
		if command == "refuse" {
			return refuse(ctx, told)
		}
		return traffic.Command(ctx, command, told, os.Stdout)
	}
}

func pipe(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, os.Stdin) // its end is the other's to notice
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}
