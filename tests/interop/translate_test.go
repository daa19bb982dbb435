package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// exchange is a request, what the backend does with it, and what the client has to get; the same over every combination of
// versions.
type exchange struct {
	name    string
	handler http.HandlerFunc
	client  func(t *testing.T, c *http.Client, url string) error
}

// a client that speaks HTTP/1.1 or HTTP/2 and a backend that speaks HTTP/1.1 or HTTP/2 only do not notice that the
// other speaks another version.
func TestFourCombinations(t *testing.T) {
	for _, combination := range []struct{ client, backend int }{{1, 1}, {1, 2}, {2, 1}, {2, 2}} {
		if direct() && combination.client != combination.backend {
			continue // nobody translates
		}
		t.Run(fmt.Sprintf("HTTP %d to HTTP %d", combination.client, combination.backend), func(t *testing.T) {
			combine(t, combination.client, combination.backend)
		})
	}
}

func combine(t *testing.T, client, backend int) {
	s := service{name: "web", pods: []string{"one"}, targetPort: http1Port, kind: "HTTPRoute", appProtocol: "http"}
	if backend == 2 {
		s.targetPort, s.appProtocol = http2Port, "kubernetes.io/h2c"
	}
	m := start(t, s)
	exchanges := allExchanges()
	m.serveHTTP("one", backend, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(strings.Split(r.URL.Path, "/")[1]) // no ServeMux, which redirects from strange paths
		if err != nil || r.ProtoMajor != backend {
			t.Errorf("the backend got %s %s: %v", r.RequestURI, r.Proto, err)
			return
		}
		exchanges[i].handler(w, r)
	}))
	for i, e := range exchanges {
		t.Run(e.name, func(t *testing.T) {
			c := m.httpClient(t, client)
			for range 2 { // the second time a connection may be used again
				if err := e.client(t, c, fmt.Sprintf("http://%s/%d/", m.target("web"), i)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if direct() {
		return
	}
	if n := m.metric("sluice_requests_total"); n < float64(2*len(exchanges)) {
		t.Errorf("the proxy had %v requests, and each of %d exchanges has two", n, len(exchanges))
	}
}

// versioned checks which version the answers come in.
type versioned struct {
	*http.Transport
	major int
}

func (v versioned) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := v.Transport.RoundTrip(r)
	if err == nil && resp.ProtoMajor != v.major {
		resp.Body.Close()
		return nil, fmt.Errorf("the answer is %s", resp.Proto)
	}
	return resp, err
}

// httpClient is a client in the client's pod that speaks one version of HTTP.
func (m *mesh) httpClient(t *testing.T, version int) *http.Client {
	tr := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, ExpectContinueTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return m.dialer.dial(ctx, addr) },
	}
	if version == 1 {
		tr.Protocols.SetHTTP1(true)
	} else {
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: versioned{tr, version}, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func allExchanges() []exchange {
	return []exchange{
		{"Host or :authority, target, fields", reflect, keepsTheRequest},
		{"RFC 9113 §8.2.2: fields of the connection stay there", reflect, dropsHopByHop},
		{"RFC 9113 §8.2.3: cookies are one field over HTTP/1.1", reflect, joinsCookies},
		{"fields of the answer, several of one name", answerFields, keepsTheAnswer},
		{"body of known length", echoBody, sendsBody(100_000, true)},
		{"body of unknown length", echoBody, sendsBody(100_000, false)},
		{"large body of known length", echoBody, sendsBody(16<<20, true)},
		{"large body of unknown length", echoBody, sendsBody(16<<20, false)},
		{"empty body of known length", echoBody, sendsBody(0, true)},
		{"pieces go on as they come, both ways", echoPieces, streams},
		{"RFC 9110 §6.5: trailers, both ways", echoTrailers, sendsTrailers},
		{"RFC 9110 §9.3.2: HEAD", aThousand, asksHead},
		{"RFC 9110 §15.3.5: 204", bare(http.StatusNoContent), getsBare(http.StatusNoContent)},
		{"RFC 9110 §15.4.5: 304", bare(http.StatusNotModified), getsBare(http.StatusNotModified)},
		{"RFC 9110 §10.1.1: Expect: 100-continue, and it continues", readThenEcho, expects(true)},
		{"RFC 9110 §10.1.1: Expect: 100-continue, and it is refused", bare(http.StatusExpectationFailed), expects(false)},
		{"RFC 8297: early hints", hint, getsHint},
		{"a backend that breaks off its answer", breakOff, seesTheBreak},
		{"many at once", echoBody, manyAtOnce},
	}
}

func fields(h http.Header, names ...string) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "%s=%q\n", n, h.Values(n))
	}
	return b.String()
}

// reflect answers with the request as the backend has seen it.
func reflect(w http.ResponseWriter, r *http.Request) {
	// RFC 9110 §10.1.4: in HTTP/1.1 TE comes with its name in Connection.
	if r.ProtoMajor == 1 && slices.Equal(r.Header["Connection"], []string{"TE"}) {
		r.Header.Del("Connection")
	}
	fmt.Fprintf(w, "%s %s %s\n%s", r.Method, r.Host, r.RequestURI, fields(r.Header, slices.Sorted(maps.Keys(r.Header))...))
}

// ask sends a request and returns the body of a 200.
func ask(t *testing.T, c *http.Client, method, url string, edit func(*http.Request)) (string, error) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		return "", err
	}
	edit(r)
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, b)
	}
	return string(b), err
}

func same(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s is\n%.600s\nwant\n%.600s", what, got, want)
	}
	return nil
}

func keepsTheRequest(t *testing.T, c *http.Client, url string) error {
	target := "a%2Fb/../c;d//?q=1&q=%20&&"
	got, err := ask(t, c, http.MethodPatch, url+target, func(r *http.Request) {
		r.Host = "shop.example:8443"
		r.Header = http.Header{"X-Two": {"b", "a"}, "X-Empty": {""}, "User-Agent": {"mine/1"}, "X-Utf8": {"blåbær"}, "Te": {"trailers"}}
	})
	if err != nil {
		return err
	}
	_, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	want := fmt.Sprintf("PATCH shop.example:8443 /%s%s\nTe=[\"trailers\"]\nUser-Agent=[\"mine/1\"]\nX-Empty=[\"\"]\nX-Two=[\"b\" \"a\"]\nX-Utf8=[\"blåbær\"]\n", path, target)
	// A length of 0 may be said or not: RFC 9110 §8.6.
	return same("the request", strings.Replace(got, "Content-Length=[\"0\"]\n", "", 1), want)
}

func dropsHopByHop(t *testing.T, c *http.Client, url string) error {
	tr := c.Transport.(versioned)
	got, err := ask(t, c, http.MethodGet, url, func(r *http.Request) {
		r.Header = http.Header{"User-Agent": {"mine/1"}, "X-Stays": {"1"}}
		if tr.major == 1 { // net/http sends none of it over HTTP/2
			r.Header["Connection"] = []string{"X-Goes"}
			r.Header["X-Goes"] = []string{"1"}
			r.Header["Keep-Alive"] = []string{"timeout=5"}
		}
	})
	if direct() && tr.major == 1 {
		return err
	}
	_, head, _ := strings.Cut(got, "\n")
	return errors.Join(err, same("the fields", head, "User-Agent=[\"mine/1\"]\nX-Stays=[\"1\"]\n"))
}

func joinsCookies(t *testing.T, c *http.Client, url string) error {
	got, err := ask(t, c, http.MethodGet, url, func(r *http.Request) {
		r.Header = http.Header{"User-Agent": {"mine/1"}, "Cookie": {"a=1; b=2; c=" + strings.Repeat("3", 50)}}
	})
	_, head, _ := strings.Cut(got, "\n")
	return errors.Join(err, same("the fields", head, "Cookie=[\"a=1; b=2; c="+strings.Repeat("3", 50)+"\"]\nUser-Agent=[\"mine/1\"]\n"))
}

func answerFields(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h["Set-Cookie"] = []string{"a=1; Path=/", "b=2, or 3", "a=1; Path=/"}
	h["X-Empty"] = []string{""}
	h["X-Long"] = []string{strings.Repeat("l", 20_000)}
	h["Date"] = []string{"Sun, 06 Nov 1994 08:49:37 GMT"}
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprint(w, "short and stout")
}

func keepsTheAnswer(t *testing.T, c *http.Client, url string) error {
	resp, err := get(t, c, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	names := []string{"Date", "Set-Cookie", "X-Empty", "X-Long"}
	want := http.Header{
		"Set-Cookie": {"a=1; Path=/", "b=2, or 3", "a=1; Path=/"}, "X-Empty": {""}, "X-Long": {strings.Repeat("l", 20_000)},
		"Date": {"Sun, 06 Nov 1994 08:49:37 GMT"},
	}
	if resp.StatusCode != http.StatusTeapot || string(b) != "short and stout" {
		err = errors.Join(err, fmt.Errorf("status %d, %q", resp.StatusCode, b))
	}
	return errors.Join(err, same("the answer", fields(resp.Header, names...), fields(want, names...)))
}

func get(t *testing.T, c *http.Client, method, url string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		return nil, err
	}
	return c.Do(r)
}

// echoBody sends the body back while it comes, with the request's length if it has one.
func echoBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 needs none
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// bulkReader reads a bulk.
type bulkReader struct {
	*bulk
	rest []byte
}

func (b *bulkReader) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		b.rest = b.next()
	}
	if b.rest == nil {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func sendsBody(size int, known bool) func(*testing.T, *http.Client, string) error {
	return func(t *testing.T, c *http.Client, url string) error {
		return bodyThereAndBack(t, c, url, 5, size, known)
	}
}

func bodyThereAndBack(t *testing.T, c *http.Client, url string, seed byte, size int, known bool) error {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, &bulkReader{bulk: newBulk(seed, size)})
	if err != nil {
		return err
	}
	length := int64(-1)
	if known {
		length = int64(size)
		if size == 0 {
			r.Body = http.NoBody
		}
	}
	r.ContentLength = length
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	case resp.StatusCode != http.StatusOK || resp.ContentLength != length:
		return fmt.Errorf("status %d, length %d, want 200 and %d", resp.StatusCode, resp.ContentLength, length)
	case n != int64(size) || !bytes.Equal(sum.Sum(nil), checksum(newBulk(seed, size))):
		return fmt.Errorf("%d bytes came back, or others than the %d that were sent", n, size)
	}
	return nil
}

// readThenEcho answers when it has read the body, for which the client has to be told to send it.
func readThenEcho(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(b)
}

// echoPieces sends each piece back at once.
func echoPieces(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex() // HTTP/2 needs none
	if err := c.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
	p := make([]byte, 100)
	for {
		n, err := r.Body.Read(p)
		if n > 0 {
			_, werr := w.Write(p[:n])
			err = errors.Join(err, werr, c.Flush())
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// streams sends a piece only when the one before has come back: whoever gathers pieces stops it for ever.
func streams(t *testing.T, c *http.Client, url string) error {
	pr, pw := io.Pipe()
	defer pw.Close()
	resp, err := get(t, c, http.MethodPost, url, pr)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for i := range 50 {
		sent := fmt.Sprintf("piece %03d", i)
		if _, err := io.WriteString(pw, sent); err != nil {
			return err
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(resp.Body, got); err != nil {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		if err := same("the piece", string(got), sent); err != nil {
			return err
		}
	}
	pw.Close()
	rest, err := io.ReadAll(resp.Body)
	return errors.Join(err, same("what comes after the pieces", string(rest), ""))
}

// echoTrailers sends the body's and the trailers' content back in its own trailers, one of which it has not announced.
func echoTrailers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Sum")
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(b)
	w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(b)))
	for _, v := range r.Trailer.Values("X-From-Client") {
		w.Header().Add(http.TrailerPrefix+"X-Back", v)
	}
}

func sendsTrailers(t *testing.T, c *http.Client, url string) error {
	body := bytes.Repeat([]byte("trail"), 1000)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.MultiReader(bytes.NewReader(body))) // of unknown length
	if err != nil {
		return err
	}
	r.Trailer = http.Header{"X-From-Client": {"b", "a"}}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	want := http.Header{"X-Sum": {fmt.Sprintf("%x", sha256.Sum256(body))}, "X-Back": {"b", "a"}}
	return errors.Join(err, same("the body", string(got), string(body)),
		same("the trailers", fields(resp.Trailer, "X-Sum", "X-Back"), fields(want, "X-Sum", "X-Back")))
}

func aThousand(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "1000")
	w.Header().Set("X-Method", r.Method)
	if r.Method != http.MethodHead {
		w.Write(make([]byte, 1000))
	}
}

func asksHead(t *testing.T, c *http.Client, url string) error {
	for _, method := range []string{http.MethodHead, http.MethodGet} { // the GET comes to the right bytes
		resp, err := get(t, c, method, url, nil)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.ContentLength != 1000 || resp.Header.Get("X-Method") != method || len(b) != 0 && method == http.MethodHead {
			return fmt.Errorf("%s: length %d, the backend saw %s, %d bytes came: %w", method, resp.ContentLength, resp.Header.Get("X-Method"), len(b), err)
		}
	}
	return nil
}

func bare(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"e"`)
		w.WriteHeader(status)
	}
}

func getsBare(status int) func(*testing.T, *http.Client, string) error {
	return func(t *testing.T, c *http.Client, url string) error {
		resp, err := get(t, c, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || len(b) != 0 || resp.Header.Get("Etag") != `"e"` || resp.Header.Get("Transfer-Encoding") != "" {
			return fmt.Errorf("status %d, %d bytes, %v: %w", resp.StatusCode, len(b), resp.Header, err)
		}
		return nil
	}
}

// watched tells when its first byte is asked for.
type watched struct {
	io.Reader
	once sync.Once
	read chan struct{}
}

func (w *watched) Read(p []byte) (int, error) {
	w.once.Do(func() { close(w.read) })
	return w.Reader.Read(p)
}

// expects sends its body only when it is told to. The transport would wait a minute for that.
func expects(continues bool) func(*testing.T, *http.Client, string) error {
	return func(t *testing.T, c *http.Client, url string) error {
		body := &watched{Reader: strings.NewReader("as you wish"), read: make(chan struct{})}
		told := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { told = true }})
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
		if err != nil {
			return err
		}
		r.ContentLength = int64(len("as you wish"))
		r.Header.Set("Expect", "100-continue")
		resp, err := c.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		sent := false
		select {
		case <-body.read:
			sent = true
		default:
		}
		if continues {
			if !told || !sent || string(got) != "as you wish" {
				return fmt.Errorf("status %d, %q; told to continue: %v, body sent: %v", resp.StatusCode, got, told, sent)
			}
			return nil
		}
		if told || sent || resp.StatusCode != http.StatusExpectationFailed {
			return fmt.Errorf("status %d; told to continue: %v, body sent: %v, want neither", resp.StatusCode, told, sent)
		}
		return nil
	}
}

func hint(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Link", "</style.css>; rel=preload")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Del("Link")
	fmt.Fprint(w, "late")
}

func getsHint(t *testing.T, c *http.Client, url string) error {
	var links []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		links = append(links, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return errors.Join(err, same("the answer", string(b), "late"),
		same("what came before", strings.Join(links, "\n"), "103</style.css>; rel=preload"))
}

func breakOff(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "the beginning")
	_ = http.NewResponseController(w).Flush() // both versions can
	panic(http.ErrAbortHandler)
}

func seesTheBreak(t *testing.T, c *http.Client, url string) error {
	resp, err := get(t, c, http.MethodGet, url, nil)
	if err != nil {
		return nil // it was broken off before its head came through, which is as well
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		return fmt.Errorf("%q looks like the whole answer, which the backend broke off", b)
	}
	return nil
}

// manyAtOnce are more than the backend allows on a connection (RFC 9113 §5.1.2), each with a body of its own.
func manyAtOnce(t *testing.T, c *http.Client, url string) error {
	const requests = 3 * backendStreams
	results := make(chan error, requests)
	for i := range requests {
		go func() { results <- bodyThereAndBack(t, c, url, byte(i), 10_000+i, i%2 == 0) }()
	}
	var errs []error
	for range requests {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}
