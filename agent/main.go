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
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
)

const controllerName = "sluice.dev/mesh"

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

// serve is the agent. It ends when ctx does, and leaves the kernel and the proxies serving: that is what an upgrade
// needs. Only when told so it takes everything away.
func serve(ctx context.Context, s settings, log *slog.Logger) error {
	folder, err := kube.NewFolder(s.manifests, log)
	if err != nil {
		return err
	}
	if err := datapath.Probe(s.datapath(log)); err != nil {
		return err
	}
	dp, err := datapath.Open(s.datapath(log))
	if err != nil {
		return err
	}
	err = errors.Join(s.agent(ctx, dp, folder, log), dp.Close())
	if err == nil && s.cleanupOnExit {
		log.Info("everything is taken away")
		return datapath.Remove(s.datapath(log))
	}
	return err
}

// agent joins the parts and runs them.
func (s *settings) agent(ctx context.Context, dp *datapath.Datapath, folder *kube.Folder, log *slog.Logger) (err error) {
	server, err := push.Listen(push.Config{
		Socket: s.socket, HeartbeatFD: dp.HeartbeatFD(), Proc: s.proc, Cgroup: s.cgroup, Log: log,
		Node: s.node, Zone: s.zone, PrefixV4: datapath.PrefixV4, PrefixV6: datapath.PrefixV6,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	listener, remove, err := listenAdmin(s.admin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	enroller := enroll.New(s.enroll(log))
	defer enroller.Close()
	n := node.New(node.Config{
		Compile: s.compiler(), Select: s.selector(), HeartbeatLimit: s.heartbeatLimit, Registerer: metrics, Log: log,
	}, dp, server, enroller)
	log.Info("the agent serves", "node", s.node, "socket", s.socket, "admin", s.admin, "manifests", s.manifests)
	err = together(ctx, server.Run, enroller.Run, n.Run,
		func(ctx context.Context) error { return folder.Run(ctx, n.Publish) },
		func(ctx context.Context) error {
			return admin.Serve(ctx, listener, admin.Handler(n, metrics), log)
		})
	if err == nil && s.cleanupOnExit {
		err = n.TearDown()
	}
	return err
}

func (s *settings) compiler() func(*objects.Set) *compile.Result {
	options := compile.Options{
		Node: s.node, Zone: s.zone, ReferenceGrants: s.referenceGrants, ControllerName: controllerName,
	}
	return func(set *objects.Set) *compile.Result { return compile.Compile(set, options) }
}

func listenAdmin(at string) (net.Listener, func() error, error) {
	network, address, err := admin.Address(at)
	if err != nil {
		return nil, nil, err
	}
	if network == "unix" {
		return push.ListenUnix(address)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on the admin address: %w", err)
	}
	return l, func() error { return nil }, nil
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

// cleanup takes away what an agent left: in the kernel, and in the pods that the folder names, if there is one.
func cleanup(s settings, log *slog.Logger) error {
	err := datapath.Remove(s.datapath(log))
	if s.manifests == "" {
		return err
	}
	folder, folderErr := kube.NewFolder(s.manifests, log)
	if folderErr != nil {
		return errors.Join(err, folderErr)
	}
	set, _, folderErr := folder.Load()
	if folderErr != nil {
		return errors.Join(err, folderErr)
	}
	return errors.Join(err, enroll.Cleanup(s.enroll(log), enroll.Desired(set, s.selector())))
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
