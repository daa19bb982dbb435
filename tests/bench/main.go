// Command bench measures Sluice beside what people would use instead, in one place: a client pod, a proxy and backend pods
// as network namespaces on one machine. docs/performance.md, which it writes, tells how and what came of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(args) > 0 && args[0] == inside {
		err = runInside(ctx, args[1:])
	} else {
		var o options
		if o, err = parseFlags(args); err == nil {
			err = bench(ctx, o)
		}
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it made is removed")
		return 130
	default:
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
}

func parseFlags(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "two workloads (keepalive-16, grpc-4x100), one round of 1 s, unless other flags say otherwise")
	names := flags.String("workloads", "", "comma-separated `names`, or what several begin with, such as grpc; default all")
	chosen := flags.String("proxies", "", "comma-separated `names`; default all")
	flags.IntVar(&o.rounds, "rounds", 3, "how `often` each measurement is taken")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "`length` of each closed and each open loop, in whole seconds")
	flags.BoolVar(&o.latency, "latency", true, "measure latencies too; false halves the time")
	flags.StringVar(&o.profile, "profile", "", "`folder` for CPU profiles of Sluice's worker under each closed loop; being profiled costs a little CPU itself")
	flags.StringVar(&o.out, "out", "", "`folder` for performance.md, .json and .svg; default: docs when everything is measured, none for a choice of it")
	flags.StringVar(&o.bin, "bin", "", "`folder` of sluice-agent, sluice-proxy, bareloop, bareh2, reverseproxy and h2backend as they are; default: build them into bin")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q: there are only flags, see -h", flags.Arg(0))
	}
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if *quick {
		if !set["rounds"] {
			o.rounds = 1
		}
		if !set["duration"] {
			o.duration = time.Second
		}
		if !set["workloads"] {
			*names = "keepalive-16,grpc-4x100"
		}
	}
	// Half a result must not replace a whole one by accident.
	if !set["out"] && *names == "" && *chosen == "" && o.latency && o.profile == "" {
		o.out = "docs"
	}
	return o, o.complete(*names, *chosen)
}

func (o *options) complete(names, chosen string) error {
	var err error
	if o.workloads, err = choose("workload", names, workloads(), func(w workload) string { return w.Name }); err != nil {
		return err
	}
	if o.proxies, err = choose("proxy", chosen, proxies(), func(p string) string { return p }); err != nil {
		return err
	}
	if o.rounds < 1 || o.rounds > 100 {
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	}
	if o.duration < time.Second || o.duration > time.Minute || o.duration%time.Second != 0 {
		return fmt.Errorf("-duration %v: want whole seconds, 1s to 1m", o.duration)
	}
	if o.bin == "" {
		o.bin, o.build = "bin", true
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil { // they are run elsewhere
		return err
	}
	if !o.latency {
		for i := range o.workloads {
			o.workloads[i].Rate = 0
		}
	}
	return nil
}
