package push

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sockaddr_un with its terminating zero.
const maxSocketPath = 107

// ListenUnix makes a socket at path, for its owner only; one that nobody serves is replaced, one that is served is an
// error. It is made beside it and renamed, so that nobody finds it with
// other permissions. The returned function removes the file, unless somebody else's has taken its place.
func ListenUnix(path string) (*net.UnixListener, func() error, error) {
	fresh := path + ".new"
	if len(fresh) > maxSocketPath {
		return nil, nil, fmt.Errorf("the socket's path %s is too long: at most %d bytes", path, maxSocketPath-len(".new"))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the folder of the socket: %w", err)
	}
	if err := vacant(path); err != nil {
		return nil, nil, err
	}
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("remove what an earlier start left: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false)
	remove, err := publish(fresh, path)
	if err != nil {
		l.Close()
		return nil, nil, errors.Join(fmt.Errorf("make the socket %s: %w", path, err), os.Remove(fresh))
	}
	return l, remove, nil
}

// vacant tells whether path can be taken: nothing is there, or a socket that nobody serves.
func vacant(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and is no socket: remove it, or choose another path", path)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		_ = c.Close() // nothing was said on it
		return fmt.Errorf("another process serves on %s: stop it, or choose another path", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("the socket that is at %s cannot be probed: %w", path, err)
	}
	return nil
}

func publish(fresh, path string) (func() error, error) {
	if err := os.Chmod(fresh, 0o600); err != nil {
		return nil, err
	}
	ours, err := os.Lstat(fresh)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, err
	}
	return func() error {
		if now, err := os.Lstat(path); err == nil && os.SameFile(now, ours) {
			return os.Remove(path)
		}
		return nil
	}, nil
}
