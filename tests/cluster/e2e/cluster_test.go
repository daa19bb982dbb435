// Package e2e looks at Sluice in the running cluster that `make cluster` brought up, or in any other: it needs KUBECONFIG, and
// SLUICE_CLUSTER=PROGRAM, the program of tests/cluster, for what only a node itself can tell. Without it all is skipped.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

const (
	controller = "sluice.dev/mesh" // what our statuses are signed with
	system     = "sluice-system"
	release    = "sluice"
	manager    = "sluice-e2e"
	settling   = 15 * time.Second // that a change may take, on a machine that others use as well
)

// cluster is the cluster.
type cluster struct {
	program string
	rest    *rest.Config
	core    kubernetes.Interface
	objects dynamic.Interface
}

func open(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{program: os.Getenv("SLUICE_CLUSTER")}
	if c.program == "" {
		t.Skip("skipped: there is no cluster; make cluster-test brings one up")
	}
	var err error
	if c.rest, err = clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")); err != nil {
		t.Fatal(err)
	}
	c.rest.QPS, c.rest.Burst = 500, 1000
	if c.core, err = kubernetes.NewForConfig(c.rest); err != nil {
		t.Fatal(err)
	}
	if c.objects, err = dynamic.NewForConfig(c.rest); err != nil {
		t.Fatal(err)
	}
	c.elected(t) // without one no status is written
	return c
}

// namespace makes a namespace that is removed at the end of the test.
func (c *cluster) namespace(t *testing.T, labels ...string) string {
	t.Helper()
	meta := metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		meta.Labels[key] = value
	}
	ns, err := c.core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.core.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete namespace %s: %v", ns.Name, err)
		}
	})
	return ns.Name
}

// resources are the kinds that the tests write.
var resources = map[string]schema.GroupVersionResource{
	"Namespace":      {Version: "v1", Resource: "namespaces"},
	"Service":        {Version: "v1", Resource: "services"},
	"Pod":            {Version: "v1", Resource: "pods"},
	"ConfigMap":      {Version: "v1", Resource: "configmaps"},
	"EndpointSlice":  {Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
	"HTTPRoute":      {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
	"GRPCRoute":      {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "grpcroutes"},
	"ReferenceGrant": {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "referencegrants"},
}

func (c *cluster) resource(kind, namespace string) (dynamic.ResourceInterface, error) {
	return c.versionedResource(kind, namespace, "")
}

// versionedResource is resource in another version than the usual one.
func (c *cluster) versionedResource(kind, namespace, version string) (dynamic.ResourceInterface, error) {
	r, is := resources[kind]
	if !is {
		return nil, fmt.Errorf("the tests do not know of kind %q", kind)
	}
	if version != "" {
		r.Version = version
	}
	if kind == "Namespace" {
		return c.objects.Resource(r), nil
	}
	return c.objects.Resource(r).Namespace(namespace), nil
}

// apply writes the objects of a YAML text with several documents, in the namespace.
func (c *cluster) apply(t *testing.T, namespace, text string, args ...any) {
	t.Helper()
	for document := range strings.SplitSeq(fmt.Sprintf(text, args...), "\n---\n") {
		if _, err := c.applyObject(t.Context(), namespace, object(t, document)); err != nil {
			t.Fatal(err)
		}
	}
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &content); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	return content
}

func (c *cluster) applyObject(ctx context.Context, namespace string, content map[string]any) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{Object: content}
	if o.GetKind() != "Namespace" && o.GetNamespace() == "" {
		o.SetNamespace(namespace)
	}
	r, err := c.versionedResource(o.GetKind(), o.GetNamespace(), o.GroupVersionKind().Version)
	if err != nil {
		return nil, err
	}
	done, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil {
		return nil, fmt.Errorf("apply %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	return done, nil
}

func (c *cluster) remove(t *testing.T, kind, namespace, name string) {
	t.Helper()
	r, err := c.resource(kind, namespace)
	if err == nil {
		err = r.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	}
	if err != nil {
		t.Fatalf("delete %s %s/%s: %v", kind, namespace, name, err)
	}
}

// label sets a label, or takes it away when the value is "-".
func (c *cluster) label(t *testing.T, kind, namespace, name, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata": {"labels": {%q: %q}}}`, key, value)
	if value == "-" {
		patch = fmt.Sprintf(`{"metadata": {"labels": {%q: null}}}`, key)
	}
	r, err := c.resource(kind, namespace)
	if err == nil {
		_, err = r.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatalf("label %s %s/%s: %v", kind, namespace, name, err)
	}
}

// condition is one of ours in a route's status, "" when there is none: "True/Accepted: message".
func (c *cluster) condition(ctx context.Context, kind, namespace, name, condition string) (string, error) {
	r, err := c.resource(kind, namespace)
	if err != nil {
		return "", err
	}
	o, err := r.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
	for _, p := range parents {
		parent, _ := p.(map[string]any)
		if parent["controllerName"] != controller {
			continue
		}
		conditions, _, _ := unstructured.NestedSlice(parent, "conditions")
		for _, one := range conditions {
			if have, _ := one.(map[string]any); have["type"] == condition && have["observedGeneration"] == o.GetGeneration() {
				return fmt.Sprintf("%s/%s: %s", have["status"], have["reason"], have["message"]), nil
			}
		}
	}
	return "", nil
}

// accepted waits until the route is accepted as it is now.
func (c *cluster) accepted(t *testing.T, kind, namespace, name string) {
	t.Helper()
	eventually(t, settling, func() error {
		have, err := c.condition(t.Context(), kind, namespace, name, "Accepted")
		if err == nil && !strings.HasPrefix(have, "True/") {
			err = fmt.Errorf("%s %s/%s: Accepted is %q", kind, namespace, name, have)
		}
		return err
	})
}

// onNode runs a command on a node and returns what it printed.
func (c *cluster) onNode(ctx context.Context, node string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, c.program, append([]string{"exec", node, "--"}, args...)...).Output()
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		err = fmt.Errorf("%v on %s: %w: %s", args, node, err, exit.Stderr)
	}
	return string(out), err
}

// kubectl runs kubectl.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.program, append([]string{"kubectl"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// eventually asks until all is well.
func eventually(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	if err := within(t.Context(), limit, ask); err != nil {
		t.Fatalf("not within %v: %v", limit, err)
	}
}

func within(ctx context.Context, limit time.Duration, ask func() error) error {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for end := time.Now().Add(limit); ; {
		err := ask()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-every.C:
		}
	}
}
