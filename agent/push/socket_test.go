package push

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/l7proxy/channel"
	"github.com/sluice-mesh/sluice/l7proxy/model"
)

func TestSocketIsItsOwnersOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	l, remove, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for file, want := range map[string]os.FileMode{filepath.Dir(path): 0o700, path: 0o600} {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %o, not %o", file, st.Mode().Perm(), want)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket file was not removed")
	}
}

func TestStaleSocketIsReplacedAndALiveOneRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	first, removeFirst, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "another process serves on "+path) {
		t.Fatalf("a live socket: %v", err)
	}
	first.Close() // as after kill -9: the file stays
	second, _, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	defer second.Close()
	if err := removeFirst(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the first one removed the socket of the second")
	}
}

func TestSocketPathThatCannotBeTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                          "is no socket",
		"/tmp/" + long(200) + ".sock": "too long",
	} {
		if _, _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", path, err)
		}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

// The way from a real socket: peer credentials, Hello with a descriptor, garbage.
func TestServerOnARealSocket(t *testing.T) {
	heartbeat, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(heartbeat)
	root, proc := fakeCgroup(t)
	path := filepath.Join(t.TempDir(), "agent.sock")
	s, err := Listen(Config{Socket: path, HeartbeatFD: heartbeat, Proc: proc, Cgroup: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	s.Set(state([]*model.Service{service("a", 1)}, nil, nil))

	if junk := dial(t, path); true {
		if _, err := junk.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := junk.Read(make([]byte, 1)); err == nil {
			t.Error("garbage was answered")
		}
	}
	c := dial(t, path)
	conn := channel.New(c)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(self)
	if err := conn.Send(&model.Register{Protocol: model.ProtocolVersion}, self); err != nil {
		t.Fatal(err)
	}
	msg, fds, err := conn.Receive()
	if err != nil || len(fds) != 1 || msg.(*model.Hello).Protocol != model.ProtocolVersion {
		t.Fatalf("instead of Hello: %+v, %v, %v", msg, fds, err)
	}
	unix.Close(fds[0])
	if msg, _, err = conn.Receive(); err != nil || !msg.(*model.Update).Full {
		t.Fatalf("instead of the full update: %+v, %v", msg, err)
	}
	all := s.Proxies()
	if len(all) != 1 || all[0].PID != os.Getpid() || all[0].Cgroup != inode(t, filepath.Join(root, "proxies", "p1")) {
		t.Errorf("the proxies are %+v", all)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// fakeCgroup makes a folder that stands for the cgroup2 mount, and a procfs that says that this process is below it.
func fakeCgroup(t *testing.T) (root, proc string) {
	t.Helper()
	// The mount is found by where the device changes: climb as far as the test's folder allows.
	mount, err := mountOf(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, proc = t.TempDir(), t.TempDir()
	inMount, err := filepath.Rel(mount, filepath.Join(root, "proxies", "p1"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(proc, itoa(os.Getpid()))
	for _, dir := range []string{filepath.Join(root, "proxies", "p1"), own} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, as := range map[string]string{"self": "/proc/self", "1/ns": "/proc/self/ns"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(as, filepath.Join(proc, name)); err != nil {
			t.Fatal(err)
		}
	}
	lines := "4:memory:/elsewhere\n0::/" + inMount + "\n"
	if err := os.WriteFile(filepath.Join(own, "cgroup"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return root, proc
}

func itoa(n int) string { return strconv.Itoa(n) }

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}
