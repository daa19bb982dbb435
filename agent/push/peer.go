package push

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent/within"
)

// Peer is the process at the other end of a conversation.
type Peer struct {
	PID    int    // where proc is mounted: on the host
	Cgroup uint64 // id of its cgroup: the inode of the folder below the cgroup2 mount
}

// peerOf finds the process of a pidfd. A socket's credentials would not do: agent and proxy are containers with process
// ids of their own, while procfs says what a descriptor's process is called where that was mounted (5.3).
func peerOf(pidfd int, proc, cgroup string) (Peer, error) {
	pid, err := processOf(pidfd, proc)
	if err != nil {
		return Peer{}, err
	}
	id, err := cgroupOf(proc, cgroup, pid)
	if err != nil {
		return Peer{}, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	return Peer{PID: pid, Cgroup: id}, nil
}

func processOf(pidfd int, proc string) (int, error) {
	b, err := os.ReadFile(filepath.Join(proc, "self", "fdinfo", strconv.Itoa(pidfd)))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if value, ok := strings.CutPrefix(string(line), "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			if err == nil && pid <= 0 {
				err = fmt.Errorf("the process has ended, or does not run below %s", proc)
			}
			return pid, err
		}
	}
	return 0, errors.New("the descriptor is not one of a process")
}

// cgroupOf returns the id of the cgroup2 that a process is in. Any folder of the hierarchy tells where it is mounted.
func cgroupOf(proc, anyFolder string, pid int) (uint64, error) {
	lines, err := readInHostCgroups(proc, filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return 0, err
	}
	all := bufio.NewScanner(bytes.NewReader(lines))
	for all.Scan() {
		// cgroups(7): hierarchy 0 with no controllers named is cgroup2.
		path, isV2 := strings.CutPrefix(all.Text(), "0::")
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
	return 0, errors.New("it is in no cgroup2")
}

// readInHostCgroups reads a file of procfs as the host's first process would: a cgroup's path is given relative to the
// reader's cgroup namespace, which a container has to itself. Who may not look at that process is on the host.
func readInHostCgroups(proc, path string) ([]byte, error) {
	host, err := os.Open(filepath.Join(proc, "1", "ns", "cgroup"))
	if errors.Is(err, os.ErrPermission) {
		return os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the host's cgroup namespace: %w", err)
	}
	defer host.Close()
	if ours, err := os.Stat("/proc/self/ns/cgroup"); err == nil {
		if theirs, err := host.Stat(); err == nil && os.SameFile(ours, theirs) {
			return os.ReadFile(path)
		}
	}
	var lines []byte
	err = within.Cgroups(int(host.Fd()), func() (err error) {
		lines, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read as the host does: %w", err)
	}
	return lines, nil
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
