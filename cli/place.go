package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/cli/ask"
	"github.com/sluice-mesh/sluice/cli/cluster"
)

// What the commands that tell of a cluster or a node end with besides success, as grep does: scripts tell an answer that is no
// from none.
//
// errNo: all was told, and the answer is no.
var errNo = errors.New("no")

// trouble is why there is no answer.
type trouble struct{ error }

func (t trouble) Unwrap() error { return t.error }

// place is where the programs are that are asked: on this machine or in a cluster.
type place struct {
	agent, proxy string // admin addresses on this machine
	options      cluster.Options
	inCluster    bool
	node         string
	patience     time.Duration // for each program
	json         bool
}

// placeUsage tells which place it is.
const placeUsage = `Where it looks: in the cluster that kubectl would take (KUBECONFIG, ~/.kube/config, --kubeconfig, --context), whose agents and proxies
it reaches through port-forwards; on this machine if --agent or --proxy is given, or if nothing says which cluster.
`

// newFlags makes the flags that all of the commands have.
func (p *place) newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // package flag would print everything that there is
	flags.StringVar(&p.agent, "agent", "", "admin `address` of the agent on this machine: loopback IP:PORT or unix:PATH (default "+ask.AgentAdmin+")")
	flags.StringVar(&p.proxy, "proxy", "", "admin `address` of the proxy on this machine (default "+ask.ProxyAdmin+")")
	flags.StringVar(&p.options.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster")
	flags.StringVar(&p.options.Context, "context", "", "`name` of the context in that file")
	flags.StringVar(&p.options.Namespace, "namespace", "", "`name` of Sluice's namespace (default: wherever it is)")
	flags.BoolVar(&p.inCluster, "cluster", false, "look in a cluster; needed only in a pod, for the cluster that it is in")
	flags.StringVar(&p.node, "node", "", "`name` of the only node to look at")
	flags.DurationVar(&p.patience, "timeout", 10*time.Second, "how `long` a program may take to answer")
	flags.BoolVar(&p.json, "json", false, "the same as --output json")
	output := func(s string) error {
		p.json = s == "json"
		if s != "json" && s != "text" {
			return fmt.Errorf("%q: want text or json", s)
		}
		return nil
	}
	flags.Func("output", "`form` of the answer: text or json", output)
	flags.Func("o", "the same as --output", output)
	return flags
}

// parse reads the flags, which may stand before and after at most so many other arguments, and prints help where that is asked for.
func parse(flags *flag.FlagSet, args []string, most int, usage string, out io.Writer) (words []string, err error) {
	for err = flags.Parse(args); err == nil && flags.NArg() > 0; err = flags.Parse(flags.Args()[1:]) {
		words = append(words, flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
	case err == nil && len(words) > most:
		err = fmt.Errorf("%q is one argument too many", words[most])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		err = trouble{fmt.Errorf("%s: %w (see '%s --help')", flags.Name(), err, flags.Name())}
	}
	return words, err
}

// open finds out which place is meant. The cluster is nil if it is this machine.
func (p *place) open() (*cluster.Cluster, error) {
	here, there := p.agent != "" || p.proxy != "", p.inCluster || p.options != cluster.Options{}
	switch {
	case p.patience <= 0:
		return nil, trouble{errors.New("--timeout: it has to be longer than nothing")}
	case here && there:
		return nil, trouble{errors.New("--agent and --proxy are of this machine; --cluster, --kubeconfig, --context and --namespace are of a cluster: give one kind of them")}
	case here && p.node != "":
		return nil, trouble{errors.New("--node is of a cluster: --agent and --proxy say which node is meant already")}
	case here || !there && !cluster.Configured():
		if p.node != "" {
			return nil, trouble{errors.New("--node is of a cluster, and nothing says which: KUBECONFIG, --kubeconfig and --context do")}
		}
		return nil, nil
	}
	c, err := cluster.Open(p.options)
	if err != nil {
		return nil, trouble{err}
	}
	return c, nil
}

// local are the programs of this machine.
func (p *place) local() (agent, proxy ask.Program, err error) {
	if agent, err = ask.Local("agent", cmp.Or(p.agent, ask.AgentAdmin)); err == nil {
		proxy, err = ask.Local("proxy", cmp.Or(p.proxy, ask.ProxyAdmin))
	}
	if err != nil {
		err = trouble{err}
	}
	return agent, proxy, err
}

// only leaves the pods of the node that is wanted, if one is.
func (p *place) only(pods []cluster.Pod) ([]cluster.Pod, error) {
	if len(pods) == 0 {
		return nil, trouble{errors.New("no pod of Sluice is there: 'sluice check' tells more")}
	}
	if p.node == "" {
		return pods, nil
	}
	return onNode(pods, p.node)
}

func onNode(pods []cluster.Pod, node string) ([]cluster.Pod, error) {
	on := slices.DeleteFunc(slices.Clone(pods), func(p cluster.Pod) bool { return p.Node != node })
	if len(on) == 0 {
		var nodes []string
		for _, p := range pods {
			nodes = append(nodes, p.Node)
		}
		return nil, trouble{fmt.Errorf("no pod of Sluice is on node %s, so no route applies there; there are some on %s", node, strings.Join(slices.Compact(nodes), ", "))}
	}
	return on, nil
}

// atOnce is how many nodes are asked at the same time.
const atOnce = 16

// each calls f for every item, for several at the same time.
func each[T any](items []T, f func(*T)) {
	var wg sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i := range items {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			f(&items[i])
		})
	}
	wg.Wait()
}

// print writes what was found, and returns errNo where that is no.
func (p *place) print(out io.Writer, found fmt.Stringer, yes bool) error {
	var err error
	if p.json {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(found)
	} else {
		_, err = io.WriteString(out, found.String())
	}
	switch {
	case err != nil:
		return trouble{err}
	case !yes:
		return errNo
	}
	return nil
}

// cause says why a program did not answer, without where it is.
func cause(err error) string {
	if none, is := errors.AsType[*ask.NoAnswer](err); is {
		return none.Cause.Error()
	}
	return err.Error()
}

// within bounds what one program may take.
func (p *place) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.patience)
}
