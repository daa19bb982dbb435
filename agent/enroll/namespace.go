package enroll

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ownProc is where a process finds the procfs of its own PID namespace. An agent in a container has the host's mounted
// elsewhere.
const ownProc = "/proc"

// errNotAllowed says what the kernel means: the namespaces of another user's process are shown to tracers only.
var errNotAllowed = errors.New("the kernel shows the namespaces of another user's process only to who may trace it: " +
	"give the agent CAP_SYS_PTRACE, and an AppArmor profile that lets it trace (unconfined)")

// nsID tells network namespaces apart. A number is used again only after the namespace is gone, and a namespace that
// is held open is not.
type nsID struct{ dev, ino uint64 }

func statNS(path string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w (%w)", err, errNotAllowed)
		}
		return nsID{}, err
	}
	return nsID{st.Dev, st.Ino}, nil
}

// hostNS is the host's network namespace: that of its first process. Where a sandbox does not let us look at that one,
// it is our own, if we run on the host; the own one of an agent in a container is that of its pod. It is asked of this
// thread: the process's first one may have been used to enter a pod's namespace.
func hostNS(proc string) (nsID, error) {
	id, err := statNS(netnsOf(proc, "1"))
	if errors.Is(err, errNotAllowed) && filepath.Clean(proc) == ownProc {
		id, err = statNS(netnsOf(proc, "thread-self"))
	}
	if err != nil {
		return nsID{}, fmt.Errorf("find the host's network namespace: %w", err)
	}
	return id, nil
}

func netnsOf(proc, pid string) string { return filepath.Join(proc, pid, "ns", "net") }

// check tells whether the path still names the namespace.
func check(path string, id nsID) error {
	now, err := statNS(path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return errors.New("its network namespace is gone")
	case err != nil:
		return fmt.Errorf("its network namespace cannot be looked at: %w", err)
	case now != id:
		return errors.New("its network namespace was replaced")
	}
	return nil
}

// places is where the host's folders are found.
type places struct {
	proc  string // the host's procfs
	netns string // the host's /run/netns
}

// resolve finds the network namespace that a path of the host names, and returns a path by which we reach it. The
// host's own namespace is refused: no pod that is enrolled has it.
func (p places) resolve(path string) (string, nsID, error) {
	host, err := hostNS(p.proc)
	if err != nil {
		return "", nsID{}, err
	}
	var all error
	for _, candidate := range p.candidates(path) {
		id, err := statNSFile(candidate)
		if err == nil && id == host {
			err = errors.New("it is the host's, which is not enrolled")
		}
		if err == nil {
			return candidate, id, nil
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", candidate, err))
	}
	return "", nsID{}, fmt.Errorf("%s, as the host calls it, names no network namespace of a pod: %w", path, all)
}

// candidates are the paths by which a path of the host may be reached: the folders that are mounted for us, and the
// root folder of the host's first process, in which also is what was mounted after us.
func (p places) candidates(path string) []string {
	path = filepath.Clean(path)
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok { // a link to /run, on hosts
		path = "/run/" + rest
	}
	var all []string
	if rest, ok := strings.CutPrefix(path, "/run/netns/"); ok {
		all = append(all, filepath.Join(p.netns, rest))
	}
	if rest, ok := strings.CutPrefix(path, "/proc/"); ok { // cri-dockerd names it so
		return append(all, filepath.Join(p.proc, rest))
	}
	if filepath.Clean(p.proc) == ownProc {
		all = append(all, path)
	}
	return append(all, filepath.Join(p.proc, "1", "root", path))
}

// statNSFile is statNS for a path that somebody gave: it has to be a namespace's.
func statNSFile(path string) (nsID, error) {
	id, err := statNS(path)
	if err != nil {
		return nsID{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nsID{}, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nsID{}, errors.New("it is a file of another kind than a namespace: what was mounted there is not seen by us, " +
			"or was taken away")
	}
	return id, nil
}
