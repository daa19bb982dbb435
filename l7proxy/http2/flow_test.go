package http2

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// answered opens a stream on which a response has begun.
func answered(t *testing.T, l *log, p *peer, id uint32) Handle {
	t.Helper()
	p.head(id, true, get("/")...)
	l.expect(t, fmt.Sprintf("request %d GET http://a.example/ end", id))
	h := l.handle(id)
	do(func(t *Turn) { h.Head(t, AppendResponse(nil, &message.Response{Status: 200}), false) })
	p.expect(fmt.Sprintf("HEADERS %d [:status 200]", id))
	return h
}

// data sends in a Turn of its own and returns how much was queued.
func data(h Handle, p string, end bool) (queued int, ok bool) {
	do(func(t *Turn) { queued, ok = h.Data(t, []byte(p), end) })
	return queued, ok
}

func TestRFC9113Section6_9_StreamWindow(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 3}))
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	if queued, ok := data(h, "abcde", false); queued != 2 || !ok {
		t.Errorf("%d bytes are queued, %v", queued, ok)
	}
	p.expect(`DATA 1 "abc"`)
	if queued, _ := data(h, "fgh", true); queued != 3 {
		t.Errorf("%d bytes are queued", queued)
	}
	if _, ok := data(h, "more", false); ok {
		t.Error("there is more behind the end")
	}
	p.alive()
	p.must(p.WriteWindowUpdate(1, 1))
	p.expect(`DATA 1 "d"`)
	p.must(p.WriteWindowUpdate(1, 100))
	p.expect(`DATA 1 "efgh" end`)
	l.expect(t, "sent 1 1", "sent 1 4")
}

func TestRFC9113Section6_9_TrailersAreBehindWhatIsQueued(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}))
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	data(h, "abc", false)
	do(func(turn *Turn) {
		if !h.Trailers(turn, AppendTrailers(nil, fieldsFrom("grpc-status 0"))) || h.Trailers(turn, nil) {
			t.Error("trailers are sent once")
		}
	})
	p.alive()
	p.must(p.WriteWindowUpdate(1, 3))
	p.expect(`DATA 1 "abc"`, "HEADERS 1 [grpc-status 0] end")
	l.expect(t, "sent 1 3")
	if s.Streams() != 0 {
		t.Error("the stream is left")
	}
	h = answered(t, l, p, 3) // an end needs no window
	if queued, ok := data(h, "", true); queued != 0 || !ok {
		t.Error(queued, ok)
	}
	p.expect(`DATA 3 "" end`)
	h = answered(t, l, p, 5)
	data(h, "abc", false)
	data(h, "", true)
	p.must(p.WriteWindowUpdate(5, 3))
	p.expect(`DATA 5 "abc" end`)
}

// RFC 9113, 6.9.2: a smaller initial window may make a window negative.
func TestRFC9113Section6_9_2_NegativeWindow(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	initial := func(n uint32) {
		p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: n}))
	}
	initial(10)
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	data(h, "abcdefgh", false)
	p.expect(`DATA 1 "abcdefgh"`)
	initial(5) // 8 went: -3
	p.expect("SETTINGS ack")
	if queued, _ := data(h, "ij", false); queued != 2 {
		t.Errorf("%d bytes are queued", queued)
	}
	p.must(p.WriteWindowUpdate(1, 3)) // 0
	p.alive()
	initial(6)
	p.expect("SETTINGS ack", `DATA 1 "i"`)
	initial(100)
	p.expect("SETTINGS ack", `DATA 1 "j"`)
}

// Streams that wait for the connection's window get a frame each in turn.
func TestStreamsShareTheConnectionsWindow(t *testing.T) {
	l := newLog()
	_, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 20}))
	p.expect("SETTINGS ack")
	first := answered(t, l, p, 1)
	if queued, _ := data(first, strings.Repeat("x", usualWindow), false); queued != 0 {
		t.Fatal(queued)
	}
	for n := 0; n < usualWindow; n += maxFrame {
		p.next()
	}
	for id := uint32(3); id <= 7; id += 2 {
		h := answered(t, l, p, id)
		data(h, strings.Repeat("y", 2*maxFrame), true)
	}
	p.must(p.WriteWindowUpdate(0, 4*maxFrame+1))
	for _, want := range []string{"3", "5", "7", "3"} {
		if got := p.next(); !strings.HasPrefix(got, "DATA "+want+" ") {
			t.Errorf("got %.20s, want DATA %s", got, want)
		}
	}
	p.expect(`DATA 5 "y"`)
	p.alive()
	if queued, _ := data(first, "z", false); queued != 1 { // behind those who wait
		t.Error("who comes late is first")
	}
}

// What is more than our windows allow is an error; what comes back is what Credit gives back, and what nobody will.
func TestRFC9113Section6_9_1_OurWindows(t *testing.T) {
	l := newLog()
	l.hold = true
	s, p := serverPeer(t, Limits{StreamWindow: 4000}, l)
	p.head(1, false, post()...)
	p.must(p.WriteDataPadded(1, false, make([]byte, 1000), make([]byte, 255)))
	p.must(p.WriteData(1, false, make([]byte, 1000)))
	p.alive()
	do(func(t *Turn) { l.handle(1).Credit(t, 1743) })
	p.alive()
	do(func(t *Turn) { l.handle(1).Credit(t, 1) })
	p.expect("WINDOW_UPDATE 1 +2000") // with 256 of padding
	do(func(t *Turn) { l.handle(1).Credit(t, 1<<20) })
	p.must(p.WriteData(1, false, make([]byte, 3744)))
	p.alive()
	p.must(p.WriteData(1, false, make([]byte, 1)))
	p.expect("RST_STREAM 1 FLOW_CONTROL_ERROR")
	p.alive()
	s.mu.Lock()
	if s.recvWindow+int64(s.gathered) != 8<<20 {
		t.Errorf("%d + %d of the connection's window", s.recvWindow, s.gathered)
	}
	s.recvWindow = 10
	s.mu.Unlock()
	p.head(3, false, post()...)
	p.must(p.WriteData(3, false, make([]byte, 11)))
	p.ends(xhttp2.ErrCodeFlowControl)
}

// A window below 65,535 holds once the peer has acknowledged it (RFC 9113, 6.5.3).
func TestRFC9113Section6_5_3_SmallWindowHoldsFromTheAckOn(t *testing.T) {
	l := newLog()
	_, p := silentPeer(t, Limits{StreamWindow: 10}, l)
	p.say(preface)
	p.must(p.WriteSettings())
	p.head(1, false, post()...)
	p.must(p.WriteData(1, false, make([]byte, 5)))
	p.expect("SETTINGS", "WINDOW_UPDATE", "SETTINGS ack", "WINDOW_UPDATE 1 +5")
	p.must(p.WriteData(1, false, make([]byte, 20)))
	p.expect("WINDOW_UPDATE 1 +20")
	p.must(p.WriteSettingsAck())
	p.head(3, false, post()...)
	p.must(p.WriteData(3, false, make([]byte, 11)))
	p.expect("RST_STREAM 3 FLOW_CONTROL_ERROR")
}

// A peer that does not read costs a bounded amount of memory, stops nobody, and gets everything once it reads.
func TestPeerThatDoesNotRead(t *testing.T) {
	l := newLog()
	const limit = 100 << 10
	s, p := serverPeer(t, Limits{Unwritten: limit}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: maxWindow}))
	p.must(p.WriteWindowUpdate(0, maxWindow-usualWindow))
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	part := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	total, queued := 0, 0
	for queued == 0 {
		do(func(t *Turn) { queued, _ = h.Data(t, part, false) })
		total += len(part)
		if total > 100<<20 {
			t.Fatal("there is no limit")
		}
	}
	s.mu.Lock()
	if n := s.out.unwritten(); n < limit || n > limit+maxFrame+frameHead {
		t.Errorf("%d bytes are unwritten", n)
	}
	s.mu.Unlock()
	do(func(t *Turn) { h.Data(t, nil, true) })
	got := 0
	for {
		f, err := p.ReadFrame()
		p.must(err)
		d := f.(*xhttp2.DataFrame)
		for i := 0; i < len(d.Data()); i += 1 << 10 {
			if want := part[(got+i)%len(part)]; d.Data()[i] != want {
				t.Fatalf("byte %d is %q, want %q", got+i, d.Data()[i], want)
			}
		}
		if got += len(d.Data()); d.StreamEnded() {
			break
		}
	}
	if got != total {
		t.Errorf("%d bytes of %d", got, total)
	}
	l.mu.Lock()
	sum := 0
	for _, line := range l.lines {
		var token, n int
		if _, err := fmt.Sscanf(line, "sent %d %d", &token, &n); err == nil {
			sum += n
		}
	}
	l.mu.Unlock()
	if sum != queued {
		t.Errorf("%d bytes were told to be sent of %d that were queued", sum, queued)
	}
}

// courier sends and receives bodies of its own making, and checks them.
type courier struct {
	mu     sync.Mutex
	handle Handle
	random *rand.Rand
	send   []byte
	want   []byte
	sent   int
	queued int
	got    int
	begun  chan struct{}
	done   chan string
	over   bool
}

func (c *courier) finish(why string) {
	if !c.over {
		c.over = true
		c.done <- why
	}
}

// push sends on as long as little is queued.
func (c *courier) push(t *Turn) {
	for c.queued < 40_000 && c.sent < len(c.send) {
		n := min(1+c.random.IntN(30_000), len(c.send)-c.sent)
		queued, ok := c.handle.Data(t, c.send[c.sent:c.sent+n], c.sent+n == len(c.send))
		if !ok {
			c.finish("cannot send")
			return
		}
		c.sent += n
		c.queued += queued
	}
}

func (c *courier) Response(*Turn, uint64, *message.Response, bool) {}
func (c *courier) Trailers(*Turn, uint64, message.Fields)          {}
func (c *courier) Gone(_ *Turn, _ uint64, why *StreamError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got < len(c.want) {
		c.finish(why.Reason)
	}
}

func (c *courier) Sent(t *Turn, _ uint64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued -= n
	c.push(t)
}

func (c *courier) Data(t *Turn, _ uint64, p []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !bytes.Equal(p, c.want[c.got:min(c.got+len(p), len(c.want))]) {
		c.finish(fmt.Sprintf("what came at %d is not what was sent", c.got))
		return
	}
	c.got += len(p)
	c.handle.Credit(t, len(p))
	if end {
		why := ""
		if c.got != len(c.want) {
			why = "it ended early"
		}
		c.finish(why)
	}
}

// couriers answers each request with a courier, by the number in its path.
type couriers struct{ list []*courier }

func (c *couriers) Request(t *Turn, h Handle, r *message.Request, _ bool) {
	var i int
	if _, err := fmt.Sscanf(r.Path, "/%d", &i); err != nil {
		h.Reset(t, Cancel)
		return
	}
	x := c.list[i]
	x.mu.Lock()
	defer x.mu.Unlock()
	x.handle = h
	close(x.begun)
	h.Bind(x, 0)
	h.Head(t, AppendResponse(nil, &message.Response{Status: 200}), false)
	x.push(t)
}
func (c *couriers) Refuse(t *Turn, h Handle, err *Error) { h.Reset(t, err.Code) }

// Random bodies go both ways at once through random windows: all bytes arrive as they were sent, and nobody waits for ever.
func TestBodiesBothWays(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 11))
			pick := func(n ...int) int { return n[random.IntN(len(n))] }
			limits := Limits{
				StreamWindow: pick(1000, 20_000, 256<<10), ConnectionWindow: pick(1<<16, 8<<20), Unwritten: pick(1000, 50_000, 256<<10),
			}
			const n = 20
			near, far := make([]*courier, n), &couriers{}
			for i := range near {
				a, b := randomBytes(random), randomBytes(random)
				near[i] = &courier{random: rand.New(rand.NewPCG(seed, uint64(i))), send: a, want: b, done: make(chan string, 1)}
				far.list = append(far.list, &courier{random: rand.New(rand.NewPCG(seed, uint64(100+i))), send: b, want: a, begun: make(chan struct{}), done: make(chan string, 1)})
			}
			client, f := between(t, limits, far)
			for i, c := range near { // no data is on its way that would have to be read before the requests are
				do(func(turn *Turn) {
					c.mu.Lock()
					defer c.mu.Unlock()
					var err error
					r := &message.Request{Method: "POST", Authority: "a", Path: fmt.Sprintf("/%d", i)}
					if c.handle, err = client.Open(turn, AppendRequest(nil, r), false, c, 0); err != nil {
						t.Error(err)
					}
				})
			}
			for _, c := range far.list {
				<-c.begun
			}
			for _, c := range near {
				do(func(turn *Turn) {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.push(turn)
				})
			}
			late := time.After(2 * patienceOfTests)
			for i := range n {
				for _, c := range []*courier{near[i], far.list[i]} {
					select {
					case why := <-c.done:
						if why != "" {
							t.Errorf("courier %d: %s", i, why)
						}
					case <-late:
						t.Fatalf("%+v: courier %d waits: sent %d of %d, got %d of %d", limits, i, c.sent, len(c.send), c.got, len(c.want))
					}
				}
			}
			if f.gone > 0 {
				t.Errorf("%d exchanges were lost", f.gone)
			}
		})
	}
}

func randomBytes(random *rand.Rand) []byte {
	b := make([]byte, 1+random.IntN(300_000))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// A stream that stalls does not stop another one.
func TestStalledStreamStopsNobody(t *testing.T) {
	l := newLog()
	l.hold = true
	_, p := serverPeer(t, Limits{StreamWindow: 100_000}, l)
	p.head(1, false, post()...)
	for range 6 {
		p.must(p.WriteData(1, false, make([]byte, maxFrame)))
	}
	p.head(3, true, get("/")...)
	p.alive()
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := l.lines[len(l.lines)-1]; last != "request 3 GET http://a.example/ end" {
		t.Error(last)
	}
}

// Once the peer has ended a stream it needs no window there (RFC 9113, 6.9).
func TestNoWindowUpdateForAStreamThatThePeerEnded(t *testing.T) {
	l := newLog()
	l.hold = true
	_, p := serverPeer(t, Limits{StreamWindow: 4000}, l)
	p.head(1, false, post()...)
	p.must(p.WriteData(1, true, make([]byte, 4000)))
	p.alive()
	do(func(t *Turn) { l.handle(1).Credit(t, 4000) })
	p.alive()
}

// A stream that waits for the connection's window loses its turn when its own window closes.
func TestRFC9113Section6_9_2_WindowThatClosesWhileTheStreamWaits(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: usualWindow + 10}))
	p.expect("SETTINGS ack")
	h := answered(t, l, p, 1)
	if queued, _ := data(h, strings.Repeat("x", usualWindow+5), false); queued != 5 {
		t.Fatal(queued)
	}
	p.must(p.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10}))
	p.until("SETTINGS ack")
	p.must(p.WriteWindowUpdate(0, 1000))
	p.alive()
	consistent(t, s.Conn)
	p.must(p.WriteWindowUpdate(1, usualWindow))
	p.expect(`DATA 1 "xxxxx"`)
}

// An endpoint that does not read gets no new requests.
func TestEndpointThatDoesNotReadIsBusy(t *testing.T) {
	l := newLog()
	s, p := clientPeer(t, Limits{Unwritten: 10 << 10}, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: maxWindow})
	p.must(p.WriteWindowUpdate(0, maxWindow-usualWindow))
	p.must(p.WritePing(false, [8]byte{}))
	p.expect("PING ack 0000000000000000")
	r := &message.Request{Method: "POST", Authority: "a", Path: "/"}
	h := l.open(t, s.Conn, false, r)
	for queued := 0; queued == 0; {
		queued, _ = data(h, strings.Repeat("x", maxFrame), false)
	}
	if _, err := s.Open(&Turn{}, AppendRequest(nil, r), true, l, 9); !errors.Is(err, ErrBusy) || s.Room() != 0 {
		t.Errorf("%v, room %d", err, s.Room())
	}
	for s.Room() == 0 {
		p.next()
	}
}
