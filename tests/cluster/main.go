// Command cluster brings up a real Kubernetes of two nodes on this machine, without Docker and without an image registry, installs Sluice in
// it, and removes all of it again. `make cluster` and `make cluster-down` call it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
	"github.com/sluice-mesh/sluice/tests/cluster/machine"
	"github.com/sluice-mesh/sluice/tests/cluster/node"
)

const usage = `cluster: Kubernetes of two nodes on this machine, with Sluice

Usage, in tests/cluster, as root:
  cluster up                      build what is missing, bring the cluster up and install Sluice, or upgrade it where it is up
  cluster down                    remove all of it, also of one that came up only half
  cluster exec NODE -- COMMAND    run a command on a node: n1, n2 or control-plane
  cluster kubectl ARGUMENTS       run kubectl; or use the kubeconfig that 'cluster env' prints
  cluster env                     print the settings for a shell: eval "$(cluster env)"
  cluster load-images ARCHIVE...  give images to all nodes
  cluster alias IMAGE NAME        give an image that the nodes have another name too
  cluster install [FLAGS]         install Sluice from charts/sluice and its image, or upgrade it; flags are helm's
  cluster uninstall               remove Sluice

Settings of 'up', from the environment:
  PROXYMODE    nftables (default) or iptables: how kube-proxy works
  CHANNEL      standard (default) or experimental: of the Gateway API's CRDs
  GATEWAY_API  version of these, default v1.6.3
  SLUICE       set to 0: leave Sluice out
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, args)
	if err == nil {
		return 0
	}
	if exit, is := errors.AsType[*exec.ExitError](err); is && exit.Exited() {
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	return 1
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"help"}
	}
	command, args := args[0], args[1:]
	switch command {
	case "help", "--help", "-h":
		fmt.Print(usage)
		return nil
	case controlPlaneProcess, nodeProcess:
		return become(ctx, command)
	}
	cache, err := layout.Open()
	if err != nil {
		return err
	}
	m, err := machine.Open(cache)
	if err != nil {
		return err
	}
	c := cluster{cache: cache, machine: m, out: os.Stderr}
	switch command {
	case "up":
		return c.up(ctx)
	case "down":
		return c.down()
	case "exec":
		return c.exec(ctx, args)
	case "kubectl":
		return c.kubectl(ctx, args...)
	case "env":
		fmt.Printf("export KUBECONFIG=%s\nexport PATH=%s:$PATH\n", cache.Kubeconfig(), strings.TrimSuffix(cache.Bin(""), "/"))
		return nil
	case "load-images":
		return c.loadImages(ctx, args)
	case "alias":
		if len(args) != 2 {
			return errors.New("want an image and another name for it")
		}
		return c.alias(ctx, args[0], args[1])
	case "install":
		return c.install(ctx, args...)
	case "uninstall":
		return c.uninstall(ctx)
	}
	return fmt.Errorf("there is no command %q: 'cluster help' lists them", command)
}

// The program calls itself with these, to become the first process of the control plane and of a node.
const (
	controlPlaneProcess = "be-control-plane"
	nodeProcess         = "be-node"
)

func become(ctx context.Context, what string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	in := json.NewDecoder(os.Stdin)
	if what == controlPlaneProcess {
		var c layout.Cache
		if err := in.Decode(&c); err != nil {
			return fmt.Errorf("whoever started the control plane has ended: %w", err)
		}
		return node.RunControlPlane(ctx, c, log)
	}
	var c node.Config
	if err := in.Decode(&c); err != nil {
		return fmt.Errorf("whoever started the node has ended: %w", err)
	}
	return node.Run(ctx, c, log)
}
