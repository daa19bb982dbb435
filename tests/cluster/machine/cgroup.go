package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/tests/cluster/layout"
)

// hierarchies are where cgroups are mounted: the cgroup2 one, and those of version 1 beside it, if the machine has such.
type hierarchies struct {
	unified string
	v1      []string
}

func findHierarchies() (hierarchies, error) {
	var h hierarchies
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return h, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		switch m := strings.Fields(s.Text()); {
		case len(m) < 3:
		case m[2] == "cgroup2" && h.unified == "":
			h.unified = m[1]
		case m[2] == "cgroup":
			h.v1 = append(h.v1, m[1])
		}
	}
	if h.unified == "" {
		return h, errors.New("no cgroup2 file system is mounted: mount one at /sys/fs/cgroup/unified or boot with it")
	}
	return h, nil
}

// make makes the cluster's cgroups: for each node one in all hierarchies, which the kubelet is given, and below it one for the
// node's own processes.
func (h hierarchies) make(nodes []layout.Node) error {
	dirs := []string{layout.Name}
	for _, n := range nodes {
		dirs = append(dirs, filepath.Join(layout.Name, n.Name))
	}
	for _, dir := range dirs {
		for _, root := range h.v1 {
			if err := makeV1(root, dir); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(filepath.Join(h.unified, dir), 0o755); err != nil {
			return err
		}
		if err := h.delegate(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := h.delegate(filepath.Join(layout.Name, n.Name)); err != nil {
			return err
		}
	}
	for _, name := range append([]string{layout.ControlPlane}, names(nodes)...) {
		if err := os.MkdirAll(h.system(name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func names(nodes []layout.Node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Name)
	}
	return all
}

// makeV1 makes a cgroup of version 1. One of cpuset has no CPUs and no memory until it is told which.
func makeV1(root, dir string) error {
	path := filepath.Join(root, dir)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(path, file), value, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// delegate lets the children of a cgroup use its controllers. Where all of them are of version 1, there are none.
func (h hierarchies) delegate(dir string) error {
	path := filepath.Join(h.unified, dir)
	available, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(available)) {
		if err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("delegate controller %s of cgroup %s: %w", controller, path, err)
		}
	}
	return nil
}

// system is the cgroup of the processes of a node itself.
func (h hierarchies) system(node string) string {
	return filepath.Join(h.unified, layout.Name, node, "system")
}

// up tells whether the cluster has processes.
func (h hierarchies) up() bool { return len(processes(filepath.Join(h.unified, layout.Name))) > 0 }

// kill ends every process that the cluster started, and what those started: the kernel knows them, whatever became of us.
func (h hierarchies) kill() error {
	top := filepath.Join(h.unified, layout.Name)
	err := os.WriteFile(filepath.Join(top, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the cluster's processes: %w", err)
	}
	for end := time.Now().Add(20 * time.Second); h.up(); {
		if time.Now().After(end) {
			return fmt.Errorf("processes %v of the cluster do not end", processes(top))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// remove removes the cluster's cgroups, which have no processes any more.
func (h hierarchies) remove() error {
	var errs []error
	for _, root := range append(slices.Clone(h.v1), h.unified) {
		errs = append(errs, removeTree(filepath.Join(root, layout.Name)))
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup. The kernel may need a moment to let go of one whose last process has just ended.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	for range 100 {
		rm := syscall.Rmdir(dir)
		if rm == nil || errors.Is(rm, fs.ErrNotExist) {
			return err
		}
		if !errors.Is(rm, syscall.EBUSY) {
			return errors.Join(err, fmt.Errorf("remove cgroup %s: %w", dir, rm))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, fmt.Errorf("cgroup %s stays busy", dir))
}

// processes are those of a cgroup and of all below it.
func processes(dir string) []int {
	var all []int
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // what is gone has no processes
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // see above
		}
		list, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(list)) {
			if pid, err := strconv.Atoi(field); err == nil {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all
}
