package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runs is where each run has a folder. It is one place for all users of the machine, so that any run finds what another
// left behind. A run holds a lock in its folder for as long as its process lives.
const runs = "/run/sluice-lab"

// netnsDir is where ip-netns(8) looks for names.
const netnsDir = "/run/netns"

func netnsPath(run, name string) string { return filepath.Join(netnsDir, "sluice-"+run+"-"+name) }

func cgroupOf(mount, run string) string { return filepath.Join(mount, "sluice-"+run) }

// claim removes the runs whose owner is dead and makes the folder of a new one, with its lock held.
func claim(cgroups string) (name string, lock *os.File, err error) {
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return "", nil, err
	}
	// No run may be swept between the making of its folder and that of its lock.
	all, err := os.OpenFile(filepath.Join(runs, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if err := unix.Flock(int(all.Fd()), unix.LOCK_EX); err != nil {
		return "", nil, fmt.Errorf("lock %s: %w", all.Name(), err)
	}
	if err := sweep(cgroups); err != nil {
		return "", nil, fmt.Errorf("remove what a run that was killed left behind: %w", err)
	}
	name = fmt.Sprintf("%06x", rand.IntN(1<<24))
	dir := filepath.Join(runs, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, owned, err := tryLock(dir)
	if err == nil && !owned {
		err = fmt.Errorf("%s is locked by another process", dir)
	}
	return name, lock, err
}

// sweep removes every run that nobody holds the lock of.
func sweep(cgroups string) error {
	names, err := Runs(false)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		cgroup := cgroupOf(cgroups, name)
		errs = append(errs, killCgroup(cgroup, 5*time.Second), remove(name, cgroup))
	}
	return errors.Join(errs...)
}

// Runs names the runs whose owner is alive, or those whose owner is dead.
func Runs(alive bool) ([]string, error) {
	entries, err := os.ReadDir(runs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		lock, owned, err := tryLock(filepath.Join(runs, e.Name()))
		if errors.Is(err, fs.ErrNotExist) { // it ended just now
			continue
		}
		if err != nil {
			return nil, err
		}
		if lock != nil {
			lock.Close()
		}
		if owned != alive {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// tryLock takes the lock of a run, unless its owner has it.
func tryLock(dir string) (lock *os.File, owned bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, true, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// remove takes away what a run made, in whatever state it is. Its processes are dead already.
func remove(name, cgroup string) error {
	errs := []error{removeCgroup(cgroup)}
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		path := filepath.Join(netnsDir, e.Name())
		if strings.HasPrefix(path, netnsPath(name, "")) {
			errs = append(errs, removeNetNS(path))
		}
	}
	// Nobody else's names may be left without their folder: Remove refuses one that is not empty.
	_ = os.Remove(netnsDir)
	dir := filepath.Join(runs, name)
	if err := unix.Unmount(filepath.Join(dir, "bpf"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", filepath.Join(dir, "bpf"), err))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
