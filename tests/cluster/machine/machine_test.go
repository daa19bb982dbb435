package machine

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

const member = "SLUICE_CLUSTER_MEMBER"

// TestMain makes the test binary a member of a cluster too: it waits for its configuration, and starts a process that outlives it.
func TestMain(m *testing.M) {
	if os.Getenv(member) == "" {
		os.Exit(m.Run())
	}
	var told string
	if err := json.NewDecoder(os.Stdin).Decode(&told); err != nil || told != "go" {
		os.Exit(1)
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		os.Exit(1)
	}
	_ = child.Wait()
}

// Whatever is started is found again and ended, also when nobody wrote down what it was: a crash half-way leaves nothing.
func TestDownAfterACrash(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: not root")
	}
	m, err := Open(layout.Cache(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := Lock()
	if err != nil || m.Up() {
		t.Skip("skipped: a cluster is up, or comes up; there can be one")
	}
	defer lock.Close()
	if second, err := Lock(); err == nil {
		second.Close()
		t.Error("the lock was given twice")
	}
	t.Setenv(member, "1")
	nodes := map[string]Member{}
	for _, n := range layout.Nodes() {
		nodes[n.Name] = Member{Name: n.Name, Config: "go"}
	}
	t.Cleanup(func() { _ = m.Down() }) // again, where the test has failed
	if err := m.Start(Member{Name: layout.ControlPlane, Config: "go"}, nodes); err != nil {
		t.Fatal(err)
	}
	if pid, err := m.PID("n1"); err != nil || pid == 0 {
		t.Errorf("the process of n1 is %d: %v", pid, err)
	}
	if _, err := netlink.LinkByName(layout.Link); err != nil {
		t.Errorf("the machine has no link to the cluster: %v", err)
	}
	if err := os.Remove(m.cache.Run("processes")); err != nil {
		t.Fatal(err)
	}
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	if m.Up() {
		t.Errorf("there are still processes %v", processes(filepath.Join(m.groups.unified, layout.Name)))
	}
	for _, root := range append(m.groups.v1, m.groups.unified) {
		if _, err := os.Stat(filepath.Join(root, layout.Name)); !os.IsNotExist(err) {
			t.Errorf("there is still a cgroup in %s: %v", root, err)
		}
	}
	if _, err := netlink.LinkByName(layout.Link); err == nil {
		t.Error("the machine still has a link to the cluster")
	}
}
