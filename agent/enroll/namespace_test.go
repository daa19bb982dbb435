package enroll

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/tests/need"
)

// bind mounts a namespace as a file of a folder, as a container runtime does.
func bind(t *testing.T, netns, folder, name string) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(netns, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // a test may have done it
	return path
}

func TestPathsOfTheHostAreFoundWhereTheyAreMounted(t *testing.T) {
	netns := need.NetNS(t)
	want, err := statNS(netns)
	if err != nil {
		t.Fatal(err)
	}
	proc, folder := procfs(t), t.TempDir()
	if err := os.Symlink("/", filepath.Join(proc, "1", "root")); err != nil {
		t.Fatal(err)
	}
	fakeProcess(t, proc, 7, "", netns)
	bind(t, netns, folder, "cni-1")
	unseen := filepath.Join(folder, "cni-2") // whose mount did not come through
	if err := os.WriteFile(unseen, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	p := places{proc: proc, netns: folder}
	for path, why := range map[string]string{
		"/run/netns/cni-1":          "",
		"/var/run/netns/cni-1":      "",
		"/run/netns/../netns/cni-1": "",
		"/proc/7/ns/net":            "",
		netns:                       "", // elsewhere, by the root of the first process
		"/run/netns/cni-2":          "a file of another kind",
		"/run/netns/none":           "no such file",
		"/proc/1/ns/net":            "it is the host's",
		"/proc/8/ns/net":            "no such file",
		"/etc/hostname":             "a file of another kind",
	} {
		_, id, err := p.resolve(path)
		switch {
		case why == "" && (err != nil || id != want):
			t.Errorf("%s: %v, %v", path, id, err)
		case why != "" && (err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v, want %q", path, err, why)
		}
	}
}

// In a container, a path means what it means to the host.
func TestOwnFilesAreNoneOfTheHosts(t *testing.T) {
	in := places{proc: "/host/proc", netns: "/run/netns"}.candidates("/tmp/x")
	if len(in) != 1 || in[0] != "/host/proc/1/root/tmp/x" {
		t.Errorf("in a container: %v", in)
	}
	on := places{proc: "/proc", netns: "/run/netns"}.candidates("/tmp/x")
	if len(on) != 2 || on[0] != "/tmp/x" {
		t.Errorf("on the host: %v", on)
	}
}
