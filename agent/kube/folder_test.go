package kube

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/objects"
)

// compiled is shared by the tests, which do not run in parallel: compiling takes long with the race detector.
var compiled = &schemas{made: map[string]*customResource{}}

// folder is a folder of manifests that a test edits.
type folder struct {
	*Folder
	t   *testing.T
	dir string
}

func newFolder(t *testing.T, files map[string]string) *folder {
	t.Helper()
	dir := t.TempDir()
	f, err := NewFolder(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.parser.schemas = compiled
	w := &folder{f, t, dir}
	for name, content := range files {
		w.write(name, content)
	}
	return w
}

func (f *folder) write(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// load reads the folder; the problems come with file names below it.
func (f *folder) load() (*objects.Set, []string) {
	f.t.Helper()
	set, problems, err := f.Load()
	if err != nil {
		f.t.Fatal(err)
	}
	var told []string
	for _, p := range problems {
		told = append(told, strings.ReplaceAll(p.String(), f.dir+"/", ""))
	}
	return set, told
}

// good loads a folder that must have no problems.
func (f *folder) good() *objects.Set {
	f.t.Helper()
	set, problems := f.load()
	if len(problems) > 0 {
		f.t.Fatalf("problems: %q", problems)
	}
	return set
}

// names are those of all objects that were read or filled in.
func names(s *objects.Set) string {
	var all []string
	for _, o := range s.Services {
		all = append(all, "svc/"+o.Namespace+"/"+o.Name)
	}
	for _, o := range s.EndpointSlices {
		all = append(all, "slice/"+o.Namespace+"/"+o.Name)
	}
	for _, o := range s.Pods {
		all = append(all, "pod/"+o.Namespace+"/"+o.Name)
	}
	for _, o := range s.HTTPRoutes {
		all = append(all, "route/"+o.Namespace+"/"+o.Name)
	}
	for _, o := range s.GRPCRoutes {
		all = append(all, "grpcroute/"+o.Namespace+"/"+o.Name)
	}
	for _, o := range s.ReferenceGrants {
		all = append(all, "grant/"+o.Namespace+"/"+o.Name)
	}
	return strings.Join(all, " ")
}

func weight(s *objects.Set, route string) int32 {
	for _, r := range s.HTTPRoutes {
		if r.Name == route {
			return *r.Spec.Rules[0].BackendRefs[0].Weight
		}
	}
	return -1
}

// route is a good HTTPRoute; its lines are numbered from 1.
const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: web
spec:
  parentRefs:
  - {group: "", kind: Service, name: web}
  rules:
  - matches:
    - path: {type: PathPrefix, value: /a}
    backendRefs:
    - name: web
      port: 80
      weight: 90
`

const service = `apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.0.0.1
  ports:
  - port: 80
`

func TestEveryFormOfFileIsRead(t *testing.T) {
	f := newFolder(t, map[string]string{
		"a.yaml":            service + "---\n---\n# nothing\n---\n" + route,
		"deep/er/b.yml":     strings.ReplaceAll(service, "name: web", "name: b"),
		"c.json":            `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"},` + "\n\t" + `"spec": {"ports": [{"port": 80}]}}`,
		"list.yaml":         "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: q, namespace: other}\n",
		"grant.yaml":        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]\n  to: [{group: '', kind: Service}]\n",
		"beta.yaml":         strings.NewReplacer("k8s.io/v1", "k8s.io/v1beta1", "name: web\nspec", "name: beta\nspec").Replace(route),
		".hidden.yaml":      "not: [read",
		".hidden/deep.yaml": "not: [read",
		"web.yaml.swp":      "not: [read",
		"web.yaml~":         "not: [read",
		"README.md":         "not: [read",
	})
	want := "svc/default/b svc/default/c svc/default/web pod/default/p pod/other/q route/default/beta route/default/web grant/default/g"
	if got := names(f.good()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSymbolicLinksAreFollowedAndLoopsEnd(t *testing.T) {
	f := newFolder(t, map[string]string{"sub/a.yaml": service})
	outside := newFolder(t, map[string]string{"b.yaml": strings.ReplaceAll(service, "name: web", "name: b")})
	for link, target := range map[string]string{
		"sub/loop": f.dir, "elsewhere": outside.dir, "gone.yaml": "nowhere", "file.yaml": filepath.Join(outside.dir, "b.yaml"),
	} {
		if err := os.Symlink(target, filepath.Join(f.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	set, problems := f.load()
	if got := names(set); got != "svc/default/b svc/default/web" {
		t.Errorf("got %s", got)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "a second time") {
		t.Errorf("problems: %q", problems)
	}
}

func TestPipesAreNotRead(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service})
	if err := unix.Mkfifo(filepath.Join(f.dir, "pipe.yaml"), 0o600); err != nil {
		t.Skip(err)
	}
	f.good()
}

func TestDuplicateObjectsTheFirstCounts(t *testing.T) {
	f := newFolder(t, map[string]string{
		"b.yaml": "# one line more\n" + strings.ReplaceAll(route, "90", "1"),
		"a.yaml": service + "---\n" + route,
	})
	set, problems := f.load()
	want := "b.yaml:2: HTTPRoute default/web: is here a second time: the one at a.yaml:10 counts, remove one of them"
	if len(problems) != 1 || problems[0] != want {
		t.Errorf("problems: %q, want %q", problems, want)
	}
	if got := weight(set, "web"); got != 90 {
		t.Errorf("weight %d, want 90", got)
	}
	f.remove("a.yaml")
	if got := weight(f.good(), "web"); got != 1 {
		t.Errorf("weight %d after the first was removed, want 1", got)
	}
}

func TestRemovedObjectsAreGone(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service + "---\n" + route, "b.yaml": strings.ReplaceAll(service, "name: web", "name: b")})
	f.good()
	f.write("a.yaml", service)
	f.remove("b.yaml")
	if got := names(f.good()); got != "svc/default/web" {
		t.Errorf("got %s", got)
	}
}

func TestNothingChangedIsTheSameSet(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service + "---\n" + route})
	first := f.good()
	if f.good() != first {
		t.Error("another Set though nothing changed")
	}
	f.write("a.yaml", "# a comment\n"+service+"---\n"+route)
	if f.good() != first {
		t.Error("another Set though only a comment changed")
	}
	f.write("a.yaml", service+"---\n"+strings.ReplaceAll(route, "90", "50"))
	second := f.good()
	if second == first || second.Services[0] != first.Services[0] || second.HTTPRoutes[0] == first.HTTPRoutes[0] {
		t.Error("want a new Set with a new route and the same Service")
	}
	if *first.HTTPRoutes[0].Spec.Rules[0].BackendRefs[0].Weight != 90 {
		t.Error("an object that was handed out was edited")
	}
}

func TestFolderThatCannotBeRead(t *testing.T) {
	f, err := NewFolder(filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Load(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("err = %v", err)
	}
	if err := f.Run(t.Context(), func(*objects.Set, []Problem) { t.Error("published") }); err == nil {
		t.Error("Run: no error")
	}
	if _, err := NewFolder("", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("NewFolder: no error")
	}
}

// The generation counts changes of the specification, not of the metadata.
func TestGenerationCountsChangesOfTheSpec(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": route})
	edits := []struct {
		content string
		want    int64
	}{
		{route, 1},
		{strings.ReplaceAll(route, "90", "50"), 2},
		{strings.ReplaceAll(route, "90", "50"), 2},
		{strings.NewReplacer("90", "50", "  name: web\nspec", "  name: web\n  labels: {a: b}\nspec").Replace(route), 2},
		{strings.ReplaceAll(route, "90", "-1"), 2}, // bad: the last good one counts
		{route, 3},
		{strings.ReplaceAll(route, "  name: web\nspec", "  name: web\n  generation: 7\nspec"), 7},
		{strings.NewReplacer("90", "50", "  name: web\nspec", "  name: web\n  generation: 7\nspec").Replace(route), 8},
	}
	uid := ""
	for i, e := range edits {
		f.write("a.yaml", e.content)
		set, _ := f.load()
		r := set.HTTPRoutes[0]
		if r.Generation != e.want {
			t.Errorf("edit %d: generation %d, want %d", i, r.Generation, e.want)
		}
		if i > 0 && string(r.UID) != uid || r.UID == "" {
			t.Errorf("edit %d: uid %q, before %q", i, r.UID, uid)
		}
		uid = string(r.UID)
	}
}

func TestGivenMetadataIsKept(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": strings.ReplaceAll(route, "  name: web\nspec", `  name: web
  namespace: shop
  uid: 1b4e28ba-2fa1-11d2-883f-0016d3cca427
  creationTimestamp: 2024-05-06T07:08:09Z
  resourceVersion: "12"
  managedFields: [{manager: kubectl, operation: Apply, apiVersion: gateway.networking.k8s.io/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {}}}]
spec`) + "status: {parents: []}\n"})
	set := f.good()
	r := set.HTTPRoutes[0]
	if r.Namespace != "shop" || r.UID != "1b4e28ba-2fa1-11d2-883f-0016d3cca427" || r.CreationTimestamp.UTC().Format("2006-01-02T15:04:05") != "2024-05-06T07:08:09" {
		t.Errorf("metadata: %+v", r.ObjectMeta)
	}
	if r.Kind != "" || r.APIVersion != "" {
		t.Errorf("type: %+v", r.TypeMeta)
	}
	if n := set.Namespaces; len(n) != 1 || n[0].Name != "shop" || n[0].Labels["kubernetes.io/metadata.name"] != "shop" {
		t.Errorf("namespaces: %+v", n)
	}
}
