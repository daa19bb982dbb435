package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	wire "golang.org/x/net/http2"

	"github.com/sluice-mesh/sluice/l7proxy/http2"
	"github.com/sluice-mesh/sluice/l7proxy/message"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

const patience = 10 * time.Second

// muxLab is a client pod and an endpoint of HTTP/2 that the test speaks for: it says how many streams it allows, and answers
// none.
type muxLab struct {
	t      *testing.T
	pools  *Pools
	client *Client
	e      *Endpoint
	ln     net.Listener
	allows uint32

	gate   chan struct{} // the preface is answered when it is closed
	inVain atomic.Int64  // how often somebody was told of a connection that had no room

	mu      sync.Mutex
	accepts []net.Conn
}

func newMuxLab(t *testing.T, limits Limits, allows uint32) *muxLab {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &muxLab{t: t, pools: NewPools(limits), ln: ln, allows: allows, e: &Endpoint{Address: netip.MustParseAddrPort(ln.Addr().String())}}
	l.client = NewClient(-1, l.pools)
	l.gate = make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.accepts = append(l.accepts, c)
			l.mu.Unlock()
			serving.Go(func() { l.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.client.Close()
		_ = ln.Close()
		l.mu.Lock()
		for _, c := range l.accepts {
			_ = c.Close()
		}
		l.mu.Unlock()
		serving.Wait()
	})
	return l
}

// serve answers the preface, and reads.
func (l *muxLab) serve(c net.Conn) {
	if _, err := io.ReadFull(c, make([]byte, len(wire.ClientPreface))); err != nil {
		return
	}
	<-l.gate
	f := wire.NewFramer(c, c)
	_ = f.WriteSettings(wire.Setting{ID: wire.SettingMaxConcurrentStreams, Val: l.allows})
	for {
		if _, err := f.ReadFrame(); err != nil {
			return
		}
	}
}

func (l *muxLab) made() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepts)
}

// asks is who asks for streams, and hears what becomes of it.
type asks struct {
	l    *muxLab
	told chan told
}

type told struct {
	conn *http2.Conn
	err  error
}

func (a asks) Connected(_ uint64, conn *http2.Conn, err error) { a.told <- told{conn, err} }

func (asks) Response(*http2.Turn, uint64, *message.Response, bool) {}
func (asks) Data(*http2.Turn, uint64, []byte, bool)                {}
func (asks) Trailers(*http2.Turn, uint64, message.Fields)          {}
func (asks) Sent(*http2.Turn, uint64, int)                         {}
func (asks) Gone(*http2.Turn, uint64, *http2.StreamError)          {}

// stream opens a stream on whatever connection has room, as a call does.
func (l *muxLab) stream() (*http2.Conn, http2.Handle, error) {
	a := asks{l, make(chan told, 1)}
	block := http2.AppendRequest(nil, &message.Request{Method: "GET", Authority: "web", Path: "/"})
	const mostAsked = 16 // nobody is sent away again and again
	for range mostAsked {
		conn := l.client.HTTP2(l.e, patience, a, 0)
		if conn == nil {
			select {
			case got := <-a.told:
				if got.err != nil {
					return nil, http2.Handle{}, got.err
				}
				conn = got.conn
			case <-time.After(patience):
				return nil, http2.Handle{}, errors.New("nobody was told")
			}
		}
		var t http2.Turn
		h, err := conn.Open(&t, block, true, a, 0)
		t.Flush()
		if err == nil {
			return conn, h, nil
		}
		l.inVain.Add(1)
	}
	return nil, http2.Handle{}, errors.New("no stream was to be had although connections were")
}

// open lets the endpoint answer prefaces once so many wait.
func (l *muxLab) open(n int) {
	select {
	case <-l.gate:
		return
	default:
	}
	waiting := func() int {
		l.client.mu.Lock()
		defer l.client.mu.Unlock()
		if m := l.client.muxes[l.e]; m != nil {
			return len(m.waiting)
		}
		return 0
	}
	for until := time.Now().Add(patience); waiting() < n && time.Now().Before(until); time.Sleep(time.Millisecond) {
	}
	close(l.gate)
}

// many opens n streams at the same time, and returns how many each connection got.
func (l *muxLab) many(n int) (conns map[*http2.Conn]int, handles []http2.Handle, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	conns = map[*http2.Conn]int{}
	for range n {
		wg.Go(func() {
			c, h, err := l.stream()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				if !errors.Is(err, ErrTooMany) {
					l.t.Error(err)
				}
				return
			}
			conns[c]++
			handles = append(handles, h)
		})
	}
	l.open(n)
	wg.Wait()
	return conns, handles, failed
}

// RFC 9113, 5.1.2: where an endpoint allows few streams there are more connections, and no more than are needed, however
// many ask at the same time.
func TestRFC9113Section5_1_2FewStreamsMoreConnections(t *testing.T) {
	for _, c := range []struct {
		allows   uint32
		n, conns int
	}{{1, 100, 100}, {3, 100, 34}, {1000, 300, 3}} {
		l := newMuxLab(t, Limits{}, c.allows)
		conns, _, failed := l.many(c.n)
		most := c.conns
		if c.allows < streams {
			most += streams/int(c.allows) + 1 // more than were needed may have been made before that was known
		} else {
			most++
		}
		if failed > 0 || len(conns) < (c.n+int(c.allows)-1)/int(c.allows) || l.made() > most {
			t.Errorf("%d streams where %d are allowed: %d connections of %d that were made, %d failed", c.n, c.allows, len(conns), l.made(), failed)
		}
		if n := l.inVain.Load(); n > int64(c.n/4) {
			t.Errorf("%d times somebody was told of a connection without room", n)
		}
		for conn, n := range conns {
			if n > int(c.allows) {
				t.Errorf("%p has %d streams", conn, n)
			}
		}
	}
}

// Limits.PerEndpoint bounds the connections. What finds no room is told so, and finds it again when streams have ended.
func TestPerEndpointBoundsConnections(t *testing.T) {
	l := newMuxLab(t, Limits{PerEndpoint: 2}, 3)
	conns, handles, failed := l.many(10)
	if len(conns) != 2 || failed != 4 || l.made() != 2 {
		t.Errorf("%d connections, %d failed, %d were made", len(conns), failed, l.made())
	}
	var turn http2.Turn
	for _, h := range handles {
		h.Reset(&turn, http2.Cancel)
	}
	turn.Flush()
	if _, _, failed = l.many(6); failed != 0 || l.made() != 2 {
		t.Errorf("%d failed, %d were made", failed, l.made())
	}
}

// An endpoint that allows none, as one may that is not ready, makes no storm of connections.
func TestRFC9113Section5_1_2NoStreamsAtAll(t *testing.T) {
	l := newMuxLab(t, Limits{}, 0)
	if _, _, failed := l.many(20); failed != 20 || l.made() > 20 {
		t.Errorf("%d failed, %d connections were made", failed, l.made())
	}
}

// Connections without streams go after Limits.HTTP2Life, each by itself: one that is in use keeps no other.
func TestIdleConnectionsOfHTTP2Go(t *testing.T) {
	l := newMuxLab(t, Limits{HTTP2Life: time.Minute}, 1)
	l.open(0)
	busy, _, err := l.stream()
	if err != nil {
		t.Fatal(err)
	}
	_, h, err := l.stream()
	if err != nil {
		t.Fatal(err)
	}
	var turn http2.Turn
	h.Reset(&turn, http2.Cancel)
	turn.Flush()
	now := l.pools.now()
	l.client.reapMuxes(now, false)
	l.client.reapMuxes(now+time.Minute-1, false)
	if n := len(l.client.muxes[l.e].links); n != 2 {
		t.Fatalf("%d connections before their time is over", n)
	}
	l.client.reapMuxes(now+time.Minute, false)
	if got := l.client.muxes[l.e].links; len(got) != 1 || got[0].conn != busy {
		t.Errorf("%d connections are left, want the one that is in use", len(got))
	}
	l.e.gone.Store(true) // it leaves: the connection ends with its last stream
	l.client.reapMuxes(now+time.Minute, false)
	if busy.Streams() != 1 || busy.Room() != 0 || len(l.client.muxes) != 0 {
		t.Errorf("%d streams, room for %d, %d endpoints known", busy.Streams(), busy.Room(), len(l.client.muxes))
	}
}

// The end of a pod ends its connections, and whoever waits for one is told.
func TestClosedClientHasNoHTTP2(t *testing.T) {
	l := newMuxLab(t, Limits{}, 100)
	l.open(0)
	conn, _, err := l.stream()
	if err != nil {
		t.Fatal(err)
	}
	l.client.Close()
	for until := time.Now().Add(patience); conn.Streams() > 0 && time.Now().Before(until); time.Sleep(time.Millisecond) {
	}
	if conn.Streams() != 0 {
		t.Errorf("%d streams are open", conn.Streams())
	}
	if _, _, err := l.stream(); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// what an endpoint is not is remembered, longer each time; what it was before counts.
func TestA77WhatAnEndpointSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(nil)
		r.Apply([]model.EndpointSet{unit(key, 0, 1)}, nil)
		e := r.Set(key).Endpoints()[0]
		if e.SpeaksHTTP1() {
			t.Fatal("nothing is known yet")
		}
		for _, long := range []time.Duration{firstHTTP1, 2 * firstHTTP1, 4 * firstHTTP1} {
			for range 5 { // at the same time
				if err := e.unspoken(http2.ErrNotHTTP2); !errors.Is(err, http2.ErrNotHTTP2) {
					t.Fatal(err)
				}
			}
			time.Sleep(long - 1)
			if !e.SpeaksHTTP1() {
				t.Errorf("forgotten before %v", long)
			}
			time.Sleep(time.Nanosecond)
			if e.SpeaksHTTP1() {
				t.Errorf("remembered for longer than %v", long)
			}
		}
		if err := e.unspoken(context.DeadlineExceeded); !errors.Is(err, context.DeadlineExceeded) || e.SpeaksHTTP1() {
			t.Error("a connection that failed says nothing about what is spoken")
		}
		e.spoke()
		for range 5 {
			if err := e.unspoken(http2.ErrNotHTTP2); errors.Is(err, http2.ErrNotHTTP2) || e.SpeaksHTTP1() || !e.out() {
				t.Errorf("%v: an endpoint that spoke HTTP/2 is in trouble, and not one of HTTP/1.1", err)
			}
		}
		time.Sleep(maxTrouble)
		if err := e.unspoken(http2.ErrNotHTTP2); !errors.Is(err, http2.ErrNotHTTP2) || !e.SpeaksHTTP1() {
			t.Errorf("%v: it has changed for good", err)
		}
		e.spoke()
		if e.SpeaksHTTP1() {
			t.Error("it speaks HTTP/2 after all")
		}
	})
}
