package push

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// TestMain lets the test binary stand in for an agent in a container.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SLUICE_PUSH_TEST_CONTAINED"); dir != "" {
		fmt.Println(contained(dir, os.Args[1], os.Args[2]))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// contained finds this process as an agent would find a proxy. The host's first process may be out of sight in a
// sandbox: a folder stands for procfs, in which another process has its place.
func contained(dir, first, cgroup string) string {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err.Error()
	}
	onHost, err := os.Readlink("/proc/self")
	if err != nil {
		return err.Error()
	}
	for name, as := range map[string]string{"1": first, "self": onHost, onHost: onHost} {
		if err := os.Symlink(filepath.Join("/proc", as), filepath.Join(dir, name)); err != nil {
			return err.Error()
		}
	}
	p, err := peerOf(self, dir, cgroup)
	return fmt.Sprint(os.Getpid(), " ", p.PID, " ", p.Cgroup, " ", err)
}

// A container has process ids and a cgroup namespace of its own, and the host's procfs mounted somewhere.
func TestPeerIsFoundFromInsideAContainer(t *testing.T) {
	need.Root(t)
	cgroup := need.Cgroup2(t)
	dir := filepath.Join(cgroup, "pod", "proxy")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir); _ = os.Remove(filepath.Dir(dir)) })
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, strconv.Itoa(os.Getpid()), cgroup)
	c.Env = append(os.Environ(), "SLUICE_PUSH_TEST_CONTAINED="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(group.Fd()),
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP,
	}
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(1, " ", c.Process.Pid, " ", inode(t, dir), " ", error(nil))
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("found: %s, want %s", got, want)
	}
}

func TestDescriptorThatIsNoProcess(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if p, err := peerOf(int(f.Fd()), "/proc", "/"); err == nil || !strings.Contains(err.Error(), "not one of a process") {
		t.Errorf("%+v, %v", p, err)
	}
}
