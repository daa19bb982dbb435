package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
	"github.com/sluice-mesh/sluice/l7proxy/observe"
)

// pattern is the body that everybody sends: it says at each place where it is.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 31 >> 3)
	}
	return b
}

var errGaveUp = errors.New("the client gave up")

// rough answers like an endpoint that has good and bad days: echoes, slowly or early, or breaks off.
func rough(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	switch rand.IntN(12) {
	case 0:
		panic(http.ErrAbortHandler)
	case 1: // early
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	case 2:
		w.WriteHeader(http.StatusOK)
		_, _ = io.CopyN(w, r.Body, 10_000)
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Echo", "1")
	buf := make([]byte, 1+rand.IntN(30_000))
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r.Body}, buf)
}

// roughly is one request. It tells whether all of it came back.
func roughly(client *http.Client, all []byte) (whole bool, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	size := []int{0, 1, 100, 5000, 20_000, 200_000, 1_000_000}[rand.IntN(7)]
	body := io.Reader(bytes.NewReader(all[:size]))
	if rand.IntN(4) == 0 { // in the middle of sending
		body = io.MultiReader(bytes.NewReader(all[:size/2]), givesUp{cancel}, bytes.NewReader(all[size/2:size]))
	}
	req, err := http.NewRequestWithContext(ctx, "PUT", "http://web/", body)
	if err != nil {
		return false, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, nil
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Echo") == "" {
		return false, nil
	}
	want := all[:size]
	buf := make([]byte, 1+rand.IntN(50_000))
	for {
		n, err := resp.Body.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return false, fmt.Errorf("%d bytes came back that are not those that were sent, %d before the end", n, len(want))
		}
		want = want[n:]
		switch {
		case errors.Is(err, io.EOF) && len(want) > 0 && ctx.Err() == nil:
			return false, fmt.Errorf("an answer ended %d bytes early, and looks whole", len(want))
		case err != nil:
			return err == io.EOF, nil
		case rand.IntN(200) == 0: // in the middle of receiving
			return false, nil
		case rand.IntN(50) == 0:
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // a slow reader: load, no synchronisation
		}
	}
}

// givesUp cancels the request when it is read.
type givesUp struct{ cancel context.CancelCauseFunc }

func (f givesUp) Read([]byte) (int, error) {
	if rand.IntN(2) == 0 {
		f.cancel(errGaveUp)
	}
	return 0, io.EOF
}

// policies are what the rules of the stress test have, one after the other: none first.
func policies() []*model.RouteTable {
	plain := everything()
	timed := policed(within(300*time.Millisecond, 100*time.Millisecond), nil)
	retried := policed(within(time.Second, 20*time.Millisecond), again(3, 413, 502, 503, 504))
	mirrored := policed(model.Timeouts{}, nil, mirrorTo(webKey, 1, 2), mirrorTo(shadowKey, 1, 4))
	edited := policed(model.Timeouts{}, again(2, 502), setHeader("X-Rule", "1"), mirrorTo(webKey, 1, 3),
		model.Filter{ResponseHeaders: &model.HeaderEdit{Set: []model.Header{{Name: "X-Edit", Value: "1"}}}},
		model.Filter{CORS: &model.CORS{Origins: []string{"*"}, MaxAge: 5}})
	return []*model.RouteTable{plain, timed, retried, mirrored, edited}
}

// Everything at the same time: clients and endpoints of both versions, random sizes, resets from both sides, endpoints that
// come and go, slow readers, rules with policies and without. No byte is lost, and at the end everything that was counted up
// was counted down (lab.close).
func TestStress(t *testing.T) {
	last := 3 * time.Second
	if os.Getenv("SLUICE_VERIFY") == "1" {
		last = 2 * time.Minute
	}
	l := newLab(t, everything(), Limits{Buffered: 32 << 20})
	backends := []*stdBackend{newStdBackend(t, onlyHTTP2, rough), newStdBackend(t, onlyHTTP1, rough), newStdBackend(t, both, rough)}
	var addrs []netip.AddrPort
	for _, b := range backends {
		addrs = append(addrs, b.addr)
	}
	l.apply(webKey, addrs...)
	clients := []*http.Client{l.httpClient(onlyHTTP2), l.httpClient(onlyHTTP2), l.httpClient(onlyHTTP1)}
	all := pattern(1_000_000)
	until := time.Now().Add(last)
	var wg sync.WaitGroup
	var whole, broken atomic.Int64
	for i := range 24 {
		client := clients[i%len(clients)]
		wg.Go(func() {
			for time.Now().Before(until) {
				ok, err := roughly(client, all)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					whole.Add(1)
				} else {
					broken.Add(1)
				}
			}
		})
	}
	wg.Go(func() {
		protocols := []string{"", "", "kubernetes.io/h2c", "kubernetes.io/ws"}
		tables := policies()
		for i := 0; time.Now().Before(until); i++ {
			time.Sleep(20 * time.Millisecond) // the pace of the changes
			l.port.Swap(l.compile(unitOf(tables[i%len(tables)])))
			leave := rand.IntN(len(addrs))
			some := append(append([]netip.AddrPort{}, addrs[:leave]...), addrs[leave+1:]...)
			l.appProtocol(webKey, protocols[rand.IntN(len(protocols))], some...)
		}
	})
	wg.Wait()
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	if whole.Load() < 20 || broken.Load() < 20 {
		t.Errorf("%d exchanges were whole and %d were not: that says nothing", whole.Load(), broken.Load())
	}
	for _, result := range []string{observe.MirrorSent, observe.MirrorFailed} {
		if l.metric("sluice_mirrored_requests_total", result) == 0 {
			t.Errorf("no copy was %s: that says nothing", result)
		}
	}
	t.Logf("%d whole, %d broken", whole.Load(), broken.Load())
}
