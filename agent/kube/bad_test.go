package kube

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// edit replaces a part of a good object.
func edit(object string, oldnew ...string) string {
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(object, oldnew[i]) {
			panic("nothing to replace: " + oldnew[i])
		}
	}
	return strings.NewReplacer(oldnew...).Replace(object)
}

// badRoutes are new versions of a route, and what is said about each.
func badRoutes() map[string][2]string {
	const id = "HTTPRoute default/web: "
	return map[string][2]string{
		"YAML does not parse":   {edit(route, "weight: 90", "weight: [90"), "14: does not parse as YAML: did not find expected ',' or ']'; its objects stay as they were"},
		"not indented":          {edit(route, "    - path", "   - path"), "10: does not parse as YAML: did not find expected key"},
		"half a file":           {route[:strings.Index(route, "type:")+3], "does not parse as YAML"},
		"not UTF-8":             {edit(route, "/a", "\xff"), "does not parse as YAML"},
		"unknown alias":         {edit(route, "90", "*nowhere"), "does not parse as YAML: unknown anchor 'nowhere' referenced"},
		"duplicate key":         {edit(route, "      port: 80", "      port: 80\n      port: 81"), `14: ` + id + `the key "port" is here twice, first on line 13: remove one`},
		"merge key":             {edit(route, "      port: 80", "      <<: {port: 80}"), "13: " + id + "merge keys (<<) are not supported"},
		"tag":                   {edit(route, "90", "!!binary aGk="), "14: " + id + "the tag !!binary has no meaning here"},
		"infinity":              {edit(route, "90", ".inf"), "14: " + id + ".inf is no number that JSON has"},
		"unknown field":         {edit(route, "weight: 90", "wieght: 90"), "14: " + id + "spec.rules[0].backendRefs[0].wieght: unknown field"},
		"experimental field":    {edit(route, "    backendRefs:", "    sessionPersistence: {}\n    backendRefs:"), "11: " + id + "spec.rules[0].sessionPersistence: unknown field"},
		"unknown field at top":  {edit(route, "spec:", "data: {}\nspec:"), "5: " + id + "data: unknown field"},
		"unknown metadata":      {edit(route, "  name: web\nspec", "  name: web\n  label: {}\nspec"), "5: " + id + "metadata.label: unknown field"},
		"wrong case":            {edit(route, "backendRefs", "backendrefs"), "11: " + id + "spec.rules[0].backendrefs: unknown field"},
		"wrong type":            {edit(route, "port: 80", "port: http"), `13: ` + id + `spec.rules[0].backendRefs[0].port: Invalid value: "string": spec.rules[0].backendRefs[0].port in body must be of type integer: "string"`},
		"YAML 1.1 boolean":      {edit(route, "value: /a", "value: on"), `10: ` + id + `spec.rules[0].matches[0].path.value: Invalid value: "boolean"`},
		"metadata's type":       {edit(route, "  name: web\nspec", "  name: web\n  labels: [a]\nspec"), "5: " + id + "metadata.labels: must be map[string]string, is array"},
		"label":                 {edit(route, "  name: web\nspec", "  name: web\n  labels:\n    a.b/c: '!'\nspec"), `5: ` + id + `metadata.labels: Invalid value: "!"`},
		"required":              {edit(route, "    - name: web\n      port: 80", "    - port: 80"), "12: " + id + "spec.rules[0].backendRefs[0].name: Required value"},
		"maximum":               {edit(route, "90", "1000001"), "14: " + id + "spec.rules[0].backendRefs[0].weight: Invalid value: 1000001: spec.rules[0].backendRefs[0].weight in body should be less than or equal to 1000000"},
		"enum":                  {edit(route, "PathPrefix", "Prefix"), `10: ` + id + `spec.rules[0].matches[0].path.type: Unsupported value: "Prefix"`},
		"too many":              {edit(route, "  - {group: \"\", kind: Service, name: web}\n", strings.Repeat("  - {name: web}\n", 33)), "6: " + id + "spec.parentRefs: Too many: 33"},
		"CEL: path (M-14)":      {edit(route, "value: /a", "value: a"), `10: ` + id + `spec.rules[0].matches[0].path: Invalid value: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']`},
		"CEL: port (A-70)":      {edit(route, "      port: 80\n", ""), "12: " + id + "spec.rules[0].backendRefs[0]: Invalid value: Must have port for Service reference"},
		"CEL: parentRefs (A-9)": {edit(route, "  rules:", "  - {group: '', kind: Service, name: web, port: 80}\n  rules:"), "6: " + id + "spec.parentRefs: Invalid value: sectionName must be unique when parentRefs includes 2 or more references to the same parent"},
		"version":               {edit(route, "k8s.io/v1", "k8s.io/v1alpha2"), `2: ` + id + `version "v1alpha2" of HTTPRoute is not served: use v1 or v1beta1`},
		"kind":                  {edit(route, "HTTPRoute", "HttpRoute"), `2: "gateway.networking.k8s.io/v1" has no kind "HttpRoute": correct apiVersion or kind`},
		"no kind":               {edit(route, "kind: HTTPRoute\n", ""), "1: apiVersion or kind is missing, or is no string"},
		"no name":               {edit(route, "  name: web\nspec", "  generateName: web\nspec"), "1: metadata.name is missing, or is no string"},
		"no object":             {"- a\n", "1: this is no object"},
		"nested too deep":       {edit(route, "90", strings.Repeat("[", 100)+strings.Repeat("]", 100)), "14: " + id + "values are nested more than 64 deep"},
		"aliases grow":          {bomb(), "object has more than 1048576 values"},
	}
}

// bomb is a small object that grows to a thousand million values when its aliases are written out.
func bomb() string {
	b := edit(route, "weight: 90", "weight: *i") + "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n"
	for _, k := range "bcdefghi" {
		b += string(k) + ": &" + string(k) + " [" + strings.Repeat("*"+string(k-1)+", ", 10) + "]\n"
	}
	return strings.Replace(b, "*i", "90", 1)
}

// Each kind of badness is told with file and line; the last good version of the object serves on, every other object
// counts, and all is well when it is corrected.
func TestBadInput(t *testing.T) {
	for name, c := range badRoutes() {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{"routes/a.yaml": route, "b.yaml": service})
			before := f.good().HTTPRoutes[0]
			f.write("routes/a.yaml", c[0])
			f.write("b.yaml", edit(service, "10.0.0.1", "10.0.0.2"))
			for range 2 { // once more: the file has not changed
				set, problems := f.load()
				if !slices.ContainsFunc(problems, func(p string) bool {
					return strings.HasPrefix(p, "routes/a.yaml:") && strings.Contains(p, c[1])
				}) {
					t.Errorf("problems %q, want one with %q", problems, c[1])
				}
				if len(set.HTTPRoutes) != 1 || set.HTTPRoutes[0] != before {
					t.Errorf("the last good version does not serve: %s", names(set))
				}
				if got := set.Services[0].Spec.ClusterIP; got != "10.0.0.2" {
					t.Errorf("the other object does not count: its address is %s", got)
				}
			}
			f.write("routes/a.yaml", edit(route, "90", "10"))
			if got := weight(f.good(), "web"); got != 10 {
				t.Errorf("weight %d after the correction, want 10", got)
			}
		})
	}
}

// What was never good does not serve, and takes nothing with it.
func TestBadFromTheStart(t *testing.T) {
	for name, c := range badRoutes() {
		f := newFolder(t, map[string]string{"a.yaml": c[0], "b.yaml": service})
		set, problems := f.load()
		if got := names(set); got != "svc/default/web" || len(problems) == 0 {
			t.Errorf("%s: got %s, problems %q", name, got, problems)
		}
	}
}

func TestBadServicesPodsAndSlices(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: c\n    ports:\n    - containerPort: 80\nstatus:\n  podIPs:\n  - ip: 10.1.0.1\n"
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s\naddressType: IPv4\nendpoints:\n- addresses: [10.1.0.1]\nports:\n- port: 80\n"
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns\n"
	for name, c := range map[string][2]string{
		"unknown field":       {edit(service, "clusterIP", "clusterIp"), "6: Service default/web: spec.clusterIp: unknown field"},
		"type":                {edit(service, "port: 80", "port: http"), "8: Service default/web: spec.ports.port: must be int32, is string"},
		"type, nested":        {edit(service, "  - port: 80", "  - port: 80\n  - name: [a]"), "9: Service default/web: spec.ports.name: must be string, is array"},
		"port number":         {edit(service, "port: 80", "port: 0"), "8: Service default/web: spec.ports[0].port: Invalid value: 0"},
		"port name":           {edit(service, "port: 80", "port: 80\n  - port: 81"), "9: Service default/web: spec.ports[1].name: Required value"},
		"port twice":          {edit(service, "port: 80", "port: 80\n    name: a\n  - port: 80\n    name: b"), "10: Service default/web: spec.ports[1]: Duplicate value: \"80/TCP\""},
		"port name twice":     {edit(service, "port: 80", "port: 80\n    name: a\n  - port: 81\n    name: a"), "11: Service default/web: spec.ports[1].name: Duplicate value"},
		"protocol":            {edit(service, "port: 80", "port: 80\n    protocol: tcp"), "9: Service default/web: spec.ports[0].protocol: Unsupported value: \"tcp\""},
		"targetPort":          {edit(service, "port: 80", "port: 80\n    targetPort: Http"), "9: Service default/web: spec.ports[0].targetPort: Invalid value"},
		"no ports":            {edit(service, "  ports:\n  - port: 80\n", ""), "5: Service default/web: spec.ports: Required value"},
		"service type":        {edit(service, "  ports", "  type: Cluster\n  ports"), "7: Service default/web: spec.type: Unsupported value"},
		"no external name":    {edit(service, "  clusterIP: 10.0.0.1", "  type: ExternalName"), "5: Service default/web: spec.externalName: Invalid value"},
		"external and IP":     {edit(service, "  ports", "  type: ExternalName\n  externalName: a.b\n  ports"), "spec.clusterIPs: Forbidden"},
		"clusterIP":           {edit(service, "10.0.0.1", "10.0.0.256"), "spec.clusterIPs[0]: Invalid value: \"10.0.0.256\""},
		"clusterIP, zeros":    {edit(service, "10.0.0.1", "10.0.0.01"), "spec.clusterIPs[0]: Invalid value: \"10.0.0.01\""},
		"clusterIP in IPv6":   {edit(service, "10.0.0.1", "'::ffff:10.0.0.1'"), "must not be an IPv4 address written as IPv6"},
		"clusterIPs":          {edit(service, "clusterIP: 10.0.0.1", "clusterIPs: [10.0.0.1, 10.0.0.2]"), "6: Service default/web: spec.clusterIPs: Invalid value"},
		"clusterIPs, order":   {edit(service, "10.0.0.1", "10.0.0.1\n  clusterIPs: ['fd00::1', 10.0.0.1]"), "6: Service default/web: spec.clusterIP: Invalid value"},
		"service name":        {edit(service, "name: web", "name: we.b"), "4: Service default/we.b: metadata.name: Invalid value"},
		"appProtocol":         {edit(service, "port: 80", "port: 80\n    appProtocol: a b"), "9: Service default/web: spec.ports[0].appProtocol: Invalid value"},
		"pod IP":              {edit(pod, "10.1.0.1", "10.1.0"), "12: Pod default/p: status.podIPs[0].ip: Invalid value"},
		"podIP and podIPs":    {edit(pod, "  podIPs", "  podIP: 10.1.0.2\n  podIPs"), "11: Pod default/p: status.podIP: Invalid value"},
		"container port":      {edit(pod, "containerPort: 80", "containerPort: 65536"), "9: Pod default/p: spec.containers[0].ports[0].containerPort: Invalid value"},
		"container port name": {edit(pod, "containerPort: 80", "containerPort: 80\n      name: A"), "10: Pod default/p: spec.containers[0].ports[0].name: Invalid value"},
		"quantity":            {edit(pod, "  - name: c", "  - name: c\n    resources: {limits: {cpu: x}}"), "Pod default/p: quantities must match the regular expression"},
		"addressType":         {edit(slice, "IPv4", "IP4"), "5: EndpointSlice default/s: addressType: Unsupported value"},
		"no addressType":      {edit(slice, "addressType: IPv4\n", ""), "1: EndpointSlice default/s: addressType: Required value"},
		"family":              {edit(slice, "10.1.0.1", "'fd00::1'"), "7: EndpointSlice default/s: endpoints[0].addresses[0]: Invalid value"},
		"no address":          {edit(slice, "[10.1.0.1]", "[]"), "7: EndpointSlice default/s: endpoints[0].addresses: Required value"},
		"zone":                {edit(slice, "10.1.0.1", "fe80::1%eth0", "IPv4", "IPv6"), "must not have a zone"},
		"slice port":          {edit(slice, "port: 80", "port: 80\n- port: 81"), "10: EndpointSlice default/s: ports[1].name: Duplicate value"},
		"slice port name":     {edit(slice, "port: 80", "port: 80\n  name: A"), "10: EndpointSlice default/s: ports[0].name: Invalid value"},
		"namespaced":          {edit(namespace, "  name: ns", "  name: ns\n  namespace: m"), "5: Namespace ns: metadata.namespace: Forbidden"},
		"namespace's name":    {edit(route, "  name: web\nspec", "  name: web\n  namespace: a_b\nspec"), `5: HTTPRoute a_b/web: metadata.namespace: Invalid value: "a_b"`},
		"list items":          {"apiVersion: v1\nkind: List\nitems: {}\n", "3: List: items is no list"},
		"list field":          {"apiVersion: v1\nkind: List\nitem: []\n", "3: List: item: unknown field"},
	} {
		f := newFolder(t, map[string]string{"a.yaml": c[0]})
		set, problems := f.load()
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, "a.yaml:") && strings.Contains(p, c[1]) }) {
			t.Errorf("%s: problems %q, want one with %q", name, problems, c[1])
		}
		if got := names(set); got != "" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	for name, good := range map[string]string{"service": service, "pod": pod, "slice": slice, "namespace": namespace} {
		if _, problems := newFolder(t, map[string]string{"a.yaml": good}).load(); len(problems) > 0 {
			t.Errorf("good %s: %q", name, problems)
		}
	}
}

func TestKindsThatAreNotRead(t *testing.T) {
	for object, want := range map[string]string{
		"gateway.networking.k8s.io/v1 TCPRoute":         "TCPRoute is not supported yet, ignored",
		"gateway.networking.k8s.io/v1 TLSRoute":         "TLSRoute is not supported yet, ignored",
		"gateway.networking.k8s.io/v1 Gateway":          "Gateway is not supported yet, ignored",
		"gateway.networking.x-k8s.io/v1alpha1 XBackend": "XBackend is not supported yet, ignored",
		"apps/v1 Deployment":                            "Deployment of apps/v1 is of no use to Sluice, ignored",
		"v1 ConfigMap":                                  "ConfigMap is of no use to Sluice, ignored",
		"example.org/v1 Service":                        "Service of example.org/v1 is of no use to Sluice, ignored",
	} {
		apiVersion, kind, _ := strings.Cut(object, " ")
		f := newFolder(t, map[string]string{"a.yaml": service + "---\napiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: x, namespace: y}\nany: thing\n"})
		set, problems := f.load()
		if want = "a.yaml:11: " + kind + " y/x: " + want; len(problems) != 1 || problems[0] != want {
			t.Errorf("%s: problems %q, want %q", object, problems, want)
		}
		if got := names(set); got != "svc/default/web" {
			t.Errorf("%s: got %s", object, got)
		}
		f.write("a.yaml", "apiVersion: "+apiVersion+"\nkind: "+kind+"\n")
		if set, _ := f.load(); names(set) != "" { // it is no new version of the Service
			t.Errorf("%s: got %s after the Service was removed", object, names(set))
		}
	}
}

// One object that cannot be told, in a file of several: those that may be meant stay, those that are there count.
func TestObjectsThatMayOnlyBeMisspeltAreKept(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service + "---\n" + route})
	f.good()
	f.write("a.yaml", edit(service, "10.0.0.1", "10.0.0.2")+"---\n"+edit(route, "kind: HTTPRoute", "knd: HTTPRoute"))
	set, _ := f.load()
	if got := names(set); got != "svc/default/web route/default/web" || set.Services[0].Spec.ClusterIP != "10.0.0.2" {
		t.Errorf("got %s, address %s", got, set.Services[0].Spec.ClusterIP)
	}
}

// A file that does not parse keeps what it had, and what stands before the error does not count: it may be half.
func TestFileThatDoesNotParseKeepsAllItHad(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service + "---\n" + route})
	f.good()
	f.write("a.yaml", edit(service, "10.0.0.1", "10.0.0.2")+"---\n"+route+"\t: [")
	set, problems := f.load()
	if got := names(set); got != "svc/default/web route/default/web" || set.Services[0].Spec.ClusterIP != "10.0.0.1" {
		t.Errorf("got %s, address %s", got, set.Services[0].Spec.ClusterIP)
	}
	if len(problems) != 1 {
		t.Errorf("problems: %q", problems)
	}
	f.remove("a.yaml")
	if got := names(f.good()); got != "" {
		t.Errorf("got %s after the file was removed", got)
	}
}

// A bad version moves to another file: it is still the same object.
func TestLastGoodVersionServesFromAnotherFile(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": route})
	f.good()
	f.remove("a.yaml")
	f.write("b.yaml", edit(route, "90", "-1"))
	set, problems := f.load()
	if weight(set, "web") != 90 || len(problems) != 1 {
		t.Errorf("weight %d, problems %q", weight(set, "web"), problems)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service, "sub/b.yaml": route})
	f.good()
	huge := filepath.Join(f.dir, "a.yaml")
	if err := os.Truncate(huge, maxFileSize+1); err != nil { // a hole: it takes no room
		t.Fatal(err)
	}
	// A name that is too long to follow stands for whatever else keeps a folder from being looked at, also as root.
	f.remove("sub")
	if err := os.Symlink("sub", filepath.Join(f.dir, "sub")); err != nil {
		t.Fatal(err)
	}
	set, problems := f.load()
	want := []string{"a.yaml: cannot be read: larger than 64 MiB: split it", "sub: cannot be read: "}
	for i, w := range want {
		if len(problems) != len(want) || !strings.HasPrefix(problems[i], w) {
			t.Fatalf("problems %q, want %q", problems, want)
		}
	}
	if got := names(set); got != "svc/default/web route/default/web" {
		t.Errorf("got %s", got)
	}
	f.remove("sub")
	f.write("sub/b.yaml", edit(route, "90", "80"))
	f.write("a.yaml", service)
	if got := weight(f.good(), "web"); got != 80 {
		t.Errorf("weight %d, want 80", got)
	}
}

func TestFaultsOfOneObjectAreBounded(t *testing.T) {
	f := newFolder(t, map[string]string{"a.yaml": service + strings.Repeat("  - port: 0\n", 50)})
	_, problems := f.load()
	if len(problems) != maxFaults+1 || !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, "more like these") }) {
		t.Errorf("%d problems: %q", len(problems), problems)
	}
}
