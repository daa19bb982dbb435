package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A route that one node could not take does not claim Accepted, whichever node's agent writes the status.
func TestRefusalOfOneNodeShows(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	elected := c.elected(t)
	for _, a := range c.agents(t) {
		if a.pod == elected {
			continue
		}
		service := strings.ToLower("refused-on-" + a.node)
		stop := c.refuse(t, a.node, ns, service)
		c.apply(t, ns, shop, service, "yes")
		eventually(t, settling, func() error {
			have, err := c.condition(t.Context(), "HTTPRoute", ns, service, "Accepted")
			if err == nil && (!strings.HasPrefix(have, "False/NotProgrammed") || !strings.Contains(have, a.node) || !strings.Contains(have, "by injection")) {
				err = fmt.Errorf("%s refuses the route, and Accepted is %q", a.node, have)
			}
			return err
		})
		// Another route is not touched by it.
		c.apply(t, ns, shop, "good", "yes")
		c.accepted(t, "HTTPRoute", ns, "good")
		stop()
		c.accepted(t, "HTTPRoute", ns, service)
	}
}

// elected is the pod whose agent writes the statuses. Where Sluice was installed anew, or a node was lost, a Lease has to expire before
// there is one.
func (c *cluster) elected(t *testing.T) string {
	t.Helper()
	var holder string
	eventually(t, time.Minute, func() error {
		lease, err := c.core.CoordinationV1().Leases(system).Get(t.Context(), "sluice-status", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity != nil {
			holder = *lease.Spec.HolderIdentity
		}
		pods, err := c.ourPods(t.Context())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == holder }) {
			return fmt.Errorf("nobody who runs is elected to write statuses; the Lease is %q's", holder)
		}
		return nil
	})
	return holder
}

// refuse makes a proxy beside the node's own refuse a Service, until stop is called.
func (c *cluster) refuse(t *testing.T, node, namespace, service string) (stop func()) {
	t.Helper()
	told, err := json.Marshal(map[string]any{
		"socket": "/run/sluice/agent.sock", "reason": "by injection", "service": map[string]string{"namespace": namespace, "name": service},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), c.program, "exec", node, "--", filepath.Join(filepath.Dir(c.program), "pod"), "refuse", string(told))
	var said strings.Builder
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the proxy that refuses: %v: %s", err, &said)
		}
	}
}
