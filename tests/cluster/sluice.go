package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/tests/cluster/build"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
	"github.com/sluice-mesh/sluice/tests/cluster/machine"
)

const (
	release   = "sluice"
	namespace = "sluice-system"
	image     = "localhost/sluice"
)

// install builds Sluice's image, gives it to the nodes, and installs the chart with it, or upgrades what is installed. More arguments are
// helm's.
func (c cluster) install(ctx context.Context, more ...string) error {
	if !c.machine.Up() {
		return machine.ErrDown
	}
	source, err := sourceFolder()
	if err != nil {
		return err
	}
	root := filepath.Join(source, "..", "..")
	start := time.Now()
	tag, err := c.ownImage(ctx, root)
	if err != nil {
		return err
	}
	if err := build.Helm(ctx, source, c.cache, c.out); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%5.1f s  Sluice's image is on the nodes\n", time.Since(start).Seconds())
	args := []string{
		"upgrade", "--install", release, filepath.Join(root, "charts", "sluice"), "--namespace", namespace, "--create-namespace",
		"--wait", "--timeout", "3m", "--set", "image.repository=" + image, "--set", "image.tag=" + tag,
	}
	if err := c.helm(ctx, append(args, more...)...); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%5.1f s  Sluice is installed\n", time.Since(start).Seconds())
	return nil
}

func (c cluster) uninstall(ctx context.Context) error {
	if !c.machine.Up() {
		return machine.ErrDown
	}
	return c.helm(ctx, "uninstall", release, "--namespace", namespace, "--wait", "--timeout", "2m")
}

func (c cluster) helm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.cache.Bin("helm"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.cache.Kubeconfig())
	cmd.Stdout, cmd.Stderr = c.out, c.out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("helm %s: %w", args[0], err)
	}
	return nil
}

// ownImage builds the image and gives it to the nodes, by a tag of its content: an upgrade replaces the pods when it has changed.
func (c cluster) ownImage(ctx context.Context, root string) (tag string, err error) {
	fmt.Fprintln(c.out, "building Sluice's image (two or three minutes, the first time)")
	archive := filepath.Join(string(c.cache), "sluice", "sluice.tar")
	if err := build.Own(ctx, root, image+":latest", archive); err != nil {
		return "", err
	}
	content, err := os.ReadFile(archive)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	tag = hex.EncodeToString(sum[:6])
	if err := c.loadImages(ctx, []string{archive}); err != nil {
		return "", err
	}
	return tag, c.alias(ctx, image+":latest", image+":"+tag)
}

// alias gives an image that the nodes have another name too.
func (c cluster) alias(ctx context.Context, name, alias string) error {
	return c.onNodes(func(node string) error {
		cmd, err := c.machine.Command(ctx, node, "ctr", "-n", "k8s.io", "images", "tag", "--force", name, alias)
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("name image %s %s on %s: %w\n%s", name, alias, node, err, out)
		}
		return nil
	})
}

// onNodes does something on all nodes at the same time.
func (c cluster) onNodes(do func(node string) error) error {
	nodes := layout.Nodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = do(n.Name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
