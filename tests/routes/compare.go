package routes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/tests/routes/echo"
)

// match compares a text with what is wanted of it: "~" begins an expression for all of it, "set:" the elements of a list
// that may come in any order and any case, and anything else is the text itself.
func match(want, have string) bool {
	if expression, is := strings.CutPrefix(want, "~"); is {
		return regexp.MustCompile(`\A(?:` + expression + `)\z`).MatchString(have)
	}
	if list, is := strings.CutPrefix(want, "set:"); is {
		return slices.Equal(elements(list), elements(have))
	}
	return want == have
}

func elements(list string) []string {
	var all []string
	for e := range strings.SplitSeq(strings.ToLower(list), ",") {
		all = append(all, strings.TrimSpace(e))
	}
	slices.Sort(all)
	return all
}

// compare looks at one answer.
func (w *Want) compare(sent *Send, a *echo.Answer, pods map[string]Addresses) error {
	if w.Error != "" {
		if a.Error == "" || !match("~(?s).*("+w.Error+").*", a.Error) {
			return fmt.Errorf("the answer, %s, should have ended with an error like %q", describe(a), w.Error)
		}
		return w.took(a)
	}
	if a.Error != "" {
		return fmt.Errorf("%s, in %s", a.Error, describe(a))
	}
	for _, err := range []error{
		w.status(sent, a), w.took(a), fields("answer", w.Headers, w.Absent, a.Fields), fields("answer's trailers", w.Trailers, nil, a.Trailers),
	} {
		if err != nil {
			return fmt.Errorf("%w, in %s", err, describe(a))
		}
	}
	switch {
	case w.Location != "" && !match(w.Location, strings.Join(a.Fields["Location"], " and ")):
		return fmt.Errorf("Location is %q, want %q", a.Fields["Location"], w.Location)
	case w.Location == "" && a.Fields.Get("Location") != "":
		return fmt.Errorf("there is a Location, %q", a.Fields["Location"])
	case w.Body != "" && !match("~(?s).*("+w.Body+").*", a.Body):
		return fmt.Errorf("the body is %q, want one like %q", a.Body, w.Body)
	case w.Interim != nil && !slices.Equal(w.Interim, a.Interim):
		return fmt.Errorf("before the answer came %v, want %v", a.Interim, w.Interim)
	}
	return w.backend(a, pods)
}

func (w *Want) status(sent *Send, a *echo.Answer) error {
	if sent.Proto == echo.TCP {
		return nil
	}
	code := 0
	if w.GRPC != nil {
		code = *w.GRPC
	}
	if sent.Proto == echo.GRPC && len(w.Status) == 0 || w.GRPC != nil {
		// B-24: what a client of gRPC is told, it is told as gRPC.
		if a.Status != http.StatusOK || a.GRPC != code || !strings.HasPrefix(a.Fields.Get("Content-Type"), "application/grpc") {
			return fmt.Errorf("status %d and grpc-status %d, want 200, grpc-status %d and gRPC's content type", a.Status, a.GRPC, code)
		}
		return nil
	}
	want := w.Status
	if len(want) == 0 {
		want = Statuses{http.StatusOK}
	}
	if !slices.Contains(want, a.Status) {
		return fmt.Errorf("status %d, want %v", a.Status, want)
	}
	return nil
}

func (w *Want) took(a *echo.Answer) error {
	if w.AtLeast > 0 && a.Took < w.AtLeast || w.AtMost > 0 && a.Took > w.AtMost {
		return fmt.Errorf("it took %v, want at least %v and at most %v", a.Took.Round(time.Millisecond), w.AtLeast, w.AtMost)
	}
	return nil
}

// backend looks at who answered, and at what it saw.
func (w *Want) backend(a *echo.Answer, pods map[string]Addresses) error {
	if a.Saw == nil {
		if w.Backend != "" || w.Saw != nil {
			return fmt.Errorf("no backend has answered, but %s", describe(a))
		}
		return nil
	}
	if w.Backend != "" && !match("~"+w.Backend, a.Saw.Backend) {
		return fmt.Errorf("backend %s, want %s", a.Saw.Backend, w.Backend)
	}
	if w.Saw != nil {
		if err := w.Saw.compare(a.Saw, pods); err != nil {
			return err
		}
	}
	if m, is := w.PerBackend[a.Saw.Backend]; is {
		return fields("request at "+a.Saw.Backend, m.Headers, m.Absent, a.Saw.Fields)
	}
	return nil
}

func (s *Saw) compare(have *echo.Saw, pods map[string]Addresses) error {
	for _, p := range []struct{ what, want, have string }{
		{"path", s.Path, have.Path}, {"Host", s.Host, have.Host}, {"method", s.Method, have.Method}, {"protocol", s.Proto, have.Protocol},
	} {
		if p.want != "" && !match(p.want, p.have) {
			return fmt.Errorf("%s saw %s %q, want %q", have.Backend, p.what, p.have, p.want)
		}
	}
	switch {
	case s.Port != 0 && s.Port != have.Port:
		return fmt.Errorf("%s was asked at port %d, want %d", have.Backend, have.Port, s.Port)
	case s.Bytes != nil && *s.Bytes != have.Bytes:
		return fmt.Errorf("%s saw a body of %d bytes, want %d", have.Backend, have.Bytes, *s.Bytes)
	}
	if s.Client != "" {
		from, err := netip.ParseAddrPort(have.Client)
		if a := pods[s.Client]; err != nil || from.Addr().Unmap() != a.V4 && from.Addr().Unmap() != a.V6 {
			return fmt.Errorf("%s saw a client at %s, want pod %s at %s or %s", have.Backend, have.Client, s.Client, a.V4, a.V6)
		}
	}
	if err := fields("request's trailers", s.Trailers, nil, have.Trailers); err != nil {
		return err
	}
	return fields("request at "+have.Backend, s.Headers, s.Absent, have.Fields)
}

// fields compares fields; several of one name are joined without a space, so that a ", " that somebody put there shows (F-13).
func fields(of string, want map[string]string, absent []string, have http.Header) error {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		values, is := have[http.CanonicalHeaderKey(name)]
		if joined := strings.Join(values, ","); !is || !match(want[name], joined) {
			return fmt.Errorf("the %s has %s %q, want %q", of, name, values, want[name])
		}
	}
	for _, name := range absent {
		if values, is := have[http.CanonicalHeaderKey(name)]; is {
			return fmt.Errorf("the %s has %s %q, and should not", of, name, values)
		}
	}
	return nil
}

// shares looks at how the answers are spread.
func (w *Want) shares(answers []echo.Answer) error {
	count := map[string]int{}
	for i := range answers {
		if saw := answers[i].Saw; saw != nil {
			count[saw.Backend]++
		}
	}
	total := len(answers)
	for name, percent := range w.Backends {
		if err := within("backend "+name, float64(percent), count[name], total); err != nil {
			return err
		}
	}
	for name := range count {
		if _, is := w.Backends[name]; !is && len(w.Backends) > 0 {
			return fmt.Errorf("backend %s had %d of %d requests, want none", name, count[name], total)
		}
	}
	if w.Sticky && len(count) != 1 {
		return fmt.Errorf("the requests went to %v, want one backend", count)
	}
	for _, name := range w.Balanced {
		if count[name] == 0 {
			return fmt.Errorf("%s had none of %d requests: %v", name, total, count)
		}
	}
	return nil
}

// within takes five standard deviations, which come once in two million runs. All and none are exact.
func within(what string, percent float64, have, of int) error {
	p := percent / 100
	slack := 5 * math.Sqrt(float64(of)*p*(1-p))
	if want := p * float64(of); math.Abs(float64(have)-want) > slack {
		return fmt.Errorf("%s had %d of %d, want %.0f ± %.0f", what, have, of, want, slack)
	}
	return nil
}

// others looks at what other backends than the one that answered saw: copies, and tries that failed.
func (x *execution) others(ctx context.Context, s *Step, r *echo.Request, answers []echo.Answer) error {
	for _, pod := range slices.Sorted(maps.Keys(s.Want.Tries)) {
		if err := x.tries(ctx, pod, s.Want.Tries[pod]*r.Count, r); err != nil {
			return err
		}
	}
	if s.Want.Copies == nil {
		return nil
	}
	primary := map[string]int{}
	for i := range answers {
		if answers[i].Saw != nil {
			primary[answers[i].Saw.Backend]++
		}
	}
	for _, pod := range []string{"v1", "v2", "v3", "bad"} {
		want, is := s.Want.Copies[pod]
		if is && want.Percent == 0 {
			want.Percent = 100
		}
		if err := x.copies(ctx, pod, &want, r, primary[pod]); err != nil {
			return err
		}
	}
	return nil
}

// tries looks at how often a backend was asked, copies of mirrors included.
func (x *execution) tries(ctx context.Context, pod string, want int, r *echo.Request) error {
	return x.seen(ctx, pod, r.Nonce, func(seen []echo.Saw) error {
		if len(seen) != want {
			return fmt.Errorf("%s saw %d requests, want %d", pod, len(seen), want)
		}
		return nil
	})
}

// copies looks at what a mirror's target saw, beside what it answered itself.
func (x *execution) copies(ctx context.Context, pod string, want *Copies, r *echo.Request, answered int) error {
	return x.seen(ctx, pod, r.Nonce, func(seen []echo.Saw) error {
		if err := within("copies at "+pod, want.Percent, len(seen)-answered, r.Count); err != nil {
			return err
		}
		for i := range seen {
			if want.Saw == nil {
				break
			}
			if err := want.Saw.compare(&seen[i], x.runner.Pods()); err != nil {
				return err
			}
		}
		return nil
	})
}

// seen asks a backend what it saw until that is right: a copy, and a try that was given up, may come later than the answer.
func (x *execution) seen(ctx context.Context, pod, nonce string, check func([]echo.Saw) error) error {
	for end := time.Now().Add(patience); ; time.Sleep(interval) {
		saw, err := x.runner.Seen(ctx, pod, nonce)
		if err != nil {
			return err
		}
		if err = check(saw); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// describe shows an answer in a message.
func describe(a *echo.Answer) string {
	b, err := json.Marshal(a)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
