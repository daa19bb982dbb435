package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Paths of the fake API server. That of a custom kind lacks its version.
const (
	namespaces  = "/api/v1/namespaces"
	services    = "/api/v1/services"
	pods        = "/api/v1/pods"
	endpoints   = "/apis/discovery.k8s.io/v1/endpointslices"
	httpRoutes  = "httproutes"
	grpcRoutes  = "grpcroutes"
	grants      = "referencegrants"
	daemonSets  = "/apis/apps/v1/namespaces/sluice-system/daemonsets"
	nodes       = "/api/v1/nodes"
	gatewayPath = "/apis/gateway.networking.k8s.io/"
)

// fakeAPI is an API server of what a Source asks for: lists, watches that go on from a version, watches that begin with
// a list, bookmarks, expired versions, discovery. It keeps objects as they are sent.
type fakeAPI struct {
	t *testing.T

	mu       sync.Mutex
	version  int
	tables   map[string]*fakeTable
	versions map[string][]string      // in which custom kinds are served
	refuse   func(*http.Request) int  // a status other than 0 is answered
	hidden   string                   // custom kind that discovery does not tell of
	hold     map[string]chan struct{} // by path's end; lists wait for it
	asked    map[string]int           // requests, by "list services"
	cut      chan struct{}            // closed to end all watches
	news     chan struct{}            // closed when there are new events
	noStream bool                     // watches that begin with a list are refused

	listener *pipeListener
	client   *http.Transport
	server   *http.Server
}

type fakeTable struct {
	kind    string
	objects map[string]fakeObject // by namespace/name
	events  []fakeEvent
	oldest  int // events up to this version are forgotten
}

type (
	fakeObject = map[string]any
	fakeEvent  struct {
		version int
		kind    string
		object  fakeObject
	}
)

func newFakeAPI(t *testing.T) *fakeAPI {
	f := &fakeAPI{
		t: t, tables: map[string]*fakeTable{}, hold: map[string]chan struct{}{}, asked: map[string]int{},
		cut: make(chan struct{}), news: make(chan struct{}),
		versions: map[string][]string{httpRoutes: {"v1", "v1beta1"}, grpcRoutes: {"v1"}, grants: {"v1", "v1beta1"}},
		listener: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	for path, kind := range map[string]string{
		namespaces: "Namespace", services: "Service", pods: "Pod", endpoints: "EndpointSlice", httpRoutes: "HTTPRoute",
		grpcRoutes: "GRPCRoute", grants: "ReferenceGrant", daemonSets: "DaemonSet", nodes: "Node",
	} {
		f.tables[path] = &fakeTable{kind: kind, objects: map[string]fakeObject{}}
	}
	f.server = &http.Server{Handler: f}
	f.client = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return f.listener.dial(ctx) }}
	go f.server.Serve(f.listener) //nolint:errcheck // it ends with the test
	t.Cleanup(f.close)
	return f
}

func (f *fakeAPI) close() {
	f.server.Close()
	f.client.CloseIdleConnections()
}

func (f *fakeAPI) config() *rest.Config {
	return &rest.Config{Host: "http://api.test", Transport: f.client}
}

// put makes an object, or a new version of one; it is given as JSON has it.
func (f *fakeAPI) put(path string, o any) {
	f.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		f.t.Fatal(err)
	}
	var object fakeObject
	if err := json.Unmarshal(text, &object); err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	table := f.tables[path]
	meta := object["metadata"].(map[string]any)
	meta["resourceVersion"] = strconv.Itoa(f.version)
	key, kind := keyOf(object), "ADDED"
	if _, there := table.objects[key]; there {
		kind = "MODIFIED"
	}
	table.objects[key] = object
	f.tell(table, kind, object)
}

func (f *fakeAPI) remove(path, namespace, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	table := f.tables[path]
	key := namespace + "/" + name
	object := maps.Clone(table.objects[key])
	if object == nil {
		f.t.Errorf("there is no %s in %s", key, path)
		return
	}
	meta := maps.Clone(object["metadata"].(map[string]any))
	meta["resourceVersion"] = strconv.Itoa(f.version)
	object["metadata"] = meta
	delete(table.objects, key)
	f.tell(table, "DELETED", object)
}

func (f *fakeAPI) tell(table *fakeTable, kind string, object fakeObject) {
	table.events = append(table.events, fakeEvent{f.version, kind, object})
	close(f.news)
	f.news = make(chan struct{})
}

// change changes how the server behaves.
func (f *fakeAPI) change(with func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	with()
}

// cutWatches ends all watches. After forget they cannot go on from where they were.
func (f *fakeAPI) cutWatches(forget bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
	if forget {
		f.version++
		for _, t := range f.tables {
			t.events, t.oldest = nil, f.version
		}
	}
}

func (f *fakeAPI) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[what]
}

func keyOf(o fakeObject) string {
	meta := o["metadata"].(map[string]any)
	return fmt.Sprintf("%v/%v", cmp.Or(meta["namespace"], any("")), meta["name"])
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	refuse := f.refuse
	f.mu.Unlock()
	if refuse != nil {
		if code := refuse(r); code != 0 {
			f.status(w, code, "refused by the test")
			return
		}
	}
	path, apiVersion, ok := f.resolve(w, r)
	if !ok {
		return
	}
	f.mu.Lock()
	table := f.tables[path]
	name := ""
	if table == nil {
		i := strings.LastIndex(path, "/")
		path, name = path[:max(0, i)], path[i+1:]
		table = f.tables[path]
	}
	hold := f.hold[path]
	f.mu.Unlock()
	verb := "list"
	switch {
	case name != "":
		verb = "get"
	case r.FormValue("watch") != "":
		verb = "watch"
	}
	f.mu.Lock()
	f.asked[verb+" "+path]++
	f.mu.Unlock()
	if table == nil {
		f.status(w, http.StatusNotFound, "the server could not find the requested resource")
		return
	}
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	a := &fakeAnswer{f, table, apiVersion, r, strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata")}
	switch verb {
	case "get":
		a.get(w, name)
	case "watch":
		a.watch(w)
	default:
		a.list(w)
	}
}

// resolve finds what a path means. It answers for discovery itself.
func (f *fakeAPI) resolve(w http.ResponseWriter, r *http.Request) (path, apiVersion string, ok bool) {
	path = r.URL.Path
	rest, custom := strings.CutPrefix(path, gatewayPath)
	if !custom {
		return path, strings.TrimPrefix(strings.TrimPrefix(path[:strings.LastIndex(path, "/")], "/apis/"), "/api/"), true
	}
	version, resource, found := strings.Cut(rest, "/")
	f.mu.Lock()
	defer f.mu.Unlock()
	if found {
		if !slices.Contains(f.versions[resource], version) {
			f.status(w, http.StatusNotFound, "the server could not find the requested resource")
			return "", "", false
		}
		return resource, "gateway.networking.k8s.io/" + version, true
	}
	f.asked["discovery"]++
	var list metav1.APIResourceList
	for resource, versions := range f.versions {
		if slices.Contains(versions, version) && resource != f.hidden {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: resource}, metav1.APIResource{Name: resource + "/status"})
		}
	}
	if len(list.APIResources) == 0 {
		f.status(w, http.StatusNotFound, "the server could not find the requested resource")
	} else {
		answer(w, http.StatusOK, list)
	}
	return "", "", false
}

func (f *fakeAPI) status(w http.ResponseWriter, code int, message string) {
	answer(w, code, statusOf(code, message))
}

func statusOf(code int, message string) metav1.Status {
	reason := map[int]metav1.StatusReason{
		400: metav1.StatusReasonBadRequest, 401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden,
		404: metav1.StatusReasonNotFound, 410: metav1.StatusReasonExpired, 503: metav1.StatusReasonServiceUnavailable,
	}[code]
	return metav1.Status{
		APIVersion: "v1", Kind: "Status", Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	}
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may have gone
}

// fakeAnswer is an answer to a request for a table.
type fakeAnswer struct {
	*fakeAPI
	table      *fakeTable
	apiVersion string
	r          *http.Request
	partial    bool // only metadata
}

// wire is an object as this request gets it.
func (a *fakeAnswer) wire(o fakeObject) fakeObject {
	o = maps.Clone(o)
	o["apiVersion"], o["kind"] = a.apiVersion, a.table.kind
	if a.partial {
		return fakeObject{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": o["metadata"]}
	}
	return o
}

// selected applies the field selectors that are asked for.
func (a *fakeAnswer) selected(o fakeObject) bool {
	field, value, _ := strings.Cut(a.r.FormValue("fieldSelector"), "=")
	switch field {
	case "metadata.name":
		return o["metadata"].(map[string]any)["name"] == value
	case "spec.nodeName":
		return o["spec"].(map[string]any)["nodeName"] == value
	}
	return true
}

func (a *fakeAnswer) get(w http.ResponseWriter, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, o := range a.table.objects {
		if strings.HasSuffix(key, "/"+name) {
			answer(w, http.StatusOK, a.wire(o))
			return
		}
	}
	a.status(w, http.StatusNotFound, "not found")
}

// all are the objects in the order of their names, and the version.
func (a *fakeAnswer) all() ([]fakeObject, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []fakeObject{}
	for _, key := range slices.Sorted(maps.Keys(a.table.objects)) {
		if o := a.table.objects[key]; a.selected(o) {
			items = append(items, a.wire(o))
		}
	}
	return items, a.version
}

func (a *fakeAnswer) list(w http.ResponseWriter) {
	items, version := a.all()
	kind, apiVersion := a.table.kind+"List", a.apiVersion
	if a.partial {
		kind, apiVersion = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	answer(w, http.StatusOK, map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"resourceVersion": strconv.Itoa(version)}, "items": items,
	})
}

func (a *fakeAnswer) watch(w http.ResponseWriter) {
	a.mu.Lock()
	cut, noStream, oldest := a.cut, a.noStream, a.table.oldest
	a.mu.Unlock()
	from, _ := strconv.Atoi(a.r.FormValue("resourceVersion"))
	initial := a.r.FormValue("sendInitialEvents") == "true"
	switch {
	case initial && noStream:
		a.status(w, http.StatusBadRequest, "sendInitialEvents is forbidden")
		return
	case !initial && from < oldest:
		a.status(w, http.StatusGone, "too old resource version")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	send := func(kind string, object any) bool {
		err := json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
	_ = http.NewResponseController(w).Flush() // a client that has gone is noticed below
	if initial {
		items, version := a.all()
		for _, o := range items {
			send("ADDED", o)
		}
		from = version
		send("BOOKMARK", a.wire(fakeObject{"metadata": map[string]any{
			"resourceVersion": strconv.Itoa(from), "annotations": map[string]any{metav1.InitialEventsAnnotationKey: "true"},
		}, "spec": map[string]any{}}))
	}
	for {
		a.mu.Lock()
		news, oldest := a.news, a.table.oldest
		var events []fakeEvent
		for _, e := range a.table.events {
			if e.version > from && a.selected(e.object) {
				events = append(events, e)
			}
		}
		a.mu.Unlock()
		if from < oldest {
			send("ERROR", statusOf(http.StatusGone, "too old resource version"))
			return
		}
		for _, e := range events {
			if !send(e.kind, a.wire(e.object)) {
				return
			}
			from = e.version
		}
		select {
		case <-news:
		case <-cut:
			return
		case <-a.r.Context().Done():
			return
		}
	}
}

// pipeListener accepts connections that are made in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	away bool // dials fail
	all  []net.Conn
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	l.mu.Lock()
	away := l.away
	l.mu.Unlock()
	if away {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		l.mu.Lock()
		l.all = append(l.all, ours, theirs)
		l.mu.Unlock()
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// setAway makes the server unreachable, or reachable again.
func (l *pipeListener) setAway(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
	if away {
		for _, c := range l.all {
			c.Close()
		}
		l.all = nil
	}
}
