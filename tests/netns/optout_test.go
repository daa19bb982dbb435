package netns

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/lab"
	"github.com/sluice-mesh/sluice/cli/traffic"
	"github.com/sluice-mesh/sluice/tests/need"
)

// stateOf is what the agent says of the pod: state and reason.
func (m *mesh) stateOf(pod *lab.Pod) string {
	m.t.Helper()
	var s struct {
		Pods []struct{ UID, State, Reason string }
	}
	m.get(m.lab.AgentAdmin(), "/status", &s)
	for _, p := range s.Pods {
		if p.UID == pod.UID {
			return strings.TrimSpace(p.State + " " + p.Reason)
		}
	}
	return ""
}

// label writes the pod's manifest anew, with the mesh's label on it.
func (m *mesh) label(pod *lab.Pod, value string) {
	m.t.Helper()
	manifest := strings.Replace(string(pod.Manifest()), "  labels:\n", "  labels:\n    sluice.dev/mesh: "+value+"\n", 1)
	m.write("pod-"+pod.Namespace+"-"+pod.Name+".yaml", manifest)
}

// A pod opts out under load, while it is proxied: new connections go direct, also to what fails closed; those that are
// open stay with the proxy, and none fails, in both families. Then nothing is left in its namespace. It opts in again, by
// its own label and by its namespace's.
func TestOptOutUnderLoad(t *testing.T) {
	m := start(t)
	near := m.pods["near"]
	m.route(producer, "all", "web", "", "web-v1=1")
	m.route(producer, "closed", "closed", "", "web-v1=1")
	m.routed("web", near)
	m.routed("closed", near)
	if m.nothingIn(near) == nil {
		t.Fatal("nothing of ours is in the namespace of a pod that is enrolled")
	}
	kept := m.begin(near, traffic.Load{Targets: targets("web"), Workers: 4, Connections: traffic.KeepAlive, Timeout: 5 * time.Second, Snapshots: 50 * time.Millisecond})
	fresh := m.begin(near, traffic.Load{Targets: targets("web", "closed"), Workers: 4, Connections: traffic.New, Timeout: 5 * time.Second})
	for r := range kept.Reports { // all connections are open after the first, at most
		if r.Routed > 0 {
			break
		}
	}
	<-kept.Reports
	began := time.Now()
	m.label(near, "disabled")
	m.direct("closed", near)
	t.Logf("direct %v after the label was set", time.Since(began))
	m.eventually("a second with the connections that are open", 2*time.Second, func() error {
		if d := time.Since(began); d < time.Second {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	if r := m.stop(fresh); r.Failed > 0 {
		t.Errorf("%d of %d requests on new connections failed; the first: %+v", r.Failed, r.Requests, r.Failures[0])
	}
	if r := m.stop(kept); r.Failed > 0 || r.Routed != r.OK() {
		t.Errorf("of %d requests on kept connections %d failed and %d were routed: %+v", r.Requests, r.Failed, r.Routed, r.Failures)
	}
	m.eventually("nothing is left", 15*time.Second, func() error { return m.nothingIn(near) })
	if s := m.stateOf(near); s != "excluded it is labelled sluice.dev/mesh: disabled" {
		t.Errorf("the pod is %q", s)
	}
	m.label(near, "enabled")
	m.routed("closed", near)
	m.write("namespace-"+producer+".yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+producer+", labels: {sluice.dev/mesh: disabled}}\n")
	m.routed("closed", near) // the pod's own label is nearer
	m.label(near, "other")
	m.direct("closed", near)
	m.write("namespace-"+producer+".yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+producer+"}\n")
	t.Logf("routed %v after the namespace opted in", m.routed("closed", near))
}

// nothingIn says what there is of ours in a pod's namespace: the route, which makes an address of the prefix a local
// one, or a listener, which has its port.
func (m *mesh) nothingIn(pod *lab.Pod) (err error) {
	m.t.Helper()
	need.In(m.t, pod.NetNS, func() error {
		if l, listenErr := net.Listen("tcp6", "[fd6d:6573:6800::1]:0"); listenErr == nil {
			l.Close()
			err = errors.New("the route is left")
			return nil
		}
		var l net.Listener
		if l, err = net.Listen("tcp4", "127.0.0.1:337"); err == nil {
			l.Close()
		}
		return nil
	})
	return err
}
