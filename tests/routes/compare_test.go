package routes

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

func podsOfTests() map[string]Addresses {
	return map[string]Addresses{"client": {V4: netip.MustParseAddr("10.0.0.1"), V6: netip.MustParseAddr("fd00::1")}}
}

func goodAnswer() echo.Answer {
	return echo.Answer{
		Status: 200, GRPC: -1, Took: 100 * time.Millisecond, Fields: http.Header{"X-A": {"1", "2"}, "Content-Type": {"text/plain"}},
		Trailers: http.Header{"X-T": {"t"}}, Body: "hello", Interim: []int{100},
		Saw: &echo.Saw{
			Backend: "v1", Port: 8080, Client: "10.0.0.1:999", Protocol: "HTTP/1.1", Method: "GET", Path: "/a?b", Host: "echo",
			Fields: http.Header{"X-S": {"a", "b"}}, Trailers: http.Header{"X-Q": {"q"}}, Bytes: 3,
		},
	}
}

// A want that fits is taken, and every other one is refused: a comparison that looks at nothing would show here.
func TestEachWantCanFail(t *testing.T) {
	three, four, zero, five := 3, 4, 0, 5
	for name, tt := range map[string]struct{ good, bad Want }{
		"status":            {Want{Status: Statuses{404, 200}}, Want{Status: Statuses{404, 500}}},
		"backend":           {Want{Backend: "v1|v2"}, Want{Backend: "v2|v3"}},
		"backend, whole":    {Want{Backend: "v1"}, Want{Backend: "v"}},
		"field":             {Want{Headers: map[string]string{"x-a": "1,2"}}, Want{Headers: map[string]string{"x-a": "1, 2"}}},
		"field missing":     {Want{Headers: map[string]string{"x-a": "~.*"}}, Want{Headers: map[string]string{"x-b": "~.*"}}},
		"field as a set":    {Want{Headers: map[string]string{"x-a": "set:2,1"}}, Want{Headers: map[string]string{"x-a": "set:1"}}},
		"field by regexp":   {Want{Headers: map[string]string{"x-a": "~1.2"}}, Want{Headers: map[string]string{"x-a": "~1"}}},
		"absent":            {Want{Absent: []string{"X-B"}}, Want{Absent: []string{"x-a"}}},
		"trailer":           {Want{Trailers: map[string]string{"X-T": "t"}}, Want{Trailers: map[string]string{"X-T": "u"}}},
		"body":              {Want{Body: "l+o"}, Want{Body: "hullo"}},
		"location":          {Want{}, Want{Location: "http://a/"}},
		"interim":           {Want{Interim: []int{100}}, Want{Interim: []int{}}},
		"at least":          {Want{AtLeast: 90 * time.Millisecond}, Want{AtLeast: 110 * time.Millisecond}},
		"at most":           {Want{AtMost: 110 * time.Millisecond}, Want{AtMost: 90 * time.Millisecond}},
		"error":             {Want{}, Want{Error: "EOF"}},
		"grpc":              {Want{}, Want{GRPC: &zero}},
		"per backend":       {Want{PerBackend: map[string]Matched{"v1": {Absent: []string{"X-Z"}}}}, Want{PerBackend: map[string]Matched{"v1": {Absent: []string{"X-S"}}}}},
		"saw path":          {Want{Saw: &Saw{Path: "/a?b"}}, Want{Saw: &Saw{Path: "/a"}}},
		"saw Host":          {Want{Saw: &Saw{Host: "echo"}}, Want{Saw: &Saw{Host: "Echo"}}},
		"saw method":        {Want{Saw: &Saw{Method: "GET"}}, Want{Saw: &Saw{Method: "HEAD"}}},
		"saw protocol":      {Want{Saw: &Saw{Proto: "HTTP/1.1"}}, Want{Saw: &Saw{Proto: "HTTP/2.0"}}},
		"saw port":          {Want{Saw: &Saw{Port: 8080}}, Want{Saw: &Saw{Port: 80}}},
		"saw client":        {Want{Saw: &Saw{Client: "client"}}, Want{Saw: &Saw{Client: "consumer"}}},
		"saw field":         {Want{Saw: &Saw{Headers: map[string]string{"X-S": "a,b"}}}, Want{Saw: &Saw{Headers: map[string]string{"X-S": "a"}}}},
		"saw absent":        {Want{Saw: &Saw{Absent: []string{"X-Z"}}}, Want{Saw: &Saw{Absent: []string{"x-s"}}}},
		"saw trailer":       {Want{Saw: &Saw{Trailers: map[string]string{"X-Q": "q"}}}, Want{Saw: &Saw{Trailers: map[string]string{"X-Q": "r"}}}},
		"saw bytes":         {Want{Saw: &Saw{Bytes: &three}}, Want{Saw: &Saw{Bytes: &four}}},
		"no status of gRPC": {Want{}, Want{GRPC: &five}},
	} {
		a := goodAnswer()
		if err := tt.good.compare(&Send{}, &a, podsOfTests()); err != nil {
			t.Errorf("%s: a good answer is refused: %v", name, err)
		}
		if err := tt.bad.compare(&Send{}, &a, podsOfTests()); err == nil {
			t.Errorf("%s: a bad answer is taken", name)
		}
	}
}

// What every answer has to be, although nothing is said about it.
func TestAnswersThatNobodyWants(t *testing.T) {
	for name, spoil := range map[string]func(*echo.Answer){
		"another status":   func(a *echo.Answer) { a.Status = 500 },
		"an error":         func(a *echo.Answer) { a.Error = "EOF" },
		"no backend":       func(a *echo.Answer) { a.Saw = nil },
		"a Location":       func(a *echo.Answer) { a.Fields["Location"] = []string{"/"} },
		"two good headers": func(a *echo.Answer) { a.Fields["X-A"] = append(a.Fields["X-A"], "3") },
	} {
		a := goodAnswer()
		spoil(&a)
		want := Want{Backend: "v1", Headers: map[string]string{"X-A": "1,2"}}
		if err := want.compare(&Send{}, &a, podsOfTests()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// B-24: a call is answered as a call.
func TestCallsAreAnsweredAsCalls(t *testing.T) {
	twelve := 12
	for _, tt := range []struct {
		status, grpc int
		kind         string
		want         Want
		ok           bool
	}{
		{200, 0, "application/grpc", Want{}, true},
		{200, 12, "application/grpc", Want{}, false},
		{200, 12, "application/grpc", Want{GRPC: &twelve}, true},
		{404, -1, "text/plain", Want{GRPC: &twelve}, false},
		{200, 12, "text/plain", Want{GRPC: &twelve}, false},
		{200, -1, "application/grpc", Want{}, false},
	} {
		a := echo.Answer{Status: tt.status, GRPC: tt.grpc, Fields: http.Header{"Content-Type": {tt.kind}}}
		if err := tt.want.compare(&Send{Proto: echo.GRPC}, &a, nil); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestSharesAndTheirSlack(t *testing.T) {
	answers := func(v1, v2 int) []echo.Answer {
		var all []echo.Answer
		for range v1 {
			all = append(all, echo.Answer{Saw: &echo.Saw{Backend: "v1"}})
		}
		for range v2 {
			all = append(all, echo.Answer{Saw: &echo.Saw{Backend: "v2"}})
		}
		return all
	}
	for _, tt := range []struct {
		want   Want
		v1, v2 int
		ok     bool
	}{
		{Want{Backends: map[string]int{"v1": 70, "v2": 30}}, 360, 140, true},
		{Want{Backends: map[string]int{"v1": 70, "v2": 30}}, 250, 250, false},
		{Want{Backends: map[string]int{"v1": 100}}, 499, 1, false},
		{Want{Backends: map[string]int{"v1": 100, "v2": 0}}, 500, 0, true},
		{Want{Backends: map[string]int{"v1": 50}}, 250, 250, false}, // v2 is not named
		{Want{Balanced: []string{"v1", "v2"}}, 1, 1, true},
		{Want{Balanced: []string{"v1", "v2"}}, 2, 0, false},
		{Want{Sticky: true}, 5, 0, true},
		{Want{Sticky: true}, 4, 1, false},
	} {
		if err := tt.want.shares(answers(tt.v1, tt.v2)); (err == nil) != tt.ok {
			t.Errorf("%+v with %d and %d: %v", tt.want, tt.v1, tt.v2, err)
		}
	}
}

func TestEachConditionCanFail(t *testing.T) {
	good := func() []Condition {
		return []Condition{{"Accepted", "True", "Accepted", "fine words", 2}, {"ResolvedRefs", "False", "InvalidKind", "no Thing", 2}}
	}
	want := Status{ResolvedRefs: "InvalidKind", Says: []string{"no Thing"}, ParentRef: map[string]any{"name": "a", "port": 80}}
	for name, spoil := range map[string]func(*ParentStatus){
		"":                    func(*ParentStatus) {},
		"another reason":      func(p *ParentStatus) { p.Conditions[1].Reason = "BackendNotFound" },
		"another status":      func(p *ParentStatus) { p.Conditions[0].Status = "False" },
		"an older generation": func(p *ParentStatus) { p.Conditions[0].ObservedGeneration = 1 },
		"one missing":         func(p *ParentStatus) { p.Conditions = p.Conditions[1:] },
		"one too many":        func(p *ParentStatus) { p.Conditions = append(p.Conditions, Condition{Type: "PartiallyInvalid"}) },
		"other words":         func(p *ParentStatus) { p.Conditions[1].Message = "something" },
		"no words":            func(p *ParentStatus) { p.Conditions[0].Message = "" },
		"nobody's":            func(p *ParentStatus) { p.ControllerName = "" },
		"another parent":      func(p *ParentStatus) { p.ParentRef["port"] = 81.0 },
	} {
		have := ParentStatus{ControllerName: "a.example/b", ParentRef: map[string]any{"port": 80.0, "name": "a"}, Conditions: good()}
		spoil(&have)
		if err := want.compare(&have, 2); (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// fake answers as it is told.
type fake struct {
	Runner
	answer func(i int) echo.Answer // of the i-th request
	sent   int
	seen   []echo.Saw
}

func (f *fake) Pods() map[string]Addresses { return podsOfTests() }

func (f *fake) ServiceAddress(string, string, int, bool) (string, error) { return "10.96.0.1", nil }

func (f *fake) Send(_ context.Context, _ string, r *echo.Request) ([]echo.Answer, error) {
	var all []echo.Answer
	for range r.Count {
		all = append(all, f.answer(f.sent))
		f.sent++
	}
	return all, nil
}

func (f *fake) Seen(context.Context, string, string) ([]echo.Saw, error) { return f.seen, nil }

// What was right once has to stay right: a request that fails after that is no matter of waiting.
func TestRightOnceIsNotEnough(t *testing.T) {
	right := goodAnswer()
	wrong := goodAnswer()
	wrong.Status = 503
	for name, tt := range map[string]struct {
		answer func(int) echo.Answer
		says   string
	}{
		"comes late":       {func(i int) echo.Answer { return pick(i < 3, wrong, right) }, ""},
		"never":            {func(int) echo.Answer { return wrong }, "not within"},
		"fails afterwards": {func(i int) echo.Answer { return pick(i == 40, wrong, right) }, "right once"},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := &execution{c: &Case{Namespace: "c"}, runner: &fake{answer: tt.answer}}
			err := x.settle(t.Context(), []Step{{Send: &Send{Count: 100}, Want: &Want{}}})
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want %q", name, err, tt.says)
			}
		})
	}
}

func pick(first bool, a, b echo.Answer) echo.Answer {
	if first {
		return a
	}
	return b
}

// Copies that come late are waited for; one too many, a missing one and one that is wrong are noticed.
func TestCopiesAndTries(t *testing.T) {
	saw := *goodAnswer().Saw
	for name, tt := range map[string]struct {
		want Want
		seen []echo.Saw
		ok   bool
	}{
		"a copy":      {Want{Copies: map[string]Copies{"v2": {Saw: &Saw{Path: "/a?b"}}, "v3": {}, "bad": {}}}, []echo.Saw{saw}, true},
		"a wrong one": {Want{Copies: map[string]Copies{"v2": {Saw: &Saw{Path: "/b"}}, "v3": {}}}, []echo.Saw{saw}, false},
		"none":        {Want{Copies: map[string]Copies{"v2": {}, "v3": {}}}, nil, false},
		"not wanted":  {Want{Copies: map[string]Copies{}}, []echo.Saw{saw}, false},
		"tries":       {Want{Tries: map[string]int{"v2": 1}}, []echo.Saw{saw}, true},
		"more tries":  {Want{Tries: map[string]int{"v2": 2}}, []echo.Saw{saw}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			// The fake has the same for every pod; v1 has answered, so that what it saw is no copy.
			x := &execution{c: &Case{Namespace: "c"}, runner: &fake{seen: tt.seen}}
			answers := []echo.Answer{{Saw: &echo.Saw{Backend: "v1"}}}
			if len(tt.seen) == 0 {
				answers = nil
			}
			err := x.others(t.Context(), &Step{Send: &Send{}, Want: &tt.want}, &echo.Request{Count: 1}, answers)
			if (err == nil) != tt.ok {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
