// Command sluice-cni is the CNI plugin that stands last in a node's list of plugins. It tells the agent of each pod before
// the pod's containers start, and passes on the result of the plugins before it as it came. It keeps nothing itself, and
// needs at most a second when the agent is away, unless it is told to wait longer.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/sluice-mesh/sluice/cni/netconf"
)

func main() { os.Exit(run(os.Stdout, os.Stderr)) }

// run is the plugin: what is asked stands in the environment and on the standard input, and that is where package skel
// takes it from.
func run(out, log io.Writer) int {
	p := &plugin{started: time.Now(), out: out, log: log}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status},
		version.PluginSupports(netconf.Versions()...), "sluice-cni tells the agent of Sluice of each pod")
	if err != nil {
		return p.fail(err)
	}
	return 0
}

// fail prints an error as the specification wants it: as JSON, on the standard output.
func (p *plugin) fail(e *types.Error) int {
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(e); err != nil {
		fmt.Fprintf(p.log, "sluice-cni: %v, which cannot be said as JSON: %v\n", e, err)
		return 1
	}
	if _, err := p.out.Write(text.Bytes()); err != nil {
		fmt.Fprintf(p.log, "sluice-cni: %v, which cannot be said: %v\n", e, err)
	}
	return 1
}
