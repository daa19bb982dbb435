package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxFile   = 1 << 20
	tempStart = ".sluice-"
	tempEnd   = ".tmp" // no runtime reads files that end so
)

// errChanged says that somebody else wrote the file meanwhile.
var errChanged = errors.New("somebody else writes the file at the same time")

// confFiles are the names of the network configurations in a folder, in the order in which container runtimes choose.
func confFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			if !e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// file is a file as it was read.
type file struct {
	path string // without links
	text []byte
	stat fs.FileInfo
}

// read reads a configuration. A link is followed within the folder only: what lies elsewhere on the node is not ours to
// see.
func read(dir, name string) (file, error) {
	path, err := resolve(dir, name)
	if err != nil {
		return file{}, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	if !st.Mode().IsRegular() {
		return file{}, fmt.Errorf("%s is no regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return file{path: path, text: text, stat: st}, err
}

func resolve(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return path, err
	}
	target, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	home, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil || !strings.HasPrefix(real, home+"/") {
		return "", fmt.Errorf("%w: %s is a link to %s, which is not in %s", errUnsupported, path, target, dir)
	}
	return real, nil
}

// replace gives a file other text. Who reads it sees the old or the new one in full. Mode and owner stay. A file that is no
// longer as it was read is left as it is, with errChanged.
func replace(dir string, f file, text []byte) error {
	temp, err := writeTemp(dir, text, f.stat)
	if err != nil {
		return err
	}
	err = exchange(temp, f.path, f.text, text)
	if removeErr := os.Remove(temp); !errors.Is(removeErr, fs.ErrNotExist) { // which it is after a plain rename
		err = errors.Join(err, removeErr)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// exchange puts temp, which holds ours, in the place of path, if that holds old. The two change places at once, and then
// what was there is looked at: between reading and renaming somebody may have put a newer one there, which gets its place
// back.
func exchange(temp, path string, old, ours []byte) error {
	expected, placed := old, ours
	for {
		err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
		switch {
		case errors.Is(err, unix.ENOENT):
			return errChanged
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
			return rename(temp, path, old)
		case err != nil:
			return fmt.Errorf("replace %s: %w", path, err)
		}
		displaced, err := os.ReadFile(temp)
		if err != nil {
			return err
		}
		if bytes.Equal(displaced, expected) {
			break
		}
		expected, placed = placed, displaced
	}
	if !bytes.Equal(placed, ours) {
		return errChanged
	}
	return nil
}

// rename is exchange for file systems that cannot.
func rename(temp, path string, old []byte) error {
	now, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Equal(now, old) {
		return errChanged
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// create makes a file that was not there, or gives one of our own other text.
func create(dir, name string, text []byte, like fs.FileInfo) error {
	temp, err := writeTemp(dir, text, like)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(dir)
}

// writeTemp writes a file beside the others and returns its path. It is on the disk: a node that loses its power must not
// come back with an empty configuration.
func writeTemp(dir string, text []byte, like fs.FileInfo) (_ string, err error) {
	f, err := os.CreateTemp(dir, tempStart+"*"+tempEnd)
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(text); err != nil {
		return "", err
	}
	if err := f.Chmod(like.Mode().Perm()); err != nil {
		return "", err
	}
	if owner, ok := like.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return "", err
		}
	}
	return f.Name(), f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweep removes what a crash between writing and renaming left.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempStart) && strings.HasSuffix(e.Name(), tempEnd) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
