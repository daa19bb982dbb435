package sockdiag

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// storageMap is a map that keeps four bytes on a socket.
func storageMap(t *testing.T) *ebpf.Map {
	t.Helper()
	number := &btf.Int{Size: 4}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.SkStorage, KeySize: 4, ValueSize: 4, Flags: unix.BPF_F_NO_PREALLOC, Key: number, Value: number,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// mark keeps the value on the connection's socket.
func mark(t *testing.T, m *ebpf.Map, c net.Conn, value uint32) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var put error
	if err := raw.Control(func(fd uintptr) { put = m.Put(uint32(fd), value) }); err != nil || put != nil {
		t.Fatal(err, put)
	}
}

// pair is a connection in the namespace; its accepted end is closed with the test.
func pair(t *testing.T, netns, network, address string) (client net.Conn) {
	t.Helper()
	need.In(t, netns, func() error {
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		defer l.Close()
		if client, err = net.Dial(network, l.Addr().String()); err != nil {
			return err
		}
		server, err := l.Accept()
		t.Cleanup(func() { client.Close(); server.Close() })
		return err
	})
	return client
}

func TestMarkedSocketsAreListedAndClosed(t *testing.T) {
	netns, elsewhere := need.NetNS(t), need.NetNS(t)
	kept, other := storageMap(t), storageMap(t)
	v4, v6 := pair(t, netns, "tcp4", "127.0.0.1:0"), pair(t, netns, "tcp6", "[::1]:0")
	plain, foreign := pair(t, netns, "tcp4", "127.0.0.1:0"), pair(t, elsewhere, "tcp4", "127.0.0.1:0")
	mark(t, kept, v4, 0x04040404)
	mark(t, kept, v6, 0x06060606)
	mark(t, kept, foreign, 0x0f0f0f0f)
	mark(t, other, plain, 0x0a0a0a0a)

	c := dial(t, netns)
	all, err := c.List(kept.FD())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 6 {
		t.Errorf("%d sockets, not the two ends of three connections", len(all))
	}
	got := map[string]bool{}
	for _, s := range all {
		if s.Storage == nil {
			continue
		}
		got[fmt.Sprintf("%d %x", s.Family, s.Storage)] = true
		if err := c.Destroy(s); err != nil {
			t.Error(err)
		}
		if err := c.Destroy(s); !errors.Is(err, ErrGone) {
			t.Errorf("closed again: %v", err)
		}
	}
	if len(got) != 2 || !got["2 04040404"] || !got["10 06060606"] {
		t.Errorf("listed with their values: %v", got)
	}
	for name, conn := range map[string]net.Conn{"IPv4": v4, "IPv6": v6} {
		if err := read(t, conn); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: a read of the closed socket returns %v", name, err)
		}
	}
	for name, conn := range map[string]net.Conn{"without the mark": plain, "elsewhere": foreign} {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("the socket %s: %v", name, err)
		}
	}
}

func read(t *testing.T, c net.Conn) error {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

func dial(t *testing.T, netns string) *Conn {
	t.Helper()
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c, err := Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A dump of many sockets comes in many datagrams.
func TestManySockets(t *testing.T) {
	netns := need.NetNS(t)
	kept := storageMap(t)
	const n = 300
	for range n {
		mark(t, kept, pair(t, netns, "tcp4", "127.0.0.1:0"), 1)
	}
	all, err := dial(t, netns).List(kept.FD())
	if err != nil {
		t.Fatal(err)
	}
	marked := 0
	for _, s := range all {
		if s.Storage != nil {
			marked++
		}
	}
	if marked != n || len(all) != 2*n {
		t.Errorf("%d sockets, %d of them marked", len(all), marked)
	}
}

func TestListSaysWhatItLacks(t *testing.T) {
	netns := need.NetNS(t)
	if _, err := dial(t, netns).List(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("a map that is none: %v", err)
	}
	if _, err := Open(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("a namespace that is none: %v", err)
	}
}
