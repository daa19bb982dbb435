package http1

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/sock"
)

// peer is the other end of a Reader's connection.
type peer struct {
	tb     testing.TB
	fd     int
	closed bool
	wg     sync.WaitGroup // of what it says on the side
}

func connect(tb testing.TB) (*Reader, *peer) {
	tb.Helper()
	r := &Reader{}
	c, p := socketPair(tb)
	r.Reset(c, &Buffers{})
	return r, p
}

func socketPair(tb testing.TB) (*sock.Conn, *peer) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		tb.Fatal(err)
	}
	c, err := sock.New(fds[0])
	if err != nil {
		tb.Fatal(err)
	}
	p := &peer{tb: tb, fd: fds[1]}
	tb.Cleanup(func() {
		_ = c.Close() // ends what the peer is saying
		p.wg.Wait()
		p.close()
	})
	return c, p
}

func (p *peer) close() {
	if !p.closed {
		p.closed = true
		unix.Close(p.fd) // nothing is expected of it
	}
}

// end ends the peer's half.
func (p *peer) end() {
	if err := unix.Shutdown(p.fd, unix.SHUT_WR); err != nil {
		p.tb.Error(err)
	}
}

// say writes. False: nobody listens any more.
func (p *peer) say(s string) bool {
	for len(s) > 0 {
		n, err := unix.Write(p.fd, []byte(s))
		if err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				p.tb.Error(err)
			}
			return false
		}
		s = s[n:]
	}
	return true
}

// pieces says s in pieces of that size, each after the one before was read.
func (p *peer) pieces(s string, size int) bool {
	for len(s) > 0 {
		n := min(size, len(s))
		if !p.say(s[:n]) {
			return false
		}
		for p.unread() {
			if p.tb.Context().Err() != nil {
				return false
			}
			runtime.Gosched()
		}
		s = s[n:]
	}
	return true
}

// unread tells whether the reader has not taken all that was said.
func (p *peer) unread() bool {
	n, err := unix.IoctlGetInt(p.fd, unix.TIOCOUTQ)
	if err != nil {
		p.tb.Error(err)
	}
	return n > 0
}
