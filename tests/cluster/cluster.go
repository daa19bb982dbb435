package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/cluster/build"
	"github.com/sluice-mesh/sluice/tests/cluster/credentials"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
	"github.com/sluice-mesh/sluice/tests/cluster/machine"
	"github.com/sluice-mesh/sluice/tests/cluster/node"
)

//go:embed dns.yaml
var dns []byte

// cluster is the cluster, there or not.
type cluster struct {
	cache   layout.Cache
	machine *machine.Machine
	out     io.Writer // of what is told
}

// settings are the choices of whoever brings it up.
type settings struct{ proxyMode, channel, gatewayAPI, sluice string }

func readSettings() settings {
	or := func(name, value string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return value
	}
	return settings{or("PROXYMODE", "nftables"), or("CHANNEL", "standard"), or("GATEWAY_API", "v1.6.3"), or("SLUICE", "1")}
}

func (s settings) String() string {
	return fmt.Sprintf("PROXYMODE=%s CHANNEL=%s GATEWAY_API=%s", s.proxyMode, s.channel, s.gatewayAPI)
}

func (c cluster) up(ctx context.Context) error {
	s := readSettings()
	source, err := sourceFolder()
	if err != nil {
		return err
	}
	lock, err := machine.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if c.machine.Up() {
		if err := c.same(s); err != nil {
			return err
		}
	}
	if err := c.build(ctx, source); err != nil {
		return err
	}
	if c.machine.Up() {
		err = c.loadImages(ctx, []string{filepath.Join(c.cache.Images(), "pod.tar")}) // of our own sources, which may have changed
	} else if err = c.bringUp(ctx, source, s); err != nil {
		err = fmt.Errorf("the cluster did not come up; logs are in %s: %w", filepath.Dir(c.cache.Log("x")), errors.Join(err, c.machine.Down()))
	}
	if err != nil || s.sluice == "0" {
		return err
	}
	return c.install(ctx)
}

// build makes what the nodes run.
func (c cluster) build(ctx context.Context, source string) error {
	if err := build.Packages(ctx, filepath.Join(source, "..", "..")); err != nil {
		return err
	}
	if err := build.Programs(ctx, source, c.cache, c.out); err != nil {
		return err
	}
	return build.Images(c.cache)
}

// same tells whether the cluster that is up is the one that is asked for.
func (c cluster) same(s settings) error {
	have, err := os.ReadFile(c.cache.Run("settings"))
	if err != nil {
		return fmt.Errorf("a cluster is up, or half up, that is not from this cache: run make cluster-down (%w)", err)
	}
	if string(have) != s.String() {
		return fmt.Errorf("a cluster is up with %s, and %s is asked for: run make cluster-down first", have, s)
	}
	fmt.Fprintf(c.out, "the cluster is up (%s)\n", s)
	return nil
}

// sourceFolder is that of this module, which is needed to build.
func sourceFolder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "binaries", "kube", "go.mod")); err != nil {
		return "", errors.New("run this in tests/cluster, where the sources of the cluster are")
	}
	return dir, nil
}

func (c cluster) bringUp(ctx context.Context, source string, s settings) error {
	start := time.Now()
	told := func(what string) { fmt.Fprintf(c.out, "%5.1f s  %s\n", time.Since(start).Seconds(), what) }
	if err := c.machine.Down(); err != nil { // of one that came up only half
		return err
	}
	if err := os.RemoveAll(filepath.Dir(c.cache.Log("x"))); err != nil {
		return err
	}
	if err := credentials.Write(c.cache); err != nil {
		return err
	}
	if err := c.start(s); err != nil {
		return err
	}
	if err := c.retry(ctx, "get", "--raw=/readyz"); err != nil {
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	told("the API server is ready")
	if err := c.loadImages(ctx, nil); err != nil {
		return err
	}
	told("the nodes have their images")
	crds, err := build.CRDs(ctx, source, s.gatewayAPI, s.channel)
	if err != nil {
		return err
	}
	for _, step := range [][]string{
		{"apply", "--server-side", "-f", "-"},
		append([]string{"apply", "--server-side"}, each("-f", crds)...),
		append([]string{"wait", "--for=create", "--timeout=60s"}, nodePaths()...),
		append([]string{"wait", "--for=condition=Ready", "--timeout=60s"}, nodePaths()...),
		{"label", "nodes", "--all", "--overwrite", "topology.kubernetes.io/zone=" + layout.Zone},
		{"wait", "--for=create", "--timeout=60s", "-n", "default", "serviceaccount/default"},
		{"rollout", "status", "--timeout=120s", "-n", "kube-system", "deployment/coredns"},
	} {
		if _, err := c.output(ctx, dns, step...); err != nil {
			return err
		}
	}
	told("nodes, DNS and the Gateway API's CRDs are ready")
	return os.WriteFile(c.cache.Run("settings"), []byte(s.String()), 0o644)
}

func each(flag string, values []string) []string {
	var all []string
	for _, v := range values {
		all = append(all, flag, v)
	}
	return all
}

func nodePaths() []string {
	var all []string
	for _, n := range layout.Nodes() {
		all = append(all, "node/"+n.Name)
	}
	return all
}

func (c cluster) start(s settings) error {
	nodes := map[string]machine.Member{}
	for _, n := range layout.Nodes() {
		nodes[n.Name] = machine.Member{Name: n.Name, Args: []string{nodeProcess}, Config: node.Config{
			Node: n, Cache: c.cache, ProxyMode: s.proxyMode, CNI: build.CNIPlugins,
		}}
	}
	return c.machine.Start(machine.Member{Name: layout.ControlPlane, Args: []string{controlPlaneProcess}, Config: c.cache}, nodes)
}

func (c cluster) down() error {
	lock, err := machine.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	return c.machine.Down()
}

func (c cluster) exec(ctx context.Context, args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = slices.Delete(args, 1, 2)
	}
	if len(args) < 2 {
		return errors.New("want a node and a command: cluster exec n1 -- crictl ps")
	}
	cmd, err := c.machine.Command(ctx, args[0], args[1:]...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func (c cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.cache.Bin("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.cache.Kubeconfig())
	return cmd
}

func (c cluster) kubectl(ctx context.Context, args ...string) error {
	if !c.machine.Up() {
		return machine.ErrDown
	}
	cmd := c.command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// output runs kubectl with an input.
func (c cluster) output(ctx context.Context, in []byte, args ...string) (string, error) {
	cmd := c.command(ctx, args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// retry runs kubectl until it succeeds.
func (c cluster) retry(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := c.output(ctx, nil, args...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// loadImages gives images to all nodes at once; without any it is those of the cache.
func (c cluster) loadImages(ctx context.Context, archives []string) error {
	if archives == nil {
		var err error
		if archives, err = filepath.Glob(filepath.Join(c.cache.Images(), "*.tar")); err != nil {
			return err
		}
	}
	return c.onNodes(func(node string) error {
		for _, path := range archives {
			if err := c.loadImage(ctx, node, path); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadImage gives a node an image. containerd may have been started only now.
func (c cluster) loadImage(ctx context.Context, node, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for end := time.Now().Add(30 * time.Second); ; {
		cmd, err := c.machine.Command(ctx, node, "ctr", "-n", "k8s.io", "images", "import", "-")
		if err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		cmd.Stdin = f
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("import %s on %s: %w\n%s", path, node, err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
