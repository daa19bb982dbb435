package sock

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tape is a Loop that notes what it is told.
type tape struct {
	buf   []byte
	heard []byte
	next  func(got []byte) Next
	idle  func() bool
	idles chan struct{}
	rooms int
}

func newTape(size int) *tape {
	return &tape{buf: make([]byte, size), idles: make(chan struct{}, 100), next: func([]byte) Next { return Park }, idle: func() bool { return true }}
}

func (l *tape) Room() []byte {
	l.rooms++
	return l.buf
}

func (l *tape) Got(n int) Next {
	l.heard = append(l.heard, l.buf[:n]...)
	return l.next(l.buf[:n])
}

func (l *tape) Idle() bool {
	l.idles <- struct{}{}
	return l.idle()
}

// loop runs a ReadLoop.
func loop(c *Conn, l Loop) chan error {
	done := make(chan error, 1)
	go func() { done <- c.ReadLoop(l) }()
	return done
}

func says(t *testing.T, peer io.Writer, what string) {
	t.Helper()
	if _, err := io.WriteString(peer, what); err != nil {
		t.Fatal(err)
	}
}

// A loop that parks after a read makes no further attempt: that is the system call that it saves.
func TestReadLoopParksWithoutAnotherRead(t *testing.T) {
	c, peer := pair(t)
	l := newTape(100)
	l.next = func(got []byte) Next {
		if string(got) == "stop" {
			return Stop
		}
		return Park
	}
	says(t, peer, "one")
	done := loop(c, l)
	<-l.idles
	says(t, peer, "stop")
	if err := <-done; err != nil || string(l.heard) != "onestop" {
		t.Errorf("heard %q, %v", string(l.heard), err)
	}
	if l.rooms > 3 { // one more when the poller had noted the first bytes before they were read
		t.Errorf("%d reads for two pieces", l.rooms)
	}
}

func TestReadLoopGoesOnUntilThereIsNothing(t *testing.T) {
	c, peer := pair(t)
	l := newTape(2)
	l.next = func([]byte) Next { return On }
	l.idle = func() bool { return len(l.heard) < 5 }
	says(t, peer, "hello")
	if err := <-loop(c, l); err != nil || string(l.heard) != "hello" {
		t.Errorf("heard %q, %v", string(l.heard), err)
	}
}

func TestReadLoopEndsWithThePeersHalf(t *testing.T) {
	c, peer := pair(t)
	l := newTape(100)
	l.next = func([]byte) Next { return On }
	says(t, peer, "last")
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-loop(c, l); !errors.Is(err, io.EOF) || string(l.heard) != "last" {
		t.Errorf("heard %q, %v", string(l.heard), err)
	}
}

// The end that came with the last bytes is not told by the poller: somebody looks, and wakes the loop.
func TestReadLoopIsWokenForAnEndItMissed(t *testing.T) {
	c, peer := pair(t)
	says(t, peer, "last")
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for !c.Stale() { // both are there
	}
	l := newTape(100)
	done := loop(c, l)
	<-l.idles
	for {
		select {
		case err := <-done: // the poller had not noted both at once
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		default:
		}
		if c.Stale() {
			break
		}
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; errors.Is(err, io.EOF) {
		return
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := <-loop(c, l); !errors.Is(err, io.EOF) {
		t.Errorf("entered anew it ends with %v", err)
	}
}

func TestReadLoopSaysWhatBroke(t *testing.T) {
	c, peer := pair(t)
	l := newTape(100)
	l.next = func([]byte) Next { return On }
	done := loop(c, l)
	<-l.idles
	if err := errors.Join(peer.SetLinger(0), peer.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	c, _ = pair(t)
	done = loop(c, l)
	<-l.idles
	c.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestTryWriteNeverWaits(t *testing.T) {
	c, peer := pair(t)
	small(t, c)
	sent := random(4<<20, 7)
	n, err := c.TryWrite(sent)
	if err != nil || n == 0 || n == len(sent) {
		t.Fatalf("%d of %d bytes, %v", n, len(sent), err)
	}
	if more, err := c.TryWrite(sent[n:]); err != nil || more == len(sent)-n {
		t.Fatalf("%d more, %v", more, err)
	} else {
		n += more
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != string(sent[:n]) {
		t.Errorf("what came is not what was sent (%v)", err)
	}
	if n, err := c.TryWrite(nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	c.Close()
	if _, err := c.TryWrite(sent); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestTryWriteSaysThatThePeerIsGone(t *testing.T) {
	c, peer := pair(t)
	if err := errors.Join(peer.SetLinger(0), peer.Close()); err != nil {
		t.Fatal(err)
	}
	for !c.Stale() {
	}
	if _, err := c.TryWrite([]byte("x")); !IsReset(err) {
		t.Error(err)
	}
}

func TestLoopAndTryWriteAllocateNothing(t *testing.T) {
	c, peer := pair(t)
	l := newTape(100)
	l.next = func([]byte) Next { return Stop }
	p := []byte("hello")
	b := make([]byte, 5)
	if n := testing.AllocsPerRun(50, func() {
		if _, err := c.TryWrite(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, b); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(b); err != nil {
			t.Fatal(err)
		}
		l.heard = l.heard[:0]
		if err := c.ReadLoop(l); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
