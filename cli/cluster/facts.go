package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// Labels of our pods and of the DaemonSet that makes them.
const selector = "app.kubernetes.io/name=sluice,app.kubernetes.io/component=node"

// ServedUnread begins what Facts.Unread says of the kinds that are served.
const ServedUnread = "what is served of the Gateway API"

// page is how many objects are asked for at once.
const page = 500

// Facts are what the API server says. All lists are ordered by name.
type Facts struct {
	Version    string // of Kubernetes
	Gateway    GatewayAPI
	Nodes      []Node
	DaemonSets []DaemonSet
	Pods       []Pod
	Services   []Service
	Unread     []string // what could not be read, and why
}

// GatewayAPI is what the cluster serves of it.
type GatewayAPI struct {
	Served   []string // kinds, such as "HTTPRoute v1"
	Versions []string // of the CRDs, such as "v1.5.1 standard"; more than one is a mix
}

// Node is one node.
type Node struct {
	Name            string
	Ready           bool
	Kernel, Runtime string
}

// DaemonSet is one of ours, with its counts of nodes.
type DaemonSet struct {
	Namespace, Name           string
	Desired, Current, Updated int32
	Observed                  bool // the counts are those of its newest version
}

// Pod is one of ours.
type Pod struct {
	Namespace, Name string
	Node            string // for one that waits to be scheduled, where it is to be
	Ready           bool
	Why             string // it is not ready
	Ending          bool
	Agent, Proxy    Container
}

// Container is one of our programs in its pod.
type Container struct {
	Image    string
	Restarts int32
	LastEnd  string // why its last run ended; "": it has not
}

// Service is one of the cluster's.
type Service struct {
	model.ServiceKey
	Headless bool // it has no address that could be redirected
	Selector map[string]string
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Read asks the API server for everything. What may not be read, or is not there, is a fact as well; an error is of a server
// that does not answer, or does not tell where our pods are.
func (c *Cluster) Read(ctx context.Context) (*Facts, error) {
	version, err := c.client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	f := &Facts{}
	if f.Pods, err = c.Pods(ctx); err != nil {
		return nil, err
	}
	f.Version = version.GitVersion
	for what, read := range map[string]func(context.Context, *Facts) error{
		"nodes": c.readNodes, "Sluice's DaemonSets": c.readDaemonSets, "Services": c.readServices,
		ServedUnread: c.readServed, "the Gateway API's CRDs": c.readCRDs,
	} {
		switch err := read(ctx, f); {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("cluster %s: %w", c.Name, ctx.Err())
		case err != nil:
			f.Unread = append(f.Unread, fmt.Sprintf("%s: %v", what, err))
		}
	}
	slices.Sort(f.Unread)
	return f, nil
}

// Pods reads only our pods.
func (c *Cluster) Pods(ctx context.Context) ([]Pod, error) {
	f := &Facts{}
	if err := c.readPods(ctx, f); err != nil {
		return nil, fmt.Errorf("cluster %s: Sluice's pods: %w", c.Name, err)
	}
	return f.Pods, nil
}

// NodeOf is where a pod runs.
func (c *Cluster) NodeOf(ctx context.Context, namespace, name string) (string, error) {
	p, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return "", fmt.Errorf("cluster %s: %w", c.Name, err)
	case p.Spec.NodeName == "":
		return "", fmt.Errorf("cluster %s: pod %s/%s is on no node yet", c.Name, namespace, name)
	}
	return p.Spec.NodeName, nil
}

// pages calls list until there is no more.
func pages(ctx context.Context, options metav1.ListOptions, list func(context.Context, metav1.ListOptions) (metav1.ListInterface, error)) error {
	options.Limit = page
	for {
		l, err := list(ctx, options)
		if err != nil {
			return err
		}
		if options.Continue = l.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

func (c *Cluster) readNodes(ctx context.Context, f *Facts) error {
	err := pages(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := c.client.CoreV1().Nodes().List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range l.Items {
			n := &l.Items[i]
			ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			})
			f.Nodes = append(f.Nodes, Node{n.Name, ready, n.Status.NodeInfo.KernelVersion, n.Status.NodeInfo.ContainerRuntimeVersion})
		}
		return l, nil
	})
	slices.SortFunc(f.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return err
}

func (c *Cluster) readDaemonSets(ctx context.Context, f *Facts) error {
	l, err := c.client.AppsV1().DaemonSets(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	for i := range l.Items {
		f.DaemonSets = append(f.DaemonSets, daemonSet(&l.Items[i]))
	}
	slices.SortFunc(f.DaemonSets, func(a, b DaemonSet) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

func daemonSet(d *appsv1.DaemonSet) DaemonSet {
	return DaemonSet{
		Namespace: d.Namespace, Name: d.Name,
		Desired: d.Status.DesiredNumberScheduled, Current: d.Status.CurrentNumberScheduled, Updated: d.Status.UpdatedNumberScheduled,
		Observed: d.Status.ObservedGeneration >= d.Generation,
	}
}

func (c *Cluster) readPods(ctx context.Context, f *Facts) error {
	err := pages(ctx, metav1.ListOptions{LabelSelector: selector}, func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := c.client.CoreV1().Pods(c.namespace).List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range l.Items {
			f.Pods = append(f.Pods, describePod(&l.Items[i]))
		}
		return l, nil
	})
	slices.SortFunc(f.Pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return err
}

func (c *Cluster) readServices(ctx context.Context, f *Facts) error {
	err := pages(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := c.client.CoreV1().Services("").List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range l.Items {
			s := &l.Items[i]
			key := model.ServiceKey{Namespace: s.Namespace, Name: s.Name}
			f.Services = append(f.Services, Service{key, s.Spec.ClusterIP == corev1.ClusterIPNone, s.Spec.Selector})
		}
		return l, nil
	})
	slices.SortFunc(f.Services, func(a, b Service) int { return a.Compare(b.ServiceKey) })
	return err
}

const gatewayGroup = "gateway.networking.k8s.io"

// kinds are those that Sluice reads, and in which versions it takes them.
func kinds() map[string][]string {
	return map[string][]string{"v1": {"HTTPRoute", "GRPCRoute", "ReferenceGrant"}, "v1beta1": {"ReferenceGrant"}}
}

func (c *Cluster) readServed(_ context.Context, f *Facts) error {
	for version, kinds := range kinds() {
		l, err := c.client.Discovery().ServerResourcesForGroupVersion(gatewayGroup + "/" + version)
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return err
		}
		for i := range l.APIResources {
			r := &l.APIResources[i]
			if slices.Contains(kinds, r.Kind) && !strings.Contains(r.Name, "/") {
				f.Gateway.Served = append(f.Gateway.Served, r.Kind+" "+version)
			}
		}
	}
	slices.Sort(f.Gateway.Served)
	return nil
}

// What the CRDs say of themselves.
const (
	bundleVersion = gatewayGroup + "/bundle-version"
	bundleChannel = gatewayGroup + "/channel"
)

func (c *Cluster) readCRDs(ctx context.Context, f *Facts) error {
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	err := pages(ctx, metav1.ListOptions{}, func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := c.metadata.Resource(crds).List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range l.Items {
			m := &l.Items[i]
			version := strings.TrimSpace(m.Annotations[bundleVersion] + " " + m.Annotations[bundleChannel])
			if strings.HasSuffix(m.Name, "."+gatewayGroup) && version != "" && !slices.Contains(f.Gateway.Versions, version) {
				f.Gateway.Versions = append(f.Gateway.Versions, version)
			}
		}
		return l, nil
	})
	slices.Sort(f.Gateway.Versions)
	return err
}
