package push

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// Peer is who is at the other end of a connection, as the kernel says.
type Peer struct {
	PID    int
	Cgroup uint64 // id of its cgroup: the inode of the folder below the cgroup2 mount
}

func peerOf(c *net.UnixConn, proc, cgroup string) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, err
	}
	if credErr != nil {
		return Peer{}, fmt.Errorf("ask who connected: %w", credErr)
	}
	id, err := cgroupOf(proc, cgroup, int(cred.Pid))
	if err != nil {
		return Peer{}, fmt.Errorf("find the cgroup of process %d: %w", cred.Pid, err)
	}
	return Peer{PID: int(cred.Pid), Cgroup: id}, nil
}

// cgroupOf returns the id of the cgroup2 that a process is in. Any folder of the hierarchy tells where it is mounted.
func cgroupOf(proc, anyFolder string, pid int) (uint64, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// cgroups(7): hierarchy 0 with no controllers named is cgroup2.
		path, isV2 := strings.CutPrefix(lines.Text(), "0::")
		if !isV2 {
			continue
		}
		mount, err := mountOf(anyFolder)
		if err != nil {
			return 0, err
		}
		var st unix.Stat_t
		folder := filepath.Join(mount, path)
		if err := unix.Stat(folder, &st); err != nil {
			return 0, fmt.Errorf("%s: %w", folder, err)
		}
		return st.Ino, nil
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, errors.New("it is in no cgroup2")
}

// mountOf climbs from a folder to the one that its file system is mounted on.
func mountOf(folder string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	var here, above unix.Stat_t
	if err := unix.Stat(folder, &here); err != nil {
		return "", fmt.Errorf("%s: %w", folder, err)
	}
	for folder != "/" {
		parent := filepath.Dir(folder)
		if err := unix.Stat(parent, &above); err != nil {
			return "", fmt.Errorf("%s: %w", parent, err)
		}
		if above.Dev != here.Dev {
			break
		}
		folder = parent
	}
	return folder, nil
}
