package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/rest"

	"github.com/sluice-mesh/sluice/agent/admin"
	"github.com/sluice-mesh/sluice/agent/cgroup"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/kube"
	"github.com/sluice-mesh/sluice/agent/life"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/watch"
)

// zoneTime is how long the agent waits to learn its node's zone.
const zoneTime = 3 * time.Second

// source is where the objects come from: the API server, or a folder.
type source interface {
	Run(ctx context.Context, publish func(*objects.Set, []kube.Problem)) error
}

// agent is one from its start to its end. For a part of that it has the node.
type agent struct {
	settings
	log    *slog.Logger
	source source
	relay  *life.Relay
	desk   *life.Desk
	server *rest.Config                          // of the API server; nil: the objects come from a folder
	zoneOf func(context.Context) (string, error) // nil: it is what the flag says
	owner  *watch.Owner                          // nil: nobody is asked whether this is an uninstallation
	own    *prometheus.Registry
}

// serve is the agent. It ends when ctx does, and leaves the kernel and the proxies serving: that is what an upgrade
// needs. Only when it is uninstalled, or was told so, it takes everything away.
func serve(ctx context.Context, s settings, log *slog.Logger) error {
	a := &agent{settings: s, log: log, relay: life.NewRelay(), own: prometheus.NewRegistry()}
	a.own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.desk = life.NewDesk(version(), a.own)
	if err := a.connect(); err != nil {
		return err
	}
	if err := datapath.Probe(a.datapath(log)); err != nil {
		return err
	}
	return a.run(ctx)
}

// connect finds where the objects are, and what depends on that.
func (a *agent) connect() (err error) {
	if !a.kubernetes {
		a.source, err = kube.NewFolder(a.manifests, a.log)
		return err
	}
	if a.cgroup == autoCgroup {
		if a.cgroup, err = cgroup.Find(a.cgroups, a.podUID); err != nil {
			return err
		}
	}
	if a.server, err = watch.Connect(a.kubeconfig); err != nil {
		return err
	}
	from, err := watch.New(watch.Config{REST: a.server, Node: a.node, Log: a.log, Registerer: a.own})
	if err != nil {
		return err
	}
	a.source, a.zoneOf = from, from.Zone
	if a.daemonSet != "" {
		a.owner, err = watch.NewOwner(watch.OwnerConfig{REST: a.server, Namespace: a.namespace, DaemonSet: a.daemonSet, Log: a.log})
	}
	return err
}

// run runs what goes on whether the agent has the node or not, and gets it.
func (a *agent) run(told context.Context) (err error) {
	parts := []func(context.Context) error{
		func(ctx context.Context) error { return a.source.Run(ctx, a.relay.Publish) },
		func(ctx context.Context) error { return a.keep(told, ctx) },
	}
	if a.owner != nil {
		parts = append(parts, a.owner.Run)
	}
	desks, remove, err := a.desks()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	// What is told to end ends by itself: the node has to be left in order first.
	return together(context.WithoutCancel(told), append(parts, desks...)...)
}

// desks are the servers for operators, probes and Prometheus.
func (a *agent) desks() (parts []func(context.Context) error, remove func() error, err error) {
	at, remove, err := listenAdmin(a.admin)
	if err != nil {
		return nil, nil, err
	}
	serve := func(l net.Listener, h http.Handler) {
		parts = append(parts, func(ctx context.Context) error { return admin.Serve(ctx, l, h, a.log) })
	}
	serve(at, admin.Handler(a.desk, a.desk))
	if a.serve != "" {
		l, err := net.Listen("tcp", a.serve)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--serve: %w", err), at.Close(), remove())
		}
		serve(l, admin.Public(a.desk, a.desk))
	}
	return parts, remove, nil
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

// keep gets the node once the objects are known, and gives it up when a successor asks: so the one waits for the other
// for no longer than it takes to change hands. Living ends when another part of the agent failed.
func (a *agent) keep(told, living context.Context) error {
	either, stop := context.WithCancel(living)
	defer stop()
	defer context.AfterFunc(told, stop)()
	select {
	case <-a.relay.First():
	case <-either.Done():
		return nil
	}
	a.learnZone(either)
	taker := life.Taker[*datapath.Datapath]{
		Open:   func() (*datapath.Datapath, error) { return datapath.Open(a.datapath(a.log)) },
		Locked: datapath.ErrLocked, Log: a.log,
	}
	if a.kubernetes {
		taker.Handover = a.handover
	}
	for {
		dp, err := taker.Take(either)
		if err != nil {
			if either.Err() != nil && errors.Is(err, either.Err()) {
				return nil
			}
			return err
		}
		successor, err := a.hold(told, living, dp)
		if successor == nil {
			return err
		}
		a.log.Info("the node was handed to another agent")
		if err := errors.Join(err, successor.Close()); err != nil {
			return err
		}
	}
}

// learnZone asks for the node's zone, once: an API server that gave the objects answers.
func (a *agent) learnZone(ctx context.Context) {
	if a.zoneOf == nil || a.zone != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, zoneTime)
	defer cancel()
	var err error
	if a.zone, err = a.zoneOf(ctx); err != nil {
		a.log.Warn("the node's zone is not known: hints of EndpointSlices for zones do not count", "error", err)
	}
}

// hold is what the agent does while it has the node. It returns who asked for it, or nil where the agent is to end.
func (a *agent) hold(told, living context.Context, dp *datapath.Datapath) (successor io.Closer, err error) {
	h, err := a.assemble(dp)
	if err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	parts := h.parts()
	parts = append(parts, func(ctx context.Context) error { return h.leave(told, ctx) })
	if h.asked != nil {
		parts = append(parts, func(ctx context.Context) error {
			successor = h.asked.Run(ctx)
			return nil
		})
	}
	a.log.Info("the agent serves", "node", a.node, "zone", a.zone, "socket", a.socket, "admin", a.admin, "manifests", a.manifests, "cgroup", a.cgroup)
	err = together(living, parts...)
	return successor, errors.Join(err, h.end())
}
