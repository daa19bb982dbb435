package openloop

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestPercentileIsTheNearestRank(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.999, 100}, {hundred, 1, 100}, {hundred, 0, 1},
		{hundred[:1], 0.5, 1}, {hundred[:3], 0.5, 2}, {hundred[:4], 0.5, 2}, {nil, 0.5, 0},
	} {
		if got := Percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile %g of %d values = %d, want %d", c.p, len(c.values), got, c.want)
		}
	}
}

// One connection, a request due each 10 ms, and a server that takes 1 ms but stalls for 1 s once. Measured from the send,
// one request would be slow; here all that were due meanwhile are.
func TestStallCountsForEveryRequestDueMeanwhile(t *testing.T) {
	var l line
	var times []time.Duration
	now := time.Duration(0)
	for k := range 1000 {
		due := time.Duration(k) * 10 * ms
		l.add(due)
		now = max(now, due)
		if sent, ok := l.next(); !ok || sent != due {
			t.Fatalf("request %d: next gives %v, %v", k, sent, ok)
		}
		now += ms
		if k == 500 {
			now += time.Second
		}
		times = append(times, l.answered(now))
	}
	got := Distribution(times)
	// After the stall it is 1 s behind and gains 9 ms with each request: 112 requests are late.
	late := 0
	for _, v := range times {
		if v > ms {
			late++
		}
	}
	if late < 110 || late > 113 {
		t.Errorf("%d requests are late, want about 112", late)
	}
	if got.P50 != ms || got.Max != 1001*ms || got.P90 < 80*ms || got.P99 < 900*ms {
		t.Errorf("%+v: the stall is not in the percentiles", got)
	}
}

func TestLineSendsOneAtATimeInOrder(t *testing.T) {
	var l line
	if _, ok := l.next(); ok {
		t.Error("an empty line gives a request")
	}
	for i := range 3 {
		l.add(time.Duration(i) * ms)
	}
	for i := range 3 {
		due, ok := l.next()
		if !ok || due != time.Duration(i)*ms {
			t.Fatalf("request %d: %v, %v", i, due, ok)
		}
		if _, ok := l.next(); ok {
			t.Fatal("a second request is sent before the first is answered")
		}
		if got := l.answered(10 * ms); got != 10*ms-due {
			t.Errorf("request %d has waited %v, want %v", i, got, 10*ms-due)
		}
	}
}

func TestScheduleKeepsTheRate(t *testing.T) {
	l := Load{Rate: 3000, WarmUp: 500 * ms, Duration: time.Second}
	if got := l.total(); got != 4500 {
		t.Errorf("%d requests, want 4500", got)
	}
	if got := l.due(4500); got != 1500*ms {
		t.Errorf("the last is due after %v, want 1.5s: roundings must not add up", got)
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	good := Load{Target: netip.MustParseAddrPort("127.0.0.1:80"), Requests: []string{"x"}, Connections: 1, Rate: 1, Duration: time.Second}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Load){
		"target": func(l *Load) { l.Target = netip.AddrPort{} }, "requests": func(l *Load) { l.Requests = nil },
		"connections": func(l *Load) { l.Connections = 0 }, "rate": func(l *Load) { l.Rate = 0 }, "duration": func(l *Load) { l.Duration = time.Hour },
	} {
		l := good
		edit(&l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResultTravelsAsJSON(t *testing.T) {
	want := Result{Sent: 3, Failed: 1, FirstFailure: "x", P50: 1, P90: 2, P99: 3, P999: 4, Max: 5, LateP99: 6}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Result
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%s: got %+v, %v", b, got, err)
	}
}

func TestAnswerEndsWhereItsLengthSays(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 10\r\nConnection: close\r\n\r\n0123456789"
	for size := 1; size <= len(whole); size++ {
		var a answer
		var done bool
		for chunk := range slices.Chunk([]byte(whole), size) {
			if done {
				t.Fatalf("pieces of %d: done before the end", size)
			}
			var err error
			if done, err = a.feed(chunk); err != nil {
				t.Fatalf("pieces of %d: %v", size, err)
			}
		}
		if !done || !a.Close {
			t.Fatalf("pieces of %d: done %v, close %v", size, done, a.Close)
		}
	}
}

func TestAnswerRefusesWhatItCannotMeasure(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "SSH-2.0\r\n\r\n", strings.Repeat("x", maxHead+1),
	} {
		var a answer
		if done, err := a.feed([]byte(text)); err == nil {
			t.Errorf("%.40q: done %v and no error", text, done)
		}
	}
}
