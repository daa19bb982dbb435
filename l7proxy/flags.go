package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/admin"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
	"github.com/sluice-mesh/sluice/l7proxy/worker"
)

const usage = `Usage: sluice-proxy [flags]

Forwards what the agent of this node has redirected to it. One process keeps another one running, which serves.

Flags:
`

// settings are what the command line says.
type settings struct {
	worker   worker.Config // without what a process makes
	threads  int
	hangKill time.Duration
	logLevel slog.Level
	version  bool
}

// parse reads the command line. It prints help to out where it was asked for, and what is wrong, in one sentence; the
// error is flag.ErrHelp after the former.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("sluice-proxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // package flag would print everything that there is
	address := flags.String("admin", "127.0.0.1:15020", "admin `address`: loopback IP:PORT or unix:PATH")
	serve := flags.String("serve", "", "`address` IP:PORT of any interface where health and metrics are served too, such as 0.0.0.0:15023")
	accessLog := flags.String("access-log", "errors", "which requests are logged to standard output: the `level` is off, errors or all")
	s.define(flags)
	err := flags.Parse(args)
	if err == nil {
		err = s.check(flags, *address, *serve, *accessLog)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
	case err != nil:
		fmt.Fprintf(out, "sluice-proxy: %v (see --help)\n", err)
	}
	return s, err
}

func (s *settings) define(flags *flag.FlagSet) {
	w, l := &s.worker, &s.worker.Limits
	flags.StringVar(&w.AgentSocket, "agent-socket", "/run/sluice/agent.sock", "unix socket of the agent")
	flags.DurationVar(&w.DrainTimeout, "drain-timeout", 25*time.Second, "how long open connections may take to end when the proxy is told to stop")
	flags.DurationVar(&s.hangKill, "hang-kill", 10*time.Second, "a worker that accepts nothing for so long, and cannot, is killed and replaced")
	flags.IntVar(&s.threads, "threads", 0, "`number` of threads that run Go code at the same time; 0: what the machine and the cgroup allow")
	flags.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.BoolVar(&s.version, "version", false, "print the version and end")
	flags.Int64Var(&l.Connections, "max-connections", 20_000, "connections of one client pod")
	flags.Int64Var(&l.Requests, "max-requests", 8_192, "requests of one client pod at the same time")
	flags.IntVar(&l.Head, "max-head", 64<<10, "`bytes` of the head of a request or response")
	flags.IntVar(&l.Target, "max-target", 16<<10, "`bytes` of a request's target")
	flags.DurationVar(&l.HeadIn, "head-timeout", 10*time.Second, "from the first byte of a request's head to its last")
	flags.DurationVar(&l.Connect, "connect-timeout", 5*time.Second, "to connect to an endpoint")
}

// shortestHangKill leaves room for a worker that beats every 100 ms, on a machine that has much to do.
const shortestHangKill = time.Second

// check reads what package flag does not know how to read, and tells what makes no sense.
func (s *settings) check(flags *flag.FlagSet, address, serve, accessLog string) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	var err error
	if s.worker.Admin, err = admin.ParseAddress(address); err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	if serve != "" {
		if s.worker.Serve, err = admin.ParsePublic(serve); err != nil {
			return fmt.Errorf("--serve: %w", err)
		}
	}
	if s.worker.AccessLog, err = observe.ParseAccessLog(accessLog); err != nil {
		return fmt.Errorf("--access-log: %w", err)
	}
	l := &s.worker.Limits
	switch {
	case s.worker.AgentSocket == "":
		return errors.New("--agent-socket is empty: it is the path of the agent's unix socket")
	case s.worker.DrainTimeout < 0:
		return fmt.Errorf("--drain-timeout %v is negative", s.worker.DrainTimeout)
	case s.hangKill < shortestHangKill:
		return fmt.Errorf("--hang-kill %v is too short: a worker that works beats every 100ms, so at least %v", s.hangKill, shortestHangKill)
	case s.threads < 0:
		return fmt.Errorf("--threads %d is negative", s.threads)
	case min(l.Connections, l.Requests, int64(l.Head), int64(l.Target), int64(l.HeadIn), int64(l.Connect)) <= 0:
		return errors.New("--max-connections, --max-requests, --max-head, --max-target, --head-timeout and --connect-timeout have to be more than 0")
	}
	return nil
}
