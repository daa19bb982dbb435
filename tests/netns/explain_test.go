package netns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/cli/traffic"
)

// sluice runs the command and returns what it prints, on standard output or else on the other, and its exit status.
func (m *mesh) sluice(args ...string) (string, int) {
	m.t.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(m.t.Context(), filepath.Join(programs, "sluice"), args...)
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		m.t.Fatal(err)
	}
	if out.Len() == 0 {
		return errs.String(), c.ProcessState.ExitCode()
	}
	return out.String(), c.ProcessState.ExitCode()
}

// both asks the running programs, and the folder that the agent reads. What says who was asked, which comes first, is left out.
func (m *mesh) both(command string, args ...string) (running, folder string, status int) {
	m.t.Helper()
	live := []string{command, "--agent", "unix:" + m.lab.AgentAdmin(), "--proxy", "unix:" + m.lab.ProxyAdmin()}
	running, status = m.sluice(append(live, args...)...)
	folder, folderStatus := m.sluice(append([]string{command, "--manifests", m.lab.Manifests, "--node", "lab"}, args...)...)
	if status != folderStatus {
		return running, fmt.Sprintf("status %d, not %d\n%s", folderStatus, status, folder), status
	}
	drop := func(s string) string {
		if strings.HasPrefix(s, "{") {
			_, s, _ = strings.Cut(s, `"source": `)
			_, s, _ = strings.Cut(s, "\n")
			return "{\n" + s
		}
		_, s, _ = strings.Cut(s, "\n\n")
		return s
	}
	return drop(running), drop(folder), status
}

// What the running programs hold is what the folder compiles to, said in the same words, and it is what happens to requests.
func TestExplainSaysWhatHappens(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	m.route(producer, "canary", "web", `{headers: [{name: X-Canary, value: "true"}]}, {path: {type: RegularExpression, value: "/v[0-9]+"}}`, "web-v2=1")
	m.route(producer, "empty", "web", "{path: {type: PathPrefix, value: /empty}}", "empty=1")
	m.route(producer, "missing", "web", "{path: {type: PathPrefix, value: /missing}}", "nobody=1")
	m.route("far", "ours", "web", "{path: {type: Exact, value: /far}}", "web-v2=1")
	m.write("route-odd.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: odd, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}, {group: "", kind: Service, name: api, port: 81}]
  rules:
  - matches: [{path: {type: RegularExpression, value: "("}}]
  - matches: [{path: {type: PathPrefix, value: /odd}}]
    filters: [{type: ExtensionRef, extensionRef: {group: ext.example, kind: Ext, name: ext}}]
    timeouts: {request: 3s}
`)
	m.write("route-calls.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api, port: 80}]
  rules: [{matches: [{method: {service: a.B}}], backendRefs: [{name: api-v1, port: 80}]}]
`)
	m.routed("web", m.pods["near"])
	m.eventually("both sources agree on the routes", 10*time.Second, func() error {
		for _, format := range [][]string{nil, {"--json"}} {
			if running, folder, status := m.both("routes", format...); running != folder || status != 1 || !strings.Contains(running, "left out") {
				return fmt.Errorf("status %d; the programs say\n%s\nthe folder says\n%s", status, running, folder)
			}
		}
		return nil
	})
	for _, c := range []struct {
		client, path string
		canary       bool
		winner       string // route; "": none
		backend      string
		status       int
	}{
		{"near", "/", false, "all", "web-v1", 200},
		{"near", "/", true, "canary", "web-v2", 200},
		{"near", "/v12", false, "canary", "web-v2", 200},
		{"near", "/empty", true, "empty", "", 503},
		{"near", "/missing/x", false, "missing", "", 500},
		{"near", "/odd", false, "odd", "", 500},
		{"far", "/far", false, "ours", "web-v2", 200},
		{"far", "/odd", false, "", "", 404},
		{"other", "/far", false, "all", "web-v1", 200},
	} {
		args := []string{"--from", m.pods[c.client].Namespace + "/" + c.client, "--to", "shop/web"}
		load := traffic.Load{Targets: targets("web"), Path: c.path, Requests: 10, Statuses: []int{c.status}, Backends: c.backend}
		if c.canary {
			args = append(args, "-H", "x-canary: true")
			load.Headers = map[string]string{"x-canary": "true"}
		}
		var a struct {
			Applies bool
			Winner  struct {
				Route    struct{ Name string }
				Answers  string
				Backends []struct{ To, Answers string }
			}
		}
		running, folder, status := m.both("explain", append(append([]string{"--json"}, args...), c.path)...)
		if running != folder || (status == 0) != (c.winner != "") {
			t.Errorf("%+v: status %d; the programs say\n%s\nthe folder says\n%s", c, status, running, folder)
		}
		if err := json.Unmarshal([]byte(running), &a); err != nil {
			t.Fatalf("%v: %s", err, running)
		}
		if a.Winner.Route.Name != c.winner || a.Applies != (c.winner != "") {
			t.Errorf("%+v: explained with\n%s", c, running)
		}
		if c.backend != "" && (len(a.Winner.Backends) != 1 || a.Winner.Backends[0].To != "shop/"+c.backend+":80") {
			t.Errorf("%+v: explained with backends %+v", c, a.Winner.Backends)
		}
		m.eventually(c.client+" "+c.path, 5*time.Second, func() error {
			if r := m.load(m.pods[c.client], load); r.Failed > 0 {
				t.Logf("%+v: %+v", c, r.Failures[0])
				return os.ErrInvalid
			}
			return nil
		})
	}
	if running, folder, status := m.both("explain", "--from", "other", "--to", "shop/api", "--grpc", "a.B/C"); running != folder || status != 0 ||
		!strings.Contains(running, "GRPCRoute shop/calls, rules[0] wins") {
		t.Errorf("a call: status %d; the programs say\n%s\nthe folder says\n%s", status, running, folder)
	}
}

// Whoever is not there is named, with where it was looked for and what to do.
func TestExplainWithoutAProxy(t *testing.T) {
	m := start(t)
	m.route(producer, "all", "web", "", "web-v1=1")
	m.routed("web", m.pods["near"])
	if err := m.proxy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-m.proxy.Done()
	live := []string{"routes", "--agent", "unix:" + m.lab.AgentAdmin(), "--proxy", "unix:" + m.lab.ProxyAdmin()}
	if out, status := m.sluice(live...); status != 2 || !strings.Contains(out, "no proxy answers at unix:"+m.lab.ProxyAdmin()) || !strings.Contains(out, "--manifests") {
		t.Errorf("status %d: %s", status, out)
	}
	m.startProxy()
	m.ready()
	m.eventually("the proxy tells what it holds", 10*time.Second, func() error {
		if out, status := m.sluice(live...); status != 0 {
			return errors.New(out)
		}
		return nil
	})
}
