package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

const runtimeSocket = "/run/containerd/containerd.sock"

// files are a node's settings, by path.
//
// Where root lacks CAP_SYS_RESOURCE nobody may lower oom_score_adj below 0: containerd is told not to, and Kubernetes' programs to
// keep 0. kube-proxy must not touch the limits of conntrack, which are the machine's, and follows changes at once.
var files = map[string]string{
	"/run/resolv.conf": "",
	"/etc/cni/net.d/10-bridge.conflist": `{"cniVersion": "1.0.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local",
    "ranges": [[{"subnet": "{{.Node.Pods.V4}}"}], [{"subnet": "{{.Node.Pods.V6}}"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
`,
	"/run/containerd.toml": `version = 2
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
`,
	"/run/kubelet.yaml": `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{{.Cluster}}/{{.Node.Name}}
failSwapOn: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://{{.Socket}}
clusterDNS: [{{.DNS}}]
clusterDomain: cluster.local
resolvConf: /run/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: {{.CA}}}}
authorization: {mode: AlwaysAllow}
evictionHard: {}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
`,
	"/run/kube-proxy.yaml": `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {{.ProxyMode}}
clusterCIDR: {{.PodRange}}
hostnameOverride: {{.Node.Name}}
oomScoreAdj: 0
clientConnection: {kubeconfig: {{.Kubeconfig}}}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 50ms}
nftables: {minSyncPeriod: 50ms}
`,
}

// settings writes them.
func (c Config) settings() error {
	values := map[string]any{
		"Node": c.Node, "ProxyMode": c.ProxyMode, "Cluster": layout.Name, "Socket": runtimeSocket, "Pause": layout.PauseImage, "DNS": layout.DNSAddress,
		"PodRange": layout.PodRange, "CA": c.Cache.Credential("ca.crt"), "Kubeconfig": c.Cache.Kubeconfig(),
	}
	for path, text := range files {
		t, err := template.New(path).Option("missingkey=error").Parse(text)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := t.Execute(&out, values); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
