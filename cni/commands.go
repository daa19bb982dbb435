package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-mesh/sluice/cni/netconf"
	"github.com/sluice-mesh/sluice/cni/wire"
)

// Codes of the CNI specification, and our own from 100 on.
const (
	codeUnavailable = 50  // STATUS: no ADD can be served
	codeRefused     = 100 // the agent does not take the pod, and whenAway is refuse
)

const (
	attemptTime = 900 * time.Millisecond // for one answer: an agent that hangs may be replaced while we wait
	retryPause  = 50 * time.Millisecond
)

// plugin is one run of the plugin.
type plugin struct {
	started time.Time
	out     io.Writer
	log     io.Writer // the runtime's log, at best
}

func (p *plugin) say(format string, args ...any) {
	fmt.Fprintf(p.log, "sluice-cni: "+format+"\n", args...)
}

// chained reads the configuration and the result of the plugins before us.
func chained(args *skel.CmdArgs) (config, previous, error) {
	c, err := parse(args.StdinData)
	if err != nil {
		return config{}, previous{}, err
	}
	prev, err := c.previous()
	return c, prev, err
}

// add tells the agent of a pod and waits until it is served.
func (p *plugin) add(args *skel.CmdArgs) error {
	c, prev, err := chained(args)
	if err != nil {
		return err
	}
	result, err := c.result(prev)
	if err != nil {
		return err
	}
	if err := p.admit(wire.Add, &c, prev, args); err != nil {
		return err
	}
	if _, err := p.out.Write(result); err != nil {
		return types.NewError(types.ErrIOFailure, "the result cannot be printed", err.Error())
	}
	return nil
}

// check asks whether a pod is still served. What would have let it start is no error here.
func (p *plugin) check(args *skel.CmdArgs) error {
	c, prev, err := chained(args)
	if err != nil {
		return err
	}
	return p.admit(wire.Check, &c, prev, args)
}

// admit asks the agent for a pod and decides what its answer, or its silence, means.
func (p *plugin) admit(cmd wire.Command, c *config, prev previous, args *skel.CmdArgs) error {
	r, err := request(cmd, c, args)
	if err != nil {
		return err
	}
	for _, ip := range prev.IPs {
		r.IPs = append(r.IPs, ip.Address.Addr())
	}
	ctx, cancel := context.WithDeadline(context.Background(), p.started.Add(c.Patience()))
	defer cancel()
	err = p.ask(ctx, c, r)
	switch {
	case err == nil:
		return nil
	case c.Lenient(r.Namespace):
		p.say("pod %s/%s goes on all the same: %v", r.Namespace, r.Name, err)
		return nil
	case c.WhenAway == netconf.Refuse:
		return types.NewError(codeRefused, "the agent of Sluice does not take the pod, and whenAway is refuse", err.Error())
	}
	return types.NewError(types.ErrTryAgainLater, "the agent of Sluice does not take the pod, and whenAway is wait", err.Error())
}

// ask returns nil when the agent has taken the pod, or has nothing to do with it. With Wait it asks again until the
// context ends, unless the pod goes on anyway.
func (p *plugin) ask(ctx context.Context, c *config, r wire.Request) (why error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		err := settled(wire.Ask(attempt, c.Socket, r))
		cancel()
		if slow, ok := errors.AsType[net.Error](err); why == nil || !ok || !slow.Timeout() {
			why = err // an attempt that was cut short tells less than the one before
		}
		if why == nil || c.Lenient(r.Namespace) || c.WhenAway != netconf.Wait {
			return why
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(retryPause):
		}
		if ctx.Err() != nil {
			return why
		}
	}
}

// settled makes an error of an answer that leaves a pod unserved.
func settled(a wire.Answer, err error) error {
	switch {
	case err != nil:
		return err
	case a.Error != "":
		return fmt.Errorf("the agent: %s", a.Error)
	case a.State == wire.Waiting:
		return fmt.Errorf("the agent is not ready for it: %s", a.Reason)
	}
	return nil
}

// del tells the agent that a pod is gone. Nothing makes it fail: a pod has to be able to go, and the agent's reconciler
// finds out by itself.
func (p *plugin) del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		p.say("%v; asking at %s", err, netconf.DefaultSocket)
		c = config{Socket: netconf.DefaultSocket}
	}
	r, err := request(wire.Del, &c, args)
	if err != nil {
		p.say("%v", err)
	}
	if err := p.tell(&c, r); err != nil {
		p.say("the end of sandbox %s was not told: %v", args.ContainerID, err)
	}
	return nil
}

// gc tells the agent which attachments exist. An agent that is away finds out by itself.
func (p *plugin) gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid, named, err := c.valid()
	if err != nil {
		return err
	}
	if !named {
		p.say("the runtime does not say which attachments exist: nothing is collected")
		return nil
	}
	err = p.tell(&c, wire.Request{Command: wire.GC, Network: c.Name, Valid: valid})
	if failed, ok := errors.AsType[agentError](err); ok {
		return types.NewError(types.ErrInternal, "the agent of Sluice could not collect what is gone", failed.Error())
	}
	if err != nil {
		p.say("what is gone was not told: %v", err)
	}
	return nil
}

// agentError is what the agent itself finds wrong.
type agentError string

func (e agentError) Error() string { return string(e) }

// tell is ask for what is no pod's admission.
func (p *plugin) tell(c *config, r wire.Request) error {
	ctx, cancel := context.WithDeadline(context.Background(), p.started.Add(attemptTime))
	defer cancel()
	a, err := wire.Ask(ctx, c.Socket, r)
	if err == nil && a.Error != "" {
		return agentError(a.Error)
	}
	return err
}

// status says whether pods can be added. That is always so while some namespaces are exempt: a runtime that is told
// otherwise calls the node's network down, and the kubelet then starts no pod that has a network of its own, the agent's
// included, for which everything waits.
func (p *plugin) status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil || c.WhenAway == netconf.Start {
		return err
	}
	ctx, cancel := context.WithDeadline(context.Background(), p.started.Add(attemptTime))
	defer cancel()
	err = settled(wire.Ask(ctx, c.Socket, wire.Request{Command: wire.Status, Network: c.Name}))
	switch {
	case err == nil:
		return nil
	case len(c.ExemptNamespaces) > 0:
		p.say("only pods of %v can start: %v", c.ExemptNamespaces, err)
		return nil
	}
	return types.NewError(codeUnavailable, "the agent of Sluice takes no pods", err.Error())
}
