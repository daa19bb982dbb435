package forward

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// form is what a client and an endpoint speak.
type form struct {
	name             string
	client, endpoint versions
	says             string // of the endpoint: its appProtocol
}

// inAllForms runs a test for the four that there are.
func inAllForms(t *testing.T, test func(t *testing.T, f form)) {
	for _, f := range []form{
		{"1 to 1", onlyHTTP1, onlyHTTP1, "kubernetes.io/ws"},
		{"1 to 2", onlyHTTP1, onlyHTTP2, "kubernetes.io/h2c"},
		{"2 to 1", onlyHTTP2, onlyHTTP1, "kubernetes.io/ws"},
		{"2 to 2", onlyHTTP2, onlyHTTP2, "kubernetes.io/h2c"},
	} {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// formed is a lab in one of the forms, whose endpoint has a handler.
type formed struct {
	*lab
	form
	backend *stdBackend
	http    *http.Client
}

func (f form) lab(t *testing.T, table *model.RouteTable, handler http.HandlerFunc) *formed {
	t.Helper()
	l := newLab(t, table, Limits{})
	x := &formed{lab: l, form: f, backend: newStdBackend(t, f.endpoint, handler), http: l.httpClient(f.client)}
	l.appProtocol(webKey, f.says, x.backend.addr)
	return x
}

// outcome is what a client got.
type outcome struct {
	status int
	header http.Header
	body   string
	err    error // of all of it
	reused bool  // the connection was used before
}

// ask makes a request, whose fields are "Name: value".
func (x *formed) ask(method, path, body string, fields ...string) outcome {
	x.tb.Helper()
	var send io.Reader
	if body != "" {
		send = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(x.tb.Context(), method, "http://web"+path, send)
	if err != nil {
		x.tb.Fatal(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Add(name, value)
	}
	return x.do(req)
}

func (x *formed) do(req *http.Request) (r outcome) {
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { r.reused = i.Reused },
	}))
	redirects := x.http.CheckRedirect
	x.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := x.http.Do(req)
	x.http.CheckRedirect = redirects
	if err != nil {
		r.err = err
		return r
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r.status, r.header, r.body, r.err = resp.StatusCode, resp.Header, string(b), err
	return r
}

// want: the answer is that one, and whole.
func (r outcome) want(t *testing.T, status int, body string) {
	t.Helper()
	if r.err != nil || r.status != status || !strings.Contains(r.body, body) {
		t.Fatalf("the answer is %d %.100q, %v: want %d with %q", r.status, r.body, r.err, status, body)
	}
}

// wantRecord: the exchange was recorded with that failure after so many attempts.
func (l *lab) wantRecord(status int, failure string, attempts int) {
	l.tb.Helper()
	if r := l.record(); r.Status != status || r.Failure != failure || r.Attempts != attempts {
		l.tb.Errorf("recorded as %d %q after %d attempts, want %d %q after %d", r.Status, r.Failure, r.Attempts, status, failure, attempts)
	}
}

// within is the time that a rule gives.
func within(request, backend time.Duration) model.Timeouts {
	return model.Timeouts{Request: model.Duration(request), BackendRequest: model.Duration(backend)}
}

// again is a rule's retry with hardly any backoff.
func again(attempts int, codes ...int) *model.Retry {
	return &model.Retry{Attempts: attempts, Codes: codes, Backoff: model.Duration(time.Millisecond)}
}

// policed is a table whose only rule has policies.
func policed(timeouts model.Timeouts, retry *model.Retry, filters ...model.Filter) *model.RouteTable {
	r := ruleFor("/", to(webKey))
	r.Timeouts, r.Retry, r.Filters = timeouts, retry, filters
	return routes(r)
}

// forever keeps a handler until its client is gone, which a server of HTTP/1.1 notices once it has read the body.
func forever(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}
