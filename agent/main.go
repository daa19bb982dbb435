// Command sluice-agent runs once on a node. It compiles the Kubernetes objects, keeps the kernel's redirect and the
// node's proxies in step with them, and brings pods in and out.
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
	"sync"
	"syscall"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/cni/install"
)

func main() {
	// Pods' namespaces are entered on threads that end with that. The process's first thread cannot end, and would keep
	// a namespace for good: nothing else may run on it.
	runtime.LockOSThread()
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run returns the exit status: 2 for a bad command line, 1 for anything else that went wrong.
func run(args []string, out io.Writer) int {
	s, err := parse(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: s.logLevel}))
	switch s.command {
	case "cleanup":
		err = cleanup(s, log)
	case "bypass":
		err = bypass(ctx, s, log)
	default:
		err = serve(ctx, s, log)
	}
	if err != nil {
		fmt.Fprintf(out, "sluice-agent: %v\n", err)
		return 1
	}
	return 0
}

// version is what the program was built from.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return ""
}

// together runs all parts until ctx is done or one of them fails, which stops the others. It waits for all.
func together(ctx context.Context, parts ...func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() {
			defer stop()
			errs[i] = part(ctx)
			if errors.Is(errs[i], context.Canceled) {
				errs[i] = nil
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cleanup takes away what an agent left: in the kernel, in the pods, and in the node's CNI configuration.
func cleanup(s settings, log *slog.Logger) error {
	if s.manifests != "" {
		return errors.Join(datapath.Remove(s.datapath(log)), cleanupFolder(s, log))
	}
	if err := datapath.Remove(s.datapath(log)); err != nil { // an agent that runs has it
		return err
	}
	pods, err := enroll.CleanupAll(s.enroll(log))
	err = errors.Join(err, install.Remove(s.cni(log)))
	log.Info("what an agent left was taken away", "pods", pods)
	return err
}

// cleanupFolder takes away what is left in the pods that the folder names.
func cleanupFolder(s settings, log *slog.Logger) error {
	folder, err := kube.NewFolder(s.manifests, log)
	if err != nil {
		return err
	}
	set, _, err := folder.Load()
	if err != nil {
		return err
	}
	return enroll.Cleanup(s.enroll(log), enroll.Desired(set, s.selector()))
}

// bypass turns the kill switch: through the agent, or in the kernel where no agent runs.
func bypass(ctx context.Context, s settings, log *slog.Logger) error {
	err := admin.Bypass(ctx, s.admin, s.bypass)
	if !errors.Is(err, admin.ErrNoAgent) {
		return err
	}
	log.Info("no agent answers at the admin address; the switch is turned in the kernel", "admin", s.admin)
	where := s.datapath(log)
	where.Cgroup = "" // nothing is to be attached
	dp, err := datapath.Open(where)
	if err != nil {
		return err
	}
	return errors.Join(dp.SetBypass(s.bypass), dp.Close())
}
