package forward

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// volume is how much goes through at once.
func volume() int64 {
	if os.Getenv("SLUICE_VERIFY") == "1" {
		return 1 << 30
	}
	return 64 << 20
}

// noise is a stream whose places all differ, which costs little to make.
type noise struct {
	block []byte
	at    uint64
	sum   hash.Hash
}

func newNoise(seed uint64) *noise {
	n := &noise{block: make([]byte, 256<<10), sum: sha256.New()}
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range n.block {
		n.block[i] = byte(r.Uint32())
	}
	return n
}

// next returns up to size bytes, and adds them to the sum.
func (n *noise) next(size int) []byte {
	part := n.block[:min(size, len(n.block))]
	for i := range 8 { // a number in each part: no two are the same
		part[i] = byte(n.at >> (8 * i))
	}
	n.at++
	n.sum.Write(part)
	return part
}

// sendNoise writes a body of size bytes, in chunks of many sizes or as it is, and returns its sum.
func sendNoise(w io.Writer, size int64, chunked bool) (string, error) {
	n := newNoise(uint64(size))
	for i := 0; size > 0; i++ {
		part := n.next(int(min(size, 8+int64(i*7919)%(200<<10))))
		size -= int64(len(part))
		if chunked {
			if _, err := fmt.Fprintf(w, "%x\r\n", len(part)); err != nil {
				return "", err
			}
		}
		if _, err := w.Write(part); err != nil {
			return "", err
		}
		if chunked {
			if _, err := io.WriteString(w, "\r\n"); err != nil {
				return "", err
			}
		}
		if size < 8 && size > 0 { // parts have room for their number
			size = 0
		}
	}
	if chunked {
		if _, err := io.WriteString(w, "0\r\n\r\n"); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", n.sum.Sum(nil)), nil
}

func framing(size int64, chunked bool) string {
	if chunked {
		return "Transfer-Encoding: chunked\r\n"
	}
	return fmt.Sprintf("Content-Length: %d\r\n", size)
}

// sumOf reads a body to its end.
func sumOf(body io.Reader) (string, int64, error) {
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{body}, make([]byte, 64<<10))
	return fmt.Sprintf("%x", sum.Sum(nil)), n, err
}

// aWhile is the limit for a large body.
const aWhile = 10 * time.Minute

func TestLargeBodies(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		name := map[bool]string{false: "Length", true: "chunked"}[chunked]
		t.Run("up "+name, func(t *testing.T) { largeUp(t, chunked) })
		t.Run("down "+name, func(t *testing.T) { largeDown(t, chunked) })
	}
}

func largeUp(t *testing.T, chunked bool) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.within(aWhile)
	sent := make(chan string, 1)
	go func() {
		w := bufio.NewWriterSize(c, 100<<10)
		_, _ = io.WriteString(w, post(framing(volume(), chunked), ""))
		sum, err := sendNoise(w, volume(), chunked)
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			sum = err.Error()
		}
		sent <- sum
	}()
	p := b.accept()
	p.within(aWhile)
	r, err := http.ReadRequest(bufio.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	got, n, err := sumOf(r.Body)
	if want := <-sent; got != want || n != volume() || err != nil {
		t.Fatalf("the endpoint got %d bytes (%v) %s, want %s", n, err, got, want)
	}
	p.send(okay)
	c.want(okay)
	if rec := l.record(); rec.RequestBytes != int(volume()) || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
}

func largeDown(t *testing.T, chunked bool) {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	c := l.dial()
	c.send(get)
	p := b.accept()
	p.want(get)
	c.within(aWhile)
	p.within(aWhile)
	sent := make(chan string, 1)
	go func() {
		w := bufio.NewWriterSize(p, 100<<10)
		_, _ = io.WriteString(w, reply(framing(volume(), chunked), ""))
		sum, err := sendNoise(w, volume(), chunked)
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			sum = err.Error()
		}
		sent <- sum
	}()
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, n, err := sumOf(r.Body)
	if want := <-sent; got != want || n != volume() || err != nil {
		t.Fatalf("the client got %d bytes (%v) %s, want %s", n, err, got, want)
	}
	if rec := l.record(); rec.ResponseBytes != int(volume()) || rec.Failure != "" {
		t.Errorf("recorded as %+v", rec)
	}
}

// Each exchange that stalls holds two buffers and what it is made of, and with chunks what is gathered of small ones:
// nobody can fill the memory by not reading.
func TestStalledReadersHoldLittle(t *testing.T) {
	const (
		readers = 100
		slack   = 1 << 20
	)
	for _, chunked := range []bool{false, true} {
		each := int64(2*16<<10 + 8<<10)
		if chunked {
			each += gatherUpTo
		}
		grown := stalledReaders(t, readers, chunked)
		t.Logf("chunked %v: %d readers that stall hold %d KiB, %d KiB each", chunked, readers, grown>>10, grown>>10/readers)
		if grown > readers*each+slack {
			t.Errorf("chunked %v: the heap grew by %d KiB, more than %d KiB", chunked, grown>>10, (readers*each+slack)>>10)
		}
	}
}

// stalledReaders returns by how much so many grow the heap.
func stalledReaders(t *testing.T, readers int, chunked bool) int64 {
	l := newLab(t, everything(), Limits{})
	b := l.origin()
	piece := make([]byte, 1<<20)
	if chunked {
		piece = bytes.Join([][]byte{fmt.Appendf(nil, "%x\r\n", len(piece)), piece, []byte("\r\n")}, nil)
	}
	head := reply(framing(1<<40, chunked), "")
	var written atomic.Int64
	before := heap()
	for range readers {
		c := l.dial()
		if err := c.SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		c.send(get)
		p := b.accept()
		p.want(get)
		p.send(head)
		c.want(head)
		go func() {
			for {
				n, err := p.Write(piece)
				if written.Add(int64(n)); err != nil {
					return
				}
			}
		}()
		defer c.close()
		defer p.close()
	}
	awaitStall(t, &written)
	if n := l.client.requests.Load(); n != int64(readers) {
		t.Errorf("%d requests are under way, want %d", n, readers)
	}
	return heap() - before
}

func heap() int64 {
	var m runtime.MemStats
	for range 2 { // what a sync.Pool keeps goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// awaitStall waits until nothing moves any more.
func awaitStall(t *testing.T, written *atomic.Int64) {
	t.Helper()
	last, same := int64(-1), 0
	if !eventually(func() bool {
		runtime.Gosched()
		now := written.Load()
		if now != last {
			last, same = now, 0
		}
		same++
		return same > 200 // looks, a millisecond or more apart
	}) {
		t.Fatal("the endpoints can still write")
	}
}

// A pod that is at its limit is told so, and others are not concerned.
func TestLimitOfRequests(t *testing.T) {
	l := newLab(t, everything(), Limits{Requests: 2})
	b := l.origin()
	var busy, peers []*peer
	for range 2 {
		c := l.dial()
		c.send(get)
		p := b.accept()
		p.want(get)
		busy, peers = append(busy, c), append(peers, p)
	}
	c := l.dial()
	c.send(post("Content-Length: 5\r\n", "hello"))
	c.wantRefusal(503, "too many requests", false)
	if rec := l.record(); rec.Failure != overloaded || rec.Status != 503 || rec.Service != "web" || rec.Port != 80 {
		t.Errorf("recorded as %+v", rec)
	}
	other := l.dialTo(l.listen(l.newClient("shop", "other")))
	other.send(get)
	p := b.accept()
	p.want(get)
	p.send(bye)
	other.want(okay)
	peers[0].send(okay)
	busy[0].want(okay)
	if !eventually(func() bool { return l.client.requests.Load() < 2 }) {
		t.Fatal("the exchange's end is not counted")
	}
	c.send(get) // the same connection, now that there is room
	peers[0].want(get)
	peers[0].send(okay)
	c.want(okay)
	peers[1].send(okay)
	busy[1].want(okay)
}

func TestLimitOfConnections(t *testing.T) {
	l := newLab(t, everything(), Limits{Connections: 2})
	b := l.origin()
	first, second := l.dial(), l.dial()
	if !eventually(func() bool { return l.client.connections.Load() == 2 }) {
		t.Fatal("the connections are not counted")
	}
	c := l.dial()
	c.send(get)
	c.wantRefusal(503, "too many connections", true)
	c.wantEnd()
	c.close()
	if rec := l.record(); rec.Failure != overloaded || rec.Status != 503 || rec.Service != "web" || rec.Port != 80 {
		t.Errorf("recorded as %+v", rec)
	}
	other := l.dialTo(l.listen(l.newClient("shop", "other")))
	for _, c := range []*peer{other, first, second} {
		c.send(get)
		p := b.accept()
		p.want(get)
		p.send(bye)
		c.want(okay)
	}
	first.close()
	if !eventually(func() bool { return l.client.connections.Load() < 2 }) {
		t.Fatal("the connection's end is not counted")
	}
	l.serves(b)
}

// What an earlier exchange left in the memory that is used again is no part of a refusal: neither HEAD, which has no body,
// nor what stands at its place in a buffer now.
func TestLimitOfConnectionsAfterHEAD(t *testing.T) {
	l := newLab(t, routes(), Limits{Connections: 1})
	c := l.dial()
	for range 100 { // sync.Pool under the race detector drops some
		c.send("\r\nHEAD / HTTP/1.1\r\nHost: web\r\n\r\n")
		c.until("\r\n\r\n")
		d := l.dial()
		d.send("A HEAD")
		d.wantRefusal(503, "too many connections", true)
		d.wantEnd()
		d.close()
		if !eventually(func() bool { return l.client.connections.Load() == 1 }) {
			t.Fatal("the connection's end is not counted")
		}
	}
}
