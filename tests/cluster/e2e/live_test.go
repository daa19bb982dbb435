package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const meshLabel = "sluice.dev/mesh"

// A pod that runs as an ordinary user, and was left alone until now, is enrolled as it runs.
func TestPodOfAnOrdinaryUserIsEnrolledAsItRuns(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true, User: 1000, Labels: map[string]string{meshLabel: "disabled"}})
	c.apply(t, ns, shop, "echo", "yes")
	c.accepted(t, "HTTPRoute", ns, "echo")
	service := c.address(t, ns, "echo", 80)
	client.routed(t, service, "")
	c.label(t, "Pod", ns, "client", meshLabel, "-")
	client.routed(t, service, "yes")
	now, err := c.core.CoreV1().Pods(ns).Get(t.Context(), "client", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if string(now.UID) != client.uid || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod was restarted: %v", now.Status.ContainerStatuses)
	}
}

// A pod or a namespace opts out by its label, live, and in again; the pod's label goes before the namespace's.
func TestOptingOutAndIn(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true})
	c.apply(t, ns, shop, "echo", "yes")
	service := c.address(t, ns, "echo", 80)
	agent := on(t, c.agents(t), "n1")
	client.routed(t, service, "yes")
	for _, step := range []struct{ kind, value, mark string }{
		{"Pod", "disabled", ""}, {"Pod", "-", "yes"}, {"Namespace", "disabled", ""}, {"Namespace", "-", "yes"},
	} {
		name, namespace := "client", ns
		if step.kind == "Namespace" {
			name, namespace = ns, ""
		}
		c.label(t, step.kind, namespace, name, meshLabel, step.value)
		client.routed(t, service, step.mark)
		eventually(t, settling, func() error {
			s, err := agent.status(t.Context(), 0)
			if err != nil {
				return err
			}
			for _, p := range s.Pods {
				if p.Pod == ns+"/client" && (p.State == "serving") == (step.mark != "") {
					return nil
				}
			}
			return fmt.Errorf("after %s was labelled %q, the agent says of the pods: %v", step.kind, step.value, s.Pods)
		})
	}
}

// With a namespace goes all that was in it: its frontends leave both kernels.
func TestNamespaceIsDeleted(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true})
	c.apply(t, ns, shop, "echo", "yes")
	client.routed(t, c.address(t, ns, "echo", 80), "yes")
	agents := c.agents(t)
	if err := c.core.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		eventually(t, time.Minute, func() error {
			s, err := a.status(t.Context(), 0)
			if err != nil {
				return err
			}
			for _, f := range s.Frontends {
				if f.Service.Namespace == ns {
					return fmt.Errorf("on %s there is still a frontend %s", a.node, f.Address)
				}
			}
			for _, p := range s.Pods {
				if strings.HasPrefix(p.Pod, ns+"/") {
					return fmt.Errorf("on %s pod %s is still %s", a.node, p.Pod, p.State)
				}
			}
			return nil
		})
	}
}

// A Service changes its ports, is deleted, and made anew with another address: what is redirected follows.
func TestServiceChanges(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.start(t, ns, podSpec{Name: "server", Node: "n2", Labels: isBackendOf("echo")})
	client := c.start(t, ns, podSpec{Name: "client", Node: "n1", Client: true})
	c.apply(t, ns, shop, "echo", "yes")
	first := c.address(t, ns, "echo", 80)
	client.routed(t, first, "yes")

	const service = `
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {shop: echo}
  ports: [{name: http, port: %d, targetPort: 8080}]
`
	// The route is for port 80, which is no more: Accepted=False, and the new port goes direct.
	c.apply(t, ns, service, 81)
	eventually(t, settling, func() error {
		have, err := c.condition(t.Context(), "HTTPRoute", ns, "echo", "Accepted")
		if err == nil && !strings.HasPrefix(have, "False/NoMatchingParent") {
			err = fmt.Errorf("the Service has lost its port, and Accepted is %q", have)
		}
		return err
	})
	client.routed(t, c.address(t, ns, "echo", 81), "")
	c.apply(t, ns, service, 80)
	client.routed(t, first, "yes")
	c.accepted(t, "HTTPRoute", ns, "echo")

	c.remove(t, "Service", ns, "echo")
	eventually(t, settling, func() error {
		have, err := c.condition(t.Context(), "HTTPRoute", ns, "echo", "Accepted")
		if err == nil && strings.HasPrefix(have, "True/") {
			err = fmt.Errorf("there is no Service, and Accepted is %q", have)
		}
		return err
	})
	// Its old address is somebody else's meanwhile.
	c.apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: squatter}
spec:
  clusterIP: %s
  selector: {shop: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
`, strings.TrimSuffix(first, ":80"))
	client.routed(t, first, "")
	c.apply(t, ns, service, 80)
	again := c.address(t, ns, "echo", 80)
	if again == first {
		t.Fatalf("the Service has its old address %s", first)
	}
	client.routed(t, again, "yes")
	client.routed(t, first, "")
	c.accepted(t, "HTTPRoute", ns, "echo")
}

// S-4: what other controllers write into a route's status stays as it is, also what our version of the API does not know.
func TestForeignStatusStays(t *testing.T) {
	c := open(t)
	ns := c.namespace(t)
	c.apply(t, ns, shop, "echo", "one")
	c.accepted(t, "HTTPRoute", ns, "echo")
	foreign := `{"parentRef":{"group":"","kind":"Service","name":"echo","port":80},"controllerName":"example.net/other",` +
		`"conditions":[{"type":"Odd","status":"True","reason":"Odd","message":"theirs","lastTransitionTime":"2020-01-01T00:00:00Z","observedGeneration":7}]}`
	c.kubectl(t, "patch", "httproute", "-n", ns, "echo", "--subresource=status", "--type=json",
		"-p", `[{"op": "add", "path": "/status/parents/-", "value": `+foreign+`}]`)
	c.apply(t, ns, shop, "echo", "two") // which makes ours change
	c.accepted(t, "HTTPRoute", ns, "echo")
	have := c.kubectl(t, "get", "httproute", "-n", ns, "echo", "-o", `jsonpath={.status.parents[?(@.controllerName=="example.net/other")]}`)
	for _, part := range []string{`"observedGeneration":7`, `"message":"theirs"`, `"lastTransitionTime":"2020-01-01T00:00:00Z"`} {
		if !strings.Contains(have, part) {
			t.Errorf("the foreign entry is %s, without %s", have, part)
		}
	}
}
