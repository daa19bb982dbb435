// Package build makes the programs and images of the cluster, in the cache. What is there already is used again.
package build

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/tests/cluster/archive"
	"github.com/sluice-mesh/sluice/tests/cluster/credentials"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

// CNIPlugins is where Debian's package has the CNI plugins.
const CNIPlugins = "/usr/lib/cni"

// Packages makes sure that what comes from Debian's packages is there. root is the repository.
func Packages(ctx context.Context, root string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(root, ".ci", "packages"), "containerd=containerd", "runc=runc", "nft=nftables",
		"iptables=iptables", "conntrack=conntrack", "nsenter=util-linux", CNIPlugins+"/bridge=containernetworking-plugins")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// program is a program that is built, or several of one module.
type program struct {
	dir      string            // below this module's
	packages map[string]string // name of the program: package
	links    []string          // other names of the program
	flags    func(ctx context.Context, dir string) (string, error)
	always   bool // it is of this repository: the go command knows whether there is anything to do
	hint     string
}

func programs() []program {
	return []program{
		{
			dir: "binaries/kube", packages: map[string]string{"kube": "."}, flags: kubeVersion, hint: "5 to 9 minutes on two cores, the first time",
			links: []string{"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"},
		},
		{dir: "binaries/etcd", packages: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"}, hint: "a minute or two, the first time"},
		{dir: "binaries/coredns", packages: map[string]string{"coredns": "."}, hint: "a minute or two, the first time"},
		{dir: "binaries/echo", hint: "two or three minutes, the first time", packages: map[string]string{
			"echo-server": "istio.io/istio/pkg/test/echo/cmd/server", "echo-client": "istio.io/istio/pkg/test/echo/cmd/client",
		}},
		{dir: ".", packages: map[string]string{"pause": "./pause", "pod": "./pod"}, always: true},
	}
}

// Programs builds all programs. source is the folder of this module; what happens is told on out.
func Programs(ctx context.Context, source string, c layout.Cache, out io.Writer) error {
	if err := os.MkdirAll(c.Bin(""), 0o755); err != nil {
		return err
	}
	for _, p := range programs() {
		if err := p.build(ctx, source, c, out); err != nil {
			return err
		}
	}
	return nil
}

func (p program) build(ctx context.Context, source string, c layout.Cache, out io.Writer) error {
	dir := filepath.Join(source, p.dir)
	flags := "-s -w"
	if p.flags != nil {
		more, err := p.flags(ctx, dir)
		if err != nil {
			return err
		}
		flags += more
	}
	for name, pkg := range p.packages {
		stamp, err := stampOf(dir, pkg, flags)
		if err != nil {
			return err
		}
		have, err := os.ReadFile(c.Bin(name) + ".stamp")
		if _, missing := os.Stat(c.Bin(name)); err == nil && missing == nil && string(have) == stamp && !p.always {
			continue
		}
		if !p.always {
			fmt.Fprintf(out, "building %s (%s)\n", name, p.hint)
		}
		if err := goBuild(ctx, dir, out, "-ldflags", flags, "-o", c.Bin(name), pkg); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if err := os.WriteFile(c.Bin(name)+".stamp", []byte(stamp), 0o644); err != nil {
			return err
		}
		for _, link := range p.links {
			if err := os.Symlink(name, c.Bin(link)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// Helm builds helm, of which the chart's tests have the version.
func Helm(ctx context.Context, source string, c layout.Cache, out io.Writer) error {
	p := program{dir: "../chart", packages: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"}, hint: "5 minutes on two cores, the first time"}
	return p.build(ctx, source, c, out)
}

// Own builds Sluice's own image for this machine. root is the repository.
func Own(ctx context.Context, root, image, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	_, err := goOutput(ctx, root, "run", "./build/images", "-image", image, "-out", to, "-platforms", "linux/"+runtime.GOARCH)
	return err
}

// stampOf says what a program is built of.
func stampOf(dir string, more ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.GOARCH, more)
	for _, pattern := range []string{"go.mod", "go.sum", "*.go"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(path), len(content), content)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func kubeVersion(ctx context.Context, dir string) (string, error) {
	version, err := goOutput(ctx, dir, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) < 3 {
		return "", fmt.Errorf("k8s.io/kubernetes has version %q", version)
	}
	return fmt.Sprintf(" -X k8s.io/component-base/version.gitVersion=%[1]s -X k8s.io/component-base/version.gitMajor=%[2]s -X k8s.io/component-base/version.gitMinor=%[3]s -X k8s.io/client-go/pkg/version.gitVersion=%[1]s",
		version, parts[0], parts[1]), nil
}

// environment is that of the go command.
func environment() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=auto", "GOWORK=off")
}

func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, environment()
	out, err := cmd.Output()
	if err != nil {
		var said string
		if exit, is := errors.AsType[*exec.ExitError](err); is {
			said = string(exit.Stderr)
		}
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(string(out)), nil
}

// goBuild builds, and every half minute tells how far it is.
func goBuild(ctx context.Context, dir string, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-v", "-trimpath"}, args...)...)
	cmd.Dir, cmd.Env = dir, environment()
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var compiled atomic.Int64
	done := make(chan struct{})
	go tell(out, &compiled, done)
	var last []string
	for s := bufio.NewScanner(pipe); s.Scan(); {
		compiled.Add(1)
		last = append(last[max(0, len(last)-20):], s.Text())
	}
	err = cmd.Wait()
	close(done)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
	}
	return nil
}

func tell(out io.Writer, compiled *atomic.Int64, done <-chan struct{}) {
	start, every := time.Now(), time.NewTicker(30*time.Second)
	defer every.Stop()
	for {
		select {
		case <-done:
			return
		case <-every.C:
			fmt.Fprintf(out, "  still building after %v, %d packages\n", time.Since(start).Round(time.Second), compiled.Load())
		}
	}
}

// Images makes the archives of the images that every node gets.
func Images(c layout.Cache) error {
	if err := os.MkdirAll(c.Images(), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(c.Bin("echo.crt")); err != nil {
		if err := credentials.SelfSigned(c.Bin(""), "echo"); err != nil {
			return err
		}
	}
	for _, image := range []archive.Image{
		{Name: layout.PauseImage, Entrypoint: []string{"/pause"}, Files: map[string]string{"/pause": c.Bin("pause")}},
		{Name: layout.DNSImage, Entrypoint: []string{"/coredns"}, Files: map[string]string{"/coredns": c.Bin("coredns")}},
		{Name: layout.PodImage, Entrypoint: []string{"/pod"}, Files: map[string]string{"/pod": c.Bin("pod")}},
		{Name: layout.EchoImage, Entrypoint: []string{"/usr/local/bin/server"}, Files: map[string]string{
			"/usr/local/bin/server": c.Bin("echo-server"), "/usr/local/bin/client": c.Bin("echo-client"),
			"/cert.crt": c.Bin("echo.crt"), "/cert.key": c.Bin("echo.key"),
		}},
	} {
		path := filepath.Join(c.Images(), strings.Trim(filepath.Base(image.Entrypoint[0]), "/")+".tar")
		if upToDate(path, image.Files) {
			continue
		}
		if err := image.Write(path); err != nil {
			return err
		}
	}
	return nil
}

// upToDate tells whether an archive is younger than all that is in it.
func upToDate(path string, files map[string]string) bool {
	have, err := os.Stat(path)
	if err != nil {
		return false
	}
	for _, from := range files {
		if f, err := os.Stat(from); err != nil || f.ModTime().After(have.ModTime()) {
			return false
		}
	}
	return true
}

// CRDs are the paths of the Gateway API's CRDs, of a version and a channel (standard or experimental).
func CRDs(ctx context.Context, source, version, channel string) ([]string, error) {
	out, err := goOutput(ctx, source, "mod", "download", "-json", "sigs.k8s.io/gateway-api@"+version)
	if err != nil {
		return nil, err
	}
	_, dir, _ := strings.Cut(out, `"Dir": "`)
	dir, _, found := strings.Cut(dir, `"`)
	if !found {
		return nil, fmt.Errorf("go mod download says nothing of a folder: %s", out)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "config", "crd", channel, "gateway*.yaml"))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("%s has no CRDs of a channel %q: there are standard and experimental", dir, channel)
	}
	slices.Sort(paths)
	return paths, err
}
