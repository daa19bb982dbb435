package enroll

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nsID tells network namespaces apart. A number is used again only after the namespace is gone, and a namespace that
// is held open is not.
type nsID struct{ dev, ino uint64 }

func statNS(path string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nsID{}, err
	}
	return nsID{st.Dev, st.Ino}, nil
}

// hostNS is the host's network namespace: that of its first process. Where a sandbox does not let us look at that one,
// it is our own: the agent runs in the host's. That is asked of this thread: the process's first one may have been used
// to enter a pod's namespace.
func hostNS(proc string) (nsID, error) {
	id, err := statNS(netnsOf(proc, "1"))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		id, err = statNS(netnsOf(proc, "thread-self"))
	}
	if err != nil {
		return nsID{}, fmt.Errorf("find the host's network namespace: %w", err)
	}
	return id, nil
}

// scan looks through the processes below proc for those of the given pods and returns, for each pod, paths that name
// its network namespace. A process in the host's namespace is passed over: it is no evidence of a namespace of the
// pod's own. Processes that end meanwhile are no error.
func scan(proc string, uids map[string]bool) (map[string]string, error) {
	host, err := hostNS(proc)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	found := map[string]string{}
	for _, pid := range names {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		uid := podOfProcess(proc, pid, uids)
		if uid == "" || found[uid] != "" {
			continue
		}
		if id, err := statNS(netnsOf(proc, pid)); err == nil && id != host {
			found[uid] = netnsOf(proc, pid)
		}
	}
	return found, nil
}

func netnsOf(proc, pid string) string { return filepath.Join(proc, pid, "ns", "net") }

func podOfProcess(proc, pid string, uids map[string]bool) string {
	b, err := os.ReadFile(filepath.Join(proc, pid, "cgroup"))
	if err != nil {
		return "" // it ended
	}
	for line := range bytes.Lines(b) {
		// cgroups(7): hierarchy-ID:controllers:path
		if parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3); len(parts) == 3 {
			if uid := podOfCgroup(parts[2], uids); uid != "" {
				return uid
			}
		}
	}
	return ""
}

// podOfCgroup returns which of the pods the cgroup belongs to, or "". The kubelet spells a pod's folder pod<uid>
// with the cgroupfs driver, and …-pod<uid, "_" for "-">.slice with the systemd driver.
func podOfCgroup(path string, uids map[string]bool) string {
	for folder := range strings.SplitSeq(path, "/") {
		if uid, ok := strings.CutPrefix(folder, "pod"); ok && uids[uid] {
			return uid
		}
		slice, ok := strings.CutSuffix(folder, ".slice")
		if !ok {
			continue
		}
		if _, after, ok := strings.CutLast(slice, "-pod"); ok {
			if uid := strings.ReplaceAll(after, "_", "-"); uids[uid] {
				return uid
			}
		}
	}
	return ""
}

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
