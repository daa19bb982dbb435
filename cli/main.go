// Command sluice is what users run. It starts the other two programs where it needs them and contains neither.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/sluice-mesh/sluice/cli/demo"
	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
)

const usage = `sluice: a service mesh data plane for Kubernetes without sidecars

Usage:
  sluice demo [--keep]                    show on this machine what Sluice does, in about half a minute; needs root
  sluice demo exec POD -- COMMAND...      run a command in a pod of a demo that was kept
  sluice demo get [flags] URL...          send requests from the client pod of a demo that was kept
  sluice check [flags]                    is every node's agent and proxy up, which pods are not enrolled and why, what else is wrong
  sluice bypass on|off|status [flags]     the kill switch: while it is on, every connection is left alone
  sluice routes [flags] [NAMESPACE[/NAME]]
                                          each route, its conditions, and what its traffic gets
  sluice explain --from CLIENT --to SERVICE [flags] [PATH]
                                          which rule a request is for, what happens to it, and why no other rule has it
  sluice version                          print the version
  sluice help                             print this

All but 'version' and 'help' tell more with --help.
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errNo):
		return 1
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "sluice: interrupted")
		return 130
	}
	fmt.Fprintf(os.Stderr, "sluice: %v\n", err)
	if _, is := errors.AsType[trouble](err); is {
		return 2
	}
	return 1
}

func dispatch(ctx context.Context, args []string) error {
	command := "help"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "demo":
		return runDemo(ctx, args)
	case "check":
		return runCheck(ctx, args, os.Stdout)
	case "bypass":
		return runBypass(ctx, args, os.Stdout)
	case "routes":
		return runRoutes(ctx, args, os.Stdout)
	case "explain":
		return runExplain(ctx, args, os.Stdout)
	case "version", "--version":
		fmt.Println(version())
		return nil
	case "help", "--help", "-h":
		_, err := io.WriteString(os.Stdout, usage)
		return err
	case lab.Subcommand:
		if len(args) != 2 {
			return fmt.Errorf("%s: want a program and its options", lab.Subcommand)
		}
		return traffic.Command(ctx, args[0], args[1], os.Stdout)
	}
	return fmt.Errorf("no command %q; 'sluice help' lists them", command)
}

func runDemo(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "exec" {
		return demoExec(args[1:])
	}
	if len(args) > 0 && args[0] == "get" {
		return demoGet(ctx, args[1:])
	}
	flags := flag.NewFlagSet("sluice demo", flag.ContinueOnError)
	keep := flags.Bool("keep", false, "leave everything running at the end, and tell how to play with it, until Ctrl-C")
	bin := flags.String("bin", "", "`folder` of sluice, sluice-agent and sluice-proxy (default: that of this program)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("demo: unknown argument %q; see 'sluice demo --help'", flags.Arg(0))
	}
	if *bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("demo: find the folder of this program: %w", err)
		}
		*bin = filepath.Dir(self)
	}
	return demo.Run(ctx, demo.Options{Bin: *bin, Keep: *keep, Out: os.Stdout})
}

func demoExec(args []string) error {
	flags := flag.NewFlagSet("sluice demo exec", flag.ContinueOnError)
	name := flags.String("run", "", "`name` of the run, when several were kept")
	if err := flags.Parse(args); err != nil {
		return err
	}
	rest := flags.Args()
	if len(rest) > 1 && rest[1] == "--" {
		rest = append(rest[:1:1], rest[2:]...)
	}
	if len(rest) < 2 {
		return errors.New("demo exec: want a pod and a command, such as 'sluice demo exec client -- curl http://10.96.0.10'")
	}
	return lab.Exec(*name, rest[0], rest[1:])
}

func version() string {
	v := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && v == "devel" {
				v = "devel " + s.Value
			}
		}
	}
	return fmt.Sprintf("sluice %s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
