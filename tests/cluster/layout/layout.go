// Package layout says how the cluster is called, addressed and laid out on the machine and in the cache. Two clusters at the same
// time are not foreseen: the names are the same for all users of the machine.
package layout

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const (
	// Name is that of the cluster's cgroup, of the machine's link to it, and of the lock.
	Name = "sluice-cluster"
	// Link is the machine's end of the veth pair that leads to the control plane's bridge. A name has 15 bytes.
	Link = "sluice-cluster"
	// ControlPlane is the name of the control plane among the nodes.
	ControlPlane = "control-plane"

	// PauseImage is what holds a pod's namespaces.
	PauseImage = "localhost/sluice-test/pause:latest"
	// DNSImage is CoreDNS.
	DNSImage = "localhost/sluice-test/coredns:latest"
	// EchoImage is the echo server of the Gateway API's conformance suite, which wants it by another name.
	EchoImage = "localhost/sluice-test/echo:latest"
	// PodImage is the program of our own tests' pods.
	PodImage = "localhost/sluice-test/pod:latest"

	// ServiceRange are the addresses of Services.
	ServiceRange = "10.96.0.0/16,fd00:250:96::/112"
	// PodRange are the addresses of pods.
	PodRange = "10.244.0.0/16,fd00:250:244::/56"
	// DNSAddress is that of the cluster's DNS.
	DNSAddress = "10.96.0.10"
	// APIAddress is that of the API server.
	APIAddress = "10.250.0.1"
	// APIService is the API server's address as a Service.
	APIService = "10.96.0.1"
	// Zone is that of all nodes.
	Zone = "here"
	// APIPort is the API server's port.
	APIPort = 6443
)

// Pair is an address or a range of either family, with the length of its network.
type Pair struct{ V4, V6 netip.Prefix }

// Node is a node of the cluster.
type Node struct {
	Name    string
	Address Pair // in the network that joins the nodes
	Pods    Pair // of the addresses that its pods get
}

// Gateway is the control plane's address in the network that joins the nodes, and Machine is the machine's.
func Gateway() Pair { return inNetwork(1) }

// Machine is the machine's own address in that network.
func Machine() Pair { return inNetwork(2) }

func inNetwork(host int) Pair {
	return Pair{netip.MustParsePrefix(fmt.Sprintf("10.250.0.%d/24", host)), netip.MustParsePrefix(fmt.Sprintf("fd00:250::%d/64", host))}
}

// ServiceRanges are those of ServiceRange.
func ServiceRanges() []netip.Prefix {
	var all []netip.Prefix
	for one := range strings.SplitSeq(ServiceRange, ",") {
		all = append(all, netip.MustParsePrefix(one))
	}
	return all
}

// Nodes are the nodes: n1 and n2.
func Nodes() []Node {
	var all []Node
	for i := 1; i <= 2; i++ {
		all = append(all, Node{
			Name:    fmt.Sprintf("n%d", i),
			Address: inNetwork(10 + i),
			Pods: Pair{
				netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:250:244:%d::/64", i)),
			},
		})
	}
	return all
}

// Cache is the folder of everything that is built, and of what a running cluster writes: ${XDG_CACHE_HOME:-~/.cache}/sluice/cluster.
type Cache string

// Open returns the user's cache.
func Open() (Cache, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder to build the cluster's programs in: %w", err)
	}
	return Cache(filepath.Join(dir, "sluice", "cluster")), nil
}

// Bin is the path of a program.
func (c Cache) Bin(name string) string { return filepath.Join(string(c), "bin", name) }

// Images is the folder of the images that every node gets.
func (c Cache) Images() string { return filepath.Join(string(c), "images") }

// Run is a path below the folder of what the running cluster writes; all of it goes with the cluster.
func (c Cache) Run(parts ...string) string {
	return filepath.Join(append([]string{string(c), "run"}, parts...)...)
}

// Log is the path of a log.
func (c Cache) Log(name string) string { return c.Run("log", name+".log") }

// Kubeconfig is that of the administrator.
func (c Cache) Kubeconfig() string { return c.Run("kubeconfig") }

// Credential is the path of a key or a certificate, such as ca.crt.
func (c Cache) Credential(file string) string { return c.Run("credentials", file) }
