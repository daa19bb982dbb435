// Package node is what runs in a node's namespaces, and in the control plane's: mounts, settings, and Kubernetes' own programs.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/cluster/initd"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

// Config is what the first process of a node is told.
type Config struct {
	Node      layout.Node
	Cache     layout.Cache
	ProxyMode string // of kube-proxy
	CNI       string // folder of the plugins
}

// Run makes this process, which is the first of new mount, pid, host name and network namespaces, a node. It returns when ctx
// ends, and with it go all processes of the node.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := unix.Sethostname([]byte(c.Node.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := c.mount(); err != nil {
		return err
	}
	if err := forward(); err != nil {
		return err
	}
	if err := c.plugins(); err != nil {
		return err
	}
	if err := c.settings(); err != nil {
		return err
	}
	i := initd.New(log)
	if err := i.Keep(ctx, initd.Program{Path: "/usr/bin/containerd", Args: []string{"--config", "/run/containerd.toml"}, Log: c.log("containerd")}); err != nil {
		return err
	}
	// The kubelet ends when it does not find the runtime.
	if err := reachable(ctx, "unix", runtimeSocket); err != nil {
		return fmt.Errorf("containerd does not come up (its log is %s): %w", c.log("containerd"), err)
	}
	for _, p := range []initd.Program{
		{Path: c.Cache.Bin("kubelet"), Log: c.log("kubelet"), Args: []string{
			"--kubeconfig=" + c.Cache.Kubeconfig(), "--config=/run/kubelet.yaml", "--hostname-override=" + c.Node.Name,
			"--node-ip=" + c.Node.Address.V4.Addr().String() + "," + c.Node.Address.V6.Addr().String(), "--v=2",
		}},
		{Path: c.Cache.Bin("kube-proxy"), Log: c.log("kube-proxy"), Args: []string{"--config=/run/kube-proxy.yaml", "--v=2"}},
	} {
		if err := i.Keep(ctx, p); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func (c Config) log(program string) string { return c.Cache.Log(program + "-" + c.Node.Name) }

// own are the folders that a node writes to. They are its own, on a disk rather than in memory, and not copies: containerd's
// snapshots cannot be on an overlay.
var own = [...]string{"var/lib/kubelet", "var/lib/containerd", "var/lib/cni", "var/log", "etc/cni", "opt/cni"}

// mount makes a view of the machine's files in which a node can write wherever its programs are used to, and the machine sees
// nothing of it.
func (c Config) mount() error {
	steps := []mount{
		{target: "/", flags: unix.MS_PRIVATE | unix.MS_REC},
		{target: "/", flags: unix.MS_SHARED | unix.MS_REC}, // pods with mount propagation need it
		{what: "proc", target: "/proc", kind: "proc"},
		{what: "tmpfs", target: "/run", kind: "tmpfs"},
		{what: "bpf", target: "/sys/fs/bpf", kind: "bpf"}, // two nodes on a machine do not meet in the pins
	}
	upper := "/run/overlay"
	for _, top := range []string{"etc", "opt", "var"} {
		changes, work := filepath.Join(upper, top, "changes"), filepath.Join(upper, top, "work")
		steps = append(steps, mount{what: "overlay", target: "/" + top, kind: "overlay", folders: []string{changes, work},
			data: fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", top, changes, work)})
	}
	for _, dir := range own {
		from := c.Cache.Run(c.Node.Name, dir)
		steps = append(steps, mount{what: from, target: "/" + dir, flags: unix.MS_BIND, folders: []string{from, "/" + dir}})
	}
	for _, m := range steps {
		if err := m.do(); err != nil {
			return err
		}
	}
	return os.MkdirAll("/run/lock", 0o755)
}

type mount struct {
	what, target, kind string
	flags              uintptr
	data               string
	folders            []string // that have to be there
}

func (m mount) do() error {
	for _, dir := range m.folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(m.what, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.what, m.target, err)
	}
	return nil
}

// forward makes the namespace pass on packets. Addresses are used at once: nobody else has them.
func forward() error {
	for _, s := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0"} {
		key, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}

// plugins puts the CNI plugins where a node has them.
func (c Config) plugins() error {
	if err := os.MkdirAll("/opt/cni/bin", 0o755); err != nil {
		return err
	}
	if err := os.CopyFS("/opt/cni/bin", os.DirFS(c.CNI)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("copy the CNI plugins from %s: %w", c.CNI, err)
	}
	return nil
}

// reachable waits until somebody listens.
func reachable(ctx context.Context, network, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
