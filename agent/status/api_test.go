package status

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// api is an API server in memory, reached without a socket, so that it works in a bubble of synctest. It keeps objects
// as they were written, field for field, and does with versions, generations and the status subresource what a real one
// does. What it does not know is an error.
type api struct {
	t       *testing.T
	latency time.Duration

	mu       sync.Mutex
	version  int
	objects  map[string]object // by path
	missing  map[string]bool   // kinds that are not served, by their plural
	watches  map[*watcher]bool
	history  []happening
	requests []request
	before   func(request) *metav1.Status // may answer instead; called without the lock
}

type object = map[string]any

type request struct {
	Method, Path string
	Body         []byte
	At           time.Time
}

type happening struct {
	version     int
	event, kind string
	object      object
}

type watcher struct {
	kind, selector string
	events         chan []byte
}

func newAPI(t *testing.T) *api {
	return &api{t: t, objects: map[string]object{}, missing: map[string]bool{}, watches: map[*watcher]bool{}}
}

func (a *api) config() *rest.Config {
	c := &rest.Config{Host: "http://api.invalid", Transport: a}
	c.ContentType, c.AcceptContentTypes = "application/json", "application/json"
	return c
}

func (a *api) clients() Clients {
	a.t.Helper()
	c, err := NewClients(a.config())
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// RoundTrip implements http.RoundTripper.
func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	if a.latency > 0 {
		select {
		case <-time.After(a.latency):
		case <-r.Context().Done():
		}
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	req := request{r.Method, r.URL.Path, body, time.Now()}
	a.mu.Lock()
	a.requests = append(a.requests, req)
	before := a.before
	a.mu.Unlock()
	if before != nil {
		if status := before(req); status != nil {
			return answer(int(status.Code), status), nil
		}
	}
	if r.URL.Query().Get("watch") != "" {
		return a.watch(r), nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	code, result := a.do(req, r.URL.Query())
	return answer(code, result), nil
}

func answer(code int, v any) *http.Response {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(text))),
	}
}

func failure(code int, reason metav1.StatusReason, format string, args ...any) (int, any) {
	return code, refusal(code, reason, fmt.Sprintf(format, args...))
}

func refusal(code int, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		Kind: "Status", APIVersion: "v1", Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}
}

// target splits a path: /apis/GROUP/VERSION[/namespaces/NS]/KIND[/NAME[/status]].
func (a *api) target(path string) (kind, collection, name, sub string) {
	parts := strings.Split(strings.TrimPrefix(path, "/apis/"), "/")
	at := 2
	if len(parts) > 3 && parts[2] == "namespaces" {
		at = 4
	}
	kind = parts[at]
	collection = "/apis/" + strings.Join(parts[:at+1], "/")
	if rest := parts[at+1:]; len(rest) > 0 {
		name = rest[0]
		sub = strings.Join(rest[1:], "/")
	}
	return kind, collection, name, sub
}

// do serves a request. The lock is held.
func (a *api) do(r request, query url.Values) (int, any) {
	kind, collection, name, sub := a.target(r.Path)
	if a.missing[kind] {
		return failure(404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
	switch r.Method {
	case http.MethodGet:
		if name == "" {
			return 200, a.list(kind, collection, query)
		}
	case http.MethodPost:
		return a.create(kind, collection, r.Body)
	}
	path := collection + "/" + name
	old := a.objects[path]
	if old == nil {
		return failure(404, metav1.StatusReasonNotFound, "%s %q not found", kind, name)
	}
	switch r.Method {
	case http.MethodGet:
		return 200, old
	case http.MethodPut:
		return a.replace(path, kind, sub, old, decodeObject(r.Body))
	case http.MethodPatch:
		patch, err := jsonpatch.DecodePatch(r.Body)
		if err != nil {
			return failure(400, metav1.StatusReasonBadRequest, "%v", err)
		}
		text, err := patch.Apply(encodeObject(old))
		if err != nil {
			return failure(422, metav1.StatusReasonInvalid, "%v", err)
		}
		return a.replace(path, kind, sub, old, decodeObject(text))
	case http.MethodDelete:
		var o metav1.DeleteOptions
		_ = json.Unmarshal(r.Body, &o)
		if p := o.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion != field(old, "metadata", "resourceVersion") {
			return failure(409, metav1.StatusReasonConflict, "the version is another")
		}
		delete(a.objects, path)
		a.version++
		a.tell("DELETED", kind, old)
		return 200, old
	}
	return failure(405, metav1.StatusReasonMethodNotAllowed, "%s is not known here", r.Method)
}

func (a *api) create(kind, collection string, body []byte) (int, any) {
	o := decodeObject(body)
	m := metadata(o)
	if m["name"] == nil {
		if prefix, _ := m["generateName"].(string); !strings.HasSuffix(prefix, "-") || len(prefix) > 248 {
			return failure(422, metav1.StatusReasonInvalid, "generateName %q makes no name", prefix)
		}
		m["name"] = fmt.Sprintf("%s%d", m["generateName"], a.version)
	}
	o["kind"], o["apiVersion"] = typeOf(kind, collection)
	path := collection + "/" + m["name"].(string)
	if a.objects[path] != nil {
		return failure(409, metav1.StatusReasonAlreadyExists, "%s is there", path)
	}
	if parts := strings.Split(collection, "/"); len(parts) > 6 {
		m["namespace"] = parts[5]
	}
	a.version++
	m["uid"], m["generation"], m["resourceVersion"] = "uid-"+strconv.Itoa(a.version), 1.0, strconv.Itoa(a.version)
	a.objects[path] = o
	a.tell("ADDED", kind, o)
	return 201, o
}

// replace is an update. A status is changed through its subresource and by nothing else.
func (a *api) replace(path, kind, sub string, old, next object) (int, any) {
	if v := field(next, "metadata", "resourceVersion"); v != "" && v != field(old, "metadata", "resourceVersion") {
		return failure(409, metav1.StatusReasonConflict, "the object has been modified")
	}
	result := decodeObject(encodeObject(old))
	if sub == "status" {
		if parents, ok := next["status"].(object); ok && strings.HasSuffix(kind, "routes") {
			if list, ok := parents["parents"].([]any); !ok || len(list) > maxParents {
				return failure(422, metav1.StatusReasonInvalid, "status.parents is not a list of at most %d", maxParents)
			}
		}
		result["status"] = next["status"]
	} else {
		status, generation := old["status"], metadata(old)["generation"]
		result = next
		metadata(result)["uid"], metadata(result)["generation"] = metadata(old)["uid"], generation
		if kind != "leases" {
			if delete(result, "status"); status != nil {
				result["status"] = status
			}
			if string(encodeObject(result["spec"])) != string(encodeObject(old["spec"])) {
				metadata(result)["generation"] = generation.(float64) + 1
			}
		}
	}
	metadata(result)["resourceVersion"] = field(old, "metadata", "resourceVersion")
	if string(encodeObject(result)) == string(encodeObject(old)) {
		return 200, old // a no-op makes no version
	}
	a.version++
	metadata(result)["resourceVersion"] = strconv.Itoa(a.version)
	a.objects[path] = result
	a.tell("MODIFIED", kind, result)
	return 200, result
}

func (a *api) list(kind, collection string, query url.Values) any {
	items := []object{}
	for _, path := range slices.Sorted(maps.Keys(a.objects)) {
		k, c, _, _ := a.target(path)
		if k == kind && (c == collection || !strings.Contains(collection, "/namespaces/")) && selected(a.objects[path], query.Get("labelSelector")) {
			items = append(items, a.objects[path])
		}
	}
	meta := object{"resourceVersion": strconv.Itoa(a.version)}
	from, _ := strconv.Atoi(query.Get("continue"))
	items = items[min(from, len(items)):]
	if limit, _ := strconv.Atoi(query.Get("limit")); limit > 0 && len(items) > limit {
		items, meta["continue"] = items[:limit], strconv.Itoa(from+limit)
	}
	name, version := typeOf(kind, collection)
	return object{"kind": name + "List", "apiVersion": version, "metadata": meta, "items": items}
}

// typeOf is what objects of a kind say they are.
func typeOf(kind, collection string) (name, apiVersion string) {
	names := map[string]string{"leases": "Lease", "events": "Event", "xmeshes": "XMesh", "httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute"}
	parts := strings.Split(collection, "/")
	return names[kind], parts[2] + "/" + parts[3]
}

func selected(o object, selector string) bool {
	s, err := labels.Parse(selector)
	if err != nil {
		panic(err)
	}
	set := labels.Set{}
	if all, ok := metadata(o)["labels"].(object); ok {
		for k, v := range all {
			set[k] = v.(string)
		}
	}
	return s.Matches(set)
}

// watch streams what happens from now on. Lists as streams are refused, as by an old server.
func (a *api) watch(r *http.Request) *http.Response {
	kind, _, _, _ := a.target(r.URL.Path)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.missing[kind] {
		return answer(failure(404, metav1.StatusReasonNotFound, "the server could not find the requested resource"))
	}
	if r.URL.Query().Get("sendInitialEvents") != "" {
		return answer(failure(422, metav1.StatusReasonInvalid, "sendInitialEvents is not known"))
	}
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return answer(failure(400, metav1.StatusReasonBadRequest, "%v", err))
	}
	w := &watcher{kind: kind, selector: r.URL.Query().Get("labelSelector"), events: make(chan []byte, 10000)}
	a.watches[w] = true
	for _, h := range a.history {
		if h.version > from {
			w.tell(h)
		}
	}
	reader, writer := io.Pipe()
	go func() {
		defer writer.Close()
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.watches, w)
		}()
		for {
			select {
			case <-r.Context().Done():
				return
			case e, open := <-w.events:
				if !open {
					return
				}
				if _, err := writer.Write(e); err != nil {
					return
				}
			}
		}
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: reader}
}

// tell keeps an event and streams it to those who watch. The lock is held.
func (a *api) tell(event, kind string, o object) {
	h := happening{a.version, event, kind, o}
	if kind != "httproutes" && kind != "grpcroutes" { // nobody watches those here
		a.history = append(a.history, h)
	}
	for w := range a.watches {
		w.tell(h)
	}
}

func (w *watcher) tell(h happening) {
	if w.kind == h.kind && selected(h.object, w.selector) {
		w.events <- append(encodeObject(object{"type": h.event, "object": h.object}), '\n')
	}
}

func metadata(o object) object {
	m, ok := o["metadata"].(object)
	if !ok {
		m = object{}
		o["metadata"] = m
	}
	return m
}

// field is a string in an object, "" where it is not there.
func field(o object, path ...string) string {
	var at any = o
	for _, p := range path {
		m, ok := at.(object)
		if !ok {
			return ""
		}
		at = m[p]
	}
	s, _ := at.(string)
	return s
}

func decodeObject(text []byte) object {
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		panic(fmt.Sprintf("%v: %s", err, text))
	}
	return o
}

func encodeObject(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// put makes or replaces an object from JSON, with its status, as if by other people.
func (a *api) put(path, text string) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	o := decodeObject([]byte(text))
	kind, collection, name, _ := a.target(path)
	metadata(o)["name"] = name
	status := o["status"]
	if a.objects[path] == nil {
		a.create(kind, collection, encodeObject(o))
		return
	}
	old := a.objects[path]
	next := decodeObject(encodeObject(old))
	next["spec"] = o["spec"]
	metadata(next)["resourceVersion"] = ""
	a.replace(path, kind, "", old, next)
	if status != nil {
		next["status"] = status
		a.replace(path, kind, "status", a.objects[path], next)
	}
}

// edit changes an object through a function, as somebody else would.
func (a *api) edit(path, sub string, change func(object)) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.objects[path]
	if old == nil {
		a.t.Fatalf("%s is not there", path)
	}
	next := decodeObject(encodeObject(old))
	change(next)
	kind, _, _, _ := a.target(path)
	if code, result := a.replace(path, kind, sub, old, next); code != 200 {
		a.t.Fatalf("edit %s: %d %v", path, code, result)
	}
}

func (a *api) delete(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.do(request{Method: http.MethodDelete, Path: path}, nil)
}

// get returns an object, nil where there is none.
func (a *api) get(path string) object {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[path]; o != nil {
		return decodeObject(encodeObject(o))
	}
	return nil
}

// all returns the objects of a kind.
func (a *api) all(kind string) []object {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []object
	for _, path := range slices.Sorted(maps.Keys(a.objects)) {
		if k, _, _, _ := a.target(path); k == kind {
			all = append(all, decodeObject(encodeObject(a.objects[path])))
		}
	}
	return all
}

// sent returns the requests with that method whose path contains that.
func (a *api) sent(method, in string) []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []request
	for _, r := range a.requests {
		if r.Method == method && strings.Contains(r.Path, in) {
			all = append(all, r)
		}
	}
	return all
}

func (a *api) intercept(f func(request) *metav1.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.before = f
}

// serve adds a kind that was not served.
func (a *api) serve(kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.missing, kind)
}

var _ http.RoundTripper = (*api)(nil)

// background is a context that ends with the test.
func background(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}
