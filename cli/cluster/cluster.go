// Package cluster finds a cluster's nodes and our pods on them through the API server, and reaches the programs in those pods
// through port-forwards, without opening a port on this machine.
package cluster

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options say which cluster, as kubectl takes them: the file, else KUBECONFIG, else ~/.kube/config, else that of the pod
// that this runs in.
type Options struct {
	Kubeconfig string
	Context    string
	Namespace  string // of Sluice; "": wherever it is
}

// Cluster is one that answers requests. Its methods may be called from any goroutine.
type Cluster struct {
	Name      string // for people
	config    *rest.Config
	client    kubernetes.Interface
	metadata  metadata.Interface
	namespace string
}

// patience is for one answer of the API server, when the caller has none.
const patience = 15 * time.Second

// Open reads the configuration. The cluster is not asked yet.
func Open(o Options) (*Cluster, error) {
	loader, name := o.loader()
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("which cluster: %w\nKUBECONFIG, --kubeconfig and --context say which, as for kubectl", err)
	}
	config.UserAgent = "sluice"
	config.Timeout = cmp.Or(config.Timeout, patience)
	config.WarningHandler = rest.NoWarnings{}
	config.QPS, config.Burst = 50, 100
	c := &Cluster{Name: cmp.Or(name, config.Host), config: config, namespace: o.Namespace}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	if c.metadata, err = metadata.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	return c, nil
}

// loader also returns the name of the context.
func (o Options) loader() (clientcmd.ClientConfig, string) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	name := o.Context
	if raw, err := loader.RawConfig(); err == nil {
		name = cmp.Or(name, raw.CurrentContext)
	}
	return loader, name
}

// Configured tells whether a file says which cluster: KUBECONFIG or ~/.kube/config.
func Configured() bool {
	for _, file := range clientcmd.NewDefaultClientConfigLoadingRules().Precedence {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}
