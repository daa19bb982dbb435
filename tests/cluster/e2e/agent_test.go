package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

const (
	agentPort = 15021
	ours      = "app.kubernetes.io/name=sluice,app.kubernetes.io/component=node"
)

// agent is a node's agent, as its administrator sees it.
type agent struct {
	node, pod string
	address   string // of this machine, that leads to its admin port

	mu     sync.Mutex
	last   *agentStatus
	lastAt time.Time
}

// agentStatus is what of an agent's status the tests look at.
type agentStatus struct {
	Kernel  struct{ Problem string }
	Proxies []struct {
		State   string
		Refused []map[string]any
	}
	Pods []struct {
		Pod, State, Reason, EnrolledBy string
		UnenrolledSeconds              float64
	}
	Frontends []struct {
		Address  string
		Service  struct{ Namespace, Name string }
		InKernel bool
	}
	Routes []struct {
		Route struct{ Kind, Namespace, Name string }
	}
}

func (s *agentStatus) knows(kind, namespace, name string) bool {
	for _, r := range s.Routes {
		if r.Route.Kind == kind && r.Route.Namespace == namespace && r.Route.Name == name {
			return true
		}
	}
	return false
}

// ourPods are the pods of Sluice that are no other's successors: those that are not ending.
func (c *cluster) ourPods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.core.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: ours})
	if err != nil {
		return nil, err
	}
	var all []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			all = append(all, p)
		}
	}
	return all, nil
}

// agents opens a way to the admin ports of all agents.
func (c *cluster) agents(t *testing.T) []*agent {
	t.Helper()
	pods, err := c.ourPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) != 2 {
		t.Fatalf("there are %d pods of Sluice in %s, want one on each of two nodes: run make cluster", len(pods), system)
	}
	var all []*agent
	for _, p := range pods {
		a := &agent{node: p.Spec.NodeName, pod: p.Name}
		port, err := c.forward(t.Context(), p.Namespace, p.Name, agentPort)
		if err != nil {
			t.Fatal(err)
		}
		a.address = fmt.Sprintf("127.0.0.1:%d", port)
		all = append(all, a)
	}
	return all
}

// forward gives a pod's port a port of this machine, until ctx ends.
func (c *cluster) forward(ctx context.Context, namespace, name string, port int) (uint16, error) {
	request := c.core.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(name).SubResource("portforward")
	transport, upgrader, err := spdy.RoundTripperFor(c.rest)
	if err != nil {
		return 0, err
	}
	ready := make(chan struct{})
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, request.URL())
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ctx.Done(), ready, io.Discard, io.Discard)
	if err != nil {
		return 0, err
	}
	failed := make(chan error, 1)
	go func() { failed <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return 0, fmt.Errorf("forward port %d of %s/%s: %w", port, namespace, name, err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		return 0, err
	}
	return ports[0].Local, nil
}

// status is the agent's, at most so old: tests that wait at the same time ask once.
func (a *agent) status(ctx context.Context, age time.Duration) (*agentStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.lastAt) < age {
		return a.last, nil
	}
	body, err := a.get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	s := &agentStatus{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, err
	}
	a.last, a.lastAt = s, time.Now()
	return s, nil
}

func (a *agent) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.address+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the agent of %s: %w", a.node, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the agent of %s answers %s: %s", a.node, answer.Status, strings.TrimSpace(string(body)))
	}
	return body, err
}

// on is the agent of a node.
func on(t *testing.T, agents []*agent, node string) *agent {
	t.Helper()
	for _, a := range agents {
		if a.node == node {
			return a
		}
	}
	t.Fatalf("no agent on %s", node)
	return nil
}
