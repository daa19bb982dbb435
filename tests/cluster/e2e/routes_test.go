package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-mesh/sluice/tests/routes"
	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

// parallel is how many cases run at the same time; most of their time they wait.
const parallel = 6

// The east-west twins of the Gateway API's tests, and the edge cases, in a cluster: real objects, real statuses, two nodes. Which of them
// run SLUICE_CASES says, an expression.
func TestRoutes(t *testing.T) {
	c := open(t)
	all, err := routes.Load()
	if err != nil {
		t.Fatal(err)
	}
	only := regexp.MustCompile(os.Getenv("SLUICE_CASES"))
	all = slices.DeleteFunc(all, func(one *routes.Case) bool { return one.Wants != "" || !only.MatchString(one.Name) })
	r := c.runner(t)
	outcomes := make([]error, len(all))
	slots := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for i, one := range all {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			outcomes[i] = one.Run(t.Context(), r)
		})
	}
	group.Wait()
	for i, one := range all {
		t.Run(one.Name, func(t *testing.T) {
			switch {
			case r.channel == "standard" && outcomes[i] != nil && strings.Contains(outcomes[i].Error(), "field not declared in schema"):
				t.Skip("skipped: the standard channel does not have its fields; with CHANNEL=experimental it runs")
			case outcomes[i] != nil:
				t.Errorf("%s (%v): %v", one.What, one.Rules, outcomes[i])
			}
		})
	}
}

// runner runs cases in the cluster.
type runner struct {
	*cluster
	pods    map[string]*pod
	agents  []*agent
	channel string // of the Gateway API

	mu         sync.Mutex
	markers    int
	namespaces map[string]bool // that are there
}

// places are the pods of the cases. Of each pair that talks, some are on one node and some on two.
var places = map[string]struct{ namespace, node string }{
	"v1": {"backends", "n1"}, "v2": {"backends", "n2"}, "v3": {"backends", "n2"}, "bad": {"backends", "n1"},
	"client": {"client", "n1"}, "consumer": {"consumer", "n2"},
}

func (c *cluster) runner(t *testing.T) *runner {
	t.Helper()
	r := &runner{cluster: c, pods: map[string]*pod{}, agents: c.agents(t), namespaces: map[string]bool{}}
	r.channel = c.kubectl(t, "get", "crd", "httproutes.gateway.networking.k8s.io", "-o", `jsonpath={.metadata.annotations.gateway\.networking\.k8s\.io/channel}`)
	for _, namespace := range []string{"backends", "client", "consumer", "sync"} {
		c.renew(t, namespace)
		r.namespaces[namespace] = true
	}
	t.Cleanup(func() { r.removeNamespaces(t) })
	dir := t.TempDir()
	for name, place := range places {
		p, err := c.startPod(t.Context(), place.namespace, podSpec{Name: name, Node: place.node, Client: place.namespace != "backends"}, dir)
		if err != nil {
			t.Fatal(err)
		}
		r.pods[name] = p
	}
	return r
}

// removeNamespaces removes what the cases' namespaces left.
func (r *runner) removeNamespaces(t *testing.T) {
	for name := range r.namespaces {
		err := r.core.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
}

// ensure makes a namespace that a case has only in its objects.
func (r *runner) ensure(ctx context.Context, name string) error {
	r.mu.Lock()
	known := r.namespaces[name]
	r.namespaces[name] = true
	r.mu.Unlock()
	if known {
		return nil
	}
	_, err := r.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{Name: name}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// renew makes a namespace, once one of an earlier run is gone. It is removed at the end of the test.
func (c *cluster) renew(t *testing.T, name string) {
	t.Helper()
	namespaces := c.core.CoreV1().Namespaces()
	remove := func() error {
		err := namespaces.Delete(context.Background(), name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		_, err := namespaces.Create(t.Context(), &corev1.Namespace{Name: name}, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
}

func (r *runner) Pods() map[string]routes.Addresses {
	all := map[string]routes.Addresses{}
	for name, p := range r.pods {
		all[name] = p.addresses
	}
	return all
}

func (r *runner) Send(ctx context.Context, name string, request *echo.Request) ([]echo.Answer, error) {
	p := r.pods[name]
	if p == nil {
		return nil, fmt.Errorf("there is no pod %q", name)
	}
	return p.driver.Send(ctx, request)
}

func (r *runner) Seen(ctx context.Context, name, nonce string) ([]echo.Saw, error) {
	return r.pods[name].driver.Seen(ctx, nonce)
}

func (r *runner) ServiceAddress(namespace, name string, _ int, ipv6 bool) (string, error) {
	s, err := r.core.CoreV1().Services(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is6() == ipv6 {
			return ip, nil
		}
	}
	return "", fmt.Errorf("Service %s/%s has the addresses %v", namespace, name, s.Spec.ClusterIPs)
}

// Apply writes objects. The API server says when they were made, to the second: those that are to be of different ages are written
// in different seconds.
func (r *runner) Apply(ctx context.Context, objects []routes.Object) error {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b routes.Object) int {
		return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), cmp.Compare(created(a), created(b)))
	})
	touched := map[string]bool{}
	last := ""
	for i, o := range sorted {
		touched[o.Namespace] = true
		if age := created(o); i > 0 && age != last && rank(o.Kind) == rank(sorted[i-1].Kind) {
			if err := nextSecond(ctx); err != nil {
				return err
			}
		}
		last = created(o)
		if o.Namespace != "" {
			if err := r.ensure(ctx, o.Namespace); err != nil {
				return err
			}
		}
		if _, err := r.applyObject(ctx, o.Namespace, prepare(o)); err != nil {
			return err
		}
	}
	return r.sync(ctx, touched)
}

// rank is lower for what others need.
func rank(kind string) int {
	switch kind {
	case "Namespace":
		return 0
	case "HTTPRoute", "GRPCRoute":
		return 2
	}
	return 1
}

func created(o routes.Object) string {
	meta, _ := o.Content["metadata"].(map[string]any)
	at, _ := meta["creationTimestamp"].(string)
	return at
}

func nextSecond(ctx context.Context) error {
	select {
	case <-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prepare makes of an object of a case one for an API server: of both families where it does not say. The
// cases' own node is the client's.
func prepare(o routes.Object) map[string]any {
	// Through JSON, so that all in it is of the types that JSON has.
	b, err := json.Marshal(o.Content)
	b = bytes.ReplaceAll(b, []byte(`"nodeName":"lab"`), []byte(`"nodeName":"`+places["client"].node+`"`))
	content := map[string]any{}
	if err == nil {
		err = json.Unmarshal(b, &content)
	}
	if err != nil {
		panic(err) // of the case's own YAML
	}
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	if spec, is := content["spec"].(map[string]any); is && o.Kind == "Service" && spec["type"] != "ExternalName" && spec["clusterIP"] != "None" && spec["ipFamilies"] == nil {
		spec["ipFamilyPolicy"] = "RequireDualStack"
	}
	return content
}

// Delete deletes objects. With a namespace goes all that is in it.
func (r *runner) Delete(ctx context.Context, keys []routes.Key) error {
	going := map[string]bool{}
	for _, k := range keys {
		going[k.Name] = going[k.Name] || k.Kind == "Namespace"
	}
	var errs []error
	for _, k := range keys {
		if k.Kind != "Namespace" && going[k.Namespace] {
			continue
		}
		client, err := r.resource(k.Kind, k.Namespace)
		if err == nil {
			err = client.Delete(ctx, k.Name, metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete %s: %w", k, err))
		}
	}
	return errors.Join(append(errs, r.sync(ctx, nil))...)
}

// sync waits until the agents have seen what was written before: they know of a route that is written after it. Then it waits until
// the frontends of the namespaces are in the kernels.
func (r *runner) sync(ctx context.Context, touched map[string]bool) error {
	r.mu.Lock()
	r.markers++
	name := fmt.Sprintf("marker-%d", r.markers)
	r.mu.Unlock()
	_, err := r.applyObject(ctx, "sync", map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "nobody"}}},
	})
	if err != nil {
		return err
	}
	err = within(ctx, 20*time.Second, func() error {
		for _, a := range r.agents {
			s, err := a.status(ctx, 20*time.Millisecond)
			if err != nil {
				return err
			}
			if !s.knows("HTTPRoute", "sync", name) {
				return fmt.Errorf("the agent of %s has not seen what was written", a.node)
			}
			for _, f := range s.Frontends {
				if touched[f.Service.Namespace] && !f.InKernel {
					return fmt.Errorf("on %s frontend %s of %s is not in the kernel", a.node, f.Address, f.Service.Name)
				}
			}
		}
		return nil
	})
	client, _ := r.resource("HTTPRoute", "sync")
	return errors.Join(err, client.Delete(ctx, name, metav1.DeleteOptions{}))
}

func (r *runner) Status(ctx context.Context, route routes.Key) (*routes.RouteStatus, error) {
	client, err := r.resource(route.Kind, route.Namespace)
	if err != nil {
		return nil, err
	}
	o, err := client.Get(ctx, route.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	parents, _, err := unstructured.NestedSlice(o.Object, "status", "parents")
	if err != nil {
		return nil, err
	}
	parents = slices.DeleteFunc(parents, func(p any) bool {
		parent, _ := p.(map[string]any)
		return parent["controllerName"] != controller
	})
	if len(parents) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(parents)
	if err != nil {
		return nil, err
	}
	s := &routes.RouteStatus{Generation: o.GetGeneration()}
	if err := json.Unmarshal(b, &s.Parents); err != nil {
		return nil, err
	}
	// In the order of the route's own parentRefs, which cases count in; the API gives it no order.
	return s, sortParents(o, s.Parents)
}

func sortParents(o *unstructured.Unstructured, parents []routes.ParentStatus) error {
	refs, _, err := unstructured.NestedSlice(o.Object, "spec", "parentRefs")
	if err != nil {
		return err
	}
	index := func(p routes.ParentStatus) int {
		return slices.IndexFunc(refs, func(ref any) bool {
			r, _ := ref.(map[string]any)
			return sameRef(r, p.ParentRef)
		})
	}
	slices.SortStableFunc(parents, func(a, b routes.ParentStatus) int { return cmp.Compare(index(a), index(b)) })
	return nil
}

func sameRef(a, b map[string]any) bool {
	return maps.EqualFunc(a, b, func(x, y any) bool { return fmt.Sprint(x) == fmt.Sprint(y) })
}
