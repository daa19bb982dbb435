// Command sluice-proxy forwards what the agent of its node has redirected to it. It is a master that keeps one worker
// running: the same program with the same flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/confine"
	"github.com/sluice-mesh/sluice/l7proxy/master"
	"github.com/sluice-mesh/sluice/l7proxy/worker"
)

// workerArgument is the first argument of a worker.
const workerArgument = "worker"

// stopGrace is what a worker may take to stop beyond its drain time-out: the agent's release comes before it.
const stopGrace = 5 * time.Second

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit status: 2 for a bad command line, 1 for anything else that went wrong.
func run(args []string, out, errOut io.Writer) int {
	serves := len(args) > 0 && args[0] == workerArgument
	if serves {
		args = args[1:]
	}
	s, err := parse(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case s.version:
		fmt.Fprintln(out, version())
		return 0
	}
	signal.Ignore(syscall.SIGPIPE) // whoever reads what we print may end, and we go on
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: s.logLevel}))
	if serves {
		err = serve(s, out, log)
	} else {
		err = keepServing(s, args, log)
	}
	if err != nil {
		fmt.Fprintf(errOut, "sluice-proxy: %v\n", err)
		return 1
	}
	return 0
}

// keepServing is the master.
func keepServing(s settings, args []string, log *slog.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return master.Run(signals, master.Config{
		Path: "/proc/self/exe", Args: append([]string{os.Args[0], workerArgument}, args...),
		HangKill: s.hangKill, StopLimit: s.worker.DrainTimeout + stopGrace, Log: log,
	})
}

// serve is the worker. A terminal's Ctrl-C reaches it as well as the master, so both signals mean the same.
func serve(s settings, out io.Writer, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := confine.Process(); err != nil {
		log.Error("the worker keeps privileges that it does not need", "error", err)
	}
	worker.Tune(s.threads)
	s.worker.Beats, s.worker.Output, s.worker.Log = beats(), out, log
	return worker.Run(ctx, s.worker)
}

// beats is the master's pipe, or nil for a worker that was started by hand.
func beats() *os.File {
	var st syscall.Stat_t
	if err := syscall.Fstat(master.BeatFD, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil
	}
	return os.NewFile(master.BeatFD, "beats")
}

func version() string {
	v := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v = info.Main.Version
		}
	}
	return fmt.Sprintf("sluice-proxy %s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
