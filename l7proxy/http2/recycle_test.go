package http2

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluice-mesh/sluice/l7proxy/message"
)

// A handle whose stream is over does nothing, also when the stream's memory is another one's.
func TestStaleHandlesDoNothing(t *testing.T) {
	l := newLog()
	s, p := serverPeer(t, Limits{}, l)
	old := answered(t, l, p, 1)
	data(old, "x", true)
	p.expect(`DATA 1 "x" end`)
	h := answered(t, l, p, 3)
	if h.stream != old.stream {
		t.Fatal("memory was not used again")
	}
	do(func(turn *Turn) {
		for _, h := range []Handle{old, {}} {
			h.Bind(nil, 0)
			h.Credit(turn, 1<<20)
			h.Reset(turn, Cancel)
			_, sent := h.Data(turn, []byte("x"), true)
			if h.Head(turn, nil, true) || sent || h.Trailers(turn, nil) {
				t.Error("a stale handle sends")
			}
		}
		if len(turn.owed) != 0 {
			t.Error("a stale handle writes")
		}
	})
	if s.Streams() != 1 {
		t.Errorf("%d streams", s.Streams())
	}
	data(h, "y", true)
	p.expect(`DATA 3 "y" end`)
}

// chaos is an endpoint that does anything to its streams, and keeps their handles for longer than they live.
type chaos struct {
	mu     sync.Mutex
	random *rand.Rand
	old    []Handle
}

func (c *chaos) act(t *Turn, h Handle) {
	c.mu.Lock()
	n := c.random.IntN(12)
	if len(c.old) < 200 {
		c.old = append(c.old, h)
	} else {
		c.old[c.random.IntN(len(c.old))] = h
	}
	stale := c.old[c.random.IntN(len(c.old))]
	c.mu.Unlock()
	if n > 8 {
		h = stale
	}
	switch n {
	case 0, 9:
		h.Reset(t, Cancel)
	case 1, 2, 10:
		h.Data(t, make([]byte, 3000), n == 1)
	case 3, 11:
		h.Credit(t, 100)
	case 4, 5:
		h.Data(t, make([]byte, 100_000), true)
	default:
		h.Data(t, []byte("end"), true)
	}
}

func (c *chaos) Request(t *Turn, h Handle, _ *message.Request, _ bool) {
	h.Bind(c, uint64(h.id))
	h.Head(t, AppendResponse(nil, &message.Response{Status: 200}), false)
	c.act(t, h)
}
func (c *chaos) Refuse(*Turn, Handle, *Error)                    {}
func (c *chaos) Response(*Turn, uint64, *message.Response, bool) {}
func (c *chaos) Trailers(*Turn, uint64, message.Fields)          {}
func (c *chaos) Sent(*Turn, uint64, int)                         {}
func (c *chaos) Gone(*Turn, uint64, *StreamError)                {}
func (c *chaos) Data(t *Turn, _ uint64, _ []byte, _ bool) {
	c.mu.Lock()
	h := c.old[c.random.IntN(len(c.old))]
	c.mu.Unlock()
	h.Reset(t, Cancel)
}

// Many streams, opened, reset from both sides and ended by several goroutines, stale handles used: afterwards the table is
// empty, all windows are what they were, and the connection works.
func TestRecyclingUnderConcurrency(t *testing.T) {
	a, b := twoConns(t)
	far := &chaos{random: rand.New(rand.NewPCG(1, 2))}
	server := start(t, NewServer(a, config(t, Limits{}), far))
	client := start(t, NewClient(b, config(t, Limits{}), nil))
	if err := client.Await(patienceOfTests); err != nil {
		t.Fatal(err)
	}
	near := &chaos{random: rand.New(rand.NewPCG(3, 4))}
	block := AppendRequest(nil, &message.Request{Method: "POST", Authority: "a", Path: "/"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1500 {
				do(func(turn *Turn) {
					server.glitches.Store(0)
					h, err := client.Open(turn, block, false, near, 0)
					if err != nil {
						near.act(turn, Handle{})
						return
					}
					near.act(turn, h)
				})
			}
		})
	}
	wg.Wait()
	near.mu.Lock()
	old := near.old
	near.mu.Unlock()
	do(func(turn *Turn) {
		client.mu.Lock()
		var open []Handle
		client.streams.each(func(s *stream) { open = append(open, Handle{client.Conn, s, s.id}) })
		client.mu.Unlock()
		for _, h := range append(open, old...) {
			h.Reset(turn, Cancel)
		}
	})
	quiet(t, server, client)
	for _, c := range []*served{server, client} {
		c.mu.Lock()
		if c.streams.n != 0 || len(c.streams.rest) != 0 || c.blocked.first != nil || c.blocked.last != nil {
			t.Errorf("%d streams, %d in the map, %v waits", c.streams.n, len(c.streams.rest), c.blocked.first)
		}
		if got := c.recvWindow + int64(c.gathered); got != 8<<20 {
			t.Errorf("%d of the window of %d came back", got, 8<<20)
		}
		free := map[*stream]bool{}
		for s := c.free; s != nil; s = s.next {
			if free[s] || s.id != 0 || s.queue.buf != nil {
				t.Fatal("a stream is free twice, or in use")
			}
			free[s] = true
		}
		c.mu.Unlock()
	}
}

// quiet waits until nothing is under way: a PING has gone round after all else, and so has its answer.
func quiet(t *testing.T, server, client *served) {
	t.Helper()
	for range 3 {
		before := client.turns.Load()
		do(func(turn *Turn) {
			client.mu.Lock()
			client.appendPing(0, 1)
			client.owe(turn)
			client.mu.Unlock()
		})
		for client.turns.Load() == before || server.Streams() > 0 {
			select {
			case <-client.done:
				t.Fatal(client.err)
			case <-server.done:
				t.Fatal(server.err)
			default:
			}
		}
	}
}

// The table finds what is open, whatever the order of ids.
func TestTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var tab table
	open := map[uint32]*stream{}
	next := uint32(1)
	for range 100_000 {
		if random.IntN(2) == 0 && len(open) < 300 {
			s := &stream{id: next}
			tab.put(s)
			open[next] = s
			next += 2 * uint32(1+random.IntN(3))
		} else {
			for id, s := range open {
				tab.remove(s, completed)
				delete(open, id)
				if tab.ended(id) != completed {
					t.Fatal("it is forgotten at once")
				}
				break
			}
		}
		id := uint32(random.IntN(int(next)+10)) | 1
		if tab.get(id) != open[id] || tab.n != len(open) {
			t.Fatalf("stream %d", id)
		}
	}
	seen := 0
	tab.each(func(s *stream) {
		seen++
		if open[s.id] != s {
			t.Error("a stream that is not open")
		}
	})
	if seen != len(open) {
		t.Errorf("%d of %d streams", seen, len(open))
	}
}

func TestTableRemembersEndingsWhenItGrows(t *testing.T) {
	var tab table
	s := &stream{id: 1}
	tab.put(s)
	tab.remove(s, resetByUs)
	tab.note(3, resetByPeer)
	for id := uint32(5); len(tab.slots) < 64; id += 2 {
		tab.put(&stream{id: id})
	}
	if tab.ended(1) != resetByUs || tab.ended(3) != resetByPeer || tab.ended(5) != forgotten {
		t.Error(tab.ended(1), tab.ended(3), tab.ended(5))
	}
}
