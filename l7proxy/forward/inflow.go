package forward

import (
	"slices"
	"strings"
	"sync"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// inflow gathers what an endpoint sends on a stream, for the goroutine of a client that speaks HTTP/1.1. The windows of
// the stream bound what it holds, and so does what the client's pod may have buffered. One is made for each attempt, so it
// needs no tokens.
type inflow struct {
	client *Client
	limit  int64 // of client.buffered

	mu       sync.Mutex
	wake     sync.Cond
	conn     *http2.Conn // that was waited for
	failed   error       // or why there is none
	heads    []message.Response
	bodiless bool // nothing follows the last of them
	body     []byte
	taken    []byte // the memory of the last part
	held     int    // bytes of both, which count as buffered
	ended    bool
	trailers message.Fields
	gone     *http2.StreamError
	over     bool // nobody listens any more
	unsent   int  // bytes of the request's body that wait for the endpoint's windows, which count as buffered
	pumped   bool // the rest of the request was sent, or will not be
}

func newInflow(client *Client, limit int64) *inflow {
	f := &inflow{client: client, limit: limit}
	f.wake.L = &f.mu
	return f
}

// change does something to f, and wakes who waits.
func (f *inflow) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	f.wake.Broadcast()
}

// Connected implements upstream.Waiter.
func (f *inflow) Connected(_ uint64, conn *http2.Conn, err error) {
	f.change(func() { f.conn, f.failed = conn, err })
}

// connection waits for Connected.
func (f *inflow) connection() (*http2.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.conn == nil && f.failed == nil && f.gone == nil {
		f.wake.Wait()
	}
	if f.gone != nil {
		return nil, errCancelled
	}
	conn, err := f.conn, f.failed
	f.conn, f.failed = nil, nil
	return conn, err
}

// Response implements http2.Receiver, as do the following.
func (f *inflow) Response(_ *http2.Turn, _ uint64, r *message.Response, end bool) {
	own := message.Response{Status: r.Status, Fields: cloneFields(r.Fields)}
	f.change(func() {
		f.heads = append(f.heads, own)
		f.bodiless, f.ended = end, end
	})
}

// Data is a part of the body.
func (f *inflow) Data(_ *http2.Turn, _ uint64, p []byte, end bool) {
	f.change(func() {
		if f.over {
			return
		}
		f.body = append(f.body, p...)
		f.ended = end
		f.held += len(p)
		if f.client.buffered.Add(int64(len(p))) > f.limit && f.gone == nil {
			f.body, f.ended, f.gone = nil, false, errBuffered
		}
	})
}

// Trailers are the end of it.
func (f *inflow) Trailers(_ *http2.Turn, _ uint64, trailers message.Fields) {
	own := cloneFields(trailers)
	f.change(func() { f.trailers, f.ended = own, true })
}

// Sent tells that some of the request went on.
func (f *inflow) Sent(_ *http2.Turn, _ uint64, n int) {
	f.change(func() {
		if !f.over {
			f.unsent -= n
			f.client.buffered.Add(-int64(n))
		}
	})
}

// Gone tells that the stream broke off, or that nobody wants it any more.
func (f *inflow) Gone(_ *http2.Turn, _ uint64, why *http2.StreamError) {
	own := *why // it is a view
	f.change(func() {
		if f.gone == nil {
			f.gone = &own
		}
	})
}

// errBuffered is how a stream ends whose client is too slow for what its pod may have buffered.
var errBuffered = &http2.StreamError{Code: http2.EnhanceYourCalm, Reason: "the client pod has too much buffered"}

// close is the end of it, whatever came: nothing that is held counts any more.
func (f *inflow) close() {
	f.change(func() {
		f.over = true
		f.client.buffered.Add(-int64(f.held + f.unsent))
		f.held, f.unsent = 0, 0
	})
}

// settled waits until all of the request was sent, or the endpoint does not want the rest. It tells which.
func (f *inflow) settled() (pumped bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.pumped && f.gone == nil {
		f.wake.Wait()
	}
	return f.pumped
}

// cut ends what waits.
func (f *inflow) cut() {
	f.Gone(nil, 0, &http2.StreamError{Connection: true, Reason: "the client is gone"})
}

// head waits for the next head of an answer. End: nothing follows it.
func (f *inflow) head() (r message.Response, end bool, why *http2.StreamError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.heads) == 0 {
		if f.gone != nil {
			return r, false, f.gone
		}
		f.wake.Wait()
	}
	r = f.heads[0]
	f.heads = f.heads[1:]
	return r, len(f.heads) == 0 && f.bodiless, nil
}

// part waits for the next part of the body, which is valid until the next call.
func (f *inflow) part() (p []byte, end bool, why *http2.StreamError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.body) == 0 && !f.ended {
		if f.gone != nil {
			return nil, false, f.gone
		}
		f.wake.Wait()
	}
	f.client.buffered.Add(-int64(len(f.taken))) // it went on
	f.held -= len(f.taken)
	p = f.body
	f.body, f.taken = f.taken[:0], p
	return p, f.ended, nil
}

// maxUnsent is up to how many bytes of a request's body wait for the endpoint's windows.
const maxUnsent = 64 << 10

// queued counts what was queued. False: the stream has broken off.
func (f *inflow) queued(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsent += n
	if f.client.buffered.Add(int64(n)) > f.limit && f.gone == nil && n > 0 {
		f.gone = errBuffered
	}
	f.wake.Broadcast()
	return f.gone == nil
}

// sendable waits until more may be queued. False: the stream has broken off.
func (f *inflow) sendable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.unsent > maxUnsent && f.gone == nil {
		f.wake.Wait()
	}
	return f.gone == nil
}

// cloneFields copies fields and what they are views of.
func cloneFields(f message.Fields) message.Fields {
	out := slices.Clone(f)
	for i := range out {
		out[i].Name, out[i].Value = strings.Clone(out[i].Name), strings.Clone(out[i].Value)
	}
	return out
}
