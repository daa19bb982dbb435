package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/cluster/initd"
	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

const etcd = "http://127.0.0.1:2379"

// RunControlPlane makes this process, which is the first of new mount, pid and network namespaces, a control plane. It returns when
// ctx ends.
func RunControlPlane(ctx context.Context, c layout.Cache, log *slog.Logger) error {
	for _, m := range []mount{{target: "/", flags: unix.MS_PRIVATE | unix.MS_REC}, {what: "proc", target: "/proc", kind: "proc"}} {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := forward(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Run("etcd"), 0o700); err != nil {
		return err
	}
	i := initd.New(log)
	programs := controlPlane(c)
	for _, p := range programs[:2] {
		if err := i.Keep(ctx, p); err != nil {
			return err
		}
	}
	if err := reachable(ctx, "tcp", net.JoinHostPort(layout.APIAddress, strconv.Itoa(layout.APIPort))); err != nil {
		return fmt.Errorf("the API server does not come up (its log is %s): %w", programs[1].Log, err)
	}
	for _, p := range programs[2:] {
		if err := i.Keep(ctx, p); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// controlPlane are its programs; the first two come before the others.
func controlPlane(c layout.Cache) []initd.Program {
	program := func(name string, args ...string) initd.Program {
		return initd.Program{Path: c.Bin(name), Args: args, Log: c.Log(name)}
	}
	kubeconfig := "--kubeconfig=" + c.Kubeconfig()
	return []initd.Program{
		// What it loses when the machine stops is gone with the cluster anyhow.
		program("etcd", "--data-dir="+c.Run("etcd"), "--unsafe-no-fsync", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380"),
		program("kube-apiserver", "--etcd-servers="+etcd, "--secure-port="+strconv.Itoa(layout.APIPort), "--advertise-address="+layout.APIAddress,
			"--service-cluster-ip-range="+layout.ServiceRange, "--authorization-mode=RBAC", "--allow-privileged=true",
			"--client-ca-file="+c.Credential("ca.crt"), "--tls-cert-file="+c.Credential("server.crt"), "--tls-private-key-file="+c.Credential("server.key"),
			"--kubelet-client-certificate="+c.Credential("admin.crt"), "--kubelet-client-key="+c.Credential("admin.key"),
			"--kubelet-preferred-address-types=InternalIP", "--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file="+c.Credential("accounts.pub"), "--service-account-signing-key-file="+c.Credential("accounts.key")),
		program("kube-controller-manager", kubeconfig, "--leader-elect=false", "--service-account-private-key-file="+c.Credential("accounts.key"),
			"--root-ca-file="+c.Credential("ca.crt"), "--use-service-account-credentials=false"),
		program("kube-scheduler", kubeconfig, "--leader-elect=false"),
	}
}
