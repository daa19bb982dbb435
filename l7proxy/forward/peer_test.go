package forward

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peer is one end of a connection that the test speaks for, byte by byte: a client's, or a backend's.
type peer struct {
	*net.TCPConn
	tb  testing.TB
	who string
}

func newPeer(tb testing.TB, c net.Conn, who string) *peer {
	tb.Helper()
	p := &peer{TCPConn: c.(*net.TCPConn), tb: tb, who: who}
	tb.Cleanup(p.close)
	p.within(patience)
	return p
}

// within is the limit for what comes next.
func (p *peer) within(d time.Duration) {
	_ = p.SetDeadline(time.Now().Add(d)) // of a closed connection the next read or write tells
}

func (l *lab) dial() *peer { return l.dialTo(l.addr) }

func (l *lab) dialTo(addr string) *peer {
	l.tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		l.tb.Fatal(err)
	}
	return newPeer(l.tb, c, "client")
}

func (p *peer) send(s string) {
	p.tb.Helper()
	p.within(patience)
	if _, err := io.WriteString(p, s); err != nil {
		p.tb.Fatalf("the %s sends %.80q: %v", p.who, s, err)
	}
}

// sendLong sends in the background what may be too much for the sockets. It is over when all of it was read.
func (p *peer) sendLong(s string) {
	go func() {
		if _, err := io.WriteString(p, s); err != nil {
			p.tb.Errorf("the %s sends %.80q: %v", p.who, s, err)
		}
	}()
}

// want reads exactly these bytes.
func (p *peer) want(s string) {
	p.tb.Helper()
	p.within(patience)
	got := make([]byte, len(s))
	n, err := io.ReadFull(p, got)
	if string(got[:n]) != s {
		p.tb.Fatalf("the %s got (%v)\n%q\nwant\n%q", p.who, err, got[:n], s)
	}
}

// until reads byte by byte, up to and including the end.
func (p *peer) until(end string) string {
	p.tb.Helper()
	p.within(patience)
	var got []byte
	for !strings.HasSuffix(string(got), end) {
		var b [1]byte
		if _, err := io.ReadFull(p, b[:]); err != nil {
			p.tb.Fatalf("the %s waits for %q: %v after %q", p.who, end, err, got)
		}
		got = append(got, b[0])
	}
	return string(got)
}

// more reads on, and tells what came and how it ended. It reads few bytes only: there should be none.
func (p *peer) more() (string, error) {
	p.within(patience)
	b := make([]byte, 4<<10)
	n, err := io.ReadFull(p, b)
	return string(b[:n]), err
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// wantEnd: the connection ends in order, without a further byte.
func (p *peer) wantEnd() {
	p.tb.Helper()
	if got, err := p.more(); got != "" || !errors.Is(err, io.EOF) {
		p.tb.Fatalf("the %s got %q, %v; want the end", p.who, got, err)
	}
}

// wantReset: the connection is reset, without a further byte.
func (p *peer) wantReset() {
	p.tb.Helper()
	if got, err := p.more(); got != "" || !isReset(err) {
		p.tb.Fatalf("the %s got %q, %v; want a reset", p.who, got, err)
	}
}

// wantGone: the connection ends, this way or that, without a further byte.
func (p *peer) wantGone() {
	p.tb.Helper()
	if got, err := p.more(); got != "" || !errors.Is(err, io.EOF) && !isReset(err) {
		p.tb.Fatalf("the %s got %q, %v; want the end", p.who, got, err)
	}
}

// wantRefusal reads an answer of the proxy's own, whose reason has some words in it.
func (p *peer) wantRefusal(status int, reason string, closes bool) {
	p.tb.Helper()
	head := p.until("\r\n\r\n")
	length := 0
	for line := range strings.SplitSeq(head, "\r\n") {
		if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if _, err := fmt.Sscan(v, &length); err != nil {
				p.tb.Fatalf("%q: %v", head, err)
			}
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(p, body); err != nil {
		p.tb.Fatalf("the body behind %q: %v after %q", head, err, body)
	}
	want := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n", status, http.StatusText(status), length)
	if closes {
		want += "Connection: close\r\n"
	}
	if head != want+"\r\n" {
		p.tb.Fatalf("the answer is\n%q %q\nwant\n%q", head, body, want)
	}
	if !strings.HasPrefix(string(body), "sluice: ") || !strings.Contains(string(body), reason) {
		p.tb.Fatalf("the answer %d says %q, not %q", status, body, reason)
	}
}

func (p *peer) halfClose() {
	p.tb.Helper()
	if err := p.CloseWrite(); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *peer) close() { _ = p.Close() }

func (p *peer) reset() {
	p.tb.Helper()
	if err := p.SetLinger(0); err != nil {
		p.tb.Fatal(err)
	}
	p.close()
}

// origin is an endpoint that the test speaks for. It accepts when the test says so: until then a connection waits in
// the listener's queue.
type origin struct {
	tb   testing.TB
	ln   *net.TCPListener
	addr netip.AddrPort
}

func newOrigin(tb testing.TB) *origin {
	tb.Helper()
	ln := listenTCP(tb)
	return &origin{tb: tb, ln: ln, addr: netip.MustParseAddrPort(ln.Addr().String())}
}

func (b *origin) accept() *peer {
	b.tb.Helper()
	if err := b.ln.SetDeadline(time.Now().Add(patience)); err != nil {
		b.tb.Fatal(err)
	}
	c, err := b.ln.Accept()
	if err != nil {
		b.tb.Fatalf("the backend waits for a connection: %v", err)
	}
	return newPeer(b.tb, c, "backend")
}

// untouched: nobody has connected since the last accept.
func (b *origin) untouched() {
	b.tb.Helper()
	raw, err := b.ln.SyscallConn()
	if err != nil {
		b.tb.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		c, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != unix.EAGAIN {
			got := make([]byte, 1<<10)
			n, _ := unix.Read(c, got)
			_ = unix.Close(c)
			b.tb.Errorf("the backend has a connection (%v), with %q", err, got[:max(n, 0)])
		}
	}); err != nil {
		b.tb.Fatal(err)
	}
}

// serve answers every request, on any number of connections, with what answer writes, until the test is over. The
// connection ends when answer says no.
func (b *origin) serve(answer func(w io.Writer, r *http.Request) bool) {
	go func() {
		for {
			c, err := b.ln.Accept()
			if err != nil {
				return
			}
			b.tb.Cleanup(func() { c.Close() })
			go serveHTTP(c, answer)
		}
	}()
}

func serveHTTP(c net.Conn, answer func(w io.Writer, r *http.Request) bool) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if !answer(c, r) {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	}
}

const (
	get  = "GET / HTTP/1.1\r\nHost: web\r\n\r\n"
	okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	bye  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" // a connection is not kept after it
)

// serves proves that a new connection is served. It leaves no connection in the pool.
func (l *lab) serves(b *origin) {
	l.tb.Helper()
	c := l.dial()
	defer c.close()
	c.send(get)
	p := b.accept()
	defer p.close()
	p.want(get)
	p.send(bye)
	c.want(okay)
}

// deadAddr is an address that refuses connections, and that nobody else gets meanwhile.
func deadAddr(tb testing.TB) netip.AddrPort {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}
