package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/cli/lab"
)

// dialer makes connections of the client's pod. A connection belongs to the pod whose process made it, in whose cgroup and
// network namespace that process is, and not to who uses it: a helper in the pod connects, and hands the descriptor over.
// So client and server of a test are in one process, and see each other.
type dialer struct {
	mu   sync.Mutex
	conn *net.UnixConn // a request is an address; the answer is a descriptor, or an error's text
}

func newDialer(m *mesh) *dialer {
	m.t.Helper()
	path := filepath.Join(m.lab.Dir, "dial.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		m.t.Fatal(err)
	}
	defer l.Close()
	_, err = m.client.Start(lab.Command{Name: "dial", Path: self(m.t), Args: []string{path}, Env: []string{helperVariable + "=dial"}})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		m.t.Fatalf("the dialer in pod %s does not come: %v", m.client.Name, err)
	}
	m.t.Cleanup(func() { c.Close() })
	return &dialer{conn: c}
}

// dial connects to an IP address and port from the client's pod.
func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.conn.Write([]byte(addr)); err != nil {
		return nil, fmt.Errorf("ask the dialer: %w", err)
	}
	text, control := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	n, cn, _, _, err := d.conn.ReadMsgUnix(text, control)
	if err != nil {
		return nil, fmt.Errorf("ask the dialer: %w", err)
	}
	if cn == 0 {
		return nil, errors.New(string(text[:n]))
	}
	return received(control[:cn])
}

func received(control []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	return net.FileConn(f)
}

// serveDials is the helper: it connects to what it is asked for, until nobody asks any more.
func serveDials(args []string) (any, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: args[0], Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for addr := make([]byte, 64); ; {
		n, err := c.Read(addr)
		if err != nil || n == 0 {
			return "who asked has gone", nil
		}
		text, rights, release := connect(string(addr[:n]))
		_, _, err = c.WriteMsgUnix([]byte(text), rights, nil)
		release()
		if err != nil {
			return nil, err
		}
	}
}

func connect(addr string) (text string, rights []byte, release func()) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err.Error(), nil, func() {}
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return err.Error(), nil, func() {}
	}
	return "ok", unix.UnixRights(int(f.Fd())), func() { f.Close() }
}

// What connects is the pod: the backend sees the pod's address, and a port that nobody has is refused.
func TestDialerIsThePod(t *testing.T) {
	m := start(t, service{name: "plain", pods: []string{"one"}, targetPort: http1Port})
	l := m.listen("one", http1Port)
	defer l.Close()
	c, err := m.dialer.dial(t.Context(), m.target("plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != m.client.IPv4 {
		t.Errorf("the backend sees %v, want the client's %v", got, m.client.IPv4)
	}
	if _, err := m.dialer.dial(t.Context(), m.pods["two"].IPv4.String()+":1"); err == nil {
		t.Error("a port without a listener was not refused")
	}
}
