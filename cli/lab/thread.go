package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is an operating system thread that lives in one network namespace and runs what it is given, one after another.
// Processes are started on it: they inherit the namespace, and with PDEATHSIG they die with the thread, which ends when it
// is closed or when the whole process is killed.
type thread struct {
	work chan func()
	done chan struct{}
}

// newThread makes a thread in a new network namespace that gets a name at path, or, without a path, in the one that we
// are in.
func newThread(path string) (*thread, error) {
	t := &thread{work: make(chan func()), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(t.done)
		// It is never unlocked: the thread, and the namespace it is in, are not given back to the runtime.
		runtime.LockOSThread()
		var err error
		if path != "" {
			err = newNetNS(path)
		}
		started <- err
		if err != nil {
			return
		}
		for f := range t.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return t, nil
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func() error) error {
	done := make(chan error, 1)
	t.work <- func() { done <- f() }
	return <-done
}

func (t *thread) close() {
	close(t.work)
	<-t.done
}

// newNetNS moves the calling thread into a new network namespace and gives it a name.
func newNetNS(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name the network namespace %s: %w", path, err)
	}
	return nil
}

// removeNetNS takes the name away; the namespace goes with its last process and socket.
func removeNetNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
