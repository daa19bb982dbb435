package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/check"
	"github.com/sluice-mesh/sluice/cli/cluster"
)

const checkUsage = `Usage: sluice check [flags]

Tells what is wrong with Sluice, and what to do about it: is the agent and the proxy of every node up, which pods are not enrolled and
why, which Services are redirected, what a proxy refused, which routes do not apply.

` + placeUsage + `
Exit status: 0 all is well; 1 there are problems; 2 no answer, such as from the API server.

Flags:
`

func runCheck(ctx context.Context, args []string, out io.Writer) error {
	var p place
	if _, err := parse(p.newFlags("sluice check"), args, 0, checkUsage, out); err != nil {
		return err
	}
	in, err := p.gather(ctx)
	if err != nil {
		return err
	}
	report := check.Check(in)
	return p.print(out, report, report.Good)
}

// gather asks all that there is to ask. A program that does not answer is a finding, not an error.
func (p *place) gather(ctx context.Context) (*check.Input, error) {
	c, err := p.open()
	if err != nil {
		return nil, err
	}
	if c == nil {
		return p.gatherHere(ctx)
	}
	facts, err := c.Read(ctx)
	if err != nil {
		return nil, trouble{err}
	}
	in := &check.Input{Source: "cluster " + c.Name, Cluster: facts, Node: p.node}
	if p.node != "" {
		in.Source += ", node " + p.node
		if len(facts.Nodes) > 0 && !slices.ContainsFunc(facts.Nodes, func(n cluster.Node) bool { return n.Name == p.node }) {
			return nil, trouble{fmt.Errorf("--node: cluster %s has no node %s", c.Name, p.node)}
		}
	}
	for i := range facts.Pods {
		if pod := &facts.Pods[i]; p.node == "" || pod.Node == p.node {
			in.Asked = append(in.Asked, check.Asked{Pod: pod})
		}
	}
	each(in.Asked, func(a *check.Asked) { p.hear(ctx, a, c.Agent(*a.Pod), c.Proxy(*a.Pod)) })
	return in, ctx.Err()
}

func (p *place) gatherHere(ctx context.Context) (*check.Input, error) {
	agent, proxy, err := p.local()
	if err != nil {
		return nil, err
	}
	in := &check.Input{Source: fmt.Sprintf("the agent at %s and the proxy at %s", agent.At, proxy.At), Asked: make([]check.Asked, 1)}
	p.hear(ctx, &in.Asked[0], agent, proxy)
	return in, ctx.Err()
}

// hear asks the programs of one node, each for itself.
func (p *place) hear(ctx context.Context, a *check.Asked, agent, proxy ask.Program) {
	var wg sync.WaitGroup
	wg.Go(func() {
		a.Agent = p.ready(ctx, agent)
		if a.Agent.NoAnswer != "" {
			return
		}
		ctx, cancel := p.within(ctx)
		defer cancel()
		var s ask.Status
		if err := agent.Get(ctx, "/status", &s); err != nil {
			a.Agent.NoAnswer = cause(err)
			return
		}
		a.Status = &s
	})
	wg.Go(func() { a.Proxy = p.ready(ctx, proxy) })
	wg.Wait()
}

func (p *place) ready(ctx context.Context, program ask.Program) check.Program {
	ctx, cancel := p.within(ctx)
	defer cancel()
	notReady, err := program.Ready(ctx)
	if err != nil {
		return check.Program{NoAnswer: cause(err)}
	}
	return check.Program{NotReady: notReady}
}
