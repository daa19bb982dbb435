package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned where another process writes to the datapath.
var ErrLocked = errors.New("another agent has it")

// lock makes this process the folder's only writer for as long as the file is open. A folder that is not there is made,
// or is fs.ErrNotExist.
func lock(dir string, create bool) (*os.File, error) {
	for {
		if create {
			err := os.MkdirAll(dir, 0o700)
			if errors.Is(err, fs.ErrExist) {
				continue // it was there, and was removed when MkdirAll looked
			}
			if err != nil {
				return nil, fmt.Errorf("make our folder on the BPF file system: %w", err)
			}
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) && create {
			continue // removed by whoever had it
		}
		if err != nil {
			return nil, fmt.Errorf("open our folder on the BPF file system: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("the folder %s is locked: %w: stop that one first, or give this one a folder and a cgroup of its own", dir, ErrLocked)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		if named(f, dir) {
			return f, nil
		}
		f.Close() // it was removed before we had the lock, which is worth nothing then
	}
}

// named tells whether the path still names the open file.
func named(f *os.File, path string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	at, err := os.Stat(path)
	return err == nil && os.SameFile(is, at)
}
