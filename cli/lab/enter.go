package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec becomes the given command in a pod of a lab that runs: in its network namespace and in its cgroup, without which
// the redirect would not see it. It returns only when it fails.
func Exec(run, pod string, command []string) error {
	e, err := entranceOf(run, pod)
	if err != nil {
		return err
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(e.Cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("enter the cgroup of pod %s: %w", pod, err)
	}
	ns, err := os.Open(e.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	// What is exec'ed takes over the namespace of the thread that does it.
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of pod %s: %w", pod, err)
	}
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, command, os.Environ()))
}

// entranceOf finds a pod of the run, or of the only one when run is empty.
func entranceOf(run, pod string) (entrance, error) {
	var e entrance
	if run == "" {
		alive, err := Runs(true)
		if err != nil {
			return e, err
		}
		if len(alive) != 1 {
			return e, fmt.Errorf("%d labs are running %v, not one: start one with 'sluice demo --keep', or name one with --run", len(alive), alive)
		}
		run = alive[0]
	}
	b, err := os.ReadFile(statePath(filepath.Join(runs, run), pod))
	if errors.Is(err, os.ErrNotExist) {
		names, _ := filepath.Glob(statePath(filepath.Join(runs, run), "*")) // the pattern is a good one
		for i, n := range names {
			names[i] = strings.TrimSuffix(filepath.Base(n), ".json")
		}
		return e, fmt.Errorf("run %s has no pod %q; it has %s", run, pod, strings.Join(names, ", "))
	}
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("pod %s: %w", pod, err)
	}
	return e, nil
}
