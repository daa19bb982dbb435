package observe

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// buckets is what a histogram says, in a form to compare.
type buckets struct {
	Schema        int32
	ZeroThreshold float64
	Zero, Count   uint64
	Spans         [][2]int64
	Deltas        []int64
	Classic       map[float64]uint64
}

func bucketsOf(h *dto.Histogram) buckets {
	b := buckets{
		Schema: h.GetSchema(), ZeroThreshold: h.GetZeroThreshold(), Zero: h.GetZeroCount(), Count: h.GetSampleCount(),
		Deltas: h.PositiveDelta, Classic: map[float64]uint64{},
	}
	for _, s := range h.PositiveSpan {
		b.Spans = append(b.Spans, [2]int64{int64(s.GetOffset()), int64(s.GetLength())})
	}
	for _, c := range h.Bucket {
		b.Classic[c.GetUpperBound()] = c.GetCumulativeCount()
	}
	return b
}

// reference is client_golang's own histogram of the same buckets.
func reference(tb testing.TB, durations []time.Duration) *dto.Histogram {
	tb.Helper()
	opts := prometheus.HistogramOpts{
		Name: "reference", NativeHistogramBucketFactor: math.Pow(2, 1.0/perOctave), NativeHistogramZeroThreshold: zeroThreshold,
	}
	for _, b := range classicBounds {
		opts.Buckets = append(opts.Buckets, b.Seconds())
	}
	h := prometheus.NewHistogram(opts)
	for _, d := range durations {
		h.Observe(float64(d) / float64(time.Second))
	}
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		tb.Fatal(err)
	}
	return m.Histogram
}

func TestHistogramAgainstClientGolang(t *testing.T) {
	var all []time.Duration
	for _, b := range classicBounds {
		all = append(all, b-1, b, b+1)
	}
	for octave := minOctave; octave < maxOctave; octave++ { // where buckets end
		end := time.Duration(math.Ldexp(float64(time.Second), octave))
		all = append(all, end-1, end, end+1)
	}
	all = append(all, 0, 1, time.Microsecond)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		all = append(all, time.Duration(math.Exp(random.Float64()*math.Log(float64(12*24*time.Hour)))))
	}
	r, reg := recorder(t, Options{})
	for _, d := range all {
		rec := newMesh().record(0, 0, 200)
		rec.Duration = d
		r.Done(rec)
	}
	got, want := durations(t, reg), reference(t, all)
	if diff := cmp.Diff(bucketsOf(want), bucketsOf(got)); diff != "" {
		t.Errorf("-client_golang +ours\n%s", diff)
	}
	if d := math.Abs(got.GetSampleSum() - want.GetSampleSum()); d > 1e-6*float64(len(all)) {
		t.Errorf("the sum is %v: want %v", got.GetSampleSum(), want.GetSampleSum())
	}
	if got.CreatedTimestamp == nil {
		t.Error("it does not say since when it counts")
	}
}

func TestDurationsBeyondTheBuckets(t *testing.T) {
	r, reg := recorder(t, Options{})
	for _, d := range []time.Duration{-time.Second, 0, math.MaxInt64} {
		rec := newMesh().record(0, 0, 200)
		rec.Duration, rec.RequestBytes, rec.ResponseBytes = d, -1, -1
		r.Done(rec)
	}
	got := durations(t, reg)
	if got.GetZeroCount() != 2 || got.GetSampleCount() != 3 || len(got.PositiveDelta) != 1 {
		t.Errorf("%v: want two in the zero bucket and one in another", got)
	}
	if end := got.PositiveSpan[0].GetOffset(); end != (maxOctave+1)*perOctave {
		t.Errorf("what took longest is in bucket %d: want the last, %d", end, (maxOctave+1)*perOctave)
	}
	if n := scrape(t, reg).like("sluice_request_bytes_total").sum(); n != 0 {
		t.Errorf("%v bytes: want none", n)
	}
}

func TestTheSumIsOfRoundedMicroseconds(t *testing.T) {
	r, reg := recorder(t, Options{})
	for _, d := range []time.Duration{1499, 1500, 3 * time.Hour} {
		rec := newMesh().record(0, 0, 200)
		rec.Duration = d
		r.Done(rec)
	}
	if got, want := durations(t, reg).GetSampleSum(), 3*3600+3e-6; got != want {
		t.Errorf("the sum is %v: want %v", got, want)
	}
}
