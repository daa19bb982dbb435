// Package need makes what a test needs of the machine, or skips the test where it cannot be had. In CI as root
// nothing is skipped: what is missing there fails the test, so that a skip cannot hide a failure.
package need

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// missing ends the test: it fails where CI runs as root, and is skipped elsewhere.
func missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
		tb.Fatalf("missing on this machine: "+format, args...)
	}
	tb.Skipf("skipped: "+format, args...)
}

// Root is for tests that only root can run.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		missing(tb, "not root")
	}
}

// Cgroup2 makes a cgroup below the cgroup2 mount and returns its folder. It and its children are removed at the end
// of the test; processes that are still in them go back to the mount's root.
func Cgroup2(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	root, err := cgroup2Mount()
	if err != nil {
		missing(tb, "%v", err)
	}
	dir, err := os.MkdirTemp(root, "sluice-test-") //nolint:usetesting // a cgroup is no folder for files
	if err != nil {
		missing(tb, "a cgroup cannot be made below %s: %v", root, err)
	}
	tb.Cleanup(func() {
		if err := removeCgroup(root, dir); err != nil {
			tb.Errorf("remove cgroup: %v", err)
		}
	})
	return dir
}

func removeCgroup(root, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(root, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		// A process may end before it is moved; Rmdir tells whether anything is left.
		_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(pid), 0)
	}
	return os.Remove(dir)
}

func cgroup2Mount() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if m := strings.Fields(s.Text()); len(m) > 2 && m[2] == "cgroup2" {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("no cgroup2 file system is mounted")
}

// BPFFS mounts a BPF file system of the test's own and returns its folder.
func BPFFS(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	dir := tb.TempDir()
	if err := unix.Mount("sluice-test", dir, "bpf", 0, ""); err != nil {
		missing(tb, "a BPF file system cannot be mounted: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// NetNS makes a network namespace with its loopback up and returns a path that names it. The namespace lives until
// the end of the test.
func NetNS(tb testing.TB) string {
	tb.Helper()
	Root(tb)
	path := filepath.Join(tb.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		tb.Fatal(err)
	}
	made := make(chan error)
	go func() {
		// The thread is not given back: it ends with the goroutine, and with it its hold on the namespace.
		runtime.LockOSThread()
		made <- newNetNS(path)
	}()
	if err := <-made; err != nil {
		missing(tb, "a network namespace cannot be made: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", path, err)
		}
	})
	return path
}

func newNetNS(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// In runs f in the network namespace that path names, on a thread of its own.
func In(tb testing.TB, path string, f func() error) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		tb.Fatalf("in %s: %v", path, err)
	}
}
