package interop

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// outcomesFile says what each case of h2spec comes to. h2spec tests RFC 7540; where RFC 9113 says otherwise, and wherever
// else a case does not pass, the file has the reason.
var outcomesFile = filepath.Join("testdata", "h2spec.txt")

const outcomesHead = `# What each case of h2spec v2.2.1, strict, comes to through the proxy. SLUICE_UPDATE=1 rewrites outcomes and titles, never the
# reasons, which stand on lines of their own below a case: one that does not pass has a reason, one that passes has none.
`

const (
	passed  = "pass"
	failed  = "fail"
	skipped = "skip"
)

// outcome is what a case came to, or has to.
type outcome struct {
	Outcome string
	Title   string
	Detail  string // what h2spec says of a failure
	Reason  string // why it need not pass
}

// RFC 9113 and RFC 7541: the proxy as an HTTP/2 server, in the eyes of h2spec. The backend's answer is long enough for the
// cases that need a body which does not fit into a window.
func TestH2Spec(t *testing.T) {
	m := start(t, service{name: "web", pods: []string{"one"}, targetPort: http2Port, appProtocol: "kubernetes.io/h2c", kind: "HTTPRoute"})
	body := bytes.Repeat([]byte("0123456789abcdef"), 256)
	m.serveHTTP("one", 2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // an answer before the request's end would end what a case goes on with
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	}))
	host, number, err := net.SplitHostPort(m.target("web"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]outcome{}
	if err := m.in(8*time.Minute, "h2spec", &got, host, number); err != nil {
		t.Fatal(err)
	}
	t.Log(count(got))
	if direct() {
		for _, id := range slices.SortedFunc(maps.Keys(got), byCase) {
			if c := got[id]; c.Outcome != passed {
				t.Logf("%s %s %s: %s", c.Outcome, id, c.Title, c.Detail)
			}
		}
		t.Skip("skipped: the file says what the proxy does, and it is left out")
	}
	want, err := readOutcomes(outcomesFile)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("SLUICE_UPDATE") == "1" {
		want = updated(want, got)
		if err := os.WriteFile(outcomesFile, formatOutcomes(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range differences(want, got) {
		t.Error(d)
	}
}

// runH2Spec is the helper: it runs every case against an address and returns what each came to. Cases are run one by one,
// because h2spec ends its process where it cannot connect.
func runH2Spec(args []string) (any, error) {
	number, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	// h2spec tells on standard output what it does, and that is ours.
	out := os.Stdout
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	defer func() { os.Stdout = out }()
	c := &config.Config{Host: args[0], Port: number, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true}
	results := map[string]outcome{}
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		runGroup(c, g, results)
	}
	return results, nil
}

func runGroup(c *config.Config, g *spec.TestGroup, results map[string]outcome) {
	for i, tc := range slices.Concat(g.Tests, g.StrictTests) {
		o := outcome{Title: strings.Join(strings.Fields(tc.Desc), " ")}
		err := tc.Test(c, i+1)
		switch r := tc.Result; {
		case err != nil:
			o.Outcome, o.Detail = failed, fmt.Sprintf("connect: %v", err)
		case r.Skipped:
			o.Outcome = skipped
		case r.Failed && !isReset(r.Error):
			o.Outcome, o.Detail = failed, detail(tc, r.Error)
		default:
			o.Outcome = passed
		}
		results[fmt.Sprintf("%s/%d", g.ID(), i+1)] = o
	}
	for _, sub := range g.Groups {
		runGroup(c, sub, results)
	}
}

// isReset tells whether a case that lets the server close the connection saw it reset. h2spec means to take the one for the
// other, but looks for the error where Go has not had it for years.
func isReset(err error) bool {
	e, ok := err.(*spec.TestError) //nolint:errorlint // h2spec wraps nothing
	return ok && slices.Contains(e.Expected, spec.ExpectedConnectionClosed) && strings.HasSuffix(e.Actual, syscall.ECONNRESET.Error())
}

func detail(tc *spec.TestCase, err error) string {
	if e, ok := err.(*spec.TestError); ok { //nolint:errorlint // h2spec wraps nothing
		return fmt.Sprintf("%s Expected %s; got %s", tc.Requirement, strings.Join(e.Expected, ", or "), e.Actual)
	}
	return err.Error()
}

// readOutcomes reads the file: a line is an outcome, a case and its title; an indented one is a reason.
func readOutcomes(path string) (map[string]outcome, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, last := map[string]outcome{}, ""
	for line := range strings.Lines(string(content)) {
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#':
		case line[0] == ' ' && last != "":
			o := all[last]
			o.Reason = strings.TrimSpace(o.Reason + " " + text)
			all[last] = o
		default:
			fields := strings.Fields(text)
			if len(fields) < 2 || line[0] == ' ' {
				return nil, fmt.Errorf("%s: %q is neither a case with its outcome nor the reason of one", path, text)
			}
			last = fields[1]
			if _, twice := all[last]; twice {
				return nil, fmt.Errorf("%s: %s is there twice", path, last)
			}
			all[last] = outcome{Outcome: fields[0], Title: strings.Join(fields[2:], " ")}
		}
	}
	return all, nil
}

func formatOutcomes(all map[string]outcome) []byte {
	b := bytes.NewBufferString(outcomesHead)
	for _, id := range slices.SortedFunc(maps.Keys(all), byCase) {
		o := all[id]
		fmt.Fprintf(b, "%s %-16s %s\n", o.Outcome, id, o.Title)
		if o.Reason != "" {
			fmt.Fprintf(b, "     %s\n", o.Reason)
		}
	}
	return b.Bytes()
}

// updated are the outcomes that were found, with the reasons that were written.
func updated(want, got map[string]outcome) map[string]outcome {
	all := map[string]outcome{}
	for id, o := range got {
		all[id] = outcome{Outcome: o.Outcome, Title: o.Title, Reason: want[id].Reason}
	}
	return all
}

// differences are what is not as the file says, or is without a reason.
func differences(want, got map[string]outcome) []string {
	var d []string
	for id, o := range got {
		w, known := want[id]
		switch {
		case !known:
			d = append(d, fmt.Sprintf("%s (%s) is not in %s: it is %s %s", id, o.Title, outcomesFile, o.Outcome, o.Detail))
		case o.Outcome != w.Outcome:
			d = append(d, fmt.Sprintf("%s (%s) is %s, want %s. %s", id, o.Title, o.Outcome, w.Outcome, o.Detail))
		case (w.Outcome == passed) != (w.Reason == ""):
			d = append(d, fmt.Sprintf("%s (%s) is %s with the reason %q: what passes needs none, all else does. %s", id, o.Title, w.Outcome, w.Reason, o.Detail))
		}
	}
	for id, w := range want {
		if _, ran := got[id]; !ran {
			d = append(d, fmt.Sprintf("%s (%s) was not run", id, w.Title))
		}
	}
	slices.Sort(d)
	return d
}

func count(all map[string]outcome) string {
	n := map[string]int{}
	for _, o := range all {
		n[o.Outcome]++
	}
	return fmt.Sprintf("h2spec: %d cases: %d pass, %d fail, %d are skipped", len(all), n[passed], n[failed], n[skipped])
}

// byCase orders http2/6.9.1/2 after http2/6.9/3 and before http2/6.10/1.
func byCase(a, b string) int {
	split := func(id string) []string {
		return strings.FieldsFunc(id, func(r rune) bool { return r == '/' || r == '.' })
	}
	order := []string{"generic", "http2", "hpack"}
	x, y := split(a), split(b)
	if c := cmp.Compare(slices.Index(order, x[0]), slices.Index(order, y[0])); c != 0 {
		return c
	}
	// The last number is the case's own: the cases of a section come before those of its subsections.
	section := func(parts []string) []int {
		numbers := []int{}
		for _, p := range parts {
			n, _ := strconv.Atoi(p) // h2spec numbers its sections
			numbers = append(numbers, n)
		}
		return numbers
	}
	if c := slices.Compare(section(x[1:len(x)-1]), section(y[1:len(y)-1])); c != 0 {
		return c
	}
	return slices.Compare(section(x[len(x)-1:]), section(y[len(y)-1:]))
}

// A new failure, a new pass, an unknown case, one that is gone and a missing reason are all told.
func TestDifferencesOfOutcomes(t *testing.T) {
	want := map[string]outcome{
		"http2/1/1": {Outcome: passed}, "http2/1/2": {Outcome: failed, Reason: "RFC 9113 leaves it open"}, "http2/1/3": {Outcome: passed},
		"http2/1/4": {Outcome: failed}, "http2/1/5": {Outcome: passed, Reason: "none needed"}, "http2/1/6": {Outcome: skipped, Reason: "no such thing"},
	}
	got := map[string]outcome{
		"http2/1/1": {Outcome: failed, Detail: "Expected GOAWAY"}, "http2/1/2": {Outcome: passed}, "http2/1/4": {Outcome: failed},
		"http2/1/5": {Outcome: passed}, "http2/1/6": {Outcome: skipped}, "http2/1/7": {Outcome: passed},
	}
	d := differences(want, got)
	if len(d) != 6 {
		t.Fatalf("%d differences, want one for each case but http2/1/6:\n%s", len(d), strings.Join(d, "\n"))
	}
	for i, id := range []string{"http2/1/1", "http2/1/2", "http2/1/3", "http2/1/4", "http2/1/5", "http2/1/7"} {
		if !strings.HasPrefix(d[i], id+" ") {
			t.Errorf("difference %d is %q, want one about %s", i, d[i], id)
		}
	}
	if !strings.Contains(d[0], "Expected GOAWAY") {
		t.Errorf("%q does not say what h2spec says", d[0])
	}
	if d := differences(want, want); len(d) != 2 {
		t.Errorf("the same outcomes differ: %q", d)
	}
}

// What is written is read again, an update keeps the reasons, and cases are in the order of the RFC's sections.
func TestOutcomesAreKept(t *testing.T) {
	want := map[string]outcome{
		"http2/6.10/1": {Outcome: failed, Title: "Sends more", Reason: "RFC 9113 §6.10 leaves it open"},
		"http2/6.9/3":  {Outcome: passed, Title: "Sends a window"}, "http2/6.9.1/2": {Outcome: passed, Title: "Sends"},
		"http2/6.9/10": {Outcome: passed, Title: "Ten"}, "hpack/2/1": {Outcome: passed, Title: "Last"}, "generic/5/1": {Outcome: passed, Title: "First"},
	}
	path := filepath.Join(t.TempDir(), "outcomes.txt")
	if err := os.WriteFile(path, formatOutcomes(want), 0o644); err != nil {
		t.Fatal(err)
	}
	read, err := readOutcomes(path)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(read, want) {
		t.Errorf("read %+v, want %+v", read, want)
	}
	order := slices.SortedFunc(maps.Keys(want), byCase)
	if !slices.Equal(order, []string{"generic/5/1", "http2/6.9/3", "http2/6.9/10", "http2/6.9.1/2", "http2/6.10/1", "hpack/2/1"}) {
		t.Errorf("the order is %v", order)
	}
	got := map[string]outcome{"http2/6.10/1": {Outcome: passed, Title: "Sends less", Detail: "not kept"}, "http2/7/1": {Outcome: failed, Title: "New"}}
	if u := updated(want, got); len(u) != 2 || u["http2/7/1"] != (outcome{Outcome: failed, Title: "New"}) ||
		u["http2/6.10/1"] != (outcome{Outcome: passed, Title: "Sends less", Reason: "RFC 9113 §6.10 leaves it open"}) {
		t.Errorf("updated to %+v", u)
	}
}
