// Package tests holds what is asserted about the whole tree.
package tests

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sluice-mesh/sluice/"

// layer is what the files of one package, tests excepted, may import.
type layer struct {
	ours   []string // packages of this module
	theirs []string // prefixes of other modules
	pure   bool     // data in, data out: no files, sockets, clocks, logs, goroutines
	std    []string // of the standard library, although the package is pure
}

const (
	kubeAPI    = "k8s.io/api/"
	machinery  = "k8s.io/apimachinery/"
	gatewayAPI = "sigs.k8s.io/gateway-api/apis/"
	unix       = "golang.org/x/sys/unix"
	ebpf       = "github.com/cilium/ebpf"
	prometheus = "github.com/prometheus/client_golang/"
	netlink    = "github.com/vishvananda/"
	fsnotify   = "github.com/fsnotify/fsnotify"
)

// layers is the map of the tree (ARCHITECTURE.md draws it). A package that is not here is an error: a new package, and
// a new arrow, is a decision.
var layers = map[string]layer{
	// What both sides speak.
	"l7proxy/model":   {pure: true},
	"l7proxy/message": {pure: true},
	"l7proxy/channel": {ours: []string{"l7proxy/model"}, theirs: []string{unix}},

	// The proxy: sockets and HTTP. It knows neither Kubernetes nor the kernel's maps.
	"l7proxy/syntax":      {pure: true},
	"l7proxy/router":      {ours: []string{"l7proxy/model", "l7proxy/message", "l7proxy/syntax"}, pure: true, std: []string{"sync"}}, // memory to be used again
	"l7proxy/weighted":    {pure: true},
	"l7proxy/filter":      {ours: []string{"l7proxy/model", "l7proxy/message", "l7proxy/syntax"}, pure: true, std: []string{"unsafe"}}, // views
	"l7proxy/sock":        {theirs: []string{unix}},
	"l7proxy/http2/hpack": {ours: []string{"l7proxy/message"}, pure: true, std: []string{"unsafe"}}, // views
	"l7proxy/http1":       {ours: []string{"l7proxy/message", "l7proxy/sock", "l7proxy/syntax"}},
	"l7proxy/http2":       {ours: []string{"l7proxy/message", "l7proxy/sock", "l7proxy/syntax", "l7proxy/http2/hpack"}},
	"l7proxy/observe":     {ours: []string{"l7proxy/model"}, theirs: []string{prometheus, "github.com/prometheus/client_model/"}},
	"l7proxy/upstream":    {ours: []string{"l7proxy/model", "l7proxy/sock", "l7proxy/http2"}},
	"l7proxy/forward": {ours: []string{
		"l7proxy/model", "l7proxy/message", "l7proxy/router", "l7proxy/weighted", "l7proxy/filter", "l7proxy/sock",
		"l7proxy/http1", "l7proxy/http2", "l7proxy/http2/hpack", "l7proxy/observe", "l7proxy/upstream",
	}, theirs: []string{unix}},
	"l7proxy/inbound": {ours: []string{"l7proxy/model", "l7proxy/sock"}, theirs: []string{unix}},
	"l7proxy/state":   {ours: []string{"l7proxy/model", "l7proxy/forward", "l7proxy/upstream", "l7proxy/inbound", "l7proxy/sock"}},
	"l7proxy/admin":   {theirs: []string{prometheus}},
	"l7proxy/master":  {theirs: []string{unix}},
	"l7proxy/worker": {ours: []string{
		"l7proxy/model", "l7proxy/channel", "l7proxy/sock", "l7proxy/inbound", "l7proxy/state", "l7proxy/forward",
		"l7proxy/upstream", "l7proxy/observe", "l7proxy/admin",
	}, theirs: []string{unix, prometheus}},
	"l7proxy/confine": {theirs: []string{unix}},
	"l7proxy":         {ours: []string{"l7proxy/confine", "l7proxy/master", "l7proxy/worker", "l7proxy/admin", "l7proxy/observe"}},

	// The agent: Kubernetes and the kernel. It never touches a request.
	"bpf":                        {theirs: []string{ebpf}},
	"agent/objects":              {theirs: []string{kubeAPI, machinery, gatewayAPI}},
	"agent/compile":              {ours: []string{"agent/objects", "l7proxy/model"}, theirs: []string{kubeAPI, machinery, gatewayAPI}, pure: true},
	"agent/kube":                 {ours: []string{"agent/objects"}, theirs: []string{kubeAPI, machinery, gatewayAPI, "k8s.io/", "sigs.k8s.io/", "go.yaml.in/yaml/v3", "github.com/fsnotify/fsnotify"}},
	"agent/kube/internal/crdgen": {theirs: []string{"sigs.k8s.io/yaml", "k8s.io/apiextensions-apiserver/", machinery, "go.yaml.in/yaml/v3"}},
	"agent/within":               {theirs: []string{unix}},
	"agent/sockdiag":             {ours: []string{"agent/within"}, theirs: []string{unix}},
	"agent/datapath":             {ours: []string{"bpf", "agent/sockdiag", "l7proxy/model"}, theirs: []string{ebpf, unix, netlink}},
	"agent/enroll":               {ours: []string{"agent/objects", "agent/datapath", "agent/cgroup", "agent/within", "l7proxy/model"}, theirs: []string{kubeAPI, machinery, unix, netlink, fsnotify}},
	"agent/cgroup":               {theirs: []string{unix}},
	"agent/push":                 {ours: []string{"agent/within", "l7proxy/model", "l7proxy/channel"}, theirs: []string{unix}},
	"agent/rollup":               {ours: []string{"agent/objects", "agent/compile", "l7proxy/model"}, theirs: []string{machinery, gatewayAPI}, pure: true},
	"agent/node":                 {ours: []string{"agent/objects", "agent/kube", "agent/compile", "agent/datapath", "agent/enroll", "agent/push", "agent/rollup", "l7proxy/model"}, theirs: []string{kubeAPI, machinery, gatewayAPI, unix, prometheus}},
	"agent/admin":                {ours: []string{"agent/node", "cni/install", "l7proxy/model"}, theirs: []string{prometheus}},

	// What an agent is in a cluster. Only these two talk to the API server.
	"agent/watch":     {ours: []string{"agent/objects", "agent/kube"}, theirs: []string{kubeAPI, machinery, gatewayAPI, "k8s.io/", "sigs.k8s.io/gateway-api/", prometheus, "github.com/go-logr/logr"}},
	"agent/status":    {ours: []string{"agent/objects", "agent/compile", "agent/rollup", "l7proxy/model"}, theirs: []string{kubeAPI, machinery, gatewayAPI, "k8s.io/client-go/", "k8s.io/klog/v2", "sigs.k8s.io/gateway-api/", prometheus, "github.com/go-logr/logr"}},
	"agent/admission": {ours: []string{"agent/enroll", "agent/node", "cni/wire"}},
	"agent/handover":  {theirs: []string{unix}},
	"agent/life":      {ours: []string{"agent/objects", "agent/kube", "agent/node", "agent/admin", "agent/handover", "cni/install"}, theirs: []string{prometheus, "github.com/prometheus/client_model/"}},
	"agent": {ours: []string{
		"agent/objects", "agent/kube", "agent/watch", "agent/compile", "agent/datapath", "agent/enroll", "agent/cgroup", "agent/push", "agent/node",
		"agent/rollup", "agent/admin", "agent/status", "agent/admission", "agent/handover", "agent/life", "cni/install", "cni/netconf", "cni/wire",
	}, theirs: []string{prometheus, "k8s.io/client-go/rest"}},

	// What the container runtime starts for each pod knows the agent by its socket only.
	"cni":         {ours: []string{"cni/netconf", "cni/wire"}, theirs: []string{"github.com/containernetworking/cni/"}},
	"cni/netconf": {},
	"cni/wire":    {theirs: []string{unix}},
	"cni/install": {ours: []string{"cni/netconf"}, theirs: []string{unix, fsnotify}},

	// The user's command runs the other two; it does not contain them.
	"cli":         {ours: []string{"cli/demo", "cli/lab", "cli/traffic", "cli/ask", "cli/cluster", "cli/check", "cli/inforce", "cli/explain", "cli/text", "l7proxy/message", "l7proxy/model"}},
	"cli/demo":    {ours: []string{"cli/lab", "cli/traffic", "examples"}},
	"cli/lab":     {ours: []string{"cli/traffic"}, theirs: []string{netlink, unix, "github.com/google/nftables", ebpf}},
	"cli/traffic": {},
	"cli/text":    {pure: true},
	// One program is asked at its address, all of them through the API server.
	"cli/ask":                 {ours: []string{"agent/compile", "l7proxy/model"}},
	"cli/cluster":             {ours: []string{"cli/ask", "l7proxy/model"}, theirs: []string{kubeAPI, machinery, "k8s.io/client-go/", "k8s.io/streaming/"}},
	"cli/cluster/clustertest": {theirs: []string{kubeAPI, "k8s.io/client-go/", "k8s.io/streaming/", "github.com/gorilla/websocket"}},
	"cli/check":               {ours: []string{"cli/ask", "cli/cluster", "cli/text", "agent/compile", "l7proxy/model"}, theirs: []string{machinery, gatewayAPI}, pure: true},
	// What is in force is read from both, or compiled as they would: from their pure parts alone it is explained.
	"cli/inforce": {ours: []string{"cli/ask", "agent/objects", "agent/kube", "agent/compile", "agent/enroll", "l7proxy/model"}, theirs: []string{kubeAPI}},
	"cli/explain": {ours: []string{"cli/inforce", "cli/text", "agent/compile", "l7proxy/model", "l7proxy/message", "l7proxy/router", "l7proxy/filter"}, theirs: []string{machinery, gatewayAPI}, pure: true},
	"examples":    {},

	// The benchmark drives programs, ours and the peers'; it does not contain them.
	"tests/bench":              {ours: []string{"cli/lab", "tests/bench/config", "tests/bench/h2stream", "tests/bench/openloop", "tests/bench/report", "tests/bench/usage"}, theirs: []string{unix}},
	"tests/bench/bareloop":     {},
	"tests/bench/bareh2":       {ours: []string{"tests/bench/h2"}},
	"tests/bench/h2":           {},
	"tests/bench/h2backend":    {ours: []string{"tests/bench/h2"}},
	"tests/bench/h2stream":     {ours: []string{"tests/bench/h2"}},
	"tests/bench/config":       {},
	"tests/bench/openloop":     {theirs: []string{unix}},
	"tests/bench/report":       {},
	"tests/bench/reverseproxy": {ours: []string{"tests/bench/config"}},
	"tests/bench/usage":        {theirs: []string{unix}},

	"build/images": {},

	"tests/need": {theirs: []string{unix}},

	// The routes' cases do not know what runs them; the tests beside them do.
	"tests/routes":      {ours: []string{"tests/routes/echo"}, theirs: []string{"go.yaml.in/yaml/v3"}},
	"tests/routes/echo": {},
}

// impure are the packages of the standard library that a pure package does without.
var impure = []string{"context", "log", "log/slog", "net", "net/http", "os", "os/exec", "runtime", "sync", "syscall", "testing", "unsafe"}

func TestImportsFollowTheLayers(t *testing.T) {
	imports := importsOf(t, "..")
	for pkg, files := range imports {
		l, known := layers[pkg]
		if !known {
			t.Errorf("%s is not in the map of layers: a new package is a decision; add it to layers and to ARCHITECTURE.md", pkg)
			continue
		}
		for file, paths := range files {
			for _, path := range paths {
				if why := l.forbids(path); why != "" {
					t.Errorf("%s imports %s: %s", file, path, why)
				}
			}
		}
	}
	for pkg := range layers {
		if _, found := imports[pkg]; !found {
			t.Errorf("%s is in the map of layers, but there is no such package", pkg)
		}
	}
}

func (l layer) forbids(path string) string {
	if rest, ours := strings.CutPrefix(path, module); ours {
		if !slices.Contains(l.ours, rest) {
			return "this arrow is not in the map of layers"
		}
		return ""
	}
	if !strings.Contains(strings.Split(path, "/")[0], ".") { // the standard library
		if l.pure && slices.Contains(impure, path) && !slices.Contains(l.std, path) {
			return "the package is pure"
		}
		return ""
	}
	if !slices.ContainsFunc(l.theirs, func(p string) bool {
		return path == strings.TrimSuffix(p, "/") || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
	}) {
		return "this dependency does not belong in this layer"
	}
	return ""
}

// The check itself has to be able to fail.
func TestLayersForbidWhatTheDesignForbids(t *testing.T) {
	for _, arrow := range [][2]string{
		{"l7proxy/forward", "k8s.io/api/core/v1"},
		{"l7proxy/forward", "sigs.k8s.io/gateway-api/apis/v1"},
		{"l7proxy/inbound", "github.com/cilium/ebpf"},
		{"l7proxy/router", module + "agent/compile"},
		{"l7proxy/router", "net/http"},
		{"agent/compile", "os"},
		{"agent/compile", "k8s.io/client-go/kubernetes"},
		{"l7proxy/model", "golang.org/x/sys/unix"},
		{"cli/demo", module + "agent/node"},
	} {
		if layers[arrow[0]].forbids(arrow[1]) == "" {
			t.Errorf("%s may import %s", arrow[0], arrow[1])
		}
	}
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// importsOf maps each package of the module to its files, tests excepted, and what they import.
func importsOf(t *testing.T, root string) map[string]map[string][]string {
	t.Helper()
	found := map[string]map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() && path != root && isModule(path):
			return fs.SkipDir // the map is of this module
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if found[rel] == nil {
			found[rel] = map[string][]string{}
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[rel][path] = append(found[rel][path], p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
