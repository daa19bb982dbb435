package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mesh/sluice/agent/admission"
	"github.com/sluice-mesh/sluice/agent/cgroup"
	"github.com/sluice-mesh/sluice/agent/compile"
	"github.com/sluice-mesh/sluice/agent/datapath"
	"github.com/sluice-mesh/sluice/agent/enroll"
	"github.com/sluice-mesh/sluice/agent/handover"
	"github.com/sluice-mesh/sluice/agent/life"
	"github.com/sluice-mesh/sluice/agent/node"
	"github.com/sluice-mesh/sluice/agent/objects"
	"github.com/sluice-mesh/sluice/agent/push"
	"github.com/sluice-mesh/sluice/agent/status"
	"github.com/sluice-mesh/sluice/cni/install"
	"github.com/sluice-mesh/sluice/cni/netconf"
	"github.com/sluice-mesh/sluice/cni/wire"
)

const (
	controllerName = "sluice.dev/mesh"
	meshName       = "sluice" // of the XMesh

	withdrawTime = 5 * time.Second  // for the routes' statuses to be taken back, when the agent is uninstalled
	drainTime    = 10 * time.Minute // in which proxies have drained: their own limit, and the kubelet's, are shorter
)

// holding is what the agent has made for as long as it has the node.
type holding struct {
	*agent
	dp       *datapath.Datapath
	push     *push.Server
	enroller *enroll.Enroller
	node     *node.Node
	asked    *handover.Holder   // nil: nobody can ask for the node
	admitted *net.UnixListener  // of the CNI plugin; nil: it is not installed
	plugin   *install.Installer // nil: the same
	writer   *status.Writer     // nil: there is no API server to write to

	undo          []func() error // in reverse
	takeAway      bool           // when the node is left
	stopInstaller func()         // and waits for that: what removes the plugin has to be the only one at it
}

// assemble makes everything. The sockets are ours: whoever had them before had the node.
func (a *agent) assemble(dp *datapath.Datapath) (h *holding, err error) {
	h = &holding{agent: a, dp: dp, takeAway: a.cleanupOnExit}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.push, err = push.Listen(push.Config{
		Socket: a.socket, HeartbeatFD: dp.HeartbeatFD(), Proc: a.proc, Cgroup: a.cgroup, Log: a.log,
		Node: a.node, Zone: a.zone, PrefixV4: datapath.PrefixV4, PrefixV6: datapath.PrefixV6,
	}); err != nil {
		return nil, err
	}
	h.undo = append(h.undo, h.push.Close)
	metrics := prometheus.NewRegistry()
	h.enroller = enroll.New(a.enroll(a.log))
	h.undo = append(h.undo, func() error { h.enroller.Close(); return nil })
	cfg := node.Config{
		Compile: a.compiler(), Select: a.selector(), HeartbeatLimit: a.heartbeatLimit, Registerer: metrics, Log: a.log,
	}
	if a.kubernetes {
		if err := h.join(metrics, &cfg); err != nil {
			return nil, err
		}
	}
	h.node = node.New(cfg, dp, h.push, h.enroller)
	now := life.Holding{Node: h.node, Metrics: metrics}
	if h.plugin != nil {
		now.CNI = h.plugin.Status
	}
	a.desk.Has(now)
	h.undo = append(h.undo, func() error { a.desk.HasNot(); return nil })
	return h, nil
}

// join makes what there is in a cluster only.
func (h *holding) join(metrics prometheus.Registerer, cfg *node.Config) (err error) {
	clients, err := status.NewClients(h.server)
	if err != nil {
		return err
	}
	if h.writer, err = status.New(status.Config{
		Clients: clients, Node: h.agent.settings.node, Namespace: h.namespace, Identity: h.pod, ControllerName: controllerName,
		MeshName: meshName, Log: h.log, Registerer: metrics,
	}); err != nil {
		return err
	}
	cfg.Report = h.writer.Publish
	cfg.CheckPod = func(uid string) error { return cgroup.Contains(h.cgroups, h.cgroup, uid) }
	if h.asked, err = handover.Listen(h.handover, h.log); err != nil {
		return err
	}
	h.undo = append(h.undo, func() error { h.asked.Close(); return nil })
	if h.cniPlugin == "" {
		// An earlier agent may have had it. Where its folders are not to be seen there is nothing to do.
		if err := install.Remove(h.cni(h.log)); err != nil {
			h.log.Warn("the CNI plugin of an earlier agent stays", "error", err)
		}
		return nil
	}
	var remove func() error
	if h.admitted, remove, err = push.ListenUnix(h.cniSocket); err != nil {
		return err
	}
	h.undo = append(h.undo, remove)
	h.plugin = install.New(h.cni(h.log))
	return nil
}

// cni is what the installer needs to know; without the plugin's file, to remove it.
func (s *settings) cni(log *slog.Logger) install.Config {
	return install.Config{
		BinDir: s.cniBinDir, ConfDir: s.cniConfDir, Plugin: s.cniPlugin, Namespace: s.namespace, Log: log,
		Entry: netconf.Entry{Socket: s.cniSocket, WhenAway: netconf.WhenAway(s.cniAway)},
	}
}

func (s *settings) compiler() func(*objects.Set) *compile.Result {
	return compile.New(compile.Options{
		Node: s.node, Zone: s.zone, ReferenceGrants: s.referenceGrants, ControllerName: controllerName,
	}).Compile
}

// parts are what runs.
func (h *holding) parts() []func(context.Context) error {
	parts := []func(context.Context) error{h.push.Run, h.enroller.Run, h.node.Run, h.feed}
	if h.writer != nil {
		parts = append(parts, h.writer.Run)
	}
	if h.plugin != nil {
		installing, stop := context.WithCancel(context.Background())
		stopped := make(chan struct{})
		h.stopInstaller = func() { stop(); <-stopped }
		parts = append(parts,
			func(ctx context.Context) error {
				defer context.AfterFunc(ctx, stop)()
				err := h.plugin.Run(installing)
				close(stopped)
				if err == nil {
					<-ctx.Done() // it may have been stopped by itself
				}
				return err
			},
			func(ctx context.Context) error {
				return wire.Serve(ctx, h.admitted, admission.Handler(h.enroller, h.node), h.log)
			})
	}
	return parts
}

// feed gives the node the objects.
func (h *holding) feed(ctx context.Context) error {
	h.relay.Attach(h.node.Publish)
	<-ctx.Done()
	h.relay.Attach(nil)
	return nil
}

// leave waits until the agent is told to end, and then does what has to be done before it does.
func (h *holding) leave(told, ctx context.Context) error {
	select {
	case <-told.Done():
	case <-ctx.Done():
		return nil
	}
	if h.uninstalled(ctx) {
		h.takeAway = true
		h.withdraw(ctx)
	}
	if h.kubernetes {
		life.Linger(ctx, h.node, drainTime, h.log)
	}
	return nil
}

// uninstalled tells whether the agent ends for good. Where that is not known it is an upgrade: all serves on.
func (h *holding) uninstalled(ctx context.Context) bool {
	if h.owner == nil {
		return false
	}
	gone, err := h.owner.Gone(ctx)
	if err != nil {
		h.log.Warn("it is not known whether this is an uninstallation; what is in force stays", "error", err)
	}
	return gone
}

// withdraw takes the node out of the mesh while its proxies drain: connections go direct from then on.
func (h *holding) withdraw(ctx context.Context) {
	h.log.Info("the mesh is uninstalled; the node is left as it was before")
	var err error
	if h.plugin != nil {
		h.stopInstaller()
		err = install.Remove(h.cni(h.log))
	}
	h.relay.Attach(nil)
	h.node.Publish(&objects.Set{}, nil)
	ctx, cancel := context.WithTimeout(ctx, withdrawTime)
	defer cancel()
	if err := errors.Join(err, h.writer.Withdraw(ctx)); err != nil {
		h.log.Warn("something stays that has to be taken away by hand", "error", err)
	}
}

// end closes everything, after the parts have ended. What is in the kernel stays, or is taken away.
func (h *holding) end() error {
	var err error
	if h.takeAway {
		err = h.node.TearDown()
	}
	err = errors.Join(err, h.close(), h.dp.Close())
	if h.takeAway && err == nil {
		h.log.Info("everything is taken away")
		return datapath.Remove(h.datapath(h.log))
	}
	return err
}

func (h *holding) close() error {
	var err error
	for len(h.undo) > 0 {
		last := len(h.undo) - 1
		err = errors.Join(err, h.undo[last]())
		h.undo = h.undo[:last]
	}
	return err
}
