package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	c, peer := pair(t)
	if n, err := c.Write([]byte("there")); n != 5 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	expect(t, peer, "there")
	if _, err := peer.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "back" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

func TestWriteTwoKeepsTheOrder(t *testing.T) {
	for _, parts := range [][2]string{{"head", "body"}, {"head", ""}, {"", "body"}, {"", ""}} {
		c, peer := pair(t)
		if err := c.WriteTwo([]byte(parts[0]), []byte(parts[1])); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(peer)
		if err != nil || string(got) != parts[0]+parts[1] {
			t.Errorf("%q: got %q, %v", parts, got, err)
		}
	}
}

// The socket takes a part of what is written, again and again, and the writer waits in between.
func TestWritesThatDoNotFit(t *testing.T) {
	head, body := random(30_000, 1), random(300_000, 2)
	for name, write := range map[string]func(c *Conn) error{
		"one": func(c *Conn) error {
			n, err := c.Write(append(bytes.Clone(head), body...))
			if err == nil && n != len(head)+len(body) {
				t.Errorf("Write returned %d", n)
			}
			return err
		},
		"two":                func(c *Conn) error { return c.WriteTwo(head, body) },
		"two, one after one": func(c *Conn) error { return errors.Join(c.WriteTwo(head, nil), c.WriteTwo(nil, body)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			small(t, c)
			written := make(chan error, 1)
			go func() {
				written <- write(c)
				_ = c.CloseWrite() // what was written says whether all is well
			}()
			got, err := io.ReadAll(peer)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, append(bytes.Clone(head), body...)) {
				t.Errorf("%d bytes came, and they are not the %d that were sent", len(got), len(head)+len(body))
			}
		})
	}
}

func TestAWriteThatFailsSaysHowFarItCame(t *testing.T) {
	c, peer := pair(t)
	small(t, c)
	sent := random(8<<20, 3)
	if err := c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Write(sent) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(sent) {
		t.Fatalf("wrote %d, %v", n, err)
	}
	c.Close()
	got, err := io.ReadAll(peer)
	if err != nil || !bytes.Equal(got, sent[:n]) {
		t.Errorf("Write returned %d, and %d bytes came (%v)", n, len(got), err)
	}
}

// A reader and a writer share a connection.
func TestBothDirectionsAtOnce(t *testing.T) {
	c, peer := pair(t)
	sent := random(2_000_000, 4)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := io.Copy(peer, peer); err != nil { // an echo
			t.Error(err)
		}
		peer.Close()
	})
	wg.Go(func() {
		if err := c.WriteTwo(sent[:1000], sent[1000:]); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// lender counts what it lends.
type lender struct {
	taken, dropped int
	took           chan struct{}
}

func (l *lender) Take() []byte {
	l.taken++
	if l.took != nil {
		l.took <- struct{}{}
	}
	return make([]byte, 64)
}

func (l *lender) Drop() { l.dropped++ }

// A connection on which nothing comes holds no memory: what is taken for an attempt is dropped.
func TestAnIdleReadHoldsNoBuffer(t *testing.T) {
	c, peer := pair(t)
	l := &lender{took: make(chan struct{}, 8)}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := c.ReadIdle(l)
		done <- result{n, err}
	}()
	<-l.took // the first attempt found nothing
	if _, err := peer.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.n != 5 || r.err != nil {
		t.Fatalf("%+v", r)
	}
	if l.taken-l.dropped != 1 || l.dropped == 0 {
		t.Errorf("after a read that waited: taken %d times, dropped %d times; want one more taken than dropped", l.taken, l.dropped)
	}
	for name, end := range map[string]func(c *Conn, peer *net.TCPConn) error{
		"end":      func(_ *Conn, peer *net.TCPConn) error { return peer.Close() },
		"reset":    func(_ *Conn, peer *net.TCPConn) error { return errors.Join(peer.SetLinger(0), peer.Close()) },
		"deadline": func(c *Conn, _ *net.TCPConn) error { return c.SetReadDeadline(time.Unix(1, 0)) },
		"closed":   func(c *Conn, _ *net.TCPConn) error { return c.Close() },
	} {
		c, peer := pair(t)
		l := &lender{took: make(chan struct{}, 8)}
		ended := make(chan error, 1)
		go func() {
			_, err := c.ReadIdle(l)
			ended <- err
		}()
		<-l.took
		if err := end(c, peer); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || l.taken != l.dropped {
			t.Errorf("%s: error %v; taken %d times, dropped %d times", name, err, l.taken, l.dropped)
		}
	}
}

// After an idle read an ordinary one reads into its own memory.
func TestAReadAfterAnIdleOne(t *testing.T) {
	c, peer := pair(t)
	if _, err := peer.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	l := &lender{}
	if _, err := c.ReadIdle(l); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "two" || l.taken != 1 {
		t.Errorf("%q, %v; taken %d times", b[:n], err, l.taken)
	}
}

func TestTheEndOfTheOtherHalf(t *testing.T) {
	c, peer := pair(t)
	if _, err := peer.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "last" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	for range 2 {
		if n, err := c.Read(b); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %d, %v", n, err)
		}
	}
	if _, err := c.Write([]byte("still")); err != nil { // our half is open
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, "still")
}

func TestAResetIsNoEnd(t *testing.T) {
	c, peer := pair(t)
	if err := errors.Join(peer.SetLinger(0), peer.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 8)); !IsReset(err) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !IsReset(err) {
		t.Errorf("write: %v", err)
	}
}

func TestResetTellsThePeer(t *testing.T) {
	c, peer := pair(t)
	c.Reset()
	if _, err := peer.Read(make([]byte, 8)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer reads: %v", err)
	}
	c.Reset() // and again does nothing
	if IsReset(io.EOF) || IsReset(nil) {
		t.Error("an end counts as a reset")
	}
}

func TestDeadlinesEndWhatWaitsAndCanBeLifted(t *testing.T) {
	c, peer := pair(t)
	for _, set := range []func(time.Time) error{c.SetDeadline, c.SetReadDeadline} {
		ended := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 8))
			ended <- err
		}()
		if err := set(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if err := set(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("after the deadline was lifted: %d, %v", n, err)
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	c, _ := pair(t)
	small(t, c)
	began := make(chan struct{}, 2)
	ended := make(chan error, 2)
	go func() {
		l := &lender{took: began}
		_, err := c.ReadIdle(l)
		ended <- err
	}()
	go func() {
		began <- struct{}{}
		_, err := c.Write(make([]byte, 8<<20))
		ended <- err
	}()
	<-began
	<-began
	c.Close()
	for range 2 {
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("what waited: %v", err)
		}
	}
	for what, try := range map[string]func() error{
		"Read":       func() error { _, err := c.Read(make([]byte, 1)); return err },
		"Write":      func() error { _, err := c.Write([]byte("x")); return err },
		"WriteTwo":   func() error { return c.WriteTwo([]byte("x"), []byte("y")) },
		"CloseWrite": c.CloseWrite,
		"Local":      func() error { _, err := c.Local(); return err },
		"Remote":     func() error { _, err := c.Remote(); return err },
	} {
		if err := try(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s of a closed connection: %v", what, err)
		}
	}
	if !c.Stale() {
		t.Error("a closed connection is not stale")
	}
}

func TestStale(t *testing.T) {
	c, peer := pair(t)
	if c.Stale() {
		t.Error("a silent connection is stale")
	}
	if _, err := peer.Write([]byte("unasked")); err != nil {
		t.Fatal(err)
	}
	readable(t, c)
	if !c.Stale() {
		t.Error("a server that speaks unasked goes unnoticed")
	}
	expect(t, c, "unasked") // what Stale looked at is still there
	if c.Stale() {
		t.Error("stale after all was read")
	}
	for name, end := range map[string]func(*net.TCPConn) error{
		"closed": func(p *net.TCPConn) error { return p.Close() },
		"reset":  func(p *net.TCPConn) error { return errors.Join(p.SetLinger(0), p.Close()) },
	} {
		c, peer := pair(t)
		if err := end(peer); err != nil {
			t.Fatal(err)
		}
		readable(t, c)
		if !c.Stale() {
			t.Errorf("a connection that the peer %s is not stale", name)
		}
	}
}

func TestNewRefusesWhatCannotBeWaitedFor(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "") // a regular file: epoll does not take it
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if c, err := New(fd); err == nil {
		c.Close()
		t.Error("a file was taken")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor was not closed (%v)", err)
	}
}

// Budget: no allocation per request in the steady state.
func TestReadsAndWritesDoNotAllocate(t *testing.T) {
	c, peer := pair(t)
	d := own(t, peer)
	head, body, b := make([]byte, 100), make([]byte, 1000), make([]byte, 4096)
	idle := &fixed{b}
	got := testing.AllocsPerRun(200, func() {
		if err := c.WriteTwo(head, body); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(head)+len(body); {
			k, err := d.ReadIdle(idle)
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
		if _, err := d.Write(head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:len(head)]); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations for two writes and two reads", got)
	}
}

type fixed struct{ b []byte }

func (f *fixed) Take() []byte { return f.b }
func (f *fixed) Drop()        {}

func TestDial(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := listen(t, at)
		c := dial(t, -1, addressOf(l))
		peer := accept(t, l)
		local, err := c.Local()
		if err != nil || local.String() != peer.RemoteAddr().String() {
			t.Errorf("%s: our end is %s, the peer says %s (%v)", at, local, peer.RemoteAddr(), err)
		}
		if remote, err := c.Remote(); err != nil || remote != addressOf(l) {
			t.Errorf("%s: the peer's end is %s, it listens on %s (%v)", at, remote, addressOf(l), err)
		}
		if got := option(t, c, unix.IPPROTO_TCP, unix.TCP_NODELAY); got == 0 {
			t.Errorf("%s: small writes wait", at)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		expect(t, peer, "hello")
	}
}

func TestTheLimitOfTheHandshakeIsNotOneOfWhatFollows(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	const limit = 50 * time.Millisecond
	c, err := Dial(-1, addressOf(l), limit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(2 * limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("late")); err != nil {
		t.Error(err)
	}
}

func TestDialOfAMappedAddress(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	to := addressOf(l)
	dial(t, -1, netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port()))
}

func TestDialIsRefused(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := listen(t, at)
		to := addressOf(l)
		l.Close()
		before := descriptors(t)
		if c, err := Dial(-1, to, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, %v", at, c, err)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d descriptors, before there were %d", at, after, before)
		}
	}
}

// Who does not answer costs the limit, and no descriptor. A full backlog does not answer.
func TestDialTakesNoLongerThanItsLimit(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	dial(t, -1, addressOf(l)) // it fills the backlog
	before := descriptors(t)
	began := time.Now()
	const limit = 100 * time.Millisecond
	c, err := Dial(-1, addressOf(l), limit)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, %v", c, err)
	}
	if took := time.Since(began); took < limit || took > limit+2*time.Second {
		t.Errorf("it took %v", took)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, before there were %d", after, before)
	}
}

func TestDialWithoutARoute(t *testing.T) {
	if c, err := Dial(-1, netip.MustParseAddrPort("255.255.255.255:80"), time.Second); err == nil {
		c.Close()
		t.Error("a connection to nowhere")
	}
}

// The socket is made in the pod's namespace: it reaches who listens there, and nobody else does. We stay where we are.
func TestDialInANetworkNamespace(t *testing.T) {
	path := need.NetNS(t)
	var inside [2]*net.TCPListener
	need.In(t, path, func() error {
		for i, at := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			inside[i] = l.(*net.TCPListener)
		}
		return nil
	})
	netns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(netns)
	home := netnsOfThread(t)
	before := descriptors(t)
	for _, l := range inside {
		defer l.Close()
		c := dial(t, netns, addressOf(l))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		expect(t, accept(t, l), "hello")
		if c, err := Dial(-1, addressOf(l), time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("from outside: %v, %v", c, err)
		}
	}
	if after := descriptors(t); after != before+4 { // two connections, both of their ends
		t.Errorf("%d descriptors, before there were %d", after, before)
	}
	var wg sync.WaitGroup
	for range 16 { // on many threads, none of which stays there
		wg.Go(func() {
			for range 20 {
				c, err := Dial(netns, addressOf(inside[0]), time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				c.Reset()
				if now := netnsOfThread(t); now != home {
					t.Errorf("a thread stayed in %s", now)
				}
			}
		})
	}
	wg.Wait()
}

func TestDialInWhatIsNoNamespace(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	home := netnsOfThread(t)
	if c, err := Dial(int(f.Fd()), netip.MustParseAddrPort("127.0.0.1:1"), time.Second); err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v, %v", c, err)
	}
	if now := netnsOfThread(t); now != home {
		t.Errorf("we are in %s", now)
	}
}

func netnsOfThread(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return link
}

func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	c := dial(t, -1, addressOf(l))
	return c, accept(t, l)
}

func listen(t *testing.T, at string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func addressOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func dial(t *testing.T, netns int, to netip.AddrPort) *Conn {
	t.Helper()
	c, err := Dial(netns, to, 5*time.Second)
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func accept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// own makes a Conn of the other end.
func own(t *testing.T, peer *net.TCPConn) *Conn {
	t.Helper()
	f, err := peer.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	c, err := New(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// small makes the socket take little at once.
func small(t *testing.T, c *Conn) {
	t.Helper()
	var err error
	if ctlErr := c.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4096) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}

func option(t *testing.T, c *Conn, level, name int) (value int) {
	t.Helper()
	var err error
	if ctlErr := c.raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return value
}

// readable waits until there is something to read, be it the end.
func readable(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		return n > 0
	}); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, from io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(from, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v; want %q", b[:n], err, want)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
