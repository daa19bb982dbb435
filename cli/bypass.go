package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
	"github.com/sluice-mesh/sluice/cli/text"
)

const bypassUsage = `Usage: sluice bypass on|off|status [flags]

Turns the kill switch, on every node or on one. While it is on, every connection is left alone, as without Sluice: no route applies, and
Services that fail closed are reached directly too. Connections that are open stay as they are. After 'off', connections that went direct
meanwhile are closed little by little, so that they come back through the proxy.

` + placeUsage + `An agent that does not answer can be asked on its node: sluice-agent bypass on|off.

Exit status: 0 every node did it, or said; 1 some did not; 2 none could be asked.

Flags:
`

// bypassSchema names the form of the JSON.
const bypassSchema = "sluice.dev/bypass/v1"

// bypassed is what came of it.
type bypassed struct {
	Schema string       `json:"schema"`
	Source string       `json:"source"`
	Good   bool         `json:"good"` // every node answered
	Nodes  []bypassNode `json:"nodes"`
}

// bypassNode is one node.
type bypassNode struct {
	Node       string   `json:"node"`
	Bypass     bool     `json:"bypass"` // it is on
	FailClosed []string `json:"failClosed,omitempty"`
	Error      string   `json:"error,omitempty"` // "": Bypass is what the agent says

	agents []ask.Program
}

func runBypass(ctx context.Context, args []string, out io.Writer) error {
	var p place
	words, err := parse(p.newFlags("sluice bypass"), args, 1, bypassUsage, out)
	if err != nil {
		return err
	}
	word := ""
	if len(words) > 0 {
		word = words[0]
	}
	if !slices.Contains([]string{"on", "off", "status"}, word) {
		return trouble{fmt.Errorf("bypass: say on, off or status, not %q (see 'sluice bypass --help')", word)}
	}
	r, err := p.bypassNodes(ctx)
	if err != nil {
		return err
	}
	each(r.Nodes, func(n *bypassNode) { n.turn(ctx, &p, word) })
	r.Good = !slices.ContainsFunc(r.Nodes, func(n bypassNode) bool { return n.Error != "" })
	return p.print(out, r, r.Good)
}

// bypassNodes are the nodes that are meant, with the agents on them, of which an upgrade has two.
func (p *place) bypassNodes(ctx context.Context) (*bypassed, error) {
	c, err := p.open()
	if err != nil {
		return nil, err
	}
	if c == nil {
		agent, _, err := p.local()
		return &bypassed{Schema: bypassSchema, Source: "the agent at " + agent.At, Nodes: []bypassNode{{Node: "this node", agents: []ask.Program{agent}}}}, err
	}
	pods, err := c.Pods(ctx)
	if err != nil {
		return nil, trouble{err}
	}
	if pods, err = p.only(pods); err != nil {
		return nil, err
	}
	r := &bypassed{Schema: bypassSchema, Source: "cluster " + c.Name}
	for _, pod := range pods { // in the order of nodes
		if n := len(r.Nodes); n == 0 || r.Nodes[n-1].Node != pod.Node {
			r.Nodes = append(r.Nodes, bypassNode{Node: pod.Node})
		}
		n := &r.Nodes[len(r.Nodes)-1]
		n.agents = append(n.agents, c.Agent(pod))
	}
	return r, nil
}

// turn does what the word says. Of several agents one is enough: the switch is the node's.
func (n *bypassNode) turn(ctx context.Context, p *place, word string) {
	var failures []string
	for _, agent := range n.agents {
		err := n.ask(ctx, p, agent, word)
		if err == nil {
			n.Error = ""
			return
		}
		failures = append(failures, cause(err))
	}
	n.Error = strings.Join(failures, "; ")
}

func (n *bypassNode) ask(ctx context.Context, p *place, agent ask.Program, word string) error {
	ctx, cancel := p.within(ctx)
	defer cancel()
	if word != "status" {
		if err := agent.Bypass(ctx, word == "on"); err != nil {
			return err
		}
		n.Bypass = word == "on"
	}
	var s ask.Status
	err := agent.Get(ctx, "/status", &s)
	switch {
	case err != nil && word != "status": // it was turned all the same
		return nil
	case err != nil:
		return err
	case s.Kernel.Bypass != nil:
		n.Bypass = *s.Kernel.Bypass
	case word == "status":
		return fmt.Errorf("the agent does not say whether the bypass is on: it is of an older version")
	}
	for _, f := range s.Frontends {
		if f.FailClosed {
			n.FailClosed = append(n.FailClosed, f.Service.String())
		}
	}
	slices.Sort(n.FailClosed)
	n.FailClosed = slices.Compact(n.FailClosed)
	return nil
}

// String is the result for people.
func (r *bypassed) String() string {
	t := &text.Page{}
	on, failed := 0, 0
	var closed []string
	for _, n := range r.Nodes {
		switch {
		case n.Error != "":
			failed++
			t.Line(0, "%s: no answer: %s", n.Node, n.Error)
		case n.Bypass:
			on++
			t.Line(0, "%s: the bypass is on", n.Node)
			closed = append(closed, n.FailClosed...)
		default:
			t.Line(0, "%s: the bypass is off", n.Node)
		}
	}
	t.Blank()
	switch {
	case on > 0:
		t.Line(0, "The bypass is on, on %d of %d nodes: connections there go direct, no route applies to them, until 'sluice bypass off'.", on, len(r.Nodes))
	case failed < len(r.Nodes):
		t.Line(0, "The bypass is off: connections to Services with routes are redirected, as long as the node's proxy is in service.")
	}
	slices.Sort(closed)
	if closed = slices.Compact(closed); len(closed) > 0 {
		t.Line(0, "Services that fail closed are reached directly meanwhile: %s.", strings.Join(closed, ", "))
	}
	if failed > 0 {
		t.Line(0, "%d of %d nodes did not answer, and are as they were. On such a node itself: sluice-agent bypass on|off.", failed, len(r.Nodes))
	}
	return t.String()
}

// ofNode are the programs on the node that is meant: that of the client, that of --node, or any that answers.
func (p *place) ofNode(ctx context.Context, c *cluster.Cluster, node string) ([]cluster.Pod, error) {
	pods, err := c.Pods(ctx)
	if err != nil {
		return nil, trouble{err}
	}
	if pods, err = p.only(pods); err != nil {
		return nil, err
	}
	if node != "" {
		if pods, err = onNode(pods, node); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(pods, func(a, b cluster.Pod) int {
		return cmp.Compare(rank(a), rank(b))
	})
	return pods, nil
}

// rank puts the pods first that are most likely to answer.
func rank(p cluster.Pod) int {
	switch {
	case p.Ready && !p.Ending:
		return 0
	case p.Ready:
		return 1
	}
	return 2
}
