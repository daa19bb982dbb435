package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type spliced struct {
	moved int64
	err   error
}

// start starts to move bytes from what the first peer sends to what the second one reads.
func start(t *testing.T, p *Pipes, dst, src *Conn) <-chan spliced {
	t.Helper()
	done := make(chan spliced, 1)
	go func() {
		n, err := p.Splice(dst, src)
		done <- spliced{n, err}
	}()
	return done
}

func TestSpliceMovesAllBytesAndTheEnd(t *testing.T) {
	var p Pipes
	src, from := pair(t)
	dst, to := pair(t)
	small(t, dst)
	done := start(t, &p, dst, src)
	sent := random(400_000, 5)
	go func() {
		if _, err := from.Write(sent); err != nil {
			t.Error(err)
		}
		if err := from.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("what came is not what was sent (%v)", err)
	}
	if r := <-done; r.err != nil || r.moved != int64(len(sent)) {
		t.Errorf("%+v, want %d bytes", r, len(sent))
	}
	if _, err := dst.Write([]byte("more")); err != nil { // the end is the caller's to pass on
		t.Fatal(err)
	}
	expect(t, to, "more")
}

func TestSpliceSaysWhatBroke(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(src *Conn, from, to *net.TCPConn) error
		want error
	}{
		"src reset": {
			func(_ *Conn, from, _ *net.TCPConn) error { return errors.Join(from.SetLinger(0), from.Close()) },
			unix.ECONNRESET,
		},
		"dst reset": {
			func(_ *Conn, from, to *net.TCPConn) error {
				err := errors.Join(to.SetLinger(0), to.Close())
				_, writeErr := from.Write([]byte("more"))
				return errors.Join(err, writeErr)
			},
			unix.ECONNRESET,
		},
		"src closed": {
			func(src *Conn, _, _ *net.TCPConn) error { return src.Close() },
			os.ErrClosed,
		},
		"src deadline": {
			func(src *Conn, _, _ *net.TCPConn) error { return src.SetReadDeadline(time.Unix(1, 0)) },
			os.ErrDeadlineExceeded,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var p Pipes
			src, from := pair(t)
			dst, to := pair(t)
			done := start(t, &p, dst, src)
			if _, err := from.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			expect(t, to, "hello")
			if err := c.end(src, from, to); err != nil {
				t.Fatal(err)
			}
			if r := <-done; !errors.Is(r.err, c.want) || r.moved != 5 {
				t.Errorf("%d bytes moved, error %v", r.moved, r.err)
			}
		})
	}
}

// A relay takes one pipe, however often bytes come, and gives it back.
func TestSpliceLendsPipes(t *testing.T) {
	var p Pipes
	src, from := pair(t)
	dst, to := pair(t)
	before := descriptors(t)
	done := start(t, &p, dst, src)
	for range 3 {
		if _, err := from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		expect(t, to, "hello")
	}
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.moved != 15 {
		t.Fatalf("%+v", r)
	}
	if n := descriptors(t); n != before+2 || len(p.free) != 1 {
		t.Errorf("%d descriptors for %d pipes", n-before, len(p.free))
	}
	for _, pipe := range p.free {
		pipe.close()
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors stay", n-before)
	}
}
